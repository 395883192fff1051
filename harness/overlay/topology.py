# SPDX-License-Identifier: GPL-2.0-only
"""Builds the overlay a `Plan` describes, whole or one host of it.

In: a plan and a wire. Out: `Host` objects whose namespaces workloads run in.
As Docker's overlay driver does, forwarding and neighbour entries are written
in advance: no packet is ever flooded, learnt from or lost to a late reply.

The whole picture, on one machine (`one_machine`)::

      client host                                     server host
    +-------------------------------+    +-------------------------------+
    | container 0 ... container N-1 |    | container 0 ... container N-1 |
    |    eth0             eth0      |    |    eth0             eth0      |
    |     |                |        |    |     |                |        |
    |    veth0           vethN-1    |    |    veth0           vethN-1    |
    |     +----- br0 ------+        |    |     +----- br0 ------+        |
    |             |                 |    |             |                 |
    |          vxlan0               |    |          vxlan0               |
    |             : (UDP)           |    |             : (UDP)           |
    |           nic0 ===============|====|=========== nic0               |
    +-------------------------------+    +-------------------------------+

Every host and every container is a network namespace of its own. The wire
(===) is a veth pair; or, with `tap_client` on one machine and `nic_server`
in a VM, a TAP device here and the VM's virtio network card there. Between two
real hosts (`real_host`) it is what they have.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import ndmsg

from harness.errors import FalconError
from harness.machine.tap import TapNic, open_tap
from harness.overlay.netns import Namespace
from harness.overlay.plan import CLIENT, SERVER, VXLAN_PORT, Address, Plan

NIC, VXLAN, BRIDGE, CONTAINER_DEVICE = "nic0", "vxlan0", "br0", "eth0"
LOOPBACK_INDEX = 1
# linux/if.h
IFF_UP = 1
ADDR_GEN_MODE_NONE = "1"
# How long a VXLAN device of a run that was killed may take to go.
GONE_WITHIN_S, POLL_S = 20.0, 0.2
# What devices with a carrier are, those that do not tell among them; and how long that may take.
WORKING, WORKING_WITHIN_S = ("UP", "UNKNOWN"), 30.0


@dataclass(frozen=True)
class Host:
    """One host of the picture: its own namespace and those of its containers.

    ``side`` is `CLIENT` or `SERVER`. ``nic``: its network card. ``hidden``: where VXLAN device
    and bridge are, if that is not the host's own namespace. ``vxlan``, and ``devices`` of the
    containers: what these are called where the overlay is not ours (`harness.overlay.running`).
    """

    plan: Plan
    side: int
    namespace: Namespace
    containers: tuple[Namespace, ...]
    nic: str = NIC
    hidden: Namespace | None = None
    vxlan: str = VXLAN
    devices: tuple[str, ...] = ()

    @property
    def inside(self) -> Namespace:
        """The namespace of VXLAN device and bridge."""
        return self.hidden or self.namespace

    def at(self, container: int | None = None) -> Namespace:
        """The namespace of a container, or the host's own."""
        return self.namespace if container is None else self.containers[container]

    def device(self, container: int) -> str:
        """The name of a container's device in the overlay."""
        return self.devices[container] if self.devices else CONTAINER_DEVICE

    def address(self, container: int | None = None) -> Address:
        """The address of a container in the overlay, or the host's on the wire."""
        if container is None:
            return self.plan.host(self.side)
        return self.plan.container(self.side, container)


@dataclass(frozen=True)
class Topology:
    """Both hosts, on one machine."""

    client: Host
    server: Host


# ---- the whole, and its halves ---------------------------------------------------


@contextmanager
def one_machine(plan: Plan) -> Iterator[Topology]:
    """Both hosts on this machine; the wire is a veth pair."""
    with _host(plan, CLIENT) as client, _host(plan, SERVER) as server:
        _add_veth(client.namespace, NIC, server.namespace, NIC)
        _attach(client)
        _attach(server)
        _wait_until_working(client)
        _wait_until_working(server)
        yield Topology(client, server)


@contextmanager
def tap_client(plan: Plan, queues: int = 1) -> Iterator[tuple[Host, TapNic]]:
    """The client host; its wire is a TAP device of ``queues`` queues.

    The `TapNic` is to be plugged into a VM, where `nic_server` finds it. ::

          here                              the VM
        +---------------------+           +---------------------+
        | ... br0 ... vxlan0  |           |  vxlan0 ... br0 ... |
        |              nic0 ==|== QEMU ===|== nic0              |
        +-------------(TAP)---+           +---(virtio-net)------+
    """
    with _host(plan, CLIENT) as client:
        fds = client.namespace.call(open_tap, NIC, queues)
        with ExitStack() as opened:
            for fd in fds:
                opened.callback(os.close, fd)
            _attach(client)
            _wait_until_working(client)
            yield client, TapNic(fds, plan.host(SERVER).mac)


