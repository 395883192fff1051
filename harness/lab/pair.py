# SPDX-License-Identifier: GPL-2.0-only
"""Two real hosts to measure on, over SSH: one is under test, the other sends.

In: two machines (`look`). Out: a `Pair`, which knows what can be measured on them, and opens
rigs as `harness.lab.timed` does for virtual machines. ::

    this machine ─── ssh ─┬───────────────────────┐
                     client (`sender`)       server (`guest`)
                     container - vxlan0 - NIC ═══ NIC - vxlan0 - container

Nothing is installed there, and nothing is left (docs/decisions/0063): our Python comes with a
`Payload`, the overlay is in namespaces that die with our program, and what modes change of
the server's own is put back by a `harness.overlay.keeper`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.hosts.payload import Payload
from harness.lab.guest import cpu_plan
from harness.lab.loads import UdpLoad
from harness.lab.remote import Sender, Server, Starter
from harness.lab.rig import LEAST_CPUS, Boot, Rig
from harness.lab.timed import REAL
from harness.machine.base import Machine
from harness.overlay.plan import VXLAN_PORT, Plan
from harness.workload import udpflow

FILES, PACKAGES = ("harness",), ("pyroute2", "jinja2")
# What starts programs there (util-linux), besides those of the loads.
STARTERS = ("setpriv", "taskset")
PACKAGE_OF = {name: "util-linux" for name in STARTERS}
# So many packets show whether a way is open.
PROBE_RATE, PROBE_S = 100.0, 1


@dataclass(frozen=True)
class Site:
    """A host: what the user calls it, and the way to it."""

    name: str
    machine: Machine


@dataclass(frozen=True)
class Facts:
    """What `harness.lab.survey` found of a host."""

    release: str
    build: str
    machine: str
    falcon: bool
    missing: tuple[str, ...]
    balanced: bool
    cards: tuple[dict[str, Any], ...]
    hardware: str = ""


@dataclass(frozen=True)
class Wire:
    """The way from the client to the server: addresses, devices, the smaller MTU; ``cpus`` of the
    server in the order in which they are used. ``vni``: of an overlay that runs over it already, 0
    for one of ours.
    """

    client_ip: str
    client_device: str
    server_ip: str
    server_device: str
    mtu: int
    cpus: tuple[int, ...]
    vni: int = 0

    def plan(self, containers: int) -> Plan:
        """An overlay over it."""
        version = 6 if ":" in self.server_ip else 4
        return Plan(
            containers,
            outer=version,
            mtu=self.mtu,
            client_ip=self.client_ip,
            server_ip=self.server_ip,
            running=self.vni,
        )

    def __str__(self) -> str:
        return (
            f"{self.client_ip} ({self.client_device}) to {self.server_ip} ({self.server_device}),"
            f" MTU {self.mtu}" + (f", the overlay {self.vni} that runs there" if self.vni else "")
        )


@dataclass(frozen=True)
class Pair:
    """Two hosts that were looked at. ``smp``: CPUs of the server that are used. ``containers``: how
    many run on it, where the overlay is not ours; else 0.
    """

    server: Site
    client: Site
    server_facts: Facts
    client_facts: Facts
    wire: Wire
    smp: int
    containers: int = 0

    @property
    def release(self) -> str:
        """The kernel under test."""
        return self.server_facts.release

    @property
    def has_falcon(self) -> bool:
        return self.server_facts.falcon

    def lack_of_containers(self, load: int) -> str:
        """That a load to so many containers cannot be; "" if it can."""
        if not self.containers or load <= self.containers:
            return ""
        return (
            f"{self.server.name} runs {self.containers} containers of the overlay {self.wire.vni},"
            f" and the load goes to {load}"
        )

    def lack(self, programs: Sequence[str]) -> str:
        """Which of the ``programs`` is missing where, and how to get it; "" if none is."""
        for site, facts in ((self.server, self.server_facts), (self.client, self.client_facts)):
            for name in facts.missing:
                if name in programs or name in STARTERS:
                    return (
                        f"{site.name} lacks the program {name};"
                        f" run there: apt-get install {_package(name)}"
                    )
        return ""

    def context(self) -> dict[str, Any]:
        """What tells samples of these hosts from others (see `campaign.CONDITIONS`)."""
        facts = self.server_facts
        where = f"{facts.machine}, Linux {facts.release}, on {self.server.name}"
        return {
            "image": facts.build,
            "accel": REAL,
            "host_cpus": len(self.wire.cpus),
            "cpus": self.smp,
            "server": self.server.name,
            "client": self.client.name,
            "hardware": f"{facts.hardware}; from {self.client_facts.hardware}",
            "host": f"{where}; from {self.client.name}, Linux {self.client_facts.release}",
            "wire": str(self.wire),
        }

    @contextmanager
    def opened(self, boot: Boot) -> Iterator[Rig]:
        """Set up both hosts for the overlay of ``boot``, whose other values are a machine's."""
        plan = self.wire.plan(boot.plan.containers)
        with ExitStack() as stack:
            cpus = self.wire.cpus[: self.smp]
            setting = {
                "device": self.wire.server_device,
                "cpus": asdict(cpu_plan(cpus)),
                "own": cpus[-1],
            }
            start = _starter(self.server, "harness.lab.guest", plan, setting, stack)
            server = stack.enter_context(Server(start, self.server.name))
            setting = {"device": self.wire.client_device}
            start = _starter(self.client, "harness.lab.sender", plan, setting, stack)
            client = stack.enter_context(Sender(start, self.client.name))
            rig = Rig(server, client, replace(plan, sinks=tuple(server.ready["sinks"])))
            self._see_that_they_talk(rig)
            yield rig

    def _see_that_they_talk(self, rig: Rig) -> None:
        """Raise `FalconError` if something between them lets no packets through."""
        load = UdpLoad(64)
        ports = {"host": udpflow.PORT, "con": VXLAN_PORT}
        for mode, port in ports.items():
            rig.server.mode(mode, load)
            flows = rig.flows(load, mode, 0)
            with rig.client.running(load, flows, PROBE_RATE, PROBE_S) as running:
                running.wait()
            if not rig.server.drain(1).came.received:
                raise FalconError(
                    f"no packet of {self.client.name} comes to {self.server.name} at"
                    f" {self.wire.server_ip}, UDP port {port}",
                    "a firewall may be in between",
                    "let it pass, or name another address of the server with --address",
                )


