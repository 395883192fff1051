# SPDX-License-Identifier: GPL-2.0-only
"""Finds the VXLAN overlays of this machine by netlink, not by name.

In: all network namespaces (`read`), or what was read of them before. Out: `Overlay`:
the devices that a packet from the wire crosses on its way to a container. Docker's::

      host                     hidden (/run/docker/netns)       container
    +----------------+       +--------------------------+     +---------+
    |  eth0    (UDP).|.......|. vxlan0 ── br0 ── veth0 ─|─────|─ eth0   |
    +----------------+       +--------------------------+     +---------+
      1 the NIC                2 the VXLAN device               3 its end of the veth pair

VXLAN device and bridge may as well be in the host's own namespace, and there may be no
bridge between (Flannel): packets for this host's part of the network are then routed
from the VXLAN device to a bridge.

`read` and `find` are apart, so that a layout can be recorded, and found in anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from harness.errors import FalconError
from harness.overlay import namespaces
from harness.overlay.netns import Namespace

# What devices are when they carry others: packets come in by those below.
OVER_OTHERS = ("bond", "bridge", "team", "vlan", "macvlan", "vrf")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Link:
    """A network device. ``kind`` is "" for a real NIC; ``master``, ``link`` are indexes or 0.

    ``link_nsid``: in which namespace ``link`` is, or, for a VXLAN device, its socket; None: in
    the device's own. ``vni`` to ``lower`` (its underlay's device, or 0) are a VXLAN device's.
    """

    index: int
    name: str
    kind: str = ""
    address: str = ""
    master: int = 0
    link: int = 0
    link_nsid: int | None = None
    vni: int = 0
    local: str = ""
    lower: int = 0


@dataclass(frozen=True)
class Layout:
    """What netlink says of a namespace, and where the namespace is.

    ``nsids``: its numbers for others, by their inodes. ``addresses``: (index of a device,
    "10.0.0.1/24"). ``routes``: (destination, index of a device). ``remotes``: (index of a VXLAN
    device, the address of a host it sends to). ``ways``: devices to such hosts, by address.
    """

    inode: int
    name: str
    path: str
    links: tuple[Link, ...] = ()
    nsids: tuple[tuple[int, int], ...] = ()
    addresses: tuple[tuple[int, str], ...] = ()
    routes: tuple[tuple[str, int], ...] = ()
    remotes: tuple[tuple[int, str], ...] = ()
    ways: tuple[tuple[str, int], ...] = ()

    def link(self, index: int) -> Link | None:
        """The device with that index."""
        return next((link for link in self.links if link.index == index), None)

    def as_json(self) -> dict[str, Any]:
        """For a file: ``Layout.from_json`` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layout:
        """The reverse of `as_json`."""
        pairs = {
            name: tuple(tuple(pair) for pair in data[name])
            for name in ("nsids", "addresses", "routes", "remotes", "ways")
        }
        return cls(**data | pairs | {"links": tuple(Link(**link) for link in data["links"])})


@dataclass(frozen=True)
class Device:
    """A device and the namespace it is in, by inode and path."""

    inode: int
    namespace: str
    path: str
    index: int
    name: str
    address: str


@dataclass(frozen=True)
class Overlay:
    """A VXLAN network on this host; ``nics`` are several under a bond."""

    vni: int
    nics: tuple[Device, ...]
    vxlan: Device
    containers: tuple[Device, ...]

    @property
    def stages(self) -> tuple[tuple[Device, ...], ...]:
        """Its devices in the order packets come to them."""
        return self.nics, (self.vxlan,), self.containers


# ---- reading ------------------------------------------------------------------------


def read(found: Sequence[namespaces.Found] | None = None) -> tuple[Layout, ...]:
    """These namespaces, or all, as they are now; without those that go away meanwhile."""
    if found is None:
        found = namespaces.find()
    layouts = []
    for one in found:
        with suppress(FalconError), Namespace.existing(one.name, one.path, one.inode) as entered:
            layouts.append(_read_one(one, entered, found))
    if not layouts:
        raise FalconError("no network namespace can be entered", todo="run as root")
    return tuple(_add_ways(layout, layouts) for layout in layouts)


