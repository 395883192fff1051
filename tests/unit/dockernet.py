# SPDX-License-Identifier: GPL-2.0-only
"""Docker's overlay network as netlink shows it, built by hand in namespaces of ours.

What `docker network create -d overlay` and one container on it make: a VXLAN device
born in the host's namespace and moved to a hidden one, with a bridge br0 and the near
end of the container's veth pair; and a second veth pair from the container to the
bridge docker_gwbridge in the host's namespace. The NIC is a veth pair to a neighbour::

    neighbour            host                   hidden               container
    +-------+   +---------------------+   +------------------+   +-------------+
    | eth9 =|===|= ens3    (UDP) .....|...|. vxlan0          |   |             |
    +-------+   |                     |   |    br0 -- veth0 -|---|- eth0       |
                | docker_gwbridge     |   +------------------+   |             |
                |     -- veth5c0ffee -|--------------------------|- eth1       |
                +---------------------+                          +-------------+

Or two such hosts, in place of one and a neighbour, whose containers reach each other (`joined`):
of the other host's Docker writes down which host has which container.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from harness.overlay.netns import Namespace

# Of this process alone: tests set masks of this one, and of no other on the machine.
VNI = 0xFA_0000 + os.getpid() % 0x10000
HOST, PEER = "192.168.9.1", "192.168.9.2"


@dataclass(frozen=True)
class DockerNet:
    """The four namespaces of the picture."""

    neighbour: Namespace
    host: Namespace
    hidden: Namespace
    container: Namespace


@dataclass(frozen=True)
class Half:
    """What one of two hosts has of an overlay; ``devices`` are the containers' in it."""

    host: Namespace
    hidden: Namespace
    containers: tuple[Namespace, ...]
    vxlan: str
    devices: tuple[str, ...]
    ips: tuple[str, ...]

    @property
    def places(self) -> list[tuple[Namespace, str]]:
        """Namespace and name of each device that is not the host's own."""
        return [
            (self.hidden, self.vxlan),
            *zip(self.containers, self.devices, strict=True),
        ]


def _veth(near: Namespace, name: str, far: Namespace, far_name: str, bridge: str = "") -> None:
    peer = {"ifname": far_name, "net_ns_fd": far.fd}
    near.ip("link", "add", ifname=name, kind="veth", peer=peer)
    master = {"master": near.index(bridge)} if bridge else {}
    near.ip("link", "set", index=near.index(name), state="up", **master)
    far.ip("link", "set", index=far.index(far_name), state="up")


def _vxlan(host: Namespace, hidden: Namespace, vni: int, name: str = "vxlan0") -> int:
    """Born in the host's namespace, where its socket stays, and moved; its index there."""
    host.ip(
        "link",
        "add",
        ifname="vx-001001-abcde",
        kind="vxlan",
        vxlan_id=vni,
        vxlan_port=4789,
        vxlan_learning=0,
        vxlan_proxy=1,
    )
    index = host.index("vx-001001-abcde")
    host.ip("link", "set", index=index, net_ns_fd=hidden.fd, ifname=name)
    index = hidden.index(name)
    hidden.ip("link", "set", index=index, master=hidden.index("br0"), state="up")
    return index


def _bridge(namespace: Namespace, name: str) -> None:
    namespace.ip("link", "add", ifname=name, kind="bridge")
    namespace.ip("link", "set", index=namespace.index(name), state="up")


@contextmanager
def built(vni: int = VNI) -> Iterator[DockerNet]:
    """The picture, until the context ends."""
    with ExitStack() as opened:
        labels = ("neighbour", "host", "hidden", "container")
        net = DockerNet(*(opened.enter_context(Namespace(label)) for label in labels))
        _veth(net.host, "ens3", net.neighbour, "eth9")
        net.host.ip("addr", "add", index=net.host.index("ens3"), address=HOST, prefixlen=24)
        _bridge(net.hidden, "br0")
        index = _vxlan(net.host, net.hidden, vni)
        net.hidden.ip("fdb", "add", ifindex=index, lladdr="02:42:0a:00:00:03", dst=PEER)
        _veth(net.hidden, "veth0", net.container, "eth0", "br0")
        _bridge(net.host, "docker_gwbridge")
        bridge = net.host.index("docker_gwbridge")
        net.host.ip("addr", "add", index=bridge, address="172.18.0.1", prefixlen=16)
        _veth(net.host, "veth5c0ffee", net.container, "eth1", "docker_gwbridge")
        yield net


# ---- two hosts ----------------------------------------------------------------------------------


def _mac(ip: str) -> str:
    """Docker's."""
    return "02:42:" + ":".join(f"{int(byte):02x}" for byte in ip.split("."))


def _half(
    host: Namespace, hidden: Namespace, side: int, ips: Sequence[str], vni: int, opened: ExitStack
) -> Half:
    """One host's, still without a word of the other's containers.

    Names differ from host to host and from container to container.
    """
    containers = tuple(opened.enter_context(Namespace(f"container-{ip}")) for ip in ips)
    devices = tuple(f"eth{(side + number) % 2}" for number in range(len(ips)))
    half = Half(host, hidden, containers, f"vxlan{side}", devices, tuple(ips))
    _bridge(hidden, "br0")
    _vxlan(host, hidden, vni, half.vxlan)
    _bridge(host, "docker_gwbridge")
    for number, (container, device) in enumerate(zip(containers, devices, strict=True)):
        _veth(hidden, f"veth{number}", container, device, "br0")
        index = container.index(device)
        container.ip("link", "set", index=index, address=_mac(ips[number]))
        container.ip("addr", "add", index=index, address=ips[number], prefixlen=16)
        other = "eth0" if device == "eth1" else "eth1"
        _veth(host, f"veth{number}c0ffee", container, other, "docker_gwbridge")
    return half


@contextmanager
def joined(
    hosts: Sequence[Namespace],
    ips: Sequence[str],
    containers: Sequence[int],
    vni: int = VNI,
    hidden: bool = True,
) -> Iterator[tuple[Half, Half]]:
    """An overlay over two ``hosts`` that reach each other at ``ips``, with so many containers.

    Without ``hidden`` VXLAN device and bridge are in the hosts' own namespaces, as others' are.
    """
    with ExitStack() as opened:
        inside = [
            opened.enter_context(Namespace(f"hidden-{side}")) if hidden else host
            for side, host in enumerate(hosts)
        ]
        first, second = (
            [f"10.0.{side}.{number + 2}" for number in range(count)]
            for side, count in enumerate(containers)
        )
        halves = (
            _half(hosts[0], inside[0], 0, first, vni, opened),
            _half(hosts[1], inside[1], 1, second, vni, opened),
        )
        for half, other, peer in zip(halves, reversed(halves), reversed(ips), strict=True):
            index = half.hidden.index(half.vxlan)
            for ip in other.ips:
                half.hidden.ip("fdb", "add", ifindex=index, lladdr=_mac(ip), dst=peer)
                half.hidden.ip(
                    "neigh", "add", ifindex=index, dst=ip, lladdr=_mac(ip), state="permanent"
                )
        yield halves
