# SPDX-License-Identifier: GPL-2.0-only
"""Shows modes that were compared by instructions.

In: `Sample` rows of `harness.lab.instructions`. Out: tables for the screen.
Every ratio is of two samples of the same round, so of the same flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from rich.table import Table

from harness.lab.instructions import Sample
from harness.lab.rig import samples_of
from harness.lab.verdicts import capacity
from harness.overlay.modes import MODES
from harness.report.interleaved import Spread

# Groups that cost less than so many instructions a packet in every mode are not shown.
LEAST_SHOWN = 20


def modes_of(samples: Sequence[Sample]) -> list[str]:
    """The modes that were measured, in the order of `MODES`."""
    return [name for name in MODES if any(sample.mode == name for sample in samples)]


def ratios(
    samples: Sequence[Sample], mode: str, baseline: str, value: Callable[[Sample], float]
) -> Spread:
    """``value`` of ``mode`` over that of ``baseline``, round by round."""
    base = {sample.round: value(sample) for sample in samples_of(samples, baseline)}
    own = samples_of(samples, mode)
    return Spread.of([value(sample) / base[sample.round] for sample in own])


def table(samples: Sequence[Sample], baseline: str, title: str) -> Table:
    """A row a mode: the busiest CPU, what that makes of capacity, and all CPUs together.

    80 columns wide.
    """
    title = f"{title}: instructions a packet; ratios to {baseline}"
    shown = Table(title=title, title_justify="left")
    shown.add_column("mode", no_wrap=True)
    for heading in (
        "busiest\nCPU",
        "capacity\nratio",
        "least\nto most",
        "all CPUs\nratio",
        "late",
        "lost",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name in modes_of(samples):
        own = samples_of(samples, name)
        gain = ratios(samples, name, baseline, capacity)
        shown.add_row(
            name,
            f"{median(sample.busiest for sample in own):,.0f}",
            f"{gain.median:.2f}",
            f"{gain.least:.2f} to {gain.greatest:.2f}",
            f"{ratios(samples, name, baseline, lambda sample: sample.total).median:.2f}",
            str(sum(sample.out_of_order or 0 for sample in own)),
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
