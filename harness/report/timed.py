# SPDX-License-Identifier: GPL-2.0-only
"""Shows modes that were compared by time.

In: `Sample` rows of `harness.lab.timed`. Out: a table for the screen. Every ratio is of two
samples of the same round, so of the same flows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from rich.table import Table

from harness.lab.rig import samples_of
from harness.lab.timed import Sample
from harness.lab.verdicts import all_work, latency, throughput
from harness.report.instructions import late, modes_of, ratio_cells, ratios

Value = Callable[[Sample], float]


def is_ordered(samples: Iterable[Sample]) -> bool:
    """Was the order of messages looked at in all windows?"""
    return all(sample.out_of_order is not None for sample in samples)


def table(samples: Sequence[Sample], baseline: str, title: str) -> Table:
    """A row a mode: throughput with latency where that was taken, or else with how busy all CPUs
    together are.

    The ratio is of the mean latency, or else of the throughput. 80 columns wide.
    """
    compared: Value
    columns: dict[str, Value] = {"a\nsecond": throughput}
    if all(sample.latency for sample in samples):
        compared, what = latency("mean_us"), f"{samples[0].unit}, mean latency"
        columns |= {"mean\nµs": compared, "p99\nµs": latency("p99_us")}
    else:
        compared, what = throughput, samples[0].unit
        columns["CPUs\n%"] = all_work
    title = f"{title}: {what}; ratios to {baseline}"
    # With little padding latencies of emulated CPUs fit, too.
    shown = Table(title=title, title_justify="left", caption_justify="left", padding=(0, 1, 0, 0))
    if not is_ordered(samples):
        shown.caption = "late: - is where nobody looked at the order of all messages"
    shown.add_column("mode", no_wrap=True)
    for heading in (*columns, "ratio", "least\nto most", "late", "lost"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name in modes_of(samples):
        own = samples_of(samples, name)
        shown.add_row(
            name,
            *(f"{median(map(value, own)):,.0f}" for value in columns.values()),
            *ratio_cells(ratios(samples, name, baseline, compared)),
            late(own),
            str(sum(sample.lost + sample.errors for sample in own)),
        )
    return shown
