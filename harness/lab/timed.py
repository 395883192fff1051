# SPDX-License-Identifier: GPL-2.0-only
"""Modes compared by time: messages a second, latency, how busy CPUs are.

In: a booted machine (`opened`) or two hosts (`harness.lab.pair`), and a `Load`. Out: `Sample`
of each mode and round. Modes take turns in one booted kernel, flows are new in each round and
the same for all modes of it. ::

    this machine                        the machine under test
    clients (`clients`)      ======>    servers (`servers`)
    counters, before and after the middle of the clients' time, by the server's clock

It takes CPUs that are real: `trouble` says where they are not. Emulated ones are threads
that the host runs when it likes, and so are virtual ones of which there are more than real.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import ceil
from typing import Any, Self

from harness.console import note
from harness.errors import FalconError
from harness.lab import rig as rigs
from harness.lab.clients import Done, Running, Sent
from harness.lab.loads import TIMEABLE, Load, SockperfLoad, UdpLoad
from harness.lab.remote import Counters
from harness.lab.rig import PACER, Boot, Rig, Settings, Window
from harness.overlay import modes
from harness.workload import udpflow
from harness.workload.latency import Latencies

# From the first of a load's packets on, clients get so long to warm up and to fill queues before
# the window begins; and they go on so long after it. On a busy machine the window may be late:
# where clients ended before it did, they go on for so many times longer, so often.
SETTLE_S, SLACK_S = 0.7, 0.8
LONGER, ATTEMPTS = 4, 3
# They have begun when so many packets came. sockperf waits for two seconds before it does.
BEGUN_PACKETS, BEGUN_WITHIN_S = 20, 15.0
# Nothing more comes when nothing came for so long.
QUIET_S, POLL_S = 1.0, 0.1
# What a mode carries "without loss" loses no more than this; it is searched for by going so
# much slower, so often, in short windows. A sender that gets this much less through than asked
# is held up. Emulated CPUs, which stand still at times, lose some at any rate.
LOST_AT_MOST, SLOWER, TRIALS, HELD_UP = 0.001, 0.75, 10, 0.9
TRIAL_S = 1.2
EMULATED_LOST_AT_MOST = 0.05
# The senders live on the processors that run emulated CPUs, which get no time if datagrams are
# sent as fast as they go. So many packets a second are about what a few such CPUs can take.
EMULATED_RATE = 10_000.0
# Stands where an accelerator does: the hosts are no virtual machines of ours.
REAL = "real hosts"
# Queues of the network card, a UDP flow each; an answering host moves TCP's between queues.
MAX_QUEUES = 4


@dataclass(frozen=True)
class Config(rigs.Config):
    """What to measure: windows of ``seconds``. ``accel``: "kvm" or "tcg", decided, or `REAL`.

    ``settings`` (net.core's) come on top of each of Falcon's modes.
    """

    seconds: float = 5.0
    accel: str = "kvm"
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.load, TIMEABLE):
            raise FalconError(
                f"a load by {self.load.protocol} cannot be measured by time",
                "it ends with a number of messages",
            )
        self._check_heat()
        if self.seconds <= 0:
            raise FalconError(f"a window of {self.seconds:g} s", "it must be longer than nothing")

    def _check_heat(self) -> None:
        """Raise `FalconError` for a hot flow that cannot be made by more senders in it."""
        load = self.load
        if load.heat > 1 and not load.can_share:
            raise FalconError(
                f"by time no flow by {load.protocol} is hotter than the others",
                "it has one sender, which goes as fast as it can",
            )
        if load.senders * load.flows + load.more_senders > load.most_flows:
            raise FalconError(
                f"a flow {load.heat} times as hot as {load.flows - 1} others, by more senders",
                f"1 to {load.most_flows} are possible in all",
            )

    @property
    def boot(self) -> Boot:
        """The machine it takes."""
        has_several = isinstance(self.load, UdpLoad) and self.accel != REAL
        queues = min(MAX_QUEUES, self.load.flows) if has_several else 1
        return Boot(self.kernel, self.plan, self.smp, self.mem_mib, self.accel, queues)

    @property
    def flood(self) -> float:
        """Messages a second that are "as fast as it goes": 0 without a limit. TCP and clients that
        wait for answers have their own.
        """
        if self.accel != "tcg" or not is_counted(self.load):
            return 0.0
        return EMULATED_RATE / self.load.packets

    def run_s(self, attempt: int) -> int:
        """Seconds that clients run, whole ones: sockperf and wrk take no others."""
        return ceil(SETTLE_S + self.seconds + SLACK_S * LONGER**attempt)


@dataclass(frozen=True)
class Sample(Window):
    """What came through in one window.

    ``rate``: messages, operations or requests a second, done; ``asked``: messages a second of
    all senders together, 0 for as fast as it goes. ``delivered``, ``lost`` and ``out_of_order``
    are of the whole run. Of TCP segments that clients sent again are lost, and those that came
    after a lost one are out of order, too. ``errors``: wrong answers and late ones.
    ``softirqs``: NET_RX ones a second; ``busy``: by CPU, percent of the window, without the CPU
    that runs the harness. ``latency``: None where nothing is answered. ``stages``: how often the
    stack received a message, all its fragments; None where messages are no datagrams, and in
    samples of before.
    """

    unit: str
    rate: float
    asked: float
    errors: int
    softirqs: float
    busy: tuple[float, ...]
    latency: Latencies | None
    stages: float | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, from JSON."""
        latency = values["latency"]
        own = {"busy": tuple(values["busy"]), "latency": latency and Latencies(**latency)}
        return cls(**values | own)

    @property
    def cpus(self) -> float:
        """All CPUs together, percent of one."""
        return sum(self.busy)

    @property
    def compared(self) -> float:
        """Latency, where that was taken."""
        return self.latency.mean_us if self.latency else self.rate

    @property
    def headline(self) -> str:
        told = f"{self.rate:,.0f} {self.unit}/s"
        if self.latency:
            told += f", p50 {self.latency.p50_us:,.0f} µs, p99 {self.latency.p99_us:,.0f} µs"
        return told


def trouble(context: Mapping[str, Any]) -> str:
    """Why times measured in this context say nothing of the kernel; "" if they do.

    ``context``: of a campaign's row, with ``accel``, ``cpus`` and ``host_cpus``.
    """
    if context["accel"] == "tcg":
        return "emulated time: it says how this host ran the emulated CPUs"
    return crowd(context["cpus"], context["host_cpus"])


def crowd(cpus: int, real: int) -> str:
    """That so many virtual CPUs have to share the ``real`` ones; "" if each has its own."""
    return f"{cpus} virtual CPUs share {real} real ones" if cpus > real else ""


def host_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def opened(boot: Boot) -> Iterator[Rig]:
    """Boot the machine."""
    udpflow.build()
    with rigs.opened(boot) as rig:
        yield rig


def measure(config: Config, rig: Rig) -> Iterator[Sample]:
    """Yield samples, round by round."""
    rig.client.require(*config.load.programs)
    capacity = cache(partial(find_capacity, rig, config))

    def take(number: int, names: Sequence[str]) -> Iterator[Sample]:
        for mode in names:
            yield _sample(rig, config, Run(mode, number, _rate(config, mode, capacity)))

    yield from rigs.interleaved(config, rig, take)


def _rate(config: Config, mode: str, capacity: Callable[[str], float]) -> float:
    """Messages a second to ask for; 0 for as fast as it goes."""
    load = config.load
    if not load.share:
        return config.flood
    return load.share * capacity(mode if load.own else PACER) * load.grown


def find_capacity(rig: Rig, config: Config, mode: str) -> float:
    """Messages a second that ``mode`` carries of this load without loss (paper, section 6.1), no
    flow being hotter than the others. It is at most what comes when as much is sent as goes.
    """
    load = replace(config.load, share=0.0, heat=1)
    if isinstance(load, SockperfLoad):
        load = replace(load, latency=False)
    flood = replace(config, load=load, seconds=min(TRIAL_S, config.seconds))
    rate = _sample(rig, flood, Run(mode, 0, flood.flood)).rate
    if is_counted(load):
        rate = next((r for r in _slower(rate) if _is_carried(rig, flood, Run(mode, 0, r))), 0.0)
    if not rate:
        raise FalconError(
            f"{mode} loses messages at every rate that was tried", "this machine is too busy"
        )
    note(f"{mode} carries {rate:,.0f} {load.unit}/s without loss")
    return rate


def _slower(rate: float) -> Iterator[float]:
    return (rate * SLOWER**trial for trial in range(TRIALS))


def _is_carried(rig: Rig, config: Config, run: Run) -> bool:
    trial = _sample(rig, config, run)
    lost_at_most = EMULATED_LOST_AT_MOST if config.accel == "tcg" else LOST_AT_MOST
    is_whole = trial.lost <= lost_at_most * (trial.delivered + trial.lost)
    return is_whole and trial.rate >= HELD_UP * run.rate


@dataclass(frozen=True)
class Run:
    """One mode's turn in a ``round``, at ``rate`` messages a second."""

    mode: str
    round: int
    rate: float


def _sample(rig: Rig, config: Config, run: Run) -> Sample:
    """Run servers and clients, and look at what happens in the middle."""
    for attempt in range(ATTEMPTS):
        if sample := _attempt(rig, config, run, config.run_s(attempt)):
            return sample
    raise FalconError(
        f"clients ended before {config.seconds:g} s were looked at, in mode {run.mode}",
        "this machine is too busy",
    )


def _attempt(rig: Rig, config: Config, run: Run, run_s: int) -> Sample | None:
    """With clients that run for ``run_s``; None if that was too short for the window."""
    load = config.load
    has_falcon = modes.named(run.mode).falcon
    rig.server.mode(run.mode, load, config.settings if has_falcon else {})
    flows = rig.flows(load, run.mode, run.round)
    before, sent_before = rig.server.counters(), rig.client.sent(flows)
    with rig.client.running(load, flows, run.rate, run_s) as running:
        _wait_until_begun(rig, load, running, before)
        time.sleep(SETTLE_S)
        first = rig.server.counters()
        time.sleep(config.seconds)
        middle = rig.server.counters() - first
        was_whole = running.all_run
        done = running.wait()
    sent = rig.client.sent(flows) - sent_before
    whole = _settled(rig, before, sent.datagrams if is_counted(load) else 0) - before
    sample = _account(load, run, done, middle, whole, sent)
    if not sample.delivered:
        raise FalconError(f"nothing came through in mode {run.mode}")
    return sample if was_whole else None


def _wait_until_begun(rig: Rig, load: Load, running: Running, before: Counters) -> None:
    """Or until they should have; what is wrong with clients that do not, they say at their end.

    Segments of others count, too, as of the connection by which we ask a host. They are few at
    a time, so of TCP it is so many since the last look.
    """
    until = time.monotonic() + BEGUN_WITHIN_S
    last = before
    while running.all_run and time.monotonic() < until:
        now = rig.server.counters()
        came = (now - before).datagrams if is_counted(load) else (now - last).packets
        if came >= BEGUN_PACKETS:
            return
        last = now
        time.sleep(POLL_S)


def is_counted(load: Load) -> bool:
    """The kernel counts its messages: they are datagrams, and what is sent may be lost."""
    return isinstance(load, UdpLoad) or (isinstance(load, SockperfLoad) and not load.is_tcp)


def _settled(rig: Rig, before: Counters, sent: int) -> Counters:
    """The counters when all of ``sent`` has come, or nothing more comes."""
    now = rig.server.counters()
    changed = time.monotonic()
    while (now - before).datagrams < sent and time.monotonic() - changed < QUIET_S:
        time.sleep(POLL_S)
        last, now = now, rig.server.counters()
        if now.datagrams != last.datagrams:
            changed = time.monotonic()
    return now


def _account(
    load: Load, run: Run, done: Done, middle: Counters, whole: Counters, sent: Sent
) -> Sample:
    counted = is_counted(load)
    return Sample(
        mode=run.mode,
        round=run.round,
        delivered=whole.datagrams if counted else done.operations,
        lost=sent.datagrams - whole.datagrams if counted else sent.again,
        out_of_order=_out_of_order(load, done, whole),
        unit=load.unit,
        rate=middle.datagrams / middle.seconds if counted else done.operations / done.seconds,
        asked=run.rate,
        errors=done.errors,
        softirqs=middle.softirqs / middle.seconds,
        busy=middle.busy_percent,
        latency=done.latency,
        stages=middle.received / max(1, middle.datagrams) if counted else None,
    )


def _out_of_order(load: Load, done: Done, whole: Counters) -> int | None:
    """What the server side saw, and the client of answers. sockperf's own server cannot tell a
    datagram that is late from one that is lost; and that none came late of the few that it answers
    says nothing of the others.
    """
    if isinstance(load, SockperfLoad) and not load.is_tcp:
        return done.out_of_order or None
    return whole.late + (done.out_of_order or 0)
