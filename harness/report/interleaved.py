# SPDX-License-Identifier: GPL-2.0-only
"""Shows modes that were measured in turns.

In: `Window` rows, or others with a mode, a round and a number that came out of order. Out: tables
for the screen, and one sentence that says what they show, good or bad.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Protocol, TypeVar

from rich.table import Table

from harness.overlay.modes import MODES
from harness.workload.interleave import Window

BAR_CELLS = 6
EIGHTHS = " ▏▎▍▌▋▊▉█"
# Delivering this share of what was sent means that the sender set the pace.
SENDER_LIMIT = 0.9
# What is compared with the stock kernel, and what it is called in a sentence.
SUBJECTS = {"falcon": "Falcon", "falcon+split": "Falcon with the NIC split"}
STOCK = ("con", "rps-pipe")


class OfMode(Protocol):
    """What any window of a mode says."""

    @property
    def mode(self) -> str: ...
    @property
    def out_of_order(self) -> int | None: ...


W = TypeVar("W", bound=OfMode)
# How many times as many packets as another mode one carries.
Ratio = Callable[[str, str], "Spread"]


@dataclass(frozen=True)
class Spread:
    """The median of several values, their least and their greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def by_mode(windows: Sequence[W]) -> dict[str, list[W]]:
    """The windows of each mode, modes in the order of `MODES`."""
    found: dict[str, list[W]] = defaultdict(list)
    for window in windows:
        found[window.mode].append(window)
    return {name: found[name] for name in MODES if name in found}


def ratios(windows: Sequence[Window], mode: str, baseline: str) -> Spread:
    """Packets a second of ``mode`` over ``baseline``, round by round."""
    rates = {(w.round, w.mode): w.packets_per_second for w in windows}
    rounds = sorted({w.round for w in windows})
    return Spread.of(
        [
            rates[number, mode] / rates[number, baseline]
            for number in rounds
            if rates.get((number, baseline)) and (number, mode) in rates
        ]
    )


def rate_table(windows: Sequence[Window], baseline: str) -> Table:
    """A row a mode: what arrived, how it compares with ``baseline``, what went wrong."""
    table = Table(title="Packets delivered to the container", title_justify="left")
    table.add_column("mode")
    for heading in ("packets/s\nmedian", "\nleast", "\nmost", f"\n{baseline} = 1"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("out of\norder", justify="right")
    table.add_column("\ndamaged", justify="right")
    for name, own in by_mode(windows).items():
        rate = Spread.of([w.packets_per_second for w in own])
        table.add_row(
            name,
            *(f"{value:,.0f}" for value in (rate.median, rate.least, rate.greatest)),
            f"{ratios(windows, name, baseline).median:.2f}",
            f"{sum(w.out_of_order for w in own)}",
            f"{sum(w.corrupted + w.duplicates for w in own)}",
        )
    return table


def share_table(
    shares: Mapping[str, Sequence[Mapping[int, float]]], roles: Mapping[int, str], title: str
) -> Table:
    """A row a mode, a column a CPU (``roles`` by CPU): its part of the work, the mean.

    ``shares``: by mode, a mapping a window.
    """
    cpus = sorted({cpu for own in shares.values() for share in own for cpu in share})
    table = Table(title=title, title_justify="left")
    table.add_column("mode")
    for cpu in cpus:
        table.add_column(f"CPU {cpu}\n{roles.get(cpu, '')}")
    for name, own in shares.items():
        means = [fmean(share.get(cpu, 0) for share in own) for cpu in cpus]
        table.add_row(name, *(f"{mean:4.0%}\n{bar(mean)}" for mean in means))
    return table


def bar(share: float) -> str:
    """``share`` (0 to 1) as a bar of `BAR_CELLS` characters."""
    eighths = round(share * BAR_CELLS * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(BAR_CELLS)


def sentence(windows: Sequence[OfMode], ratio: Ratio, verb: str, pace: str = "") -> str:
    """What was seen, computed from the numbers and nothing else.

    ``verb``: what modes did with packets, or can do. ``pace``: `pace` of the windows.
    """
    modes = by_mode(windows)
    seen = [
        f"{subject} {verb} "
        + " and ".join(_compared(ratio(name, other), other) for other in STOCK if other in modes)
        for name, subject in SUBJECTS.items()
        if name in modes
    ] or [f"rps-pipe {verb} {_compared(ratio('rps-pipe', 'con'), 'con')}"]
    return f"{'; '.join([*seen, _order(windows)])}{pace}."


def _compared(ratio: Spread, baseline: str) -> str:
    told = f"{ratio.median:.2f} times as many packets as {baseline}"
    span = f"{ratio.least:.2f} to {ratio.greatest:.2f} by round"
    if ratio.least > 1 or ratio.greatest < 1:
        return f"{told} ({span})"
    return f"{told} ({span}: no clear difference)"


def _order(windows: Sequence[OfMode]) -> str:
    if any(w.out_of_order is None for w in windows):
        return "whether packets came out of order was not looked at"
    late = {name: sum(w.out_of_order or 0 for w in own) for name, own in by_mode(windows).items()}
    if not any(late.values()):
        return "no packet came out of order in any mode"
    return "out of order came " + ", ".join(f"{n} in {name}" for name, n in late.items())


def pace(windows: Sequence[Window], sent_per_second: float) -> str:
    """Which modes the sender limited, if any; ``sent_per_second``: what it really managed, 0 when
    unknown.
    """
    limited = [
        name
        for name, own in by_mode(windows).items()
        if sent_per_second
        and median(w.packets_per_second for w in own) > SENDER_LIMIT * sent_per_second
    ]
    return f" ({', '.join(limited)}: limited by the sender)" if limited else ""