def _read_one(
    one: namespaces.Found, entered: Namespace, others: Sequence[namespaces.Found]
) -> Layout:
    links = tuple(_link(message) for message in entered.ip("link", "dump"))
    vxlans = [link.index for link in links if link.kind == "vxlan"]
    nsids = []
    # Only who has devices whose other end is elsewhere is asked who is who.
    if any(link.link_nsid is not None for link in links):
        for other in others:
            with suppress(OSError), other.path.open("rb") as file:
                number = entered.nsid(file.fileno())
                if number is not None:
                    nsids.append((other.inode, number))
    return Layout(
        inode=one.inode,
        name=one.name,
        path=str(one.path),
        links=links,
        nsids=tuple(nsids),
        addresses=tuple(
            (
                message["index"],
                f"{message.get('local') or message.get('address')}/{message['prefixlen']}",
            )
            for message in entered.ip("addr", "dump")
        ),
        routes=tuple(_routes(entered)) if vxlans else (),
        remotes=tuple(
            (index, str(message.get("dst")))
            for index in vxlans
            for message in entered.ip("fdb", "dump", ifindex=index)
            if message.get("dst") and message["ifindex"] == index
        ),
    )


def _link(message: Any) -> Link:
    data = message.get(("linkinfo", "data")) if _kind(message) == "vxlan" else None
    vxlan = dict(data["attrs"]) if data else {}
    return Link(
        index=message["index"],
        name=message.get("ifname"),
        kind=_kind(message),
        address=message.get("address") or "",
        master=message.get("master") or 0,
        link=message.get("link") or 0,
        link_nsid=message.get("link_netnsid"),
        vni=vxlan.get("IFLA_VXLAN_ID", 0),
        local=vxlan.get("IFLA_VXLAN_LOCAL") or vxlan.get("IFLA_VXLAN_LOCAL6") or "",
        lower=vxlan.get("IFLA_VXLAN_LINK", 0),
    )


def _kind(message: Any) -> str:
    return message.get(("linkinfo", "kind")) or ""


def _routes(entered: Namespace) -> Iterator[tuple[str, int]]:
    for family in (AF_INET, AF_INET6):
        for message in entered.ip("route", "dump", family=family):
            if message.get("dst") and message.get("oif"):
                yield f"{message.get('dst')}/{message['dst_len']}", message.get("oif")


def _add_ways(layout: Layout, layouts: Sequence[Layout]) -> Layout:
    """Ask ``layout`` for its ways to the hosts that VXLAN devices send to out of it."""
    wanted = {
        address
        for other in layouts
        for index, address in other.remotes
        if _underlay(other, other.link(index), layouts) is layout
    }
    if not wanted:
        return layout
    ways = []
    with (
        suppress(FalconError),
        Namespace.existing(layout.name, Path(layout.path), layout.inode) as entered,
    ):
        ways = [(a, way) for a in sorted(wanted) if (way := entered.way_to(a)) is not None]
    return Layout(**{**vars(layout), "ways": tuple(ways)})


# ---- finding ------------------------------------------------------------------------


def find(layouts: Sequence[Layout]) -> tuple[Overlay, ...]:
    """The overlays among ``layouts``, by VNI; also those that have no container yet."""
    overlays = []
    for layout in layouts:
        for link in layout.links:
            if link.kind == "vxlan":
                overlays.append(
                    Overlay(
                        link.vni,
                        _nics(layout, link, layouts),
                        _device(layout, link),
                        _containers(layout, link, layouts),
                    )
                )
    return tuple(sorted(overlays, key=lambda o: (o.vni, o.vxlan.namespace, o.vxlan.index)))


def of_vni(overlays: Sequence[Overlay], vni: int | None) -> list[Overlay]:
    """Those of the ``overlays`` with this VNI, or None: all. Raises `FalconError` for none."""
    chosen = [overlay for overlay in overlays if vni is None or overlay.vni == vni]
    if not chosen:
        others = ", ".join(str(overlay.vni) for overlay in overlays)
        raise FalconError(
            "there is no VXLAN overlay" + (f" with the VNI {vni}" if vni is not None else ""),
            f"there is {others}" if others else "no namespace has a VXLAN device",
        )
    return chosen


