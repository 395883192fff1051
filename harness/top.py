# SPDX-License-Identifier: GPL-2.0-only
"""Falcon's top: what a patched host does, by the second.

In: how often to measure and how to show it. Out: a screen that renews itself in
a terminal; elsewhere, or if so wished, one block of text or one line of JSON after
the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as numbers

from rich.live import Live
from rich.text import Text

from harness import console
from harness.errors import FalconError
from harness.overlay.watch import Measurement, Watch
from harness.report import top as report

# Of a line of text that goes into a file or a pipe.
FILE_WIDTH = 200


@dataclass(frozen=True)
class TopConfig:
    """Measure every ``interval_s``, ``count`` times (0: until interrupted).

    ``plain``: one text after the other, even in a terminal. ``as_json``: lines of JSON.
    """

    interval_s: float = 1.0
    count: int = 0
    plain: bool = False
    as_json: bool = False


def run(config: TopConfig) -> None:
    """Measure and show until the count is reached or the user interrupts."""
    if not config.interval_s > 0 or config.count < 0:
        raise FalconError(
            "there is nothing to measure",
            f"the interval is {config.interval_s:g} s, the count {config.count}",
            "give an --interval above 0 and no --count below 0",
        )
    measured = measurements(Watch(), config)
    # Interrupting is how one ends it: no failure, and nothing to clean up.
    try:
        if config.as_json:
            for one in measured:
                console.out.print(report.as_json(one, time.time()), markup=False)
        elif config.plain or not console.out.is_terminal:
            _print_all(measured)
        else:
            _show_live(measured)
    except KeyboardInterrupt:
        return


def measurements(watch: Watch, config: TopConfig) -> Iterator[Measurement]:
    """One after the other, each from the end of the one before."""
    before = watch.read()
    for _ in range(config.count) if config.count else numbers():
        time.sleep(config.interval_s)
        now = watch.read()
        yield now.since(before)
        before = now


def _print_all(measured: Iterator[Measurement]) -> None:
    for number, one in enumerate(measured):
        if number:
            console.out.print()
        console.out.print(_plain(one))


def _plain(measured: Measurement) -> Text:
    width = console.out.width if console.out.is_terminal else FILE_WIDTH
    return report.screen(measured, width)


def _show_live(measured: Iterator[Measurement]) -> None:
    """Renew the screen in place; what it showed last stays behind in the scrollback."""
    last = None
    try:
        with Live(
            Text("measuring …"), console=console.out, screen=True, auto_refresh=False
        ) as live:
            for last in measured:
                live.update(report.screen(last, *console.out.size), refresh=True)
    finally:
        if last:
            console.out.print(_plain(last))