def _starter(
    site: Site, module: str, plan: Plan, setting: dict[str, Any], opened: ExitStack
) -> Starter:
    """Bring our files to a host, until ``opened`` is closed; what starts a ``module`` there."""
    payload = _payload(site, opened)
    payload.add_tool(udpflow.build())
    words = ("-m", module, json.dumps({"plan": plan.as_json(), **setting}))
    # What programs write goes with the payload, even if they cannot remove it.
    env = {"TMPDIR": payload.directory}
    return lambda stdin: payload.python(*words, env=env, stdin=stdin)


def _payload(site: Site, opened: ExitStack) -> Payload:
    try:
        return opened.enter_context(Payload(site.machine, FILES, PACKAGES))
    except FalconError as error:
        if site.name in str(error):
            raise
        raise FalconError(f"{site.name}: {error.what}", error.why, error.todo) from None


def _package(program: str) -> str:
    found = (tool.package for tool in tools.known() if tool.proof == program)
    return PACKAGE_OF.get(program) or next(found, program)


# ---- looking -----------------------------------------------------------------------------------


def look(
    server: Site,
    client: Site,
    programs: Sequence[str],
    smp: int,
    address: str = "",
    vni: int = 0,
) -> Pair:
    """See what the hosts are; raise `FalconError` if nothing can be measured on them.

    ``programs`` that loads may need; ``smp`` CPUs of the server at most; ``address`` of the
    server that packets are sent to, "" for the best there is; ``vni`` of an overlay that runs on
    both, 0 for one of ours.
    """
    with ExitStack() as opened:
        there = {site.name: _payload(site, opened) for site in (server, client)}

        def ask(site: Site, request: dict[str, Any]) -> dict[str, Any]:
            try:
                return there[site.name].ask("harness.lab.survey", request)
            except FalconError as error:
                raise FalconError(f"{site.name}: {error.what}", error.why, error.todo) from None

        request = {"programs": [*programs, *STARTERS]}
        facts = {site.name: _facts(site, ask(site, request)) for site in (server, client)}
        known = {card["ip"]: card for card in facts[server.name].cards}
        if address and address not in known:
            raise FalconError(
                f"{server.name} has no address {address} on a network card",
                f"it has {', '.join(known) or 'none'}",
            )
        found = ask(client, {"to": [address] if address else list(known)})["ways"]
        runs = [ask(site, {"vni": vni}) for site in (server, client)] if vni else []
    wires = [_wire(way, known[way["to"]]) for way in _preferred(found, known)]
    if vni:
        wires = _under(vni, wires, *(one["device"] for one in runs))
    wire = _best(wires, server, client)
    note(f"{client.name} sends to {server.name}: {wire}")
    if facts[server.name].balanced:
        note(f"{server.name}: irqbalance runs there and may move the card's interrupts; stop it")
    return Pair(
        server,
        client,
        facts[server.name],
        facts[client.name],
        wire,
        _enough(server, len(wire.cpus), smp),
        runs[0]["containers"] if runs else 0,
    )


