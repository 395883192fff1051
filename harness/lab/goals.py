# SPDX-License-Identifier: GPL-2.0-only
"""The speed that Falcon is to have, beside what was measured.

In: the rows of an experiment. Out: an `Outcome` for each `Goal` of its figure. Goals are this
project's; what the paper claims is in `verdicts`. All are by instructions, so they say something on
any machine. ``rps-pipe`` gives each stage CPUs of its own, the best that masks alone can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.lab import verdicts
from harness.lab.campaign import Row
from harness.lab.experiments import INSTRUCTIONS, Experiment
from harness.lab.instructions import Sample
from harness.lab.rig import CERTAIN
from harness.lab.verdicts import Measured
from harness.overlay import modes

REACHED, MISSED, NOT_MEASURED = "reached", "missed", verdicts.NOT_MEASURED
CAPACITY, TOTAL = "capacity", "instructions on all CPUs"
_OF: dict[str, Callable[[Sample], float]] = {CAPACITY: verdicts.capacity, TOTAL: verdicts.total}


@dataclass(frozen=True)
class Goal:
    """``what`` of ``mode``, over that of ``baseline``, is at ``points`` at least, or of `TOTAL` at
    most, ``bound``.
    """

    mode: str
    baseline: str
    bound: float
    points: tuple[str, ...]
    what: str = CAPACITY

    def __str__(self) -> str:
        side = "at most" if self.what == TOTAL else "at least"
        if self.bound == 1:
            return f"{self.what} of {self.mode}: never below {self.baseline}"
        return f"{self.what} of {self.mode}: {side} {self.bound:g} times {self.baseline}"

    def outcome(self, measured: Measured) -> Outcome:
        """By the worst of the points; the median over rounds at each."""
        ratios = {}
        for point in self.points:
            with suppress(LookupError):  # it is missing there, or a mode is: --quick, --modes
                ratios[point] = measured.ratio(point, self.mode, self.baseline, _OF[self.what])
        if not ratios:
            which = f"{self.mode} and {self.baseline}, not at {', '.join(self.points)}"
            return Outcome(str(self), NOT_MEASURED, which)
        said = ", ".join(f"{point}: {ratio:.2f}" for point, ratio in ratios.items())
        if self.what == TOTAL:
            holds = max(ratios.values()) <= self.bound
        else:
            # What is as fast cannot be told from what is less than that slower.
            least = self.bound - CERTAIN if self.bound == 1 else self.bound
            holds = min(ratios.values()) >= least
        state = REACHED if holds else MISSED
        return Outcome(str(self), state, said, _part(len(ratios), len(self.points)))


@dataclass(frozen=True)
class Outcome:
    """A ``goal`` in words; ``state``: `REACHED`, `MISSED` or `NOT_MEASURED`; ``said``: what was
    measured; ``part``: at how many of its points, "" if at all.
    """

    goal: str
    state: str
    said: str
    part: str = ""

    @property
    def told(self) -> str:
        """The state, and of how much of the goal."""
        return f"{self.state} ({self.part})" if self.part else self.state


def _part(measured: int, points: int) -> str:
    return f"{measured} of {points} points" if measured < points else ""


_ONE, _FLOWS, _CONTAINERS = ("16 B",), ("2", "4", "8"), ("2", "6", "10", "20")
GOALS: dict[str, tuple[Goal, ...]] = {
    "10": (
        Goal("falcon", "con", 1.5, _ONE),
        Goal("falcon+split", "con", 2.2, _ONE),
        Goal("falcon+split", "rps-pipe", 1.2, _ONE),
        Goal("falcon", "con", 1.05, _ONE, TOTAL),
        Goal("falcon+split", "con", 1.05, _ONE, TOTAL),
    ),
    "13": (Goal("falcon", "con", 1, _FLOWS), Goal("falcon+split", "con", 1, _FLOWS)),
    "14": (Goal("falcon", "con", 1, _CONTAINERS),),
}


def outcomes(experiment: Experiment, rows: Sequence[Row]) -> list[Outcome]:
    """One for each goal of the experiment, and one for order; none for one that has no goals.

    ``rows``: whole rounds.
    """
    if experiment.measure != INSTRUCTIONS or experiment.figure not in GOALS or not rows:
        return []
    measured = Measured(rows)
    found = [goal.outcome(measured) for goal in GOALS[experiment.figure]]
    return [*found, _order(rows, len(experiment.points))]


def _order(rows: Sequence[Row], points: int) -> Outcome:
    """Of all modes of Falcon's, at every one of so many points."""
    goal = "packets of Falcon's modes out of order: 0"
    falcon = [row for row in rows if modes.named(row.sample.mode).falcon]
    own = [row.sample for row in falcon]
    if not own:
        return Outcome(goal, NOT_MEASURED, "no mode of Falcon's was measured")
    late = sum(sample.out_of_order or 0 for sample in own)
    total = sum(sample.delivered for sample in own)
    part = _part(len({row.point for row in falcon}), points)
    return Outcome(goal, MISSED if late else REACHED, f"{late:,} of {total:,}", part)