@contextmanager
def nic_server(plan: Plan) -> Iterator[Host]:
    """The server host on this machine, whose network card has the server's MAC.

    The card moves into the host's namespace, and back at the end.
    """
    with closing(Namespace.current()) as current, _host(plan, SERVER) as server:
        mac = plan.host(SERVER).mac
        found = [link for link in current.ip("link", "dump") if link.get("address") == mac]
        if not found:
            raise FalconError(
                f"this machine has no network card with the address {mac}",
                todo="start it with the TapNic of tap_client",
            )
        current.ip("link", "set", index=found[0]["index"], state="down")
        current.ip(
            "link", "set", index=found[0]["index"], ifname=NIC, net_ns_fd=server.namespace.fd
        )
        try:
            _attach(server)
            _wait_until_working(server)
            yield server
        finally:
            # The kernel would do it by itself, but only after we are gone.
            nic = server.namespace.index(NIC)
            server.namespace.ip("link", "set", index=nic, net_ns_fd=current.fd)


@contextmanager
def real_host(plan: Plan, side: int, nic: str) -> Iterator[Host]:
    """This very machine as one of the hosts; its card ``nic`` stays where and as it is.

    As in Docker's overlay the VXLAN device has its socket in the host's own namespace, and is
    itself in one that nobody sees. There is never a device of ours in the host's own. ::

          the host's own namespace      ours, without names
        +---------------------------+ +------------------+  +-----------+
        |  nic ........ (UDP) ......|.|. vxlan0          |  | container |
        |                           | |    br0 -- veth0 -|--|- eth0     |
        +---------------------------+ +------------------+  +-----------+
    """
    with ExitStack() as opened:
        own = opened.enter_context(closing(Namespace.current()))
        role, containers = _containers(plan, side, opened)
        hidden = _new(f"{role}-overlay", opened)
        host = Host(plan, side, own, containers, nic, hidden)
        _add_overlay(host)
        # A namespace goes a while after it was left. Its VXLAN network would be taken till then.
        opened.callback(hidden.delete, VXLAN)
        _wait_until_working(host)
        yield host


# ---- how a host is built -------------------------------------------------------------


@contextmanager
def _host(plan: Plan, side: int) -> Iterator[Host]:
    """A host with its containers, still without a wire and unconnected."""
    with ExitStack() as opened:
        role, containers = _containers(plan, side, opened)
        yield Host(plan, side, _new(f"{role}-host", opened), containers)


def _containers(plan: Plan, side: int, opened: ExitStack) -> tuple[str, tuple[Namespace, ...]]:
    """What the host is called in labels, and its containers' namespaces."""
    role = "server" if side == SERVER else "client"
    labels = (f"{role}-container-{n}" for n in range(plan.containers))
    return role, tuple(_new(label, opened) for label in labels)


def _new(label: str, opened: ExitStack) -> Namespace:
    namespace = opened.enter_context(Namespace(label))
    _prepare(namespace)
    return namespace


def _prepare(namespace: Namespace) -> None:
    """No traffic of the kernel's own, and an address is usable at once."""
    if namespace.exists("/proc/sys/net/ipv6"):
        for scope in ("all", "default"):
            conf = f"/proc/sys/net/ipv6/conf/{scope}"
            namespace.write(f"{conf}/addr_gen_mode", ADDR_GEN_MODE_NONE)
            namespace.write(f"{conf}/accept_dad", "0")
    namespace.ip("link", "set", index=LOOPBACK_INDEX, state="up")


def _attach(host: Host) -> None:
    """Set up ``nic0``, which must be there by now, and everything behind it."""
    peer = host.plan.host(1 - host.side)
    _set_up(host.namespace, NIC, host.address(), host.plan.mtu)
    _add_neighbour(host.namespace, NIC, peer)
    _add_overlay(host)


def _add_overlay(host: Host) -> None:
    """All that is behind the network card."""
    _add_bridge(host)
    _add_vxlan(host, host.plan.host(1 - host.side))
    for number in range(host.plan.containers):
        _connect_container(host, number)


