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
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from harness.errors import FalconError
from harness.lab import rig, selection, stages, timed
from harness.lab.experiments import EXPERIMENTS, INSTRUCTIONS, TIME, Point, claims
from harness.lab.instructions import Sample, compared
from harness.lab.loads import TcpLoad
from harness.lab.rig import samples_of
from harness.lab.verdicts import (
    IN_PART,
    NOT_MEASURABLE,
    NOT_MEASURED,
    NOT_REPRODUCED,
    REPRODUCED,
)
from harness.overlay.modes import MODES
from harness.paths import RESULTS
from harness.report import export, plots
from harness.report import instructions as reports
from harness.report import timed as timed_reports
from harness.report.evidence import Evidence, Finding, Kernel, Measure
from harness.report.interleaved import Spread

DIRECTORY = RESULTS / "report"
PAGE, JSON, CSV = "report.html", "report.json", "samples.csv"
LOOKS = {
    REPRODUCED: ("yes", "✓ reproduced"),
    IN_PART: ("yes", "✓ reproduced in part"),
    NOT_REPRODUCED: ("no", "✗ not reproduced"),
    NOT_MEASURED: ("none", "○ not measured yet"),
    NOT_MEASURABLE: ("none", "○ not measurable here"),
}
# A CPU with less than this part of the busiest one's work is not shown with its functions.
LEAST_SHARE = 0.02
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
    """A measured figure or load as the page shows it; ``anchor`` is its id there."""

    anchor: str
    evidence: Evidence
    findings: Sequence[Finding]
    plots: Sequence[Plot]
    stages: Table | None
    goals: Table | None
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
        names={key: experiment.name for key, experiment in EXPERIMENTS.items()},
        kernels=[(kernel, [_section(kernel, e) for e in kernel.measured]) for kernel in kernels],
    )


def together(text: str) -> str:
    """Text in which no line ends before a unit, or between "16 B:" and its number."""
    text = re.sub(r"(?<=[0-9]) (?=(?:B|KB|GB|%)(?!\w))", "\N{NO-BREAK SPACE}", text)
    text = re.sub(r"(?<=[0-9B]:) (?=[-+0-9])", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<=\s)-(?=[0-9])", "\N{MINUS SIGN}", text)


def anchor(release: str, figure: str = "") -> str:
    """The id of a kernel on the page, or of one of its experiments, by its key."""
    return f"linux-{release}" + (f"-figure-{figure}" if figure else "")


def _findings(kernels: Sequence[Kernel], name: str) -> list[Finding]:
    """Those on a claim; one if there is no experiment for it, whatever the kernel."""
    found = [f for kernel in kernels for f in kernel.findings if f.verdict.claim.name == name]
    return found[:1] if claims()[name].unmeasured else found


def _section(kernel: Kernel, one: Evidence) -> Section:
    key = one.experiment.key
    by_time = one.experiment.measure == TIME
    parts = [_by_busy_cpu(one)] if by_time else [_by_group(one), _by_cpu(one), *_pipelines(one)]
    return Section(
        anchor=anchor(kernel.release, key),
        evidence=one,
        findings=[finding for finding in kernel.findings if finding.figure == key],
        plots=[*(_bars(one, measure) for measure in one.measures), *parts],
        stages=None if by_time else _by_stage(one),
        goals=_goals(one),
        origin=_origin(one),
        notes=list(_notes(one)),
    )


# ---- a bar a mode -------------------------------------------------------------------------


def _bars(one: Evidence, measure: Measure) -> Plot:
    """A measure by point and mode, as a ratio to the baseline or as the number it is."""
    values = {
        _title(one, p): {mode: _plotted(one, p, mode, measure) for mode in one.modes_at(p)}
        for p in one.points
    }
    form, reference = (".2f", 1.0) if measure.is_ratio else (measure.form, None)
    label = f"{one.experiment.baseline} = 1" if measure.is_ratio else one.unit(measure)
    return Plot(
        caption=f"{measure.title}, by {one.experiment.axis}",
        note="Bars are medians; the lines on them reach from the least round to the greatest.",
        address=plots.bars(values, label, form, reference),
        table=_table(one, measure),
    )


def _plotted(one: Evidence, point: str, mode: str, measure: Measure) -> Spread:
    """The ratio or the number, whichever is plotted."""
    if not measure.is_ratio:
        return one.counted(point, mode, measure)
    ratio = one.ratio(point, mode, measure)
    assert ratio  # of instructions, and no packet costs none
    return ratio


