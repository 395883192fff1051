# SPDX-License-Identifier: GPL-2.0-only
"""Where the packets went: sent = delivered + counted drops.

In: counters of devices and of the IP stacks along a topology, before and after.
Out: `Drops`, and a `Balance` that holds or not.

A packet for a container of the server crosses three pairs of veth devices, and
every place that may drop it counts it; some places twice::

    client:  eth0 ═▶ veth0 ─▶ vxlan0 ─▶ nic0 ═╗        ═▶  a veth pair, see `link_drops`
    server:  eth0 ◀═ veth0 ◀─ vxlan0 ◀─ nic0 ◀╝
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from harness.overlay import falcon, snmp
from harness.overlay.netns import Namespace
from harness.overlay.plan import CLIENT, SERVER
from harness.overlay.topology import CONTAINER_DEVICE, NIC, VXLAN, Host, Topology

# What the stack counts of packets it throws away, IPv4's and IPv6's. A full socket
# is among UDP's InErrors. What is dropped on its way out is in its device's counters.
STACK_DROPS = {
    "snmp": {
        "Ip": (
            *("InHdrErrors", "InAddrErrors", "InUnknownProtos", "InDiscards"),
            *("OutNoRoutes", "ReasmFails", "FragFails"),
        ),
        "Udp": ("InErrors", "NoPorts"),
    },
    "snmp6": {
        "Ip6": (
            *("InHdrErrors", "InTooBigErrors", "InNoRoutes", "InAddrErrors", "InUnknownProtos"),
            *("InTruncatedPkts", "InDiscards", "OutNoRoutes", "ReasmFails", "FragFails"),
        ),
        "Udp6": ("InErrors", "NoPorts"),
    },
}


@dataclass(frozen=True)
class Drops:
    """How many packets the counters say were dropped: between ``least`` and ``most``."""

    least: int = 0
    most: int = 0

    @classmethod
    def exactly(cls, count: int) -> Drops:
        return cls(count, count)

    def __add__(self, other: Drops) -> Drops:
        return Drops(self.least + other.least, self.most + other.most)

    def nearest(self, lost: int) -> int:
        """The count within the limits that explains ``lost`` best."""
        return min(max(lost, self.least), self.most)


@dataclass(frozen=True)
class Balance:
    """Packets of some flows; ``allowed`` may be missing uncounted."""

    sent: int
    delivered: int
    drops: Drops
    allowed: int = 0

    @property
    def lost(self) -> int:
        return self.sent - self.delivered

    @property
    def counted(self) -> int:
        """Those of the lost ones that a counter saw."""
        return self.drops.nearest(self.lost)

    @property
    def unaccounted(self) -> int:
        """Lost without a trace; below zero: counted as dropped, but delivered."""
        return self.lost - self.counted

    @property
    def holds(self) -> bool:
        return 0 <= self.unaccounted <= self.allowed

    def __str__(self) -> str:
        drops = f"{self.counted:,} counted drops"
        if self.drops.least != self.drops.most:
            drops += f" (counters say {self.drops.least:,} to {self.drops.most:,})"
        return (
            f"sent {self.sent:,}, delivered {self.delivered:,}, {drops}: "
            f"{self.unaccounted:,} unaccounted, {self.allowed:,} allowed"
        )


# ---- counters ----------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A device's counters of /sys/class/net/DEVICE/statistics, and Falcon's own of it."""

    rx_dropped: int = 0
    rx_nohandler: int = 0
    tx_dropped: int = 0
    tx_errors: int = 0
    falcon: int = 0

    def __sub__(self, earlier: Device) -> Device:
        return Device(
            **{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)}
        )

    @property
    def received_in_vain(self) -> int:
        """Packets that came and went no further: full queues, nobody who wants them."""
        return self.rx_dropped + self.rx_nohandler


@dataclass(frozen=True)
class Place:
    """The counters of a network namespace; ``stack`` is what its IP, UDP threw away."""

    devices: dict[str, Device]
    stack: int = 0

    def __sub__(self, earlier: Place) -> Place:
        none = Device()
        return Place(
            {name: now - earlier.devices.get(name, none) for name, now in self.devices.items()},
            self.stack - earlier.stack,
        )

    def device(self, name: str) -> Device:
        return self.devices.get(name, Device())


def shares_drops(release: str) -> bool:
    """Whether veth adds what a device could not send to its peer's rx_dropped.

    So did veth_get_stats64() before Linux 5.7.
    """
    major, minor = map(int, release.split(".")[:2])
    return (major, minor) < (5, 7)


