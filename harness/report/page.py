# SPDX-License-Identifier: GPL-2.0-only
"""All that was measured of the paper as one HTML page, with CSV and JSON beside it.

In: ``results/bench``. Out: ``report.html``, ``report.json`` and ``samples.csv`` in a
directory. The page needs nothing but itself, and the same samples give the same page.
`evidence` has the numbers and verdicts, `plots` the pictures, ``page.html.j2`` the page.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import jinja2

from harness.errors import FalconError
from harness.lab import selection, stages
from harness.lab.campaign import Row
from harness.lab.experiments import claims
from harness.lab.instructions import Sample
from harness.lab.loads import TcpLoad
from harness.lab.rig import samples_of
from harness.lab.verdicts import NOT_MEASURED, NOT_REPRODUCED, REPRODUCED
from harness.overlay.modes import MODES
from harness.paths import RESULTS
from harness.report import export, plots
from harness.report.evidence import Evidence, Finding, Kernel, Measure

DIRECTORY = RESULTS / "report"
PAGE, JSON, CSV = "report.html", "report.json", "samples.csv"
LOOKS = {
    REPRODUCED: ("yes", "✓ reproduced"),
    NOT_REPRODUCED: ("no", "✗ not reproduced"),
    NOT_MEASURED: ("none", "○ not measured here"),
}
NIC, STAGE, RECEIVER = "NIC", "stage CPU", "receiver"
# The NIC's CPU, those of the stages from the one with the most work on, the receiver's.
STAGE_COLOURS = ("#08519c", "#3182bd", "#6baed6", "#9ecae1", "#c6dbef")
NIC_COLOUR, RECEIVER_COLOUR = "#e69f00", "#7f8790"


@dataclass(frozen=True)
class Table:
    """Text by row; the first ``heads`` cells of each name the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    heads: int = 2


@dataclass(frozen=True)
class Plot:
    """A picture at an ``address``, and the numbers in it."""

    caption: str
    note: str
    address: str
    table: Table


@dataclass(frozen=True)
class Section:
    """A measured figure as the page shows it; ``anchor`` is its id there."""

    anchor: str
    evidence: Evidence
    findings: Sequence[Finding]
    plots: Sequence[Plot]
    origin: Table
    notes: Sequence[str]