def _title(one: Evidence, point: str) -> str:
    return f"{one.experiment.axis}: {point}"


def _table(one: Evidence, measure: Measure) -> Table:
    """The numbers of a measure, and the ratios, a row a point and mode."""
    columns = [
        *(one.experiment.axis, "mode", "rounds", "median", "least", "most"),
        *(f"{measure.title.lower()}, {one.experiment.baseline} = 1", "least to most"),
        *("out of order", "lost", *_MORE[one.experiment.measure]),
    ]
    rows = [
        _cells(one, point, mode, measure) for point in one.points for mode in one.modes_at(point)
    ]
    return Table(f"{measure.title}: {one.unit(measure)}", columns, rows)


# What is known of a window besides, by measure, and how it is told.
_MORE: dict[str, tuple[str, ...]] = {
    INSTRUCTIONS: ("messages sent a second",),
    TIME: ("errors", "messages a second asked for"),
}


def _more(one: Evidence, own: Sequence[Any]) -> list[str]:
    if one.experiment.measure == INSTRUCTIONS:
        return [f"{median(sample.sent_per_second for sample in own):,.0f}"]
    asked = median(sample.asked for sample in own)
    errors = sum(sample.errors for sample in own)
    return [str(errors), f"{asked:,.0f}" if asked else "as many as go"]


def _cells(one: Evidence, point: str, mode: str, measure: Measure) -> list[str]:
    own = samples_of(one.samples(point), mode)
    counted = one.counted(point, mode, measure)
    return [
        *(point, mode, str(len(own))),
        *(f"{x:{measure.form}}" for x in (counted.median, counted.least, counted.greatest)),
        *reports.ratio_cells(one.ratio(point, mode, measure)),
        reports.late(own),
        str(sum(sample.lost for sample in own)),
        *_more(one, own),
    ]


# ---- what a packet's work is made of ----------------------------------------------------------


def work_groups(sample: Sample) -> dict[str, float]:
    """Instructions by group of functions, without those that are no work."""
    return _of_work(sample.groups)


def _of_work(groups: Mapping[str, float]) -> dict[str, float]:
    no_work = (stages.IDLE, stages.WAITING)
    return {name: count for name, count in groups.items() if name not in no_work}


def by_role(work: Sequence[float]) -> dict[str, float]:
    """What the CPUs of NIC, stages and receiver do; of the stages the busiest first."""
    return {role: work[cpu] for role, cpu in _cpus(work).items()}


def _cpus(work: Sequence[float]) -> dict[str, int]:
    """By role the index of the CPU."""
    _, *between, receiver = range(len(work))
    ordered = enumerate(sorted(between, key=lambda cpu: -work[cpu]), 1)
    return {NIC: 0} | {f"{STAGE} {n}": cpu for n, cpu in ordered} | {RECEIVER: receiver}


def groups_of(sample: Sample, role: str) -> dict[str, float]:
    """Instructions by group of functions on the CPU of a role, without those that are no work."""
    return _of_work(sample.cpu_groups[_cpus(sample.work)[role]])


def _by_group(one: Evidence) -> Plot:
    return _stack(
        one,
        work_groups,
        plots.GROUP_COLOURS,
        "Where the instructions go: functions",
        "Means of the rounds. The table has the groups that are in the rest here.",
    )


def _role_colours(cpus: int) -> dict[str, str]:
    """By role, of so many CPUs."""
    between = cpus - 2
    shades = [STAGE_COLOURS[min(n, len(STAGE_COLOURS) - 1)] for n in range(between)]
    stage_colours = {f"{STAGE} {n}": shade for n, shade in enumerate(shades, 1)}
    return {NIC: NIC_COLOUR, **stage_colours, RECEIVER: RECEIVER_COLOUR}


_NUMBERED = (
    "Means of the rounds. The flow's hash decides which CPU gets a stage, so the stages' CPUs"
    " are numbered from the one with the most work on, round by round."
)


def _by_cpu(one: Evidence) -> Plot:
    return _stack(
        one,
        lambda sample: by_role(sample.work),
        _role_colours(len(one.shown[0].sample.work)),
        "Where the instructions go: CPUs",
        _NUMBERED,
    )


