# SPDX-License-Identifier: GPL-2.0-only
"""What Falcon costs, where it is off and for a decision, as a table and a sentence.

In: a ``harness.kernel.cost.Report``, a decision's steps. Out: text for the screen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from harness.kernel import decision
from harness.kernel.cost import Report
from harness.kernel.decision import Step


def table(report: Report, version: str) -> Table:
    """A row a function of the fast path."""
    shown = Table(
        title=f"Instructions with CONFIG_NET_FALCON, Linux {version}", title_justify="left"
    )
    shown.add_column("function", no_wrap=True)
    for heading in ("unpatched", "=y, off", "key's no-ops", "added on a way"):
        shown.add_column(heading, justify="right")
    shown.add_column("=n")
    for cost in report.costs:
        shown.add_row(
            cost.function,
            str(cost.vanilla),
            str(cost.off),
            str(cost.no_ops),
            f"{cost.added:+}" if cost.added else "0",
            "same" if cost.same_without else "CHANGED",
        )
    return shown


def summary(report: Report) -> Iterator[str]:
    """What CONFIG_NET_FALCON=n changes, and what =y costs while Falcon is off."""
    if report.changed:
        yield f"CONFIG_NET_FALCON=n changes {len(report.changed)} of {report.compared} functions:"
        yield from (f"  {name}" for name in report.changed)
    else:
        yield (
            f"CONFIG_NET_FALCON=n: all {report.compared} functions of the touched files do the "
            "same, but for line numbers in warnings."
        )
    if report.dearer:
        yield "CONFIG_NET_FALCON=y and off costs more than no-ops in:"
        yield from (f"  {cost.function}: {cost.added:+} instructions" for cost in report.dearer)
    else:
        yield (
            "CONFIG_NET_FALCON=y and off: on no way through them an instruction more than the "
            "no-ops of the static key."
        )


def decision_lines(steps: Sequence[Step]) -> Iterator[str]:
    """What a decision costs where Falcon is on."""
    yield "A decision takes, in instructions, by the way through it:"
    yield from (f"  {step.name}: {step.least} to {step.most}" for step in steps)
    yield (
        f"While no CPU is busy it is {decision.usual(steps)} at most; "
        f"{decision.MOST} is the most it may be."
    )