def write(kernels: Sequence[Kernel], directory: Path = DIRECTORY) -> Path:
    """Write page, JSON and CSV; the page's path."""
    texts = {
        PAGE: render(kernels),
        JSON: export.as_json(kernels),
        CSV: export.as_csv(kernels),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise FalconError(f"cannot write to {directory}", error.strerror or str(error)) from None
    return directory / PAGE


def render(kernels: Sequence[Kernel]) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["together"] = together
    shown = {mode for kernel in kernels for one in kernel.measured for mode in one.modes}
    return environment.get_template("page.html.j2").render(
        looks=LOOKS,
        files=(JSON, CSV),
        modes=[(mode, plots.MODE_COLOURS[name]) for name, mode in MODES.items() if name in shown],
        claims=[(claim, _findings(kernels, name)) for name, claim in claims().items()],
        anchor=anchor,
        kernels=[(kernel, [_section(kernel, e) for e in kernel.measured]) for kernel in kernels],
    )


def together(text: str) -> str:
    """Text in which no line ends before a unit, or between "16 B:" and its number."""
    text = re.sub(r"(?<=[0-9]) (?=(?:B|KB|GB|%)(?!\w))", "\N{NO-BREAK SPACE}", text)
    text = re.sub(r"(?<=[0-9B]:) (?=[-+0-9])", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<=\s)-(?=[0-9])", "\N{MINUS SIGN}", text)


def anchor(release: str, figure: str = "") -> str:
    """The id of a kernel on the page, or of one of its figures."""
    return f"linux-{release}" + (f"-figure-{figure}" if figure else "")


def _findings(kernels: Sequence[Kernel], name: str) -> list[Finding]:
    """Those on a claim; one if there is no experiment for it, whatever the kernel."""
    found = [f for kernel in kernels for f in kernel.findings if f.verdict.claim.name == name]
    return found[:1] if claims()[name].unmeasured else found


def _section(kernel: Kernel, one: Evidence) -> Section:
    figure = one.experiment.figure
    return Section(
        anchor=anchor(kernel.release, figure),
        evidence=one,
        findings=[finding for finding in kernel.findings if finding.figure == figure],
        plots=[*(_bars(one, measure) for measure in one.measures), _by_group(one), _by_cpu(one)],
        origin=_origin(one.shown),
        notes=list(_notes(one)),
    )


# ---- a bar a mode -------------------------------------------------------------------------


def _bars(one: Evidence, measure: Measure) -> Plot:
    """A measure by point and mode, as a ratio to the baseline or as the number it is."""
    value = one.ratio if measure.is_ratio else one.counted
    values = {
        _title(one, point): {mode: value(point, mode, measure) for mode in one.modes}
        for point in one.points
    }
    form, reference = (".2f", 1.0) if measure.is_ratio else (measure.form, None)
    label = f"{one.experiment.baseline} = 1" if measure.is_ratio else measure.unit
    return Plot(
        caption=f"{measure.title}, by {one.experiment.axis}",
        note="Bars are medians; the lines on them reach from the least round to the greatest.",
        address=plots.bars(values, label, form, reference),
        table=_table(one, measure),
    )


def _title(one: Evidence, point: str) -> str:
    return f"{one.experiment.axis}: {point}"


def _table(one: Evidence, measure: Measure) -> Table:
    """The numbers of a measure, and the ratios, a row a point and mode."""
    columns = [
        *(one.experiment.axis, "mode", "rounds", "median", "least", "most"),
        *(f"{measure.title.lower()}, {one.experiment.baseline} = 1", "least", "most"),
        *("out of order", "lost", "packets sent a second"),
    ]
    rows = [_cells(one, point, mode, measure) for point in one.points for mode in one.modes]
    return Table(f"{measure.title}: {measure.unit}", columns, rows)


def _cells(one: Evidence, point: str, mode: str, measure: Measure) -> list[str]:
    own = samples_of(one.samples(point), mode)
    counted, ratio = one.counted(point, mode, measure), one.ratio(point, mode, measure)
    return [
        *(point, mode, str(len(own))),
        *(f"{x:{measure.form}}" for x in (counted.median, counted.least, counted.greatest)),
        *(f"{x:.2f}" for x in (ratio.median, ratio.least, ratio.greatest)),
        str(sum(sample.out_of_order or 0 for sample in own)),
        str(sum(sample.lost for sample in own)),
        f"{median(sample.sent_per_second for sample in own):,.0f}",
    ]


# ---- what a packet's work is made of ----------------------------------------------------------


def work_groups(sample: Sample) -> dict[str, float]:
    """Instructions by group of functions, without those that are no work."""
    no_work = (stages.IDLE, stages.WAITING)
    return {name: count for name, count in sample.groups.items() if name not in no_work}


def by_role(sample: Sample) -> dict[str, float]:
    """Instructions on the CPUs of NIC, stages and receiver; of the stages the busiest first."""
    nic, *between, receiver = sample.work
    ordered = enumerate(sorted(between, reverse=True), 1)
    return {NIC: nic} | {f"{STAGE} {n}": work for n, work in ordered} | {RECEIVER: receiver}


def _by_group(one: Evidence) -> Plot:
    return _stack(
        one,
        work_groups,
        plots.GROUP_COLOURS,
        "Where the instructions go: functions",
        "Means of the rounds. The table has the groups that are in the rest here.",
    )


def _by_cpu(one: Evidence) -> Plot:
    between = len(one.shown[0].sample.work) - 2
    shades = [STAGE_COLOURS[min(n, len(STAGE_COLOURS) - 1)] for n in range(between)]
    stage_colours = {f"{STAGE} {n}": shade for n, shade in enumerate(shades, 1)}
    return _stack(
        one,
        by_role,
        {NIC: NIC_COLOUR, **stage_colours, RECEIVER: RECEIVER_COLOUR},
        "Where the instructions go: CPUs",
        "Means of the rounds. The flow's hash decides which CPU gets a stage, so the stages' CPUs"
        " are numbered from the one with the most work on, round by round.",
    )


def _stack(
    one: Evidence,
    of: Callable[[Sample], dict[str, float]],
    colours: Mapping[str, str],
    caption: str,
    note: str,
) -> Plot:
    """Work by its parts; in the table a row a point and part, a column a mode."""
    values = {p: {mode: one.parts(p, mode, of) for mode in one.modes} for p in one.points}
    names = dict.fromkeys(n for own in values.values() for parts in own.values() for n in parts)
    rows = [
        [point, name, *(f"{parts.get(name, 0.0):,.0f}" for parts in by_mode.values())]
        for point, by_mode in values.items()
        for name in names
    ]
    return Plot(
        caption,
        note,
        plots.stacks(
            {_title(one, p): own for p, own in values.items()}, "instructions a packet", colours
        ),
        Table("Instructions a packet", [one.experiment.axis, "", *one.modes], rows),
    )


# ---- where numbers come from --------------------------------------------------------------------

_CONTEXT = {
    "kernel": "kernel",
    "commit": "commit",
    "host": "machine",
    "cpus": "emulated CPUs",
    "packets": "packets a window",
    "started": "started",
    "command": "command",
}


def _origin(rows: Sequence[Row]) -> Table:
    """A row for what was measured by the same command at the same time."""
    points: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for row in rows:
        points[tuple(str(row.context.get(name, "")) for name in _CONTEXT)][row.point] = None
    return Table(
        "Where these numbers come from",
        ["points", *_CONTEXT.values()],
        [[", ".join(own), *context] for context, own in points.items()],
        heads=1,
    )


def _notes(one: Evidence) -> Iterator[str]:
    """What the reader must know of a packet, and of the choice of samples."""
    experiment = one.experiment
    if writes := {p.load.size for p in experiment.points if isinstance(p.load, TcpLoad)}:
        sizes = " or ".join(map(str, sorted(writes)))
        yield f"By TCP; what is called a packet here is a write of {sizes} bytes."
    missing = [point.label for point in experiment.points if point.label not in one.points]
    if missing:
        yield f"Not measured: {experiment.axis} {', '.join(missing)}."
    if selection.is_hurried(one.shown):
        yield "A quick run: few packets a window."
    if hidden := len(one.rows) - len(one.shown):
        yield (
            f"{hidden} more samples are not shown: of another commit, of points that were measured"
            f" again, or of rounds that were cut short. They are in {CSV}."
        )