def _pipelines(one: Evidence) -> Iterator[Plot]:
    """Of the first point what runs on which CPU, as in the paper's figure 6: a bar a CPU that has
    some work. None of samples that do not tell.
    """
    point = one.points[0]
    samples: list[Sample] = one.samples(point)
    if not all(sample.cpu_groups for sample in samples):
        return
    least = LEAST_SHARE * max(sample.busiest for sample in samples)
    values = {mode: _busy_cpus(one, point, mode, least) for mode in one.modes_at(point)}
    yield Plot(
        f"What runs on which CPU, {_title(one, point)}",
        _NUMBERED,
        plots.stacks(values, "instructions a packet", plots.GROUP_COLOURS),
        Table(
            "Instructions a packet",
            ["mode", "CPU", "functions", ""],
            [
                [mode, role, name, f"{count:,.0f}"]
                for mode, by_cpu in values.items()
                for role, parts in by_cpu.items()
                for name, count in sorted(parts.items(), key=itemgetter(1), reverse=True)
                if count >= reports.LEAST_SHOWN
            ],
            heads=3,
        ),
    )


def _busy_cpus(one: Evidence, point: str, mode: str, least: float) -> dict[str, dict[str, float]]:
    """By role of a CPU its groups of functions, of CPUs with so much work."""
    of_role = {
        role: one.parts(point, mode, partial(groups_of, role=role))
        for role in _cpus(one.samples(point)[0].work)
    }
    return {role: parts for role, parts in of_role.items() if sum(parts.values()) >= least}


def _by_busy_cpu(one: Evidence) -> Plot:
    return _stack(
        one,
        lambda sample: by_role(sample.busy),
        _role_colours(len(one.shown[0].sample.busy)),
        "Which CPUs are busy",
        _NUMBERED,
        "percent of one CPU",
    )


def _stack(
    one: Evidence,
    of: Callable[[Any], dict[str, float]],
    colours: Mapping[str, str],
    caption: str,
    note: str,
    unit: str = "instructions a packet",
) -> Plot:
    """Work by its parts; in the table a row a point and part, a column a mode."""
    values = {p: {mode: one.parts(p, mode, of) for mode in one.modes_at(p)} for p in one.points}
    names = dict.fromkeys(n for own in values.values() for parts in own.values() for n in parts)
    rows = [
        [point, name, *(_part(by_mode.get(mode), name) for mode in one.modes)]
        for point, by_mode in values.items()
        for name in names
    ]
    return Plot(
        caption,
        note,
        plots.stacks({_title(one, p): own for p, own in values.items()}, unit, colours),
        Table(f"{unit[0].upper()}{unit[1:]}", [one.experiment.axis, "", *one.modes], rows),
    )


def _part(parts: Mapping[str, float] | None, name: str) -> str:
    """One of the parts that a mode has; "-" for a mode that was not measured."""
    return "-" if parts is None else f"{parts.get(name, 0.0):,.0f}"


def _by_stage(one: Evidence) -> Table | None:
    """A row a point and mode, of those that tell."""
    rows = [
        [point.label, *row]
        for point in one.experiment.points
        for row in reports.stage_rows(one.samples(point.label), point.load)
    ]
    columns = [one.experiment.axis, "mode", *reports.STAGES]
    return Table(reports.BY_STAGE, columns, rows) if rows else None


def _goals(one: Evidence) -> Table | None:
    """A row a goal, for a figure that has some."""
    rows = [(outcome.goal, outcome.said, outcome.told) for outcome in one.goals]
    caption = "Speed beside this project's goals"
    return Table(caption, ("goal", "measured here", ""), rows, heads=1) if rows else None


# ---- where numbers come from --------------------------------------------------------------------

_WINDOW = {
    INSTRUCTIONS: {"cpus": "emulated CPUs", "packets": "packets a window"},
    TIME: {
        "cpus": "CPUs used",
        "host_cpus": "CPUs of the machine",
        "accel": "accelerator",
        "seconds": "seconds a window",
    },
}


