# SPDX-License-Identifier: GPL-2.0-only
"""What sends a load, for a number of seconds.

In: a `Load`, the ends of its flows, a rate. Out: `Clients`, running, and what they say at
their end, `Done`. `harness.lab.servers` is the other side. A measurement knows the sending
host as a `Client`: it is `Here`, or elsewhere (`harness.lab.remote`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

from harness import tools
from harness.lab.loads import (
    Flow,
    Load,
    MemcachedLoad,
    SockperfLoad,
    UdpLoad,
    WebLoad,
)
from harness.overlay import snmp
from harness.overlay.netns import Namespace
from harness.overlay.topology import Host
from harness.workload import memcached, sockperf, web
from harness.workload.latency import Latencies
from harness.workload.udpflow import Sender

# Answers whose latency is taken in a window, at least; a message in hundred at most is answered
# (sockperf's own), for answers are a load, too.
ANSWERS, REPLY_EVERY = 1000, 100
# A flow gets hot so long after all have begun: when they have their places, and before it is looked
# at (`harness.lab.timed.SETTLE_S`).
HOT_AFTER_S = 0.3
# Keys of memcached: each is stored before the time begins.
KEYS = 1000
WRK_THREADS = 2


@dataclass(frozen=True)
class Ends:
    """Where a flow comes from and goes to."""

    source: Namespace
    to_ip: str
    source_port: int


@dataclass(frozen=True)
class Done:
    """What clients say at their end: ``operations`` of all together in ``seconds``, given to
    their sockets or, if they are answered, done.

    ``out_of_order``: answers, None where nobody looks.
    """

    operations: int
    seconds: float
    errors: int = 0
    out_of_order: int | None = None
    latency: Latencies | None = None


class Running(ABC):
    """Clients of a load that were started."""

    @property
    @abstractmethod
    def all_run(self) -> bool:
        """None has ended yet."""

    @abstractmethod
    def wait(self) -> Done:
        """Wait until all have ended."""


class Clients(Running):
    """Those of this machine, ``each`` with ``has_ended`` and a ``wait()``."""

    def __init__(self, each: Sequence[Any], summed_up: Callable[[list[Any]], Done]):
        self._each, self._summed_up = each, summed_up

    @property
    def all_run(self) -> bool:
        return not any(one.has_ended for one in self._each)

    def wait(self) -> Done:
        return self._summed_up([one.wait() for one in self._each])


def _udp(load: UdpLoad, ends: Sequence[Ends], rate: float, seconds: int) -> Iterator[Any]:
    for number, (_, end, share) in enumerate(_senders(load, ends, rate)):
        yield Sender(
            end.source,
            end.to_ip,
            size=load.size,
            rate=share,
            seconds=seconds,
            after_s=HOT_AFTER_S if number >= load.senders * load.flows else 0,
            flow=number,
            source_port=end.source_port,
        )


def _sockperf(load: SockperfLoad, ends: Sequence[Ends], rate: float, seconds: int) -> Iterator[Any]:
    kind = sockperf.UnderLoadClient if load.latency else sockperf.ThroughputClient
    asked = reply_every(rate, seconds) if load.latency else 0
    for flow, end, share in _senders(load, ends, rate):
        yield kind(
            end.source,
            end.to_ip,
            size=load.size,
            seconds=seconds,
            tcp=load.is_tcp,
            rate=share,
            reply_every=asked,
            port=sockperf.PORT + flow,
            source_port=end.source_port,
        )


def reply_every(rate: float, seconds: float) -> int:
    """Which message is answered: so many that there are `ANSWERS`, if there can be."""
    return max(1, min(REPLY_EVERY, int(rate * seconds / ANSWERS))) if rate else REPLY_EVERY


def _memcached(load: MemcachedLoad, ends: Sequence[Ends], _: float, seconds: int) -> Iterator[Any]:
    yield memcached.Client(
        ends[0].source,
        ends[0].to_ip,
        processes=load.clients,
        connections=load.flows // load.clients,
        seconds=seconds,
        value_bytes=load.size,
        keys=KEYS,
    )


def _web(load: WebLoad, ends: Sequence[Ends], _: float, seconds: int) -> Iterator[Any]:
    yield web.Client(
        ends[0].source,
        ends[0].to_ip,
        connections=load.flows,
        seconds=seconds,
        threads=min(WRK_THREADS, load.flows),
        page=web.CACHED if load.cached else web.STATIC,
    )


def _senders(load: Load, ends: Sequence[Ends], rate: float) -> Iterator[tuple[int, Ends, float]]:
    """Flow, ends and messages a second of each sender. What is hot has more senders, not faster
    ones, for there are none faster than as fast as it goes; they come last.
    """
    one = load.shares(rate)[-1] / load.senders
    for flow, end in enumerate(ends):
        for _ in range(load.senders):
            yield flow, end, one
    for _ in range(load.more_senders):
        yield 0, ends[0], one


# ---- what they say --------------------------------------------------------------------------


def _of_senders(done: list[Any]) -> Done:
    return Done(sum(one.sent for one in done), max(one.seconds for one in done))


def _of_sockperf(done: list[Any]) -> Done:
    if not isinstance(done[0], sockperf.Latency):
        return _of_senders(done)
    (one,) = done
    return Done(
        one.sent,
        one.seconds,
        errors=one.duplicated,
        out_of_order=one.out_of_order,
        latency=_latencies(one),
    )


def _of_memcached(done: list[memcached.Operations]) -> Done:
    (one,) = done
    return Done(one.operations, one.seconds, one.errors, latency=_latencies(one))


def _of_web(done: list[web.Served]) -> Done:
    (one,) = done
    return Done(one.requests, one.seconds, one.errors, latency=_latencies(one))


def _latencies(found: Latencies) -> Latencies:
    """The numbers that all workloads have."""
    return Latencies(**{one.name: getattr(found, one.name) for one in fields(Latencies)})


Starter = Callable[[Any, Sequence[Ends], float, int], Iterator[Any]]
KINDS: dict[type[Load], tuple[Starter, Callable[[list[Any]], Done]]] = {
    UdpLoad: (_udp, _of_senders),
    SockperfLoad: (_sockperf, _of_sockperf),
    MemcachedLoad: (_memcached, _of_memcached),
    WebLoad: (_web, _of_web),
}


@contextmanager
def running(load: Load, ends: Sequence[Ends], rate: float, seconds: int) -> Iterator[Clients]:
    """Start the clients: ``rate`` messages a second of all together, 0 as fast as it goes."""
    start, sum_up = next(both for kind, both in KINDS.items() if isinstance(load, kind))
    with ExitStack() as opened:
        each = [opened.enter_context(client) for client in start(load, ends, rate, seconds)]
        yield Clients(each, sum_up)


@dataclass(frozen=True)
class Sent:
    """What the kernel sent where clients are: ``datagrams``, and TCP's segments ``again``."""

    datagrams: int
    again: int

    def __sub__(self, earlier: Sent) -> Sent:
        return Sent(self.datagrams - earlier.datagrams, self.again - earlier.again)


