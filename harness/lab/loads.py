# SPDX-License-Identifier: GPL-2.0-only
"""What is sent in a measurement. Pure data, so that both machines can have it.

In: sizes and counts. Out: a `Load`, or a `FalconError` for one that cannot be.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from harness.errors import FalconError

# udpflow tells 256 flows apart, and a mode has two turns.
MAX_FLOWS = 128


@dataclass(frozen=True)
class Load:
    """``flows``, messages of ``size`` bytes each, to ``containers`` in turn.

    The first flow sends ``heat`` times as many as any other: above 1 it is a hotspot.
    """

    size: int = 16
    flows: int = 1
    containers: int = 1
    heat: int = 1

    protocol: ClassVar[str]
    sizes: ClassVar[tuple[int, int]]

    def __post_init__(self) -> None:
        least, most = self.sizes
        if not least <= self.size <= most:
            raise FalconError(
                f"{self.size} bytes of payload",
                f"{least} to {most} are possible by {self.protocol}",
            )
        if not 1 <= self.flows <= MAX_FLOWS:
            raise FalconError(f"{self.flows} flows", f"1 to {MAX_FLOWS} are possible")
        if self.heat < 1 or (self.heat > 1 and self.flows == 1):
            raise FalconError(
                f"one of {self.flows} flows {self.heat} times as hot as the others",
                "it takes two flows, and a number above 0",
            )

    def __str__(self) -> str:
        name = self.protocol.upper()
        flows = f"one {name} flow" if self.flows == 1 else f"{self.flows} {name} flows"
        to = "a container" if self.containers == 1 else f"{self.containers} containers"
        hot = f", one of them {self.heat} times as hot" if self.heat > 1 else ""
        return f"{flows} of {self.size} bytes a message to {to}{hot}"

    def shares(self, total: float) -> list[float]:
        """What of ``total`` each flow sends."""
        one = total / (self.heat + self.flows - 1)
        return [self.heat * one, *[one] * (self.flows - 1)]

    def to_dict(self) -> dict[str, Any]:
        return {"protocol": self.protocol, **asdict(self)}


@dataclass(frozen=True)
class UdpLoad(Load):
    """A message is a datagram; udpflow's header takes 16 bytes of it."""

    protocol = "udp"
    sizes = 16, 65_507


@dataclass(frozen=True)
class TcpLoad(Load):
    """A message is a write; TCP makes segments of them as it likes."""

    protocol = "tcp"
    sizes = 1, 1 << 20


LOADS: dict[str, type[Load]] = {"udp": UdpLoad, "tcp": TcpLoad}


def of(protocol: str, **values: int) -> Load:
    """The load of a protocol; what `Load.to_dict` gave comes back by this."""
    if protocol not in LOADS:
        raise FalconError(f"there is no load by {protocol}", f"there are {', '.join(LOADS)}")
    return LOADS[protocol](**values)
