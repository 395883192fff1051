# SPDX-License-Identifier: GPL-2.0-only
"""What there is under torture: topologies, devices that receive, settings of the stock kernel.

Known to `World`, which has them, and to the actions, which draw from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.overlay.plan import CLIENT, SERVER, Plan
from harness.overlay.topology import CONTAINER_DEVICE, NIC, VXLAN

# The topologies that stand from the first packet to the last. Every packet of
# the small one is accounted for; so nothing in it is ever fragmented or resent.
SMALL, JUMBO = "small", "jumbo"
PLANS = {
    SMALL: Plan(containers=2),
    JUMBO: Plan(containers=2, outer=6, mtu=9000),
}
# Values for the settings that the packets' queues go by; those of a fresh kernel more often.
CORE_SETTINGS: dict[str, tuple[int, ...]] = {
    "netdev_max_backlog": (16, 100, 1000, 1000, 4000),
    "netdev_budget": (60, 300, 300, 600),
    "dev_weight": (16, 64, 64),
    "rps_sock_flow_entries": (0, 64, 4096),
}


@dataclass(frozen=True)
class Port:
    """A device that receives: of a standing topology, or of an overlay that comes and goes.

    ``topology`` is its name, or the overlay's slot.
    """

    topology: str | int
    side: int
    container: int | None
    device: str

    def __str__(self) -> str:
        where = "" if self.container is None else f"{self.container}/"
        return f"{self.topology}/{('client', 'server')[self.side]}/{where}{self.device}"

    @property
    def is_veth(self) -> bool:
        return self.device != VXLAN


def ports(topology: str | int, plan: Plan, sides: tuple[int, ...] = (SERVER,)) -> tuple[Port, ...]:
    """All devices of a topology that receive packets from another one."""
    found = []
    for side in sides:
        found += [Port(topology, side, None, NIC), Port(topology, side, None, VXLAN)]
        for number in range(plan.containers):
            found.append(Port(topology, side, None, f"veth{number}"))
            found.append(Port(topology, side, number, CONTAINER_DEVICE))
    return tuple(found)


STANDING = tuple(
    port for name, plan in PLANS.items() for port in ports(name, plan, (CLIENT, SERVER))
)
# Of these, those through which what the clients send comes to the wire.
SENDING = tuple(port for port in STANDING if port.side == CLIENT and port.container is None)
