# SPDX-License-Identifier: GPL-2.0-only
"""What receives a load, on the machine under test.

In: a `Load`, the server `Host`, its `CpuPlan`. Out: the programs, started; each ends with the
context it is entered into. `harness.lab.clients` is the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from harness.closing import Closing
from harness.lab.loads import (
    Load,
    MemcachedLoad,
    SockperfLoad,
    TcpLoad,
    UdpLoad,
    WebLoad,
)
from harness.overlay.cpus import CpuPlan
from harness.overlay.topology import Host
from harness.workload import iperf, memcached, sockperf, web
from harness.workload.udpflow import Endpoint, Receiver

# The paper's has 4 GB (section 6.2); the machine has less, and the items need a few MB.
MEMCACHED_MIB = 512
WEB_CONNECTIONS = 64


class Place:
    """Where programs run: endpoints in a mode, and CPUs."""

    def __init__(self, load: Load, host: Host, cpus: CpuPlan, overlay: bool):
        self._host, self._overlay, self._load = host, overlay, load
        # The receiver's own CPU first: one program is alone there either way.
        self._cpus = (cpus.app, *cpus.stages) if load.spread else (cpus.app,)

    def at(self, container: int) -> Endpoint:
        """A container's endpoint, or the host's where there is no overlay."""
        return Endpoint.of(self._host, container if self._overlay else None)

    def flow(self, number: int) -> Endpoint:
        """The endpoint that a flow goes to."""
        return self.at(number % self._load.containers)

    @property
    def endpoints(self) -> list[Endpoint]:
        """All of them; without an overlay there is the host's alone."""
        return [self.at(n) for n in range(self._load.containers if self._overlay else 1)]

    def cpu(self, number: int) -> int:
        """The CPU of the how manieth program, in turn."""
        return self._cpus[number % len(self._cpus)]

    @property
    def cpus(self) -> tuple[int, ...]:
        """All CPUs that a program with several threads may use."""
        return self._cpus


def _udp(place: Place, load: UdpLoad, opened: ExitStack) -> list[Closing]:
    """A receiver a container: it tells flows apart by their numbers."""
    return [
        opened.enter_context(Receiver(at, cpu=place.cpu(number)))
        for number, at in enumerate(place.endpoints)
    ]


def _tcp(place: Place, load: TcpLoad, opened: ExitStack) -> list[Closing]:
    return [
        opened.enter_context(
            iperf.Server(place.flow(flow), port=iperf.FIRST_PORT + flow, cpu=place.cpu(flow))
        )
        for flow in range(load.flows)
    ]


def _sockperf(place: Place, load: SockperfLoad, opened: ExitStack) -> list[Closing]:
    return [
        opened.enter_context(
            sockperf.Server(
                place.flow(flow), tcp=load.is_tcp, port=sockperf.PORT + flow, cpu=place.cpu(flow)
            )
        )
        for flow in range(load.flows)
    ]


def _memcached(place: Place, load: MemcachedLoad, opened: ExitStack) -> list[Closing]:
    """The paper's four threads."""
    server = memcached.Server(place.at(0), memory_mib=MEMCACHED_MIB, cpus=place.cpus)
    return [opened.enter_context(server)]


def _web(place: Place, load: WebLoad, opened: ExitStack) -> list[Closing]:
    """nginx with a worker a CPU; its memcached is in the same container, one hop less."""
    cache = None
    if load.cached:
        cache = opened.enter_context(memcached.Server(place.at(0), cpus=place.cpus))
    server = web.Server(
        place.at(0),
        page_bytes=load.size,
        cache=cache,
        workers=len(place.cpus),
        connections=load.flows + WEB_CONNECTIONS,
        cpus=place.cpus,
    )
    return [opened.enter_context(server)]


STARTERS: dict[type[Load], Callable[[Place, Any, ExitStack], list[Any]]] = {
    UdpLoad: _udp,
    TcpLoad: _tcp,
    SockperfLoad: _sockperf,
    MemcachedLoad: _memcached,
    WebLoad: _web,
}


def start(load: Load, host: Host, cpus: CpuPlan, overlay: bool, opened: ExitStack) -> list[Any]:
    """Start what receives ``load`` in the containers, or without ``overlay`` in the host; they
    listen on return.
    """
    starter = next(starter for kind, starter in STARTERS.items() if isinstance(load, kind))
    return starter(Place(load, host, cpus, overlay), load, opened)
