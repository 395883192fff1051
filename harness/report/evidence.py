# SPDX-License-Identifier: GPL-2.0-only
"""What was measured of the paper's figures, and what that says to its claims.

In: ``results/bench``. Out: a `Kernel` for each release that was measured, with the numbers
that plots, tables and files show alike, and a `Finding` on each claim.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from statistics import fmean
from typing import Any

from harness.console import note
from harness.errors import FalconError
from harness.lab import campaign, experiments, goals, selection, timed, verdicts
from harness.lab.campaign import Row
from harness.lab.experiments import EXPERIMENTS, INSTRUCTIONS, OWN, TIME, Experiment, claims
from harness.lab.goals import Outcome
from harness.lab.rig import LEAST_CPUS, samples_of
from harness.lab.verdicts import NOT_MEASURABLE, NOT_MEASURED, Verdict
from harness.machine import accel
from harness.overlay.modes import MODES
from harness.report import instructions
from harness.report.interleaved import Spread


@dataclass(frozen=True)
class Measure:
    """A number of a window.

    ``counted`` is the number itself, in ``unit`` ("{}": what a load's messages are called) and
    written as ``form`` says; ``compared`` is what a ratio is made of. ``is_ratio``: what is
    plotted is the ratio, not the number. Of a window without such a number it raises
    `LookupError`.
    """

    name: str
    title: str
    unit: str
    form: str
    counted: Callable[[Any], float]
    compared: Callable[[Any], float]
    is_ratio: bool = False


def _named(*measures: Measure) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


def _plain(name: str, title: str, unit: str, form: str, of: Callable[[Any], float]) -> Measure:
    """One that is compared as it is."""
    return Measure(name, title, unit, form, of, of)


def _latency(name: str, title: str) -> Measure:
    return _plain(name, title, "µs", ",.0f", verdicts.latency(f"{name}_us"))


_BUSIEST = "instructions a packet on the busiest CPU"
_TOTAL = "instructions a packet on all CPUs"
_BUSIEST_STAGE = "instructions a packet on the busiest of the stages' CPUs"
_OF_BUSIEST, _OF_STAGE = attrgetter("busiest"), attrgetter("busiest_stage")
_SOFTIRQS, _STAGES = "NET_RX softirqs a packet", "times that the stack receives a packet"
MEASURES = {
    INSTRUCTIONS: _named(
        Measure("capacity", "Capacity", _BUSIEST, ",.0f", _OF_BUSIEST, verdicts.capacity, True),
        Measure(
            *("stage capacity", "Capacity of the stages", _BUSIEST_STAGE, ",.0f"),
            *(_OF_STAGE, verdicts.stage_capacity, True),
        ),
        Measure("total", "Work on all CPUs", _TOTAL, ",.0f", verdicts.total, verdicts.total, True),
        _plain("softirqs", "Softirqs", _SOFTIRQS, ".3f", verdicts.softirqs),
        _plain("stages", "Stages", _STAGES, ".2f", verdicts.stages),
    ),
    TIME: _named(
        _plain("rate", "Throughput", "{} a second", ",.0f", verdicts.throughput),
        _latency("mean", "Mean latency"),
        _latency("p50", "Latency, median"),
        _latency("p90", "Latency, 90th percentile"),
        _latency("p99", "Latency, 99th percentile"),
        _latency("p999", "Latency, 99.9th percentile"),
        _plain("cpus", "Busy CPUs", "percent of one CPU, all together", ",.0f", verdicts.all_work),
        _plain("nic", "The NIC's CPU", "percent busy", ",.0f", verdicts.nic_busy),
        _plain("softirqs", "Softirqs", "NET_RX softirqs a second", ",.0f", verdicts.softirqs),
        _plain("stages", "Stages", _STAGES, ".2f", verdicts.stages),
    ),
}


# ---- the numbers of a figure ----------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """A figure on one kernel: all its rows, and those of them that are shown."""

    experiment: Experiment
    rows: Sequence[Row]
    shown: Sequence[Row]

    @property
    def measures(self) -> list[Measure]:
        """What is plotted of it."""
        return [MEASURES[self.experiment.measure][name] for name in self.experiment.metrics]

    @property
    def known(self) -> list[Measure]:
        """All numbers that every window shown has."""
        return [
            measure
            for measure in MEASURES[self.experiment.measure].values()
            if all(_has(row.sample, measure) for row in self.shown)
        ]

    @property
    def goals(self) -> list[Outcome]:
        """How near Falcon is to this project's goals; none where the figure has none."""
        return goals.outcomes(self.experiment, self.shown)

    def unit(self, measure: Measure) -> str:
        """A measure's, of these loads."""
        return measure.unit.format(self.experiment.points[0].load.unit)

    @property
    def points(self) -> list[str]:
        """The points that are shown, in the experiment's order."""
        return list(dict.fromkeys(row.point for row in self.shown))

    @property
    def modes(self) -> list[str]:
        """The modes, in the order in which modes are always shown."""
        return instructions.modes_of([row.sample for row in self.shown])

    def modes_at(self, point: str) -> list[str]:
        """Those of `modes` that a point has: it may have been measured in fewer than another."""
        return instructions.modes_of(self.samples(point))

    def samples(self, point: str) -> list[Any]:
        """The samples of a point that are shown."""
        return [row.sample for row in self.shown if row.point == point]

    def counted(self, point: str, mode: str, measure: Measure) -> Spread:
        """A number over the rounds."""
        return Spread.of([measure.counted(s) for s in samples_of(self.samples(point), mode)])

    def ratio(self, point: str, mode: str, measure: Measure) -> Spread | None:
        """The ratio to the baseline over the rounds, computed within each of them; None if the
        baseline is 0.
        """
        baseline = self.experiment.baseline
        return instructions.ratios(self.samples(point), mode, baseline, measure.compared)

    def parts(
        self, point: str, mode: str, of: Callable[[Any], dict[str, float]]
    ) -> dict[str, float]:
        """The parts that ``of`` makes of a packet's work: the means of the rounds, which add up."""
        rounds = [of(sample) for sample in samples_of(self.samples(point), mode)]
        names = dict.fromkeys(name for parts in rounds for name in parts)
        return {name: fmean(parts.get(name, 0.0) for parts in rounds) for name in names}


def _has(sample: Any, measure: Measure) -> bool:
    try:
        measure.counted(sample)
    except LookupError:
        return False
    return True


# ---- what it says to the claims ---------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A verdict on a kernel; ``figure``: its experiment's key, "" where nothing is shown of it."""

    release: str
    figure: str
    verdict: Verdict

    @property
    def state(self) -> str:
        return self.verdict.state


@dataclass(frozen=True)
class Kernel:
    """A kernel release, the evidence on every figure and on loads of one's own, by key, and a
    finding on every claim at least.
    """

    release: str
    figures: dict[str, Evidence]
    findings: tuple[Finding, ...]

    @property
    def measured(self) -> list[Evidence]:
        """The figures of which there is something to show."""
        return [evidence for evidence in self.figures.values() if evidence.shown]

    @property
    def counts(self) -> dict[str, int]:
        """How many findings are in each state."""
        counted = Counter(finding.state for finding in self.findings)
        return {state: counted[state] for state in verdicts.STATES}

    def summary(self) -> str:
        """A line with the count of verdicts."""
        states = ", ".join(f"{number} {state}" for state, number in self.counts.items())
        return f"Linux {self.release}: {states}"


def collect(line: str | None = None) -> list[Kernel]:
    """All that was measured, or what was on one kernel line; the newest release first."""
    wanted = campaign.releases(line)
    kernels = [_kernel(release) for release in wanted]
    measured = [kernel for kernel in kernels if kernel.measured]
    if not measured:
        raise FalconError(
            f"there is nothing to report{f' of Linux {line}' if line else ''}",
            "no figure of the paper and no load of one's own has been measured yet",
            f"run ./inv bench --all{f' --kernel {line}' if line else ''}",
        )
    return measured


def _kernel(release: str) -> Kernel:
    figures = {}
    for key, experiment in EXPERIMENTS.items():
        rows = campaign.load(release, key)
        figures[key] = Evidence(experiment, rows, selection.select(experiment, rows))
    figures |= {one.experiment.key: one for one in _own(release)}
    return Kernel(release, figures, tuple(_findings(release, figures)))


def _own(release: str) -> Iterator[Evidence]:
    """Loads of one's own: each is an experiment without claims, whose ratios are to the first of
    the modes that were named with it. Numbered by the order in which they were first measured.
    """
    loads: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for measure, key in ((INSTRUCTIONS, OWN), (TIME, f"{OWN}-{TIME}")):
        for row in campaign.load(release, key):
            if names := row.context.get("modes"):  # samples of before do not tell
                loads[measure, row.point, names[0]].append(row)
    for number, ((measure, label, baseline), rows) in enumerate(loads.items(), 1):
        try:
            load = experiments.load_of(label)
        except FalconError as error:
            note(f"{error}; its samples are left out")
            continue
        named = {mode for row in rows for mode in row.context["modes"]} - {baseline}
        modes = (baseline, *(mode for mode in MODES if mode in named))
        one = experiments.single(load, modes, by_time=measure == TIME)
        one = replace(one, figure=f"{OWN}-{number}")
        yield Evidence(one, rows, selection.select(one, rows))


def _findings(release: str, figures: dict[str, Evidence]) -> Iterator[Finding]:
    """By the order of the claims: what was measured, by one measure or two, or one that nothing
    was.
    """
    judged = {key: _verdicts(evidence) for key, evidence in figures.items()}
    for claim in claims().values():
        own = [
            Finding(release, key if figures[key].shown else "", verdict)
            for key, found in judged.items()
            for verdict in found
            if verdict.claim == claim
        ]
        if shown := [finding for finding in own if finding.figure]:
            yield from shown
        elif own:
            why = "; ".join(finding.verdict.said for finding in own)
            nowhere = all(finding.state == NOT_MEASURABLE for finding in own)
            state = NOT_MEASURABLE if nowhere else NOT_MEASURED
            yield Finding(release, "", Verdict(claim, state, why))
        else:
            yield Finding(release, "", Verdict(claim, NOT_MEASURABLE, claim.unmeasured))


def _verdicts(evidence: Evidence) -> list[Verdict]:
    """Those of a figure; if only some of its points were measured, they say so."""
    experiment = evidence.experiment
    if not evidence.shown:
        state, why = NOT_MEASURED, "not measured on this kernel yet"
        if evidence.rows:
            why = "no round is whole"
        elif experiment.measure == TIME and (trouble := accel.kvm_trouble()):
            state, why = NOT_MEASURABLE, f"time takes KVM or real hosts, and {trouble}"
        elif experiment.measure == TIME and (crowd := timed.crowd(LEAST_CPUS, timed.host_cpus())):
            state, why = NOT_MEASURABLE, f"time takes real CPUs or hosts, and {crowd} at least"
        why = f"{experiment.name}: {why}"
        return [Verdict(claims()[name], state, why) for name in experiment.claims]
    found = verdicts.verdicts(experiment, evidence.shown)
    # All have the same reason, or none.
    if any(verdict.state == NOT_MEASURABLE for verdict in found):
        return found
    if len(evidence.points) == len(experiment.points):
        return found
    part = f"{len(evidence.points)} of {len(experiment.points)} points"
    return [Verdict(v.claim, v.state, f"{v.said} ({part})") for v in found]
