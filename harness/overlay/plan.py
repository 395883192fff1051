# SPDX-License-Identifier: GPL-2.0-only
"""The addresses of an overlay between two hosts. Pure data.

In: how many containers, which IP versions. Out: every address and MTU, so
that both halves can be built apart, on two machines, and still fit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

from harness.errors import FalconError

CLIENT, SERVER = 0, 1
VNI = 42
# On real hosts, where 42 may be somebody's.
REAL_VNI = 0xFA1C07
VXLAN_PORT = 4789
# What VXLAN adds: outer IP, UDP (8), VXLAN (8) and the inner Ethernet header (14).
OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}
MAX_CONTAINERS = 200


@dataclass(frozen=True)
class Address:
    """A device's addresses: ``ip`` of ``version`` 4 or 6, ``prefix_bits`` long net, ``mac``."""

    ip: str
    prefix_bits: int
    mac: str

    @property
    def version(self) -> int:
        return ip_address(self.ip).version


@dataclass(frozen=True)
class Plan:
    """Two hosts and the overlay between their containers.

    ``containers`` on each host; ``outer`` and ``inner`` IP version;
    ``mtu`` of the wire. ``overlay_mtu`` of the containers: 0 means what fits
    into the wire; more makes the outer packets fragment.

    ``client_ip`` and ``server_ip`` are those of two real hosts, whose wire is there already;
    "" where the hosts are ours. ``running``: the VNI of an overlay that is there already, too, and
    ``sinks``: the addresses of the server's containers in it, as soon as they are found.
    """

    containers: int = 1
    outer: int = 4
    inner: int = 4
    mtu: int = 1500
    overlay_mtu: int = 0
    client_ip: str = ""
    server_ip: str = ""
    running: int = 0
    sinks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.containers <= MAX_CONTAINERS:
            raise FalconError(
                f"{self.containers} containers a host", f"1 to {MAX_CONTAINERS} are possible"
            )
        if {self.outer, self.inner} - {4, 6}:
            raise FalconError("the IP versions of an overlay are 4 or 6")
        if {ip_address(ip).version for ip in (self.client_ip, self.server_ip) if ip} - {self.outer}:
            raise FalconError(f"{self.client_ip} and {self.server_ip} are not IPv{self.outer}")

    @property
    def is_real(self) -> bool:
        """The hosts are real ones."""
        return bool(self.server_ip)

    @property
    def vni(self) -> int:
        """The VXLAN network's number."""
        return self.running or (REAL_VNI if self.is_real else VNI)

    @property
    def container_mtu(self) -> int:
        """Bytes: the MTU of VXLAN, bridge and containers."""
        return self.overlay_mtu or self.mtu - OVERHEAD[self.outer]

    def host(self, side: int) -> Address:
        """The address of a host on the wire; of a real one's only the IP address is known."""
        if self.is_real:
            ip = (self.client_ip, self.server_ip)[side]
            return Address(ip, ip_address(ip).max_prefixlen, "")
        mac = f"02:77:01:00:00:{side + 1:02x}"
        if self.outer == 4:
            return Address(f"192.168.77.{side + 1}", 24, mac)
        return Address(f"fd77::{side + 1:x}", 64, mac)

    def container(self, side: int, number: int) -> Address:
        """The address of a host's container ``number`` (from 0) in the overlay; of one that is not
        ours only the IP address is known.
        """
        if side == SERVER and self.sinks:
            ip = self.sinks[number]
            return Address(ip, ip_address(ip).max_prefixlen, "")
        mac = f"02:77:02:00:{side + 1:02x}:{number + 1:02x}"
        if self.inner == 4:
            return Address(f"10.77.{side + 1}.{number + 1}", 16, mac)
        return Address(f"fd78::{side + 1:x}:{number + 1:x}", 64, mac)

    def as_json(self) -> dict[str, Any]:
        """For handing the plan to the other machine: ``Plan(**as_json)``. It finds sinks itself."""
        return {name: value for name, value in asdict(self).items() if name != "sinks"}