def _origin(one: Evidence) -> Table:
    """A row for what was measured by the same command at the same time."""
    told = {
        **{"kernel": "kernel", "commit": "commit", "host": "machine", "hardware": "hardware"},
        "qemu": "QEMU",
        **_WINDOW[one.experiment.measure],
        **{"started": "started", "command": "command"},
    }
    # Real hosts have no QEMU, and samples of before do not tell all.
    told = {name: title for name, title in told.items() if _is_told(one, name)}
    points: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for row in one.shown:
        points[tuple(str(row.context.get(name, "")) for name in told)][row.point] = None
    return Table(
        "Where these numbers come from",
        ["points", *told.values()],
        [[", ".join(own), *context] for context, own in points.items()],
        heads=1,
    )


def _is_told(one: Evidence, name: str) -> bool:
    return any(row.context.get(name) for row in one.shown)


def _notes(one: Evidence) -> Iterator[str]:
    """What the reader must know of a packet, and of the choice of samples."""
    experiment = one.experiment
    if experiment.about:
        yield experiment.about
    if writes := {p.load.size for p in experiment.points if isinstance(p.load, TcpLoad)}:
        sizes = " or ".join(map(str, sorted(writes)))
        yield f"By TCP; what is called a packet here is a write of {sizes} bytes."
    by_time = experiment.measure == TIME
    if by_time and not all(timed.is_counted(point.load) for point in experiment.points):
        yield (
            "By TCP, lost are segments that clients sent again; what came after a lost one counts"
            " as out of order, too."
        )
    if by_time and not timed_reports.is_ordered(row.sample for row in one.shown):
        yield (
            "Out of order: - is where nobody looked at all messages. Of those that sockperf sends"
            " by UDP only answers are numbered, one for up to a hundred."
        )
    missing = [point.label for point in experiment.points if point.label not in one.points]
    if missing:
        yield f"Not measured: {experiment.axis} {'; '.join(missing)}."
    fewer = {p: own for p in one.points if (own := one.modes_at(p)) != one.modes}
    if fewer:
        told = "; ".join(f"{experiment.axis} {p}: {', '.join(own)}" for p, own in fewer.items())
        yield f"Not measured in all of these modes, but in: {told}."
    if by_time and (why := timed.trouble(one.shown[0].context)):
        yield f"No result on the paper's claims: {why}."
    if selection.is_hurried(one.shown):
        yield "A quick run: short windows."
    if short := list(_cut_short(one)):
        yield f"Cut short: {', '.join(short)}."
    if uncertain := list(_uncertain(one)):
        yield f"Uncertain by so much (standard error of the ratio): {'; '.join(uncertain)}."
    if differences := _differences(one):
        where, most = max(differences.items(), key=itemgetter(1))
        yield f"Measured twice: the medians of both agree within {most:.1%}, worst at {where}."
    if hidden := len(one.rows) - len(one.shown):
        yield (
            f"{hidden} more samples are not shown: of another commit, of points that were measured"
            f" again, or of rounds that were cut short. They are in {CSV}."
        )


def _uncertain(one: Evidence) -> Iterator[str]:
    """Modes whose ratios waver too much from round to round to be told apart."""
    for point in one.experiment.points:
        of = _compared(one, point)
        modes = rig.wavering(one.samples(point.label), one.experiment.baseline, of)
        if modes:
            listed = ", ".join(f"{mode} {part:.0%}" for mode, part in modes.items())
            yield f"{one.experiment.axis} {point.label}: {listed}"


def _compared(one: Evidence, point: Point) -> rig.Compared:
    """What modes are compared by."""
    return compared(point.load) if one.experiment.measure == INSTRUCTIONS else rig.COMPARED


def _differences(one: Evidence) -> dict[str, float]:
    """By point and mode how far a second attempt's median is from the one that is shown, as a part
    of that.
    """
    again = selection.repeated(one.experiment, one.rows, one.shown)
    found = {}
    for point in one.experiment.points:
        second = [row.sample for row in again.get(point.label, ())]
        for mode in reports.modes_of(second):
            medians = [
                median(map(_compared(one, point), samples_of(samples, mode)))
                for samples in (one.samples(point.label), second)
            ]
            where = f"{one.experiment.axis} {point.label}, {mode}"
            found[where] = abs(medians[1] / medians[0] - 1)
    return found


def _cut_short(one: Evidence) -> Iterator[str]:
    """Points with fewer rounds than others."""
    rounds = {p: len({sample.round for sample in one.samples(p)}) for p in one.points}
    most = max(rounds.values())
    for point, own in rounds.items():
        if own < most:
            yield f"{one.experiment.axis} {point} has {own} of {most} rounds"