def sent(ends: Sequence[Ends]) -> Sent:
    """By all programs so far, where these flows come from."""
    places = {id(end.source): end.source for end in ends}.values()
    counted = [snmp.parse(place.read_proc_net("snmp")) for place in places]
    return Sent(
        sum(one["UdpOutDatagrams"] for one in counted),
        sum(one["TcpRetransSegs"] for one in counted),
    )


# ---- the sending host -----------------------------------------------------------------------


class Client(ABC):
    """The sending host of a measurement, wherever it is."""

    @abstractmethod
    def require(self, *programs: str) -> None:
        """Raise `FalconError` for the first of these programs that it lacks."""

    @abstractmethod
    def running(
        self, load: Load, flows: Sequence[Flow], rate: float, seconds: int
    ) -> AbstractContextManager[Running]:
        """Clients that run: see `running`."""

    @abstractmethod
    def sent(self, flows: Sequence[Flow]) -> Sent:
        """What its kernel sent: see `sent`."""


class Here(Client):
    """A ``host`` of this machine."""

    def __init__(self, host: Host):
        self.host = host

    def ends(self, flows: Sequence[Flow]) -> list[Ends]:
        """Those of each flow."""
        return [Ends(self.host.at(f.container), f.to_ip, f.source_port) for f in flows]

    def require(self, *programs: str) -> None:
        tools.require(*programs)

    def running(
        self, load: Load, flows: Sequence[Flow], rate: float, seconds: int
    ) -> AbstractContextManager[Running]:
        return running(load, self.ends(flows), rate, seconds)

    def sent(self, flows: Sequence[Flow]) -> Sent:
        return sent(self.ends(flows))
