# SPDX-License-Identifier: GPL-2.0-only
"""Shows a figure that was measured: a table a point, then claims and goals beside measurement.

In: an `Experiment` and its rows. Out: text on the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from harness.console import out
from harness.lab import goals, selection
from harness.lab.campaign import Row
from harness.lab.experiments import TIME, Experiment
from harness.lab.goals import Outcome
from harness.lab.verdicts import NOT_MEASURABLE, Verdict, verdicts
from harness.report import instructions, timed


def show(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Print all there is to say of an experiment; what was cut short is left out, and said."""
    out.rule(_heading(experiment), align="left", style="bold")
    whole = selection.attempts(experiment, rows)
    if short := len(rows) - len(whole):
        out.print(
            f"Cut short: {short} samples of rounds that lack a mode, or of an attempt before, are"
            " kept, not shown."
        )
    for point in experiment.points:
        samples = [row.sample for row in whole if row.point == point.label]
        if not samples:
            continue
        title = f"Linux {whole[0].context['kernel']}, {experiment.axis} {point.label}"
        if experiment.measure == TIME:
            out.print(timed.table(samples, experiment.baseline, title))
            continue
        out.print(instructions.table(samples, experiment.baseline, title, point.load))
        if by_stage := instructions.stage_rows(samples, point.load):
            out.print(instructions.stage_table(by_stage))
        if len(experiment.points) == 1:
            out.print(instructions.group_table(samples))
    found = verdicts(experiment, whole)
    if why := _no_result(found):
        names = ", ".join(verdict.claim.name for verdict in found)
        out.print(f"Claims {names}: {NOT_MEASURABLE}: {why}", markup=False)
    elif found:
        out.print(claim_table(found))
    if reached := goals.outcomes(experiment, whole):
        out.print(goal_table(reached))


def _no_result(found: Sequence[Verdict]) -> str:
    """Why none of these claims can be judged here, which is the same for all; "" if one can."""
    reasons = {verdict.said for verdict in found if verdict.state == NOT_MEASURABLE}
    return reasons.pop() if len(reasons) == 1 else ""


def _heading(experiment: Experiment) -> str:
    name = experiment.name
    return f"{name[0].upper()}{name[1:]}: {experiment.title}"


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


def goal_table(outcomes: Sequence[Outcome]) -> Table:
    """A row a goal: what Falcon is to do, what was measured, whether that is reached."""
    shown = Table(title="Speed beside this project's goals", title_justify="left")
    for heading in ("goal", "measured here", ""):
        shown.add_column(heading)
    for outcome in outcomes:
        shown.add_row(outcome.goal, outcome.said, outcome.told.replace(" (", "\n("))
    return shown
