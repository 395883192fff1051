# SPDX-License-Identifier: GPL-2.0-only
"""A progress bar with the time left; plain lines where there is no terminal.

In: a total and the steps as they are done. Out: remarks on stderr.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.console import err, note

LINE_EVERY_S = 30.0


class Bar:
    """``with Bar("building", total=1100) as bar: bar.advance()``.

    ``total`` counts steps, or bytes with ``in_bytes``; None when it is unknown.
    A terminal gets a live bar; a log gets a line every half minute.
    """

    def __init__(self, label: str, total: int | None, *, done: int = 0, in_bytes: bool = False):
        self.label, self.total, self.done, self.in_bytes = label, total, done, in_bytes
        self._done_at_start = done
        self._started = self._last_line = time.monotonic()
        self._live: Progress | None = None

    def __enter__(self) -> Bar:
        if err.is_terminal:
            counter: ProgressColumn = DownloadColumn() if self.in_bytes else MofNCompleteColumn()
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                counter,
                TextColumn("time left"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TimeElapsedColumn(),
                console=err,
                transient=True,
                speed_estimate_period=60,
            )
            self._task = self._live.add_task(self.label, total=self.total, completed=self.done)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def advance(self, amount: int = 1) -> None:
        """Count ``amount`` more steps as done; a total that proves too small grows."""
        self.done += amount
        if self.total is not None:
            self.total = max(self.total, self.done)
        if self._live:
            self._live.update(self._task, completed=self.done, total=self.total)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            note(self.line())

    def line(self) -> str:
        """What a log gets: "building: 420 of 1100 (38 %), 4 min left"."""
        amount, whole = self._shown(self.done), self._shown(self.total)
        if not self.total:
            return f"{self.label}: {amount}"
        text = f"{self.label}: {amount} of {whole} ({100 * self.done / self.total:.0f} %)"
        rate = (self.done - self._done_at_start) / max(time.monotonic() - self._started, 1e-9)
        return f"{text}, {duration((self.total - self.done) / rate)} left" if rate else text

    def _shown(self, amount: int | None) -> str:
        if amount is None:
            return "?"
        return f"{amount / 1e6:.0f} MB" if self.in_bytes else f"{amount}"


def duration(seconds: float) -> str:
    """A length of time for people: "35 s", "12 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
