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
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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


def _veth(near: Namespace, name: str, far: Namespace, far_name: str, bridge: str = "") -> None:
    peer = {"ifname": far_name, "net_ns_fd": far.fd}
    near.ip("link", "add", ifname=name, kind="veth", peer=peer)
    master = {"master": near.index(bridge)} if bridge else {}
    near.ip("link", "set", index=near.index(name), state="up", **master)
    far.ip("link", "set", index=far.index(far_name), state="up")


def _vxlan(net: DockerNet, vni: int) -> None:
    """Born in the host's namespace, where its socket stays, and moved."""
    net.host.ip(
        "link",
        "add",
        ifname="vx-001001-abcde",
        kind="vxlan",
        vxlan_id=vni,
        vxlan_port=4789,
        vxlan_learning=0,
        vxlan_proxy=1,
    )
    index = net.host.index("vx-001001-abcde")
    net.host.ip("link", "set", index=index, net_ns_fd=net.hidden.fd, ifname="vxlan0")
    index = net.hidden.index("vxlan0")
    net.hidden.ip("link", "set", index=index, master=net.hidden.index("br0"), state="up")
    net.hidden.ip("fdb", "add", ifindex=index, lladdr="02:42:0a:00:00:03", dst=PEER)


@contextmanager
def built(vni: int = VNI) -> Iterator[DockerNet]:
    """The picture, until the context ends."""
    with ExitStack() as opened:
        labels = ("neighbour", "host", "hidden", "container")
        net = DockerNet(*(opened.enter_context(Namespace(label)) for label in labels))
        _veth(net.host, "ens3", net.neighbour, "eth9")
        net.host.ip("addr", "add", index=net.host.index("ens3"), address=HOST, prefixlen=24)
        net.hidden.ip("link", "add", ifname="br0", kind="bridge")
        net.hidden.ip("link", "set", index=net.hidden.index("br0"), state="up")
        _vxlan(net, vni)
        _veth(net.hidden, "veth0", net.container, "eth0", "br0")
        net.host.ip("link", "add", ifname="docker_gwbridge", kind="bridge")
        bridge = net.host.index("docker_gwbridge")
        net.host.ip("link", "set", index=bridge, state="up")
        net.host.ip("addr", "add", index=bridge, address="172.18.0.1", prefixlen=16)
        _veth(net.host, "veth5c0ffee", net.container, "eth1", "docker_gwbridge")
        yield net
