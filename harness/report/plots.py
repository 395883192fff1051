# SPDX-License-Identifier: GPL-2.0-only
"""Horizontal bars, a group of them below the other, by matplotlib.

In: values by point and mode. Out: an SVG as a ``data:`` address, for an ``<img>``: it needs no
file, and its fonts and ids are its own. The same values give the same text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Transform

from harness.report.interleaved import Spread

# Colours tell apart in every common colour blindness. Modes (Okabe and Ito): no overlay
# is grey, the stock overlay is warm, Falcon is cold.
MODE_COLOURS = {
    "host": "#7f8790",
    "con": "#d55e00",
    "rps-pipe": "#e69f00",
    "falcon-static": "#56b4e9",
    "falcon": "#0072b2",
    "falcon+split": "#009e73",
    "host+split": "#cc79a7",
}
# Groups of functions (Tol, "muted"), in the order of a stack; what is not here is REST.
GROUP_COLOURS = {
    "falcon": "#aa4499",
    "NIC driver": "#332288",
    "GRO": "#88ccee",
    "VXLAN": "#117733",
    "packet memory": "#ddcc77",
    "IP": "#cc6677",
    "socket": "#44aa99",
    "Ethernet": "#999933",
    "scheduler and time": "#882255",
}
REST = "the rest"
REST_COLOUR, INK, GRID = "#c4c8cc", "#1b1f25", "#d5d9de"

# Inches. As wide as a phone's page, so that text keeps its size there.
WIDTH, ROW, AROUND = 5.2, 0.23, 0.55
LEGEND, COLUMNS = 0.2, 3
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "falcon",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "grid.color": GRID,
    "xtick.bottom": False,
    "ytick.left": False,
}


@matplotlib.rc_context(_SETTINGS)
def bars(
    values: Mapping[str, Mapping[str, Spread]], label: str, form: str, reference: float | None
) -> str:
    """A bar a mode, a line from least to most on it; ``form`` formats a value, as ".2f".

    ``reference`` gets a vertical line.
    """
    figure, axes, rows = _axes(values, label)
    spreads = [spread for by_mode in values.values() for spread in by_mode.values()]
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.least for spread in spreads]
    above = [spread.greatest - spread.median for spread in spreads]
    axes.barh(
        rows,
        medians,
        color=[MODE_COLOURS[mode] for by_mode in values.values() for mode in by_mode],
        xerr=(below, above),
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2.5, "capthick": 1},
    )
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=1)
    _at_the_end(axes, rows, [format(value, form) for value in medians])
    return _address(figure)


@matplotlib.rc_context(_SETTINGS)
def stacks(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], label: str, colours: Mapping[str, str]
) -> str:
    """A bar a mode, made of parts in the order of ``colours``; parts without one are `REST`."""
    drawn = [_drawn(parts, colours) for by_mode in values.values() for parts in by_mode.values()]
    coloured = {**colours, REST: REST_COLOUR}
    names = [name for name in coloured if any(parts[name] for parts in drawn)]
    figure, axes, rows = _axes(values, label, extra=LEGEND * ceil(len(names) / COLUMNS))
    ends = [0.0] * len(rows)
    for name in names:
        widths = [parts[name] for parts in drawn]
        axes.barh(rows, widths, left=ends, color=coloured[name], label=name)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    _at_the_end(axes, rows, [f"{end:,.0f}" for end in ends])
    figure.legend(loc="outside lower center", ncols=COLUMNS, frameon=False)
    return _address(figure)


def _drawn(parts: Mapping[str, float], colours: Mapping[str, str]) -> dict[str, float]:
    """The parts that have a colour, 0 if they are missing, and the sum of those that have none."""
    rest = sum(value for name, value in parts.items() if name not in colours)
    return {name: parts.get(name, 0.0) for name in colours} | {REST: rest}


def _axes(
    values: Mapping[str, Mapping[str, Any]], label: str, extra: float = 0.0
) -> tuple[Figure, Axes, list[int]]:
    """Axes with a row a mode below the name of each point, and the heights of these rows.

    There are ``extra`` inches for a legend.
    """
    lines = sum(1 + len(by_mode) for by_mode in values.values())
    figure = Figure(figsize=(WIDTH, ROW * lines + AROUND + extra), layout="constrained")
    axes = figure.add_subplot(ylim=(lines - 0.4, -0.6))
    rows: list[int] = []
    y = 0
    for point, by_mode in values.items():
        axes.text(0, y, point, weight="bold", va="center_baseline", transform=_by_row(axes))
        rows += range(y + 1, y + 1 + len(by_mode))
        y += 1 + len(by_mode)
    axes.set_yticks(rows, [mode for by_mode in values.values() for mode in by_mode])
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(label)
    return figure, axes, rows


def _at_the_end(axes: Axes, rows: Sequence[int], texts: Sequence[str]) -> None:
    """Write what each bar stands for at the right end of its row."""
    for y, text in zip(rows, texts, strict=True):
        axes.text(1.02, y, text, va="center_baseline", transform=_by_row(axes))


def _by_row(axes: Axes) -> Transform:
    """Places whose x is a share of the width, and y a row."""
    return axes.get_yaxis_transform()


def _address(figure: Figure) -> str:
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode()
