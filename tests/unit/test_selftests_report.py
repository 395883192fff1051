# SPDX-License-Identifier: GPL-2.0-only
"""The table of three kernels, and the sentence below it."""

from __future__ import annotations

import io

from rich.console import Console

from harness.report import selftests as report
from harness.selftests.comparison import CONFIGURATIONS, Outcome, Row


def row(name, *results, **more):
    outcomes = [Outcome(result, **more) for result in results]
    return Row(name, dict(zip(CONFIGURATIONS, outcomes, strict=True)))


def shown(*rows):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table(rows, "6.12.7"))
    return console.export_text()


def line_of(text, name):
    return next(line for line in text.splitlines() if f" {name} " in line)


def cells(text, name):
    return [cell.strip() for cell in line_of(text, name).split("│")[1:-1]]


def test_a_row_a_test():
    text = shown(row("gro", "pass", "pass", "pass", steered=1234, attempts=1), row("new", *"---"))
    assert "Linux 6.12.7" in text
    assert cells(text, "gro") == ["gro", "pass", "pass", "pass", "1,234"]
    assert cells(text, "new") == ["new", "-", "-", "-", ""]


def test_a_pass_by_a_later_try_is_told():
    text = shown(row("gro", "pass", "pass", "pass", attempts=2))
    assert cells(text, "gro")[1:4] == ["pass (2 tries)"] * 3


def test_all_the_same_is_said_and_counted_without_absent_tests():
    rows = [row("a", *["pass"] * 3), row("b", *["pass"] * 3), row("c", *["skip"] * 3)]
    lines = list(report.summary([*rows, row("d", *"---")]))
    assert lines[-1] == "3 tests, the same on all three: 2 pass, 1 skip"


def test_reasons_come_once_where_all_say_the_same():
    same = row("c", "skip", "skip", "skip", why="no tool")
    assert next(report.summary([same])) == "c: skip: no tool"


def test_differences_are_named_with_their_reasons():
    rows = [row("a", *["pass"] * 3), row("gro", "pass", "pass", "fail", why="lost", steered=1)]
    assert list(report.summary(rows)) == [
        "gro: fail (on): lost",
        "2 tests, 1 not the same on all three: gro (pass, pass, fail)",
    ]


def test_results_without_a_steered_packet_say_so():
    idle, busy = row("a", *["pass"] * 3), row("b", *["pass"] * 3, steered=1)
    assert "steered no packet" in list(report.summary([idle]))[-2]
    assert not any("steered no packet" in line for line in report.summary([idle, busy]))
