# SPDX-License-Identifier: GPL-2.0-only
"""Shows a figure that was measured: a table a point, then claim beside measurement.

In: an `Experiment` and its rows. Out: text on the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from harness.console import out
from harness.lab.campaign import Row
from harness.lab.experiments import Experiment
from harness.lab.verdicts import Verdict, verdicts
from harness.report import instructions


def show(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Print all there is to say of an experiment."""
    out.rule(f"Figure {experiment.figure}: {experiment.title}", align="left", style="bold")
    for point in experiment.points:
        samples = [row.sample for row in rows if row.point == point.label]
        if not samples:
            continue
        title = f"Linux {rows[0].context['kernel']}, {experiment.axis} {point.label}"
        out.print(instructions.table(samples, experiment.baseline, title))
        if len(experiment.points) == 1:
            out.print(instructions.group_table(samples))
    if found := verdicts(experiment, rows):
        out.print(claim_table(found))


def claim_table(found: Sequence[Verdict]) -> Table:
    """A row a claim: what the paper says, what was measured, the verdict."""
    shown = Table(title="Claim beside measurement", title_justify="left")
    shown.add_column("claim", no_wrap=True)
    shown.add_column("the paper")
    shown.add_column("measured here")
    shown.add_column("")
    for verdict in found:
        claim = verdict.claim
        shown.add_row(
            f"{claim.name}\n{claim.source}",
            f"{claim.workload}: {claim.text}",
            verdict.said,
            verdict.state,
        )
    return shown
