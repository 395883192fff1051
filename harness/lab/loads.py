# SPDX-License-Identifier: GPL-2.0-only
"""What is sent in a measurement. Pure data, so that both machines can have it.

In: sizes and counts. Out: a `Load`, or a `FalconError` for one that cannot be.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, ClassVar

from harness.errors import FalconError

# udpflow tells 256 flows apart, and a mode has two turns.
MAX_FLOWS = 128
# The most of a message that fits into a packet of an MTU of 1500, beside VXLAN's headers and UDP's;
# TCP's segments are a little smaller.
PACKET_BYTES = 1422


@dataclass(frozen=True)
class Load:
    """``flows``, messages of ``size`` bytes each, to ``containers`` in turn.

    The first flow sends ``heat`` times as many as any other: above 1 it is a hotspot. By time it
    has `more_senders` for that, which begin later.
    ``spread``: the receiving programs run on the stages' CPUs, too, as in the paper's busy
    system (section 6.1, figure 14); otherwise on a CPU of their own. ``senders`` clients share
    each flow, as the paper stresses one (section 6.1, figure 10).

    ``share`` 0 sends as fast as it goes; otherwise it is of the most that the stock overlay
    (mode con) carries without loss, or, with ``own``, that each mode does by itself, while no flow
    is hot.
    """

    size: int = 16
    flows: int = 1
    containers: int = 1
    heat: int = 1
    spread: bool = False
    senders: int = 1
    share: float = 0.0
    own: bool = False

    protocol: ClassVar[str]
    sizes: ClassVar[tuple[int, int]]
    # The programs that both machines need for it.
    programs: ClassVar[tuple[str, ...]] = ()
    most_flows: ClassVar[int] = MAX_FLOWS
    # Several senders may be one flow.
    can_share: ClassVar[bool] = False
    # It can be told how many messages a second to send.
    has_rate: ClassVar[bool] = True
    # What a message is called where a number of them is shown.
    unit: ClassVar[str] = "messages"

    def __post_init__(self) -> None:
        least, most = self.sizes
        if not least <= self.size <= most:
            raise FalconError(
                f"{self.size} bytes of payload",
                f"{least} to {most} are possible by {self.protocol}",
            )
        if not 1 <= self.flows <= self.most_flows:
            raise FalconError(f"{self.flows} flows", f"1 to {self.most_flows} are possible")
        if self.senders < 1 or self.senders * self.flows > self.most_flows:
            raise FalconError(
                f"{self.senders} senders in each of {self.flows} flows",
                f"1 to {self.most_flows} are possible in all",
            )
        if self.senders > 1 and not self.can_share:
            raise FalconError(f"a flow by {self.protocol} has one sender")
        if not 0 <= self.share <= 1 or (self.share and not self.has_rate):
            raise FalconError(
                f"{self.share} of what a mode carries",
                "0 to 1 are possible" if self.has_rate else f"{self.protocol} has no rate",
            )
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
        by = f", {self.senders} senders each" if self.senders > 1 else ""
        return f"{flows} of {self.size} bytes a message to {to}{hot}{by}"

    @property
    def packets(self) -> int:
        """Fragments or segments that a message takes on the wire."""
        return ceil(self.size / PACKET_BYTES)

    @property
    def more_senders(self) -> int:
        """Those that the hot flow has more than the others."""
        return self.senders * (self.heat - 1)

    @property
    def grown(self) -> float:
        """What all flows together send once one is hot, of what they did before."""
        return (self.heat + self.flows - 1) / self.flows

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
    can_share = True


@dataclass(frozen=True)
class TcpLoad(Load):
    """A message is a write; TCP makes segments of them as it likes."""

    protocol = "tcp"
    sizes = 1, 1 << 20
    programs = ("iperf3",)


@dataclass(frozen=True)
class SockperfLoad(Load):
    """sockperf's. ``latency``: half the time from a message to its answer is taken; of one flow."""

    latency: bool = False

    # What sockperf takes, for UDP and TCP alike.
    sizes = 14, 65_507
    programs = ("sockperf",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heat > 1:
            raise FalconError("sockperf's flows are all equally hot")
        if self.latency and (self.flows > 1 or self.senders > 1):
            raise FalconError("the latency of one flow is taken", "with one sender")

    @property
    def is_tcp(self) -> bool:
        return self.protocol.endswith("tcp")


@dataclass(frozen=True)
class SockperfUdpLoad(SockperfLoad):
    """A message is a datagram."""

    protocol = "sockperf-udp"
    can_share = True


@dataclass(frozen=True)
class SockperfTcpLoad(SockperfLoad):
    """A message is a write, small ones put together (Nagle)."""

    protocol = "sockperf-tcp"


@dataclass(frozen=True)
class MemcachedLoad(Load):
    """Values of ``size`` bytes, asked for by ``clients`` over ``flows`` connections together."""

    clients: int = 1

    protocol = "memcached"
    sizes = 1, 1 << 20
    programs = ("memcached",)
    has_rate = False
    unit = "operations"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clients < 1 or self.flows % self.clients:
            raise FalconError(
                f"{self.flows} connections of {self.clients} clients", "each has equally many"
            )


@dataclass(frozen=True)
class WebLoad(Load):
    """A page of ``size`` bytes, asked for over ``flows`` connections.

    ``cached``: nginx gets it out of a memcached for each request; otherwise it is a file.
    """

    cached: bool = False

    protocol = "web"
    sizes = 1, 1 << 20
    programs = ("nginx", "wrk", "memcached")
    unit = "requests"
    most_flows = 1000
    has_rate = False


@dataclass(frozen=True)
class Flow:
    """Where one flow of a load goes: from the sending host's ``container``, or from the host
    itself (None), to an address.
    """

    container: int | None
    to_ip: str
    source_port: int


LOADS: dict[str, type[Load]] = {
    load.protocol: load
    for load in (UdpLoad, TcpLoad, SockperfUdpLoad, SockperfTcpLoad, MemcachedLoad, WebLoad)
}
# Those that can be told how many packets to send: their instructions can be counted.
COUNTABLE = (UdpLoad, TcpLoad)
# Those that can be told for how many seconds to go on.
TIMEABLE = (UdpLoad, SockperfLoad, MemcachedLoad, WebLoad)


def of(protocol: str, **values: Any) -> Load:
    """The load of a protocol; what `Load.to_dict` gave comes back by this."""
    if protocol not in LOADS:
        raise FalconError(f"there is no load by {protocol}", f"there are {', '.join(LOADS)}")
    return LOADS[protocol](**values)
