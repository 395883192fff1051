# SPDX-License-Identifier: GPL-2.0-only
"""The paper's figures as experiments, and its claims.

An experiment is data: what varies (`Point`), which modes are compared with which
baseline, by which measure and metrics, and the claims it speaks to (``claims.toml``).
`COUNTED` are measured by instructions on any machine, `TIMED` by time; of some figures there
are both.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from harness.errors import FalconError
from harness.lab import loads
from harness.lab.loads import (
    COUNTABLE,
    Load,
    MemcachedLoad,
    SockperfTcpLoad,
    SockperfUdpLoad,
    TcpLoad,
    UdpLoad,
    WebLoad,
)

INSTRUCTIONS, TIME = "instructions", "time"
# Stands where a figure's number does.
OWN = "own"
_CLAIMS = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True)
class Claim:
    """What the paper says: ``name`` ("E10"), where its ``source`` is, ``workload``, ``text``.

    ``unmeasured``: why no experiment speaks to it; "" if one does.
    """

    name: str
    source: str
    workload: str
    text: str
    unmeasured: str = ""


@cache
def claims() -> dict[str, Claim]:
    """All claims by name."""
    listed = tomllib.loads(_CLAIMS.read_text(encoding="utf-8"))
    return {name: Claim(name, **entry) for name, entry in listed.items()}


@dataclass(frozen=True)
class Point:
    """One value of what an experiment varies, e.g. "16 B".

    ``settings`` (net.core's) come on top of those of Falcon's modes.
    """

    label: str
    load: Load
    settings: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A figure of the paper.

    ``axis`` says what the points are; a ratio is against ``baseline``; ``quick`` are the
    labels that are measured when there is little time. ``measure`` is `INSTRUCTIONS` or `TIME`;
    ``metrics`` of it are what the figure is about (names in `harness.report.evidence`).
    ``about``: what differs from the paper's, for the reader.
    """

    figure: str
    title: str
    axis: str
    modes: tuple[str, ...]
    baseline: str
    points: tuple[Point, ...]
    claims: tuple[str, ...]
    quick: frozenset[str] = field(default_factory=frozenset)
    measure: str = INSTRUCTIONS
    metrics: tuple[str, ...] = ("capacity",)
    about: str = ""

    @property
    def key(self) -> str:
        """What its samples are filed under."""
        return self.figure if self.measure == INSTRUCTIONS else f"{self.figure}-{self.measure}"

    @property
    def name(self) -> str:
        """For people."""
        what = "a load of one's own" if self.figure.startswith(OWN) else f"figure {self.figure}"
        return what + (", by time" if self.measure == TIME else "")

    @property
    def programs(self) -> tuple[str, ...]:
        """What has to be installed for its loads."""
        return tuple(dict.fromkeys(name for p in self.points for name in p.load.programs))

    def among(self, names: Collection[str]) -> Experiment:
        """It, with those of its modes that are named, and the baseline, which a ratio takes."""
        wanted = {self.baseline, *names}
        return replace(self, modes=tuple(name for name in self.modes if name in wanted))

    def chosen(self, quick: bool) -> tuple[Point, ...]:
        """The points to measure."""
        return tuple(p for p in self.points if not quick or p.label in self.quick)


def _sizes(*sizes: int, share: float = 0.0) -> tuple[Point, ...]:
    return tuple(Point(f"{size} B", UdpLoad(size, share=share)) for size in sizes)


def _flows(*counts: int, share: float = 0.0) -> tuple[Point, ...]:
    return tuple(Point(str(count), UdpLoad(16, flows=count, share=share)) for count in counts)


def _containers(*counts: int) -> tuple[Point, ...]:
    """A flow each."""
    return tuple(Point(str(n), UdpLoad(16, flows=n, containers=n)) for n in counts)


COUNTED = {
    experiment.key: experiment
    for experiment in (
        Experiment(
            figure="2",
            title="What an overlay costs messages of 64 KB",
            axis="protocol",
            modes=("host", "con"),
            baseline="host",
            points=(Point("UDP", UdpLoad(65_000)), Point("TCP", TcpLoad(65_536))),
            claims=("E2",),
            quick=frozenset({"UDP", "TCP"}),
        ),
        Experiment(
            figure="4",
            title="Softirqs a packet",
            axis="packet size",
            modes=("host", "con"),
            baseline="host",
            points=_sizes(16, 1024),
            claims=("E6", "E7"),
            metrics=("stages", "softirqs"),
            quick=frozenset({"16 B"}),
        ),
        Experiment(
            figure="5",
            title="CPUs that work on so many flows",
            axis="flows",
            modes=("con", "falcon"),
            baseline="con",
            points=_flows(1, 2, 3),
            claims=("E8",),
            quick=frozenset({"2"}),
        ),
        Experiment(
            figure="10",
            title="One UDP flow by packet size",
            axis="packet size",
            modes=("host", "con", "rps-pipe", "falcon", "falcon+split"),
            baseline="con",
            # 1422 is the last that fits into a packet; then come fragments.
            points=_sizes(16, 256, 1024, 1422, 4096, 16_384),
            claims=("E3", "E10"),
            quick=frozenset({"16 B", "1422 B"}),
        ),
        Experiment(
            figure="11",
            title="CPUs that work on one flow",
            axis="packet size",
            modes=("host", "con", "falcon"),
            baseline="con",
            points=_sizes(16),
            claims=("E11",),
            quick=frozenset({"16 B"}),
        ),
        Experiment(
            figure="13",
            title="UDP flows of 16 B into one container",
            axis="flows",
            modes=("host", "con", "rps-pipe", "falcon", "falcon+split"),
            baseline="con",
            points=_flows(1, 2, 4, 8),
            claims=("E16",),
            quick=frozenset({"4"}),
        ),
        Experiment(
            figure="13cd",
            title="TCP flows of 4 KB into one container",
            axis="flows",
            modes=("host", "host+split", "con", "rps-pipe", "falcon", "falcon+split"),
            baseline="host",
            points=tuple(Point(str(n), TcpLoad(4096, flows=n)) for n in (1, 2, 4)),
            claims=("E17",),
            quick=frozenset({"1"}),
        ),
        Experiment(
            figure="14",
            title="Containers with a UDP flow of 16 B each",
            axis="containers",
            modes=("con", "rps-pipe", "falcon"),
            baseline="con",
            points=_containers(2, 6, 10, 20),
            claims=("E18",),
            quick=frozenset({"6"}),
        ),
        Experiment(
            figure="16",
            title="A hotspot: one of several flows is suddenly four times as hot",
            axis="flows",
            modes=("con", "falcon-static", "falcon"),
            baseline="falcon-static",
            points=(
                *(Point(f"{n} UDP of 16 B", UdpLoad(16, flows=n, heat=4)) for n in (4, 8)),
                *(Point(f"{n} TCP of 4 KB", TcpLoad(4096, flows=n, heat=4)) for n in (4, 8)),
            ),
            claims=("E21",),
            metrics=("stage capacity",),
            quick=frozenset({"4 UDP of 16 B"}),
        ),
        Experiment(
            figure="19",
            title="What a packet costs in all",
            axis="packet size",
            modes=("host", "con", "falcon-static", "falcon", "falcon+split"),
            baseline="con",
            points=_sizes(16),
            claims=("E25", "E26"),
            metrics=("total", "softirqs"),
            quick=frozenset({"16 B"}),
        ),
    )
}


# ---- by time ----------------------------------------------------------------------------------

_ALL = ("host", "con", "rps-pipe", "falcon", "falcon+split")
_OWN_CPU = "The receiving programs share one CPU."
_SPREAD = "The programs run on the CPUs of the stages and one more."


def _stress(*sizes: int) -> tuple[Point, ...]:
    """Three clients in one flow, as in section 6.1."""
    return tuple(Point(f"{size} B", UdpLoad(size, senders=3)) for size in sizes)


def _busy(*counts: int) -> tuple[Point, ...]:
    """Containers with a flow each, by UDP and by TCP, whose programs share the stages' CPUs."""
    return (
        *(Point(f"{n} UDP", UdpLoad(16, n, n, spread=True)) for n in counts),
        *(Point(f"{n} TCP", SockperfTcpLoad(4096, n, n, spread=True)) for n in counts),
    )


def _thresholds(containers: int) -> tuple[Point, ...]:
    """From rarely on to always on."""
    load = UdpLoad(16, containers, containers, spread=True)
    return tuple(
        Point(f"{containers} containers, {percent} %", load, {"falcon_load_threshold": percent})
        for percent in (50, 70, 80, 85, 90, 100)
    )


TIMED = {
    experiment.key: experiment
    for experiment in (
        Experiment(
            figure="2",
            title="What an overlay costs messages of 64 KB",
            axis="protocol",
            modes=("host", "con"),
            baseline="host",
            points=(Point("UDP", UdpLoad(65_507)), Point("TCP", SockperfTcpLoad(65_507))),
            claims=("E2",),
            quick=frozenset({"UDP"}),
            measure=TIME,
            metrics=("rate",),
        ),
        Experiment(
            figure="2c",
            title="UDP flows of 4 KB",
            axis="flows",
            modes=("host", "con"),
            baseline="host",
            # On four CPUs for stages: one flow, one a CPU, four a CPU.
            points=tuple(Point(str(n), UdpLoad(4096, flows=n)) for n in (1, 4, 16)),
            claims=("E4",),
            quick=frozenset({"4"}),
            measure=TIME,
            metrics=("rate",),
            about=_OWN_CPU,
        ),
        Experiment(
            figure="2d",
            title="What an overlay costs in latency",
            axis="protocol",
            modes=("host", "con"),
            baseline="host",
            points=(
                Point("UDP", SockperfUdpLoad(16, latency=True, share=0.5)),
                Point("TCP", SockperfTcpLoad(16, latency=True, share=0.5)),
            ),
            claims=("E5",),
            quick=frozenset({"UDP"}),
            measure=TIME,
            metrics=("mean", "p99"),
            about="Sent is half of what the overlay carries.",
        ),
        Experiment(
            figure="4",
            title="Softirqs a packet",
            axis="packet size",
            modes=("host", "con"),
            baseline="host",
            points=_sizes(16, 1024, share=0.5),
            claims=("E6", "E7"),
            quick=frozenset({"16 B"}),
            measure=TIME,
            metrics=("stages", "softirqs"),
            about="Both modes get the same rate, half of what the overlay carries.",
        ),
        Experiment(
            figure="5",
            title="CPUs that work on so many flows",
            axis="flows",
            modes=("con", "falcon"),
            baseline="con",
            points=_flows(1, 2, 3, share=0.9),
            claims=("E8",),
            quick=frozenset({"2"}),
            measure=TIME,
            metrics=("cpus",),
            about="Both modes get the same rate, 90 % of what the stock overlay carries. A CPU"
            " works that is busy for a tenth as long as the busiest one.",
        ),
        Experiment(
            figure="9a",
            title="How busy the NIC's CPU is",
            axis="load",
            modes=("con", "falcon", "falcon+split"),
            baseline="falcon",
            points=(
                Point("TCP 4 KB", SockperfTcpLoad(4096)),
                Point("TCP 1 KB", SockperfTcpLoad(1024)),
                Point("UDP 16 B", UdpLoad(16)),
            ),
            claims=("E9",),
            quick=frozenset({"TCP 4 KB"}),
            measure=TIME,
            metrics=("nic", "rate"),
        ),
        Experiment(
            figure="10",
            title="One UDP flow of three clients by packet size",
            axis="packet size",
            modes=_ALL,
            baseline="con",
            points=_stress(16, 256, 1024, 1422, 4096, 16_384, 65_507),
            claims=("E3", "E10"),
            quick=frozenset({"16 B"}),
            measure=TIME,
            metrics=("rate",),
        ),
        Experiment(
            figure="11",
            title="CPUs that work on one flow of three clients",
            axis="packet size",
            modes=("host", "con", "falcon"),
            baseline="con",
            points=_stress(16),
            claims=("E11",),
            quick=frozenset({"16 B"}),
            measure=TIME,
            metrics=("cpus", "rate"),
            about="A CPU works that is busy for a tenth as long as the busiest one.",
        ),
        Experiment(
            figure="12",
            title="Latency of one flow",
            axis="load",
            modes=_ALL,
            baseline="con",
            points=(
                Point("UDP 16 B, underloaded", SockperfUdpLoad(16, latency=True, share=0.3)),
                Point("UDP 16 B, overloaded", SockperfUdpLoad(16, latency=True, share=1, own=True)),
                Point("TCP 4 KB, underloaded", SockperfTcpLoad(4096, latency=True, share=0.3)),
                Point("TCP 16 B, overloaded", SockperfTcpLoad(16, latency=True)),
                Point("TCP 4 KB, overloaded", SockperfTcpLoad(4096, latency=True)),
                Point("TCP 1 KB, underloaded", SockperfTcpLoad(1024, latency=True, share=0.3)),
            ),
            claims=("E12", "E13", "E14", "E15"),
            quick=frozenset({"UDP 16 B, underloaded"}),
            measure=TIME,
            metrics=("mean", "p90", "p99", "p999"),
            about="Underloaded is 30 % of what the stock overlay carries; overloaded is, by UDP,"
            " the most that each mode carries without loss, and by TCP as fast as it goes.",
        ),
        Experiment(
            figure="13",
            title="UDP flows of 16 B into one container",
            axis="flows",
            modes=_ALL,
            baseline="con",
            points=_flows(1, 2, 4, 8),
            claims=("E16",),
            quick=frozenset({"4"}),
            measure=TIME,
            metrics=("rate",),
            about=_OWN_CPU,
        ),
        Experiment(
            figure="13cd",
            title="TCP flows of 4 KB into one container",
            axis="flows",
            modes=("host", "host+split", "con", "rps-pipe", "falcon", "falcon+split"),
            baseline="host",
            points=tuple(Point(str(n), SockperfTcpLoad(4096, flows=n)) for n in (1, 2, 4)),
            claims=("E17",),
            quick=frozenset({"1"}),
            measure=TIME,
            metrics=("rate",),
            about=_OWN_CPU,
        ),
        Experiment(
            figure="14",
            title="Containers with a flow each, in a busy system",
            axis="containers",
            modes=("con", "rps-pipe", "falcon"),
            baseline="con",
            points=_busy(6, 10, 20, 40),
            claims=("E18", "E19"),
            quick=frozenset({"6 UDP"}),
            measure=TIME,
            metrics=("rate", "cpus"),
            about=_SPREAD,
        ),
        Experiment(
            figure="15",
            title="The load from which Falcon leaves packets where they are",
            axis="load threshold",
            modes=("con", "falcon"),
            baseline="con",
            points=(*_thresholds(6), *_thresholds(20)),
            claims=("E20",),
            quick=frozenset({"6 containers, 85 %"}),
            measure=TIME,
            metrics=("rate", "cpus"),
            about=f"At 100 % Falcon is always on. {_SPREAD}",
        ),
        Experiment(
            figure="16",
            title="A hotspot: one of several flows is suddenly four times as hot",
            axis="flows",
            modes=("con", "falcon-static", "falcon"),
            baseline="falcon-static",
            points=tuple(
                Point(f"{n} UDP of 16 B", UdpLoad(16, flows=n, heat=4, share=0.7)) for n in (4, 8)
            ),
            claims=("E21",),
            quick=frozenset({"4 UDP of 16 B"}),
            measure=TIME,
            metrics=("rate", "cpus"),
            about="Before one is hot all flows send as much, together 70 % of what the stock"
            f" overlay carries. {_OWN_CPU}",
        ),
        Experiment(
            figure="17",
            title="Web serving, an analogue: nginx and wrk instead of Elgg",
            axis="page",
            modes=("con", "rps-pipe", "falcon", "falcon+split"),
            baseline="con",
            points=(
                Point("a file of 4 KB", WebLoad(4096, flows=200, spread=True)),
                Point("4 KB from memcached", WebLoad(4096, flows=200, spread=True, cached=True)),
            ),
            claims=("E22", "E23"),
            quick=frozenset({"a file of 4 KB"}),
            measure=TIME,
            metrics=("rate", "mean", "p99"),
            about=f"200 connections, as the paper has 200 users. {_SPREAD}",
        ),
        Experiment(
            figure="18",
            title="Data caching by memcached, values of 550 B",
            axis="clients",
            modes=("con", "rps-pipe", "falcon", "falcon+split"),
            baseline="con",
            points=tuple(
                Point(str(n), MemcachedLoad(550, flows=100, clients=n, spread=True))
                for n in (1, 2, 5, 10)
            ),
            claims=("E24",),
            quick=frozenset({"1"}),
            measure=TIME,
            metrics=("mean", "p99", "rate"),
            about=f"100 connections of all clients together, four threads. {_SPREAD}",
        ),
        Experiment(
            figure="19",
            title="How busy CPUs are at fixed rates of 16 B",
            axis="share of what con carries",
            modes=("host", "con", "falcon-static", "falcon", "falcon+split"),
            baseline="con",
            points=tuple(
                Point(f"{percent} %", UdpLoad(16, share=percent / 100)) for percent in (20, 50, 90)
            ),
            claims=("E25", "E26"),
            quick=frozenset({"50 %"}),
            measure=TIME,
            metrics=("cpus", "softirqs"),
        ),
    )
}

EXPERIMENTS = COUNTED | TIMED


def left_out(chosen: Iterable[Experiment], names: Sequence[str]) -> str:
    """Which of the modes that were named are missing in which of these, in a line; "" if none is.

    Figures that have none of them are left out themselves, and that is told elsewhere.
    """
    without = {
        name: [one.key for one in chosen if name not in one.modes and set(names) & set(one.modes)]
        for name in names
    }
    told = "; ".join(f"{name} in figure {', '.join(of)}" for name, of in without.items() if of)
    return told and f"modes that a figure does not have are not measured: {told}"


_LABEL = "{}, {} B, {} flows, {} containers"


def load_of(label: str) -> Load:
    """The load of which `single` made a point with this label; raises `FalconError` if that is
    none.
    """
    found = re.fullmatch(_LABEL.format(r"([\w-]+)", *[r"(\d+)"] * 3), label)
    if not found:
        raise FalconError(f"there is no load {label}")
    size, flows, containers = map(int, found.groups()[1:])
    return loads.of(found[1], size=size, flows=flows, containers=containers)


def single(load: Load, modes: tuple[str, ...], by_time: bool = False) -> Experiment:
    """No figure of the paper's: one load, the first of the modes as the baseline.

    By instructions if they can be counted of it, otherwise, or if it is to be, ``by_time``.
    """
    counted = isinstance(load, COUNTABLE) and not by_time
    label = _LABEL.format(load.protocol, load.size, load.flows, load.containers)
    return Experiment(
        figure=OWN,
        title=str(load),
        axis="load",
        modes=modes,
        baseline=modes[0],
        points=(Point(label, load),),
        claims=(),
        quick=frozenset({label}),
        measure=INSTRUCTIONS if counted else TIME,
        metrics=("capacity",) if counted else ("rate",),
    )


def named(figure: str) -> tuple[Experiment, ...]:
    """The experiments of a whole figure ("13" is "13cd", too) or of a part ("13cd"), by either
    measure; or the one that is called so, by one of them ("13-time", "13cd-instructions").
    """
    found = tuple(
        one
        for one in EXPERIMENTS.values()
        if figure in (one.figure, f"{one.figure}-{one.measure}", *re.findall(r"^\d+", one.figure))
    )
    if not found:
        figures = dict.fromkeys(experiment.figure for experiment in EXPERIMENTS.values())
        raise FalconError(
            f"there is no experiment for figure {figure}", f"there are {', '.join(figures)}"
        )
    return found
