# SPDX-License-Identifier: GPL-2.0-only
"""Shows modes that were compared by instructions.

In: `Sample` rows of `harness.lab.instructions`. Out: tables for the screen.
Every ratio is of two samples of the same round, so of the same flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from harness.lab import stagecosts
from harness.lab.instructions import Sample, compared
from harness.lab.loads import Load
from harness.lab.rig import Window, samples_of
from harness.lab.scenario import Stage
from harness.lab.verdicts import total
from harness.overlay.modes import MODES
from harness.report.interleaved import Spread

# Groups that cost less than so many instructions a packet in every mode are not shown.
LEAST_SHOWN = 20
BY_STAGE = (
    f"Instructions a packet by stage. {stagecosts.TOLD} tells them apart: con's one CPU is divided"
    " as there, and of Falcon's CPUs each is taken for the stage that it is nearest to"
)
STAGES = (*(stage.name for stage in Stage), "all")


def modes_of(samples: Sequence[Window]) -> list[str]:
    """The modes that were measured, in the order of `MODES`."""
    return [name for name in MODES if any(sample.mode == name for sample in samples)]


def ratios(
    samples: Sequence[Any], mode: str, baseline: str, value: Callable[[Any], float]
) -> Spread | None:
    """``value`` of ``mode`` over that of ``baseline``, round by round; None if that is 0."""
    base = {sample.round: value(sample) for sample in samples_of(samples, baseline)}
    own = samples_of(samples, mode)
    if not all(base[sample.round] for sample in own):
        return None
    return Spread.of([value(sample) / base[sample.round] for sample in own])


def ratio_cells(ratio: Spread | None) -> tuple[str, str]:
    """The median, and "least to most"."""
    if ratio is None:
        return "-", "-"
    return f"{ratio.median:.2f}", f"{ratio.least:.2f} to {ratio.greatest:.2f}"


def late(samples: Sequence[Window]) -> str:
    """How many are known to have come out of order in all; "-" where that is none, and not every
    window was looked at.
    """
    found = [sample.out_of_order for sample in samples]
    total = sum(number or 0 for number in found)
    return "-" if None in found and not total else str(total)


def table(samples: Sequence[Sample], baseline: str, title: str, load: Load) -> Table:
    """A row a mode: the busiest CPU, what that makes of capacity, and all CPUs together.

    Where ``load`` has a hotspot it is the busiest of the stages' CPUs. 80 columns wide.
    """
    busiest = compared(load)
    title = f"{title}: instructions a packet; ratios to {baseline}"
    shown = Table(title=title, title_justify="left")
    shown.add_column("mode", no_wrap=True)
    for heading in (
        "busiest\nstage" if load.heat > 1 else "busiest\nCPU",
        "capacity\nratio",
        "least\nto most",
        "all CPUs\nratio",
        "late",
        "lost",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name in modes_of(samples):
        own = samples_of(samples, name)
        shown.add_row(
            name,
            f"{median(map(busiest, own)):,.0f}",
            *ratio_cells(ratios(samples, name, baseline, lambda sample: 1 / busiest(sample))),
            ratio_cells(ratios(samples, name, baseline, total))[0],
            late(own),
            str(sum(sample.lost for sample in own)),
        )
    return shown


def group_table(samples: Sequence[Sample]) -> Table:
    """A row a group of functions: its instructions a packet in each mode, the median."""
    modes = modes_of(samples)
    shown = Table(title="Instructions a packet, all CPUs together", title_justify="left")
    shown.add_column("", no_wrap=True)
    for name in modes:
        shown.add_column(name, justify="right", no_wrap=True)
    groups = dict.fromkeys(group for sample in samples for group in sample.groups)
    for group in groups:
        costs = [
            median(sample.groups.get(group, 0.0) for sample in samples_of(samples, name))
            for name in modes
        ]
        if max(costs) >= LEAST_SHOWN:
            shown.add_row(group, *(f"{cost:,.0f}" for cost in costs))
    return shown


def stage_rows(samples: Sequence[Sample], load: Load) -> list[tuple[str, ...]]:
    """A mode and what it costs by `STAGES`, "-" for one that it does not have, a row a mode that
    tells; none where several flows meet on a CPU, or nothing tells the overlay's stages apart.
    """
    costs = stagecosts.by_mode(samples) if load.flows == 1 else {}
    if stagecosts.TOLD not in costs:
        return []
    return [
        (mode, *(f"{cost:,.0f}" if cost else "-" for cost in (*own.stages, own.total)))
        for mode in modes_of(samples)
        if (own := costs.get(mode))
    ]


def stage_table(rows: Sequence[Sequence[str]]) -> Table:
    """`stage_rows` for the screen."""
    shown = Table("mode", title=BY_STAGE, title_justify="left")
    for stage in STAGES:
        shown.add_column(stage, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown
