# SPDX-License-Identifier: GPL-2.0-only
"""The paper's figures as experiments, and its claims.

An experiment is data: what varies (`Point`), which modes are compared with which
baseline, and the claims it speaks to (``claims.toml``).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from harness.errors import FalconError
from harness.lab.loads import Load, TcpLoad, UdpLoad

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
    """One value of what an experiment varies, e.g. "16 B"."""

    label: str
    load: Load


@dataclass(frozen=True)
class Experiment:
    """A figure of the paper.

    ``axis`` says what the points are; a ratio is against ``baseline``; ``quick`` are the
    labels that are measured when there is little time.
    """

    figure: str
    title: str
    axis: str
    modes: tuple[str, ...]
    baseline: str
    points: tuple[Point, ...]
    claims: tuple[str, ...]
    quick: frozenset[str] = field(default_factory=frozenset)

    def chosen(self, quick: bool) -> tuple[Point, ...]:
        """The points to measure."""
        return tuple(p for p in self.points if not quick or p.label in self.quick)


def _sizes(*sizes: int) -> tuple[Point, ...]:
    return tuple(Point(f"{size} B", UdpLoad(size)) for size in sizes)


def _flows(*counts: int) -> tuple[Point, ...]:
    return tuple(Point(str(count), UdpLoad(16, flows=count)) for count in counts)


def _containers(*counts: int) -> tuple[Point, ...]:
    """A flow each."""
    return tuple(Point(str(n), UdpLoad(16, flows=n, containers=n)) for n in counts)


EXPERIMENTS = {
    experiment.figure: experiment
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
            quick=frozenset({"16 B"}),
        ),
    )
}


def single(load: Load, modes: tuple[str, ...]) -> Experiment:
    """No figure of the paper's: one load, the first of the modes as the baseline."""
    label = f"{load.size} B, {load.flows} flows, {load.containers} containers"
    return Experiment(
        figure="own",
        title=str(load),
        axis="load",
        modes=modes,
        baseline=modes[0],
        points=(Point(label, load),),
        claims=(),
        quick=frozenset({label}),
    )


def named(figure: str) -> Experiment:
    """The experiment of a figure."""
    if figure not in EXPERIMENTS:
        raise FalconError(
            f"there is no experiment for figure {figure}", f"there are {', '.join(EXPERIMENTS)}"
        )
    return EXPERIMENTS[figure]