def _device(layout: Layout, link: Link) -> Device:
    return Device(layout.inode, layout.name, layout.path, link.index, link.name, link.address)


def _by_nsid(layout: Layout, nsid: int | None, layouts: Sequence[Layout]) -> Layout | None:
    """The namespace that ``layout`` calls ``nsid``; itself for None."""
    if nsid is None:
        return layout
    inode = next((inode for inode, number in layout.nsids if number == nsid), None)
    return next((other for other in layouts if other.inode == inode), None)


def _underlay(layout: Layout, vxlan: Link | None, layouts: Sequence[Layout]) -> Layout | None:
    """The namespace of a VXLAN device's socket: where it was made, wherever it went."""
    return _by_nsid(layout, vxlan.link_nsid, layouts) if vxlan else None


def _nics(layout: Layout, vxlan: Link, layouts: Sequence[Layout]) -> tuple[Device, ...]:
    """The devices by which the VXLAN device's packets come from the wire."""
    underlay = _underlay(layout, vxlan, layouts)
    if underlay is None:
        return ()
    ways = dict(underlay.ways)
    if vxlan.lower:
        indexes = {vxlan.lower}
    elif vxlan.local and vxlan.local not in ("0.0.0.0", "::"):
        indexes = {i for i, net in underlay.addresses if str(ip_interface(net).ip) == vxlan.local}
    else:
        hosts = {address for index, address in layout.remotes if index == vxlan.index}
        indexes = {ways[host] for host in hosts if host in ways}
    found: dict[int, Link] = {}
    for index in sorted(indexes):
        found |= {link.index: link for link in _lowest(underlay, index)}
    return tuple(_device(underlay, link) for link in found.values())


def _lowest(layout: Layout, index: int, above: frozenset[int] = frozenset()) -> Iterator[Link]:
    """The devices under a bond, bridge or VLAN, where RPS sees packets first; else itself."""
    link = layout.link(index)
    if link is None or index in above or link.name == "lo":
        return
    below: Iterable[int] = ()
    if link.kind in OVER_OTHERS:
        below = [port.index for port in layout.links if port.master == index and not _inner(port)]
        if not below and link.link and link.link_nsid is None:
            below = [link.link]
    if not below:
        yield link
    for lower in below:
        yield from _lowest(layout, lower, above | {index})


def _inner(port: Link) -> bool:
    """Whether a port of a bridge leads to a container or a virtual machine, not to the wire."""
    return port.kind in ("tun", "vxlan") or (port.kind == "veth" and port.link_nsid is not None)


def _containers(layout: Layout, vxlan: Link, layouts: Sequence[Layout]) -> tuple[Device, ...]:
    """The far ends of the veth pairs that are on the VXLAN device's bridge."""
    bridges = {vxlan.master} if vxlan.master else set(_routed_bridges(layout, vxlan))
    devices = []
    for port in layout.links:
        if port.kind != "veth" or port.master not in bridges:
            continue
        there = _by_nsid(layout, port.link_nsid, layouts)
        far = there.link(port.link) if there else None
        if there and far:
            devices.append(_device(there, far))
    return tuple(sorted(devices, key=lambda device: (device.namespace, device.index)))


def _routed_bridges(layout: Layout, vxlan: Link) -> Iterator[int]:
    """Bridges with an address in the network whose other parts are behind the VXLAN device."""
    parts = [ip_network(destination) for destination, out in layout.routes if out == vxlan.index]
    parts += [ip_interface(net).network for index, net in layout.addresses if index == vxlan.index]
    bridges = {link.index for link in layout.links if link.kind == "bridge"}
    for version in (4, 6):
        whole = _smallest_around(
            [net for net in parts if net.version == version and not net.is_link_local]
        )
        for index, net in layout.addresses:
            if index in bridges and whole and ip_interface(net).ip in whole:
                yield index


def _smallest_around(parts: Sequence[Network]) -> Network | None:
    """The smallest network that holds all of ``parts``, default routes left out; None for none."""
    parts = [net for net in parts if net.prefixlen]
    whole = parts[0] if parts else None
    for net in parts:
        while whole and not (net[0] in whole and net[-1] in whole):
            whole = whole.supernet()
    return whole
