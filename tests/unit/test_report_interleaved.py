# SPDX-License-Identifier: GPL-2.0-only
"""Tables and the sentence say what was measured, good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console
from rich.table import Table

from harness.demo import MODE_NAMES
from harness.report.interleaved import (
    BAR_CELLS,
    bar,
    pace,
    rate_table,
    ratios,
    sentence,
    share_table,
)
from harness.workload.interleave import Window


def window(mode: str, turn: int, rate: int, out_of_order: int = 0) -> Window:
    share = {0: 0.5, 1: 0.5, 2: 0.0}
    return Window(0, mode, turn, 1.0, rate, out_of_order, 0, 0, share)


def windows(con: list[int], pipe: list[int], falcon: list[int], late: int = 0) -> list[Window]:
    rows = [window("falcon", turn, rate, late) for turn, rate in enumerate(falcon)]
    rows += [window("rps-pipe", turn, rate) for turn, rate in enumerate(pipe)]
    return rows + [window("con", turn, rate) for turn, rate in enumerate(con)]


def told_of(rows: Sequence[Window]) -> str:
    return sentence(rows, partial(ratios, rows), "delivered")


def text_of(table: Table) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table)
    return console.export_text()


def test_ratios_are_taken_round_by_round() -> None:
    seen = ratios(windows([100, 200, 400], [1, 1, 1], [150, 200, 800]), "falcon", "con")
    assert (seen.median, seen.least, seen.greatest) == (1.5, 1.0, 2.0)


def test_gain_is_told_with_its_spread() -> None:
    told = told_of(windows([100, 100], [120, 120], [150, 170]))
    assert told == (
        "Falcon delivered 1.60 times as many packets as con (1.50 to 1.70 by round) and 1.33 times "
        "as many packets as rps-pipe (1.25 to 1.42 by round); no packet came out of order in any "
        "mode."
    )


def test_split_nic_is_told_beside_falcon() -> None:
    rows = windows([100, 100], [120, 120], [150, 170])
    rows += [window("falcon+split", turn, rate) for turn, rate in enumerate([200, 240])]
    assert told_of(rows) == (
        "Falcon delivered 1.60 times as many packets as con (1.50 to 1.70 by round) and 1.33 times "
        "as many packets as rps-pipe (1.25 to 1.42 by round); Falcon with the NIC split delivered "
        "2.20 times as many packets as con (2.00 to 2.40 by round) and 1.83 times as many packets "
        "as rps-pipe (1.67 to 2.00 by round); no packet came out of order in any mode."
    )
    alone = told_of([row for row in rows if row.mode != "falcon"])
    assert alone.startswith("Falcon with the NIC split delivered 2.20 times")


def test_all_modes_of_the_demo_fit_into_80_columns() -> None:
    rows = [window(mode, turn, 123_456) for mode in MODE_NAMES for turn in (0, 1)]
    shares = {mode: [dict.fromkeys(range(6), 1 / 6)] for mode in MODE_NAMES}
    roles = dict.fromkeys(range(5), "stage") | {5: "receiver"}
    for table in (rate_table(rows, "con"), share_table(shares, roles, "shares")):
        shown = text_of(table)
        assert all(f" {mode} " in shown for mode in MODE_NAMES)
        assert max(map(len, shown.splitlines())) <= 80


def test_loss_is_told_as_loss() -> None:
    told = told_of(windows([100, 100], [100, 100], [80, 90]))
    assert "0.85 times as many packets as con (0.80 to 0.90 by round) and" in told


def test_mixed_rounds_are_no_difference() -> None:
    told = told_of(windows([100, 100], [90, 90], [95, 110]))
    assert "as con (0.95 to 1.10 by round: no clear difference)" in told
    assert "as rps-pipe (1.06 to 1.22 by round);" in told


def test_disorder_is_told() -> None:
    told = told_of(windows([100], [100], [150], late=3))
    assert "out of order came 0 in con, 0 in rps-pipe, 3 in falcon" in told


def test_order_that_nobody_looked_at_is_not_told_as_kept() -> None:
    rows = [replace(row, out_of_order=None) for row in windows([100], [100], [150])]
    assert told_of(rows).endswith("; whether packets came out of order was not looked at.")


def test_sender_that_set_the_pace_is_told() -> None:
    rows = windows([100], [100], [195])
    assert pace(rows, 200) == " (falcon: limited by the sender)"
    assert not pace(rows, 300) and not pace(rows, 0)
    told = sentence(rows, partial(ratios, rows), "delivered", pace(rows, 200))
    assert told.endswith("(falcon: limited by the sender).")


def test_stock_kernel_has_a_sentence_too() -> None:
    told = told_of([window("con", 0, 100), window("rps-pipe", 0, 150)])
    assert told.startswith("rps-pipe delivered 1.50 times as many packets as con")


def test_tables_show_every_mode_in_its_order() -> None:
    rows = windows([1000, 3000], [2000, 2000], [3000, 3000], late=7)
    shown = text_of(rate_table(rows, "con"))
    at = [shown.index(word) for word in ("con ", "rps-pipe", "falcon")]
    assert at == sorted(at)
    assert " 2,000 │ 1,000 │ 3,000 " in shown and " 14 " in shown
    halves = {row.mode: [row.softirq_share, row.softirq_share] for row in rows}
    shares = text_of(share_table(halves, {0: "NIC", 2: "receiver"}, "shares"))
    assert "CPU 0" in shares and "receiver" in shares and "50%" in shares


@pytest.mark.parametrize(("share", "text"), [(0, ""), (0.5, "███"), (1, "██████"), (1 / 48, "▏")])
def test_bar(share: float, text: str) -> None:
    assert bar(share) == text.ljust(BAR_CELLS)