def _facts(site: Site, answer: dict[str, Any]) -> Facts:
    here = platform.machine()
    if answer["machine"] != here:
        raise FalconError(
            f"{site.name} is of another kind than this machine: {answer['machine']}",
            f"programs are compiled here, for {here}",
        )
    lists = {name: tuple(answer[name]) for name in ("missing", "cards")}
    return Facts(**answer | lists)


def _preferred(found: Sequence[dict[str, Any]], known: dict[str, Any]) -> list[dict[str, Any]]:
    """The way of a network of their own before one through others, then the fastest card."""
    return sorted(
        found, key=lambda way: (not way["direct"], -known[way["to"]]["speed"], ":" in way["to"])
    )


def _wire(way: dict[str, Any], card: dict[str, Any]) -> Wire:
    mtu = min(way["mtu"], card["mtu"])
    return Wire(way["source"], way["device"], card["ip"], card["device"], mtu, tuple(card["cpus"]))


def _under(vni: int, wires: Sequence[Wire], server_device: str, client_device: str) -> list[Wire]:
    """Those that an overlay goes by, which comes by these devices."""
    found = [
        replace(wire, vni=vni)
        for wire in wires
        if (wire.server_device, wire.client_device) == (server_device, client_device)
    ]
    if not found:
        raise FalconError(
            f"the overlay {vni} goes from {client_device} to {server_device}, and that is no way"
            " that can be measured",
            "it takes network cards with addresses of their own, not under bridges, bonds or VLANs",
            "name an address of that card with --address, or leave that out",
        )
    return found


def _best(wires: Sequence[Wire], server: Site, client: Site) -> Wire:
    if not wires:
        raise FalconError(
            f"{client.name} knows no way to {server.name}",
            "between network cards themselves, not bridges, bonds or VLANs",
            "give both a network in common, or name the server's address with --address",
        )
    return wires[0]


def _enough(server: Site, there: int, smp: int) -> int:
    if there < LEAST_CPUS:
        raise FalconError(
            f"{server.name} has {there} CPUs, which are too few",
            "the NIC, three stages, the receiver and the harness have one each",
            f"take a server with {LEAST_CPUS}",
        )
    return min(there, smp)
