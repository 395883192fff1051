# SPDX-License-Identifier: GPL-2.0-only
"""What was measured of the paper's figures, and what that says to its claims.

In: ``results/bench``. Out: a `Kernel` for each release that was measured, with the numbers
that plots, tables and files show alike, and a `Finding` on each claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean

from harness.errors import FalconError
from harness.lab import campaign, selection, verdicts
from harness.lab.campaign import Row
from harness.lab.experiments import EXPERIMENTS, Experiment, claims
from harness.lab.instructions import Sample
from harness.lab.rig import samples_of
from harness.lab.verdicts import NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, Verdict
from harness.report import instructions
from harness.report.interleaved import Spread

STATES = (REPRODUCED, NOT_REPRODUCED, NOT_MEASURED)


@dataclass(frozen=True)
class Measure:
    """A number of a window.

    ``counted`` is the number itself, in ``unit`` and written as ``form`` says; ``compared``
    is what a ratio is made of. ``is_ratio``: what is plotted is the ratio, not the number.
    """

    name: str
    title: str
    unit: str
    form: str
    counted: Callable[[Sample], float]
    compared: Callable[[Sample], float]
    is_ratio: bool


_BUSIEST = "instructions a packet on the busiest CPU"
_TOTAL = "instructions a packet on all CPUs"
_OF_BUSIEST = attrgetter("busiest")
_SOFTIRQS, _STAGES = "NET_RX softirqs a packet", "times that the stack receives a packet"
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("capacity", "Capacity", _BUSIEST, ",.0f", _OF_BUSIEST, verdicts.capacity, True),
        Measure("total", "Work on all CPUs", _TOTAL, ",.0f", verdicts.total, verdicts.total, True),
        Measure(
            "softirqs", "Softirqs", _SOFTIRQS, ".3f", verdicts.softirqs, verdicts.softirqs, False
        ),
        Measure("stages", "Stages", _STAGES, ".2f", verdicts.stages, verdicts.stages, False),
    )
}
# What is plotted of a figure that is about something else than capacity.
_ABOUT = {"4": ("stages", "softirqs"), "19": ("total", "softirqs")}


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
        return [MEASURES[name] for name in _ABOUT.get(self.experiment.figure, ("capacity",))]

    @property
    def points(self) -> list[str]:
        """The points that are shown, in the experiment's order."""
        return list(dict.fromkeys(row.point for row in self.shown))

    @property
    def modes(self) -> list[str]:
        """The modes, in the order in which modes are always shown."""
        return instructions.modes_of([row.sample for row in self.shown])

    def samples(self, point: str) -> list[Sample]:
        """The samples of a point that are shown."""
        return [row.sample for row in self.shown if row.point == point]

    def counted(self, point: str, mode: str, measure: Measure) -> Spread:
        """A number over the rounds."""
        return Spread.of([measure.counted(s) for s in samples_of(self.samples(point), mode)])

    def ratio(self, point: str, mode: str, measure: Measure) -> Spread:
        """The ratio to the baseline over the rounds, computed within each of them."""
        baseline = self.experiment.baseline
        return instructions.ratios(self.samples(point), mode, baseline, measure.compared)

    def parts(
        self, point: str, mode: str, of: Callable[[Sample], dict[str, float]]
    ) -> dict[str, float]:
        """The parts that ``of`` makes of a packet's work: the means of the rounds, which add up."""
        rounds = [of(sample) for sample in samples_of(self.samples(point), mode)]
        names = dict.fromkeys(name for parts in rounds for name in parts)
        return {name: fmean(parts.get(name, 0.0) for parts in rounds) for name in names}


# ---- what it says to the claims ---------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A verdict on a kernel; ``figure`` is "" where nothing of it is shown."""

    release: str
    figure: str
    verdict: Verdict

    @property
    def state(self) -> str:
        return self.verdict.state


@dataclass(frozen=True)
class Kernel:
    """A kernel release, the evidence on every figure, and a finding on every claim at least."""

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
        return {state: counted[state] for state in STATES}

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
            "no figure of the paper has been measured yet",
            f"run ./inv bench --figure all{f' --kernel {line}' if line else ''}",
        )
    return measured


def _kernel(release: str) -> Kernel:
    figures = {}
    for figure, experiment in EXPERIMENTS.items():
        rows = campaign.load(release, figure)
        figures[figure] = Evidence(experiment, rows, selection.select(experiment, rows))
    return Kernel(release, figures, tuple(_findings(release, figures)))


def _findings(release: str, figures: dict[str, Evidence]) -> Iterator[Finding]:
    """By the order of the claims."""
    judged = {figure: _verdicts(evidence) for figure, evidence in figures.items()}
    for claim in claims().values():
        if claim.unmeasured:
            yield Finding(release, "", Verdict(claim, NOT_MEASURED, claim.unmeasured))
        for figure, found in judged.items():
            shown = figure if figures[figure].shown else ""
            yield from (Finding(release, shown, v) for v in found if v.claim == claim)


def _verdicts(evidence: Evidence) -> list[Verdict]:
    """Those of a figure; if only some of its points were measured, they say so."""
    experiment = evidence.experiment
    if not evidence.shown:
        why = f"figure {experiment.figure}: " + (
            "no round is whole" if evidence.rows else "not measured on this kernel yet"
        )
        return [Verdict(claims()[name], NOT_MEASURED, why) for name in experiment.claims]
    found = verdicts.verdicts(experiment, evidence.shown)
    if len(evidence.points) == len(experiment.points):
        return found
    part = f"{len(evidence.points)} of {len(experiment.points)} points"
    return [Verdict(v.claim, v.state, f"{v.said} ({part})") for v in found]