def _wait_until_working(host: Host) -> None:
    """Until no device of ours loses packets: it does before the kernel has dealt with its carrier,
    which a busy machine does some time after the device was set up.
    """
    deadline = time.monotonic() + WORKING_WITHIN_S
    for namespace in (host.inside, *host.containers):
        while idle := [
            link.get("ifname")
            for link in namespace.ip("link", "dump")
            if link["flags"] & IFF_UP and link.get("operstate") not in WORKING
        ]:
            if time.monotonic() > deadline:
                raise FalconError(
                    f"network devices do not begin to work: {', '.join(idle)}",
                    f"they had {WORKING_WITHIN_S:g} s",
                )
            time.sleep(POLL_S)


def _add_bridge(host: Host) -> None:
    mtu = host.plan.container_mtu
    host.inside.ip("link", "add", ifname=BRIDGE, kind="bridge", mtu=mtu)
    host.inside.ip("link", "set", index=host.inside.index(BRIDGE), state="up")


def _add_vxlan(host: Host, peer: Address) -> None:
    inside = host.inside
    local = "vxlan_local" if peer.version == 4 else "vxlan_local6"
    options: dict[str, Any] = {local: host.address().ip, "vxlan_port": VXLAN_PORT}
    if not host.plan.overlay_mtu:
        # A VXLAN device that knows its wire refuses an MTU that does not fit.
        options["vxlan_link"] = host.namespace.index(host.nic)
    if host.hidden:
        # Made there, it is at no time in the host's own, where it would outlive us.
        options["net_ns_fd"] = host.hidden.fd
    _make_vxlan(host, vxlan_id=host.plan.vni, vxlan_learning=0, **options)
    index, bridge = inside.index(VXLAN), inside.index(BRIDGE)
    inside.ip("link", "set", index=index, mtu=host.plan.container_mtu, master=bridge, state="up")
    for number in range(host.plan.containers):
        mac = host.plan.container(1 - host.side, number).mac
        inside.ip("fdb", "add", ifindex=index, lladdr=mac, dst=peer.ip)
        _tell_bridge(inside, index, mac)


def _make_vxlan(host: Host, **options: Any) -> None:
    """Wait for one that is in the way to go, as one of a run that was killed does."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while True:
        try:
            host.namespace.ip("link", "add", ifname=VXLAN, kind="vxlan", **options)
            return
        except FalconError as error:
            if not _is_there_already(error) or not host.hidden:
                raise
            if time.monotonic() > deadline:
                raise FalconError(
                    f"the VXLAN network {host.plan.vni} is in use on this host",
                    "there can be one with this number on a network card",
                    "wait for the other measurement to end",
                ) from None
        time.sleep(POLL_S)


def _is_there_already(error: FalconError) -> bool:
    return isinstance(error.__cause__, NetlinkError) and error.__cause__.code == errno.EEXIST


def _connect_container(host: Host, number: int) -> None:
    outside, container = f"veth{number}", host.containers[number]
    inside = host.inside
    _add_veth(inside, outside, container, CONTAINER_DEVICE)
    index, bridge = inside.index(outside), inside.index(BRIDGE)
    inside.ip("link", "set", index=index, mtu=host.plan.container_mtu, master=bridge, state="up")
    _tell_bridge(inside, index, host.address(number).mac)
    _set_up(container, CONTAINER_DEVICE, host.address(number), host.plan.container_mtu)
    for other in range(host.plan.containers):
        _add_neighbour(container, CONTAINER_DEVICE, host.plan.container(1 - host.side, other))


def _tell_bridge(namespace: Namespace, port: int, mac: str) -> None:
    """The bridge finds ``mac`` behind the port with ifindex ``port``."""
    namespace.ip(
        "fdb", "add", ifindex=port, lladdr=mac, state=ndmsg.NUD_NOARP, flags=ndmsg.NTF_MASTER
    )


def _add_veth(near: Namespace, near_name: str, far: Namespace, far_name: str) -> None:
    peer = {"ifname": far_name, "net_ns_fd": far.fd}
    near.ip("link", "add", ifname=near_name, kind="veth", peer=peer)


def _set_up(namespace: Namespace, device: str, address: Address, mtu: int) -> None:
    index = namespace.index(device)
    namespace.ip("link", "set", index=index, address=address.mac, mtu=mtu, state="up")
    namespace.ip("addr", "add", index=index, address=address.ip, prefixlen=address.prefix_bits)


def _add_neighbour(namespace: Namespace, device: str, address: Address) -> None:
    namespace.ip(
        "neigh",
        "add",
        ifindex=namespace.index(device),
        dst=address.ip,
        lladdr=address.mac,
        state="permanent",
    )
