# SPDX-License-Identifier: GPL-2.0-only
"""Which of a figure's samples belong together.

In: all rows that were ever kept of a figure. Out: those that may stand in one table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from harness.lab.campaign import (
    CONDITIONS,
    MOST_ROUNDS,
    QUICK_PACKETS,
    QUICK_SECONDS,
    Row,
    attempt_of,
)
from harness.lab.experiments import Experiment


def select(experiment: Experiment, rows: Sequence[Row]) -> list[Row]:
    """The rows that may stand in one table, in the order of the experiment's points.

    They have a commit and all other conditions in common. Of several such series the one
    with the most points is taken, of these the one with the most modes, then one that was not
    made in a hurry, then the newest.
    """
    series: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        series[_conditions(row)].append(row)
    return max((attempts(experiment, own) for own in series.values()), key=_merit, default=[])


def _conditions(row: Row) -> tuple[Any, ...]:
    return tuple(row.context.get(name) for name in CONDITIONS)


def repeated(
    experiment: Experiment, rows: Sequence[Row], shown: Sequence[Row]
) -> dict[str, list[Row]]:
    """By point the next best attempt, under the conditions of those ``shown`` and in the same
    modes; none where that was cut short: a whole one has half as many rounds at least.
    """
    series, best = {_conditions(row) for row in shown}, {(r.point, attempt_of(r)) for r in shown}
    others = [r for r in rows if _conditions(r) in series and (r.point, attempt_of(r)) not in best]
    second = attempts(experiment, others)
    found = {}
    for point in {row.point for row in shown}:
        own = [row for row in shown if row.point == point]
        other = [row for row in second if row.point == point]
        (modes, rounds), (other_modes, other_rounds) = _extent(own), _extent(other)
        if other_modes == modes and MOST_ROUNDS * other_rounds >= rounds:
            found[point] = other
    return found


def is_hurried(rows: Sequence[Row]) -> bool:
    """Were windows as short as with --quick?"""
    return any(
        row.context.get("packets", QUICK_PACKETS + 1) <= QUICK_PACKETS
        or row.context.get("seconds", QUICK_SECONDS + 1) <= QUICK_SECONDS
        for row in rows
    )


def _merit(rows: Sequence[Row]) -> tuple[int, int, bool, str]:
    points, modes = {row.point for row in rows}, {row.sample.mode for row in rows}
    newest = max((_started(row) for row in rows), default="")
    return len(points), len(modes), not is_hurried(rows), newest


def _started(row: Row) -> str:
    return str(row.context["started"])


def attempts(experiment: Experiment, rows: Sequence[Row]) -> list[Row]:
    """Of each point the attempt with the most modes, of equal ones that with the most whole rounds,
    then the newest. An attempt may be of several runs, a round is of one.
    """
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in whole(experiment, rows):
        found[row.point, attempt_of(row)].append(row)
    chosen = []
    for point in experiment.points:
        own = [(*_extent(a), at, a) for (label, at), a in found.items() if label == point.label]
        chosen += max(own, default=(0, 0, "", []))[-1]
    return chosen


def _extent(attempt: Sequence[Row]) -> tuple[int, int]:
    """How many modes it has, and how many rounds."""
    return len({row.sample.mode for row in attempt}), len({row.sample.round for row in attempt})


def whole(experiment: Experiment, rows: Sequence[Row]) -> list[Row]:
    """The rows of rounds that have every mode: each ratio within them can be computed.

    Every one that was to be measured: on a host without Falcon these are fewer.
    """
    modes: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for row in rows:
        modes[row.point, _started(row), row.sample.round].add(row.sample.mode)

    def wanted(row: Row) -> set[str]:
        return set(experiment.modes) & set(row.context.get("modes", experiment.modes))

    return [
        row
        for row in rows
        if row.sample.mode in wanted(row)
        and modes[row.point, _started(row), row.sample.round] >= wanted(row)
    ]
