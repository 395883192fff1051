# SPDX-License-Identifier: GPL-2.0-only
"""What each stage costs in each mode, taken from measured samples.

In: samples of one flow. Out: `StageCosts` by mode. A sample tells the work of a CPU, and so
that of a stage where a stage had a CPU of its own. In mode rps-pipe the CPU's place in the
list says which stage it ran. Falcon's placement does not, so there each stage is the one that
costs most nearly what it does in rps-pipe; and where all stages ran on one CPU they share its
work as they do in rps-pipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import log
from statistics import median

from harness.lab.instructions import Sample
from harness.lab.scenario import Stage, StageCosts
from harness.overlay import modes

Costs = Mapping[Stage, float]

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
        told = [costs for sample in own if (costs := _of(sample, found.get(TOLD)))]
        if told:
            found[mode] = _medians(told)
    shared = {mode: found[other] for mode, other in AS.items() if other in found}
    return shared | found


def _medians(costs: Sequence[Costs]) -> StageCosts:
    return StageCosts(
        **{stage.name.lower(): median(cost.get(stage, 0.0) for cost in costs) for stage in Stage}
    )


def _of(sample: Sample, told: StageCosts | None) -> Costs | None:
    """By `Stage`, if the sample tells. ``work`` is that of a `CpuPlan`, in order."""
    nic, *middle, app = sample.work
    busy = {i: work for i, work in enumerate(middle) if work > BUSY_SHARE * max(middle)}
    costs = _between(sample.mode, busy, told)
    return {Stage.NIC: nic, **costs, Stage.APP: app} if costs else None


def _stages(mode: modes.Mode) -> tuple[Stage, ...]:
    """Those between NIC and program."""
    split = (Stage.GRO,) if mode.gro_split else ()
    return (*split, *((Stage.OUTER, Stage.BRIDGE) if mode.overlay else ()), Stage.INNER)


def _between(mode: str, busy: dict[int, float], told: StageCosts | None) -> Costs | None:
    """The stages between NIC and program, from what the CPUs that ran them did."""
    stages, works = _stages(modes.named(mode)), tuple(busy.values())
    if mode == TOLD:
        # A mask has every third CPU.
        by_stage = sorted(busy, key=lambda i: i % 3)
        tells = [i % 3 for i in by_stage] == [0, 1, 2]
        return dict(zip(stages, (busy[i] for i in by_stage), strict=True)) if tells else None
    if len(stages) == len(works) == 1:
        return {stages[0]: works[0]}
    if told is None:
        return None
    like: Costs = {stage: told.stages[stage] for stage in stages if stage is not Stage.GRO}
    if len(works) == len(stages):
        return _most_like(works, stages, like)
    all_met = len(works) == 1 and len(like) == len(stages)
    return _shared(works[0], like) if all_met else None


def _shared(work: float, like: Costs) -> Costs:
    return {stage: work * cost / sum(like.values()) for stage, cost in like.items()}


def _most_like(works: tuple[float, ...], stages: tuple[Stage, ...], like: Costs) -> Costs:
    """The works in the order in which their ratios to ``like`` are nearest to 1.

    Of GRO nothing is known beforehand: it is what is left.
    """

    def distance(costs: Costs) -> float:
        return sum(log(costs[stage] / cost) ** 2 for stage, cost in like.items())

    orders = (dict(zip(stages, order, strict=True)) for order in permutations(works))
    return min(orders, key=distance)
