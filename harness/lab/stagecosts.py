# SPDX-License-Identifier: GPL-2.0-only
"""What each stage costs in each mode, taken from measured samples.

In: samples of one flow. Out: `StageCosts` by mode. A sample tells the work of a CPU, and so
that of a stage where a stage had a CPU of its own. In mode rps-pipe the CPU's place in the
list says which stage it ran. Falcon's placement does not, so there each stage is the one that
costs most nearly what it does in rps-pipe; and where all stages ran on one CPU they share its
work as they do in rps-pipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import log
from statistics import median

from harness.lab.instructions import Sample
from harness.lab.scenario import StageCosts
from harness.overlay import modes

# The mode whose masks say which stage a CPU runs.
TOLD = "rps-pipe"
# Modes whose stages cost what another's do.
AS = {"falcon-static": "falcon"}
# A CPU with less than this share of the busiest one's work ran no stage.
BUSY_SHARE = 0.1


def by_mode(samples: Sequence[Sample]) -> dict[str, StageCosts]:
    """The median over the samples that tell, for each mode that has such samples."""
    found: dict[str, StageCosts] = {}
    for mode in (TOLD, *(name for name in modes.MODES if name != TOLD)):
        own = [sample for sample in samples if sample.mode == mode]
        told = [stages for sample in own if (stages := _of(sample, found.get(TOLD)))]
        if told:
            found[mode] = StageCosts(*(median(values) for values in zip(*told, strict=True)))
    shared = {mode: found[other] for mode, other in AS.items() if other in found}
    return shared | found


def _of(sample: Sample, told: StageCosts | None) -> tuple[float, ...] | None:
    """By `Stage`, if the sample tells. ``work`` is that of a `CpuPlan`, in order."""
    nic, *middle, app = sample.work
    busy = {i: work for i, work in enumerate(middle) if work > BUSY_SHARE * max(middle)}
    stages = _between(sample.mode, busy, told)
    return (nic, *stages, app) if stages else None


def _between(
    mode: str, busy: dict[int, float], told: StageCosts | None
) -> tuple[float, ...] | None:
    """The stages between NIC and program, from what the CPUs that ran them did."""
    works = tuple(busy.values())
    if not modes.named(mode).overlay:
        return (0.0, 0.0, *works) if len(works) == 1 else None
    if mode == TOLD:
        # A mask has every third CPU.
        by_stage = sorted(busy, key=lambda i: i % 3)
        tells = [i % 3 for i in by_stage] == [0, 1, 2]
        return tuple(busy[i] for i in by_stage) if tells else None
    if told is None or len(works) not in (1, 3):
        return None
    like = told.stages[1:4]
    return _most_like(works, like) if len(works) == 3 else _shared(works[0], like)


def _shared(work: float, like: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(work * cost / sum(like) for cost in like)


def _most_like(works: tuple[float, ...], like: tuple[float, ...]) -> tuple[float, ...]:
    """The works in the order in which their ratios to ``like`` are nearest to 1."""

    def distance(order: tuple[float, ...]) -> float:
        return sum(log(a / b) ** 2 for a, b in zip(order, like, strict=True))

    return min(permutations(works), key=distance)