def link_drops(sender: Device, receiver: Device, *, napi: bool, shared: bool = False) -> Drops:
    """What was dropped between two ends of a veth pair, and before the receiver's stack.

    Without a NAPI the sender hands a packet to the receiver's queue: if that is
    full the receiver counts it, and mostly the sender too. With one, a full ring is
    counted by the sender alone, a full queue behind it by the receiver alone;
    packets that GRO could not join anyway still take the first way. ``shared``: see
    `shares_drops`.
    """
    here, there = sender.tx_dropped, receiver.received_in_vain
    if shared:
        there -= here
    return Drops(max(here, there), here + there) if napi else Drops.exactly(there)


def tunnel_drops(tunnel: Device, wire: Device) -> Drops:
    """What a VXLAN device could not send. It also counts what its wire refuses."""
    return Drops.exactly(max(tunnel.tx_dropped + tunnel.tx_errors - wire.tx_dropped, 0))


@dataclass(frozen=True)
class HostReading:
    """The counters of a host and its containers."""

    host: Place
    containers: tuple[Place, ...]

    def __sub__(self, earlier: HostReading) -> HostReading:
        pairs = zip(self.containers, earlier.containers, strict=True)
        return HostReading(self.host - earlier.host, tuple(now - was for now, was in pairs))


@dataclass(frozen=True)
class Reading:
    """The counters of both hosts, or what was counted between two readings."""

    client: HostReading
    server: HostReading

    def __sub__(self, earlier: Reading) -> Reading:
        return Reading(self.client - earlier.client, self.server - earlier.server)

    def drops(
        self, napi: Iterable[tuple[int, int | None, str]] = (), *, shared: bool = False
    ) -> Drops:
        """All drops on the way from client to server.

        ``napi``: the receiving devices that have a NAPI, by side, container, name;
        ``shared``: see `shares_drops`.
        """
        with_napi = frozenset(napi)
        client, server = self.client, self.server
        nic = client.host.device(NIC), server.host.device(NIC)
        total = link_drops(*nic, napi=(SERVER, None, NIC) in with_napi, shared=shared)
        total += tunnel_drops(client.host.device(VXLAN), nic[0])
        total += Drops.exactly(server.host.device(VXLAN).received_in_vain + server.host.stack)
        for number, (source, sink) in enumerate(
            zip(client.containers, server.containers, strict=True)
        ):
            veth = f"veth{number}"
            total += link_drops(
                source.device(CONTAINER_DEVICE),
                client.host.device(veth),
                napi=(CLIENT, None, veth) in with_napi,
                shared=shared,
            )
            total += link_drops(
                server.host.device(veth),
                sink.device(CONTAINER_DEVICE),
                napi=(SERVER, number, CONTAINER_DEVICE) in with_napi,
                shared=shared,
            )
            total += Drops.exactly(sink.stack)
        return total

    def falcon_drops_not_in_devices(self) -> list[str]:
        """Devices of which Falcon says that it dropped more than the device counts."""
        wrong = []
        for side, reading in (("client", self.client), ("server", self.server)):
            for place in (reading.host, *reading.containers):
                wrong += [
                    f"{side} {name}: Falcon dropped {device.falcon}, rx_dropped {device.rx_dropped}"
                    for name, device in place.devices.items()
                    if device.falcon > device.rx_dropped
                ]
        return wrong


def read(topology: Topology) -> Reading:
    """The counters now."""
    return Reading(_read_host(topology.client), _read_host(topology.server))


def _read_host(host: Host) -> HostReading:
    return HostReading(_read_place(host.namespace), tuple(map(_read_place, host.containers)))


def _read_place(namespace: Namespace) -> Place:
    """In one call: a place has half a dozen devices with five counters each."""
    stages = falcon.counters(namespace).stages if falcon.is_present() else {}
    own = {name: row.dropped for name, row in stages.items()}
    return namespace.call(_read_here, own)


def _read_here(falcon_dropped: dict[str, int]) -> Place:
    devices = {}
    for place in Path("/sys/class/net").iterdir():
        statistics = place / "statistics"
        counters = {
            f.name: int((statistics / f.name).read_text())
            for f in fields(Device)
            if f.name != "falcon"
        }
        devices[place.name] = Device(**counters, falcon=falcon_dropped.get(place.name, 0))
    net = Path("/proc/thread-self/net")
    texts = {name: (net / name).read_text() for name in STACK_DROPS if (net / name).exists()}
    return Place(devices, stack_drops(texts))


def stack_drops(texts: dict[str, str]) -> int:
    """The sum of what /proc/net/snmp and snmp6 (``texts`` by file) say was thrown away."""
    total = 0
    for file, text in texts.items():
        found = snmp.parse(text)
        for protocol, names in STACK_DROPS[file].items():
            total += sum(found.get(protocol + name, 0) for name in names)
    return total
