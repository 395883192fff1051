# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's selftests in three configurations, as a table and what it says.

In: ``harness.selftests.comparison.Row``. Out: text for the screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.table import Table

from harness.selftests.comparison import ABSENT, CONFIGURATIONS, ON, PASS, Outcome, Row


def table(rows: Sequence[Row], version: str) -> Table:
    """A row a test."""
    shown = Table(title=f"Network selftests of Linux {version}", title_justify="left")
    shown.add_column("test")
    for heading in ("\nvanilla", "patched,\nFalcon off", "patched,\nFalcon on"):
        shown.add_column(heading, no_wrap=True)
    shown.add_column("packets\nsteered", justify="right")
    for row in rows:
        cells = (_cell(row.outcomes[name]) for name in CONFIGURATIONS)
        shown.add_row(row.name, *cells, _count(row.outcomes[ON]))
    return shown


def _cell(outcome: Outcome) -> str:
    again = outcome.result == PASS and outcome.attempts > 1
    return f"{outcome.result} ({outcome.attempts} tries)" if again else outcome.result


def _count(outcome: Outcome) -> str:
    return "" if outcome.result == ABSENT else f"{outcome.steered:,}"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Why tests did not pass, a line each, and the verdict."""
    present = [row for row in rows if not row.is_absent]
    for row in present:
        yield from _reasons(row)
    if not any(row.outcomes[ON].steered for row in present):
        yield "Falcon was on and steered no packet: none of these tests it."
    differing = [row for row in present if row.differs]
    if differing:
        told = "; ".join(f"{row.name} ({', '.join(row.results)})" for row in differing)
        yield f"{len(present)} tests, {len(differing)} not the same on all three: {told}"
    else:
        counts = Counter(row.results[0] for row in present)
        told = ", ".join(f"{count} {result}" for result, count in counts.most_common())
        yield f"{len(present)} tests, the same on all three: {told}"


def _reasons(row: Row) -> Iterator[str]:
    """One line for all configurations that say the same."""
    said: dict[tuple[str, str], list[str]] = {}
    for name, outcome in row.outcomes.items():
        if outcome.result not in (PASS, ABSENT):
            said.setdefault((outcome.result, outcome.why), []).append(name)
    for (result, why), names in said.items():
        where = "" if len(names) == len(CONFIGURATIONS) else f" ({', '.join(names)})"
        yield f"{row.name}: {result}{where}: {why}"
