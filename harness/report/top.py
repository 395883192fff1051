# SPDX-License-Identifier: GPL-2.0-only
"""What Falcon does on this machine, as a screen of text.

In: a ``harness.overlay.watch.Measurement``. Out: text no wider than ``width``
columns and, where ``height`` is given, no higher than so many lines; what
matters least is left out first. Or one line of JSON.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from rich.text import Text

from harness.overlay.watch import CpuRates, Measurement, Rates

STATE_COLUMNS = 100
NAME_COLUMNS = 20
GAP = "  "
# Left out one after the other where the terminal is too narrow.
DISPENSABLE = ("held/s", "gated/s", "first", "second", "softirq", "split/s", "gro", "load")
# Words of the state line that are numbers.
NUMBERS = ("load", "threshold", "interval", "two_choice", "gro_split", "forced")
# Two headings, two blank lines, and two that tell what is left out.
OTHER_LINES = 6
# Neither table shrinks below this, however small the terminal is.
LEAST_ROWS = 2


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and what it says of a row."""

    heading: str
    text: Callable[[Any], str]
    left: bool = False


def per_second(value: float) -> str:
    """A rate in at most six characters."""
    if value < 9.95:
        return f"{value:.1f}" if value >= 0.05 else "0"
    if value < 9_999.5:
        return f"{value:,.0f}"
    return f"{value / 1e3:.1f}k" if value < 999_950 else f"{value / 1e6:.2f}M"


def _of(name: str) -> Callable[[Any], str]:
    return lambda row: per_second(getattr(row.rates, name))


def _share(name: str) -> Callable[[Any], str]:
    def text(row: Any) -> str:
        rates: Rates = row.rates
        return f"{rates.share(getattr(rates, name)):.0%}" if rates.steered else "-"

    return text


def _short(name: str) -> str:
    return name if len(name) <= NAME_COLUMNS else f"{name[: NAME_COLUMNS - 1]}…"


DECISIONS = (
    Column("steered/s", _of("steered")),
    Column("first", _share("first")),
    Column("second", _share("second")),
    Column("gated/s", _of("gated")),
    Column("held/s", _of("held")),
    Column("split/s", _of("split")),
    Column("dropped/s", _of("dropped")),
)
CPU_COLUMNS = (
    Column("CPU", lambda row: str(row.cpu)),
    Column("load", lambda row: "-" if row.load is None else f"{row.load}%"),
    Column("in/s", lambda row: per_second(row.received)),
    *DECISIONS,
    Column("softirq", lambda row: f"{row.softirq_share:.0%}"),
)
STAGE_COLUMNS = (
    Column("namespace", lambda row: _short(row.namespace), left=True),
    Column("device", lambda row: row.device, left=True),
    Column("gro", lambda row: row.gro, left=True),
    *DECISIONS,
)


def screen(measured: Measurement, width: int, height: int | None = None) -> Text:
    """The state, a table of the CPUs, and one of the stages, the busiest first."""
    stages = sorted(measured.stages, key=lambda row: -row.rates.decisions)
    state = _state(measured, width)
    room = None if height is None else height - len(state) - OTHER_LINES
    cpu_rows, stage_rows = _rows(len(measured.cpus), len(stages), room)
    blocks = [
        state,
        [
            *_table(CPU_COLUMNS, _busiest(measured.cpus, cpu_rows), width),
            *_left_out(len(measured.cpus) - cpu_rows, "quieter CPUs"),
        ],
        [
            *_table(STAGE_COLUMNS, stages[:stage_rows], width),
            *_left_out(len(stages) - stage_rows, "quieter stages"),
        ],
    ]
    return _text(blocks, width, height)


def _text(blocks: Sequence[Sequence[str]], width: int, height: int | None) -> Text:
    """The blocks with a blank line between them, the first line of each in bold."""
    lines = [
        ((line[:width], "bold" if not number else "") for number, line in enumerate([*block, ""]))
        for block in blocks
    ]
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, (line, style) in enumerate([*chain.from_iterable(lines)][:-1][:height]):
        text.append("\n" if number else "")
        text.append(line, style)
    return text


def _state(measured: Measurement, width: int) -> list[str]:
    state = measured.state
    # "gro_split" is missing in kernels that cannot split.
    told = (
        f"Linux {measured.kernel}: Falcon {state['state']}, gate {state['gate']}, "
        f"load {state['load']}% of {state['threshold']}%, CPUs {state['cpus']}, "
        f"two_choice {state['two_choice']}, gro_split {state.get('gro_split', '-')}, "
        f"load every {state['interval']} ms, {_namespaces(measured)}"
    )
    return textwrap.wrap(told, min(width, STATE_COLUMNS), break_on_hyphens=False)


def _namespaces(measured: Measurement) -> str:
    many = "s" if measured.namespaces != 1 else ""
    seen = f"{measured.namespaces} network namespace{many}"
    return f"{seen} ({measured.hidden} more need root)" if measured.hidden else seen


def _rows(cpus: int, stages: int, room: int | None) -> tuple[int, int]:
    """How many CPUs and stages to show in ``room`` lines."""
    if room is None:
        return cpus, stages
    cpu_rows = min(cpus, max(room // 2, room - stages, LEAST_ROWS))
    return cpu_rows, min(stages, max(room - cpu_rows, LEAST_ROWS))


def _busiest(cpus: Sequence[CpuRates], count: int) -> list[CpuRates]:
    """The ``count`` CPUs with most to do, in their own order."""
    by_work = sorted(cpus, key=lambda row: (-row.received - row.rates.decisions, row.cpu))
    return sorted(by_work[:count], key=lambda row: row.cpu)


def _left_out(count: int, what: str) -> list[str]:
    return [f"… and {count} {what}"] if count > 0 else []


def _table(columns: Sequence[Column], rows: Sequence[Any], width: int) -> Iterator[str]:
    """A heading, and a line a row, of as many columns as fit into ``width``."""
    cells = {
        column.heading: [column.heading, *(column.text(row) for row in rows)] for column in columns
    }
    widths = {heading: max(map(len, texts)) for heading, texts in cells.items()}
    for heading in DISPENSABLE:
        if sum(widths.values()) + len(GAP) * (len(widths) - 1) <= width:
            break
        widths.pop(heading, None)
    shown = [column for column in columns if column.heading in widths]
    for number in range(len(rows) + 1):
        texts = (
            f"{cells[c.heading][number]:{'<' if c.left else '>'}{widths[c.heading]}}" for c in shown
        )
        yield GAP.join(texts).rstrip()


def as_json(measured: Measurement, time_s: float) -> str:
    """All that was measured in one line; ``time_s`` is the time of day since 1970."""
    state = {
        word: int(value) if word in NUMBERS else value for word, value in measured.state.items()
    }
    return json.dumps({"time": round(time_s, 3), **asdict(measured), "state": state})
