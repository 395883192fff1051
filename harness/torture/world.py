# SPDX-License-Identifier: GPL-2.0-only
"""The machine under torture: what stands, what comes and goes, and its settings.

In: topologies that stand (`standing`). Out: a `World` that `actions` are applied
to. Leaving its context removes all that came and puts the settings back.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from harness.errors import FalconError
from harness.overlay import cpus as cpu_control
from harness.overlay import falcon, receiving
from harness.overlay.cpus import format_cpu_mask
from harness.overlay.netns import Namespace
from harness.overlay.plan import SERVER, VXLAN_PORT, Plan
from harness.overlay.topology import BRIDGE, CONTAINER_DEVICE, NIC, VXLAN, Topology, one_machine
from harness.torture import account
from harness.torture.ports import CORE_SETTINGS, PLANS, Port
from harness.workload.udpflow import Endpoint, Received, Receiver, Sender

# A vxlan device's network among those that come and go; 42 is the standing ones'.
FIRST_VNI = 1000
OVERLAY_RATE = 100.0
# Long enough for fragments of one packet to meet, and soon over.
REASSEMBLY_S = 3
# Multicast reports are repeated within a second or two, at a random time.
SILENCE_S, SILENCE_WITHIN_S = 4.0, 60.0
POLL_S = 0.05


class Overlay:
    """A topology with a flow through it, made to be torn down under the flow."""

    def __init__(self, plan: Plan, size: int):
        with ExitStack() as opened:
            self.topology = opened.enter_context(one_machine(plan))
            source = Endpoint.of(self.topology.client)
            sink = Endpoint.of(self.topology.server)
            _wait_for_address(sink)
            self._receiver = opened.enter_context(Receiver(sink))
            opened.enter_context(Sender(source.namespace, sink.ip, size=size, rate=OVERLAY_RATE))
            self._opened = opened.pop_all()

    def strike(self, doom: str) -> None:
        """Remove a part of it."""
        server, client = self.topology.server, self.topology.client
        deeds: dict[str, Callable[[], None]] = {
            "vxlan": lambda: server.namespace.delete(VXLAN),
            "veth": lambda: server.namespace.delete("veth0"),
            "wire": lambda: server.namespace.delete(NIC),
            "bridge": lambda: server.namespace.delete(BRIDGE),
            "container device": lambda: server.at(0).delete(CONTAINER_DEVICE),
            "server": server.namespace.close,
            "client": client.namespace.close,
            "all": lambda: None,
        }
        deeds[doom]()

    def end(self) -> Received:
        """Remove all of it; what its receiver got."""
        received = self._receiver.stop()
        self._opened.close()
        return received

    def close(self) -> None:
        self._opened.close()


def _wait_for_address(end: Endpoint) -> None:
    """An IPv6 address is usable a moment after it was added."""
    family = socket.AF_INET6 if ":" in end.ip else socket.AF_INET
    deadline = time.monotonic() + SILENCE_WITHIN_S
    with end.namespace.socket(family, socket.SOCK_DGRAM) as sock:
        while True:
            try:
                sock.bind((end.ip, 0))
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise FalconError(f"{end.ip} cannot be used", str(error)) from None
            time.sleep(POLL_S)


@contextmanager
def standing() -> Iterator[dict[str, Topology]]:
    """The topologies that stand, by name."""
    with ExitStack() as opened:
        built = {}
        for name, plan in PLANS.items():
            built[name] = topology = opened.enter_context(one_machine(plan))
            for host in (topology.client, topology.server):
                for place in (host.namespace, *host.containers):
                    place.write("/proc/sys/net/ipv4/ipfrag_time", str(REASSEMBLY_S))
                    place.write("/proc/sys/net/ipv6/ip6frag_time", str(REASSEMBLY_S))
        for topology in built.values():
            _wait_for_silence(topology)
        yield built


def _wait_for_silence(topology: Topology) -> None:
    """A new bridge tells its neighbours of multicast groups; nobody wants to know."""
    before = account.read(topology)
    deadline = time.monotonic() + SILENCE_WITHIN_S
    while time.monotonic() < deadline:
        time.sleep(SILENCE_S)
        now = account.read(topology)
        if now == before:
            return
        before = now
    raise FalconError(f"devices of their own accord drop packets for {SILENCE_WITHIN_S:g} s")


@dataclass
class World:
    """See above. ``burst`` sends through the small topology while an epoch lasts."""

    topologies: dict[str, Topology]
    burst: Callable[[int, int, int, int], None] = lambda *_: None
    xdp: dict[Port, str] = field(default_factory=dict)
    gro: dict[Port, bool] = field(default_factory=dict)
    overlays: dict[int, Overlay] = field(default_factory=dict)
    devices: dict[int, str] = field(default_factory=dict)
    _before: dict[str, str] = field(default_factory=dict)

    # -- settings -----------------------------------------------------------------

    @staticmethod
    def has_setting(name: str) -> bool:
        return (falcon.SYSCTL / name).exists()

    @staticmethod
    def write_setting(name: str, value: str) -> None:
        falcon.write_sysctl(name, value)

    @staticmethod
    def settings() -> dict[str, str]:
        """All of net.core.falcon*."""
        names = sorted(path.name for path in falcon.SYSCTL.glob("falcon*"))
        return {name: falcon.read_sysctl(name) for name in names}

    @staticmethod
    def set_online(cpu: int, online: bool) -> None:
        cpu_control.set_online(cpu, online)

    # -- how devices receive ---------------------------------------------------------

    def topology(self, port: Port) -> Topology:
        if isinstance(port.topology, int):
            return self.overlays[port.topology].topology
        return self.topologies[port.topology]

    def namespace(self, port: Port) -> Namespace:
        topology = self.topology(port)
        host = topology.server if port.side == SERVER else topology.client
        return host.at(port.container)

    def sender_of(self, port: Port) -> tuple[Namespace, str]:
        """The other end of a veth device's pair."""
        topology = self.topology(port)
        host = topology.server if port.side == SERVER else topology.client
        if port.device == NIC:
            other = topology.client if port.side == SERVER else topology.server
            return other.namespace, NIC
        if port.container is not None:
            return host.namespace, f"veth{port.container}"
        return host.at(int(port.device.removeprefix("veth"))), CONTAINER_DEVICE

    def set_rps(self, port: Port, cpus: tuple[int, ...], flows: int) -> None:
        queue = f"/sys/class/net/{port.device}/queues/rx-0"
        namespace = self.namespace(port)
        namespace.write(f"{queue}/rps_cpus", format_cpu_mask(cpus))
        namespace.write(f"{queue}/rps_flow_cnt", str(flows))

    def set_xdp(self, port: Port, mode: str) -> None:
        """``mode``: "none", "generic" or "native", never two at once."""
        namespace, now = self.namespace(port), self.xdp.get(port, "none")
        if now not in ("none", mode):
            # Nor is it taken away below one.
            if self._is_below_a_program(port):
                self.set_xdp(replace(port, device=VXLAN), "none")
            receiving.set_xdp(namespace, port.device, now, on=False)
            self.xdp[port] = "none"
        if self._is_below_a_program(port):
            return
        if mode not in ("none", now):
            receiving.set_xdp(namespace, port.device, mode, on=True)
        self.xdp[port] = mode

    def _is_below_a_program(self, port: Port) -> bool:
        """The kernel lets no device have one while the VXLAN device on it has."""
        above = replace(port, device=VXLAN)
        return port.device == NIC and self.xdp.get(above, "none") != "none"

    def set_gro(self, port: Port, on: bool) -> None:
        """Veth's NAPI gets only what comes without TSO; a program in the driver sees to that."""
        if port.is_veth and self.xdp.get(port) != "native":
            namespace, device = self.sender_of(port)
            receiving.set_offload(namespace, device, "tso", not on)
        receiving.set_offload(self.namespace(port), port.device, "gro", on)
        self.gro[port] = on

    def set_hold(self, port: Port, ns: int) -> None:
        receiving.set_gro_flush_timeout(self.namespace(port), port.device, ns)

    def with_napi(self, topology: str) -> set[tuple[int, int | None, str]]:
        """The veth devices of a standing topology that have a NAPI, for `account`."""
        ports = {port for port, on in self.gro.items() if on}
        ports |= {port for port, mode in self.xdp.items() if mode == "native"}
        return {(p.side, p.container, p.device) for p in ports if p.topology == topology}

    # -- what comes and goes -----------------------------------------------------------

    def add_overlay(self, slot: int, plan: Plan, size: int) -> None:
        self.overlays[slot] = Overlay(plan, size)

    def remove_overlay(self, slot: int, doom: str) -> None:
        self.overlays[slot].strike(doom)
        received = self.overlays[slot].end()
        del self.overlays[slot]
        self._forget(slot)
        if received.corrupted or received.duplicates:
            raise FalconError(
                f"an overlay's flow came with {received.corrupted} damaged packets"
                f" and {received.duplicates} duplicates"
            )

    def _forget(self, slot: int) -> None:
        for record in (self.xdp, self.gro):
            for port in [port for port in record if port.topology == slot]:
                del record[port]

    def add_device(self, slot: int, topology: str, device: str) -> None:
        namespace, name = self.topologies[topology].server.namespace, f"extra{slot}"
        options: dict[str, dict[str, object]] = {
            "veth": {"peer": {"ifname": f"{name}peer"}},
            # The same port as the standing one: they share its socket.
            "vxlan": {"vxlan_id": FIRST_VNI + slot, "vxlan_port": VXLAN_PORT},
        }
        namespace.ip("link", "add", ifname=name, kind=device, **options.get(device, {}))
        self.devices[slot] = topology
        namespace.ip("link", "set", index=namespace.index(name), state="up")

    def remove_device(self, slot: int, topology: str) -> None:
        self.topologies[topology].server.namespace.delete(f"extra{slot}")
        del self.devices[slot]

    # -- its beginning and end ------------------------------------------------------------

    def __enter__(self) -> Self:
        names = [*self.settings(), *CORE_SETTINGS]
        self._before = {name: falcon.read_sysctl(name) for name in names}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for cpu in set(cpu_control.present_cpus()) - set(cpu_control.online_cpus()):
            cpu_control.set_online(cpu, True)
        for overlay in self.overlays.values():
            overlay.close()
        self.overlays.clear()
        # One that a failed step left half made is gone with its namespace.
        for slot, topology in list(self.devices.items()):
            with suppress(FalconError):
                self.remove_device(slot, topology)
        for name, text in self._before.items():
            falcon.write_sysctl(name, text)
