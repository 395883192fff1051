# SPDX-License-Identifier: GPL-2.0-only
"""Claim beside measurement.

In: the rows of an experiment. Out: a `Verdict` on each of its claims: what was measured
in the claim's own terms, and whether that reproduces it. Throughput is judged by
capacity, the inverse of the instructions on the busiest CPU (`instructions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from harness.lab.campaign import Row
from harness.lab.experiments import Claim, Experiment, claims
from harness.lab.instructions import Sample

# A loss is reproduced if it is so near to the paper's.
NEAR = 0.15
# Of the busiest CPU's work; the clock and interrupts from other CPUs are less.
WORKER_SHARE = 0.1
REPRODUCED, NOT_REPRODUCED, NOT_MEASURED = "reproduced", "not reproduced", "not measured"


@dataclass(frozen=True)
class Verdict:
    """``state`` is one of the three above; ``said``: what was measured, or why nothing was."""

    claim: Claim
    state: str
    said: str


class Measured:
    """The rows of an experiment, asked for medians over rounds."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = rows

    @property
    def points(self) -> list[str]:
        """The points measured, in their order."""
        return list(dict.fromkeys(row.point for row in self._rows))

    def value(self, point: str, mode: str, of: Callable[[Sample], float]) -> float:
        """The median of something; raises `LookupError` where nothing was measured."""
        own = [of(r.sample) for r in self._rows if (r.point, r.sample.mode) == (point, mode)]
        if not own:
            raise LookupError(f"{mode} was not measured at {point}")
        return median(own)

    def ratio(self, point: str, mode: str, baseline: str, of: Callable[[Sample], float]) -> float:
        """``mode`` over ``baseline``, the median over rounds of the ratios within a round."""
        values: dict[tuple[int, str], float] = {
            (r.sample.round, r.sample.mode): of(r.sample) for r in self._rows if r.point == point
        }
        own = [
            value / values[number, baseline]
            for (number, name), value in values.items()
            if name == mode and (number, baseline) in values
        ]
        if not own:
            raise LookupError(f"{mode} and {baseline} were not measured at {point}")
        return median(own)


def capacity(sample: Sample) -> float:
    """Packets for each instruction of the busiest CPU: what throughput is bounded by."""
    return 1 / sample.busiest


def stage_capacity(sample: Sample) -> float:
    """`capacity`, were the NIC's CPU and the receiving program's not to bound it.

    Of several flows a NIC with several queues has several CPUs; here it is one.
    """
    _, *stage_cpus, _ = sample.work
    return 1 / max(stage_cpus)


def total(sample: Sample) -> float:
    return sample.total


def softirqs(sample: Sample) -> float:
    return sample.softirqs


def stages(sample: Sample) -> float:
    return sample.stages


def workers(sample: Sample) -> float:
    """CPUs that do a noteworthy part of the work: NIC, stages, receiving program."""
    return sum(cpu >= WORKER_SHARE * sample.busiest for cpu in sample.work)


Judged = tuple[bool, str]


def _gains(measured: Measured, mode: str, baseline: str) -> dict[str, float]:
    return {p: measured.ratio(p, mode, baseline, capacity) - 1 for p in measured.points}


def _listed(gains: dict[str, float]) -> str:
    return ", ".join(f"{point}: {gain:+.0%}" for point, gain in gains.items())


def _e2(measured: Measured) -> Judged:
    losses = _gains(measured, "con", "host")
    holds = abs(losses["UDP"] + 0.53) <= NEAR and abs(losses["TCP"] + 0.47) <= NEAR
    return holds, f"con against host: {_listed(losses)}"


def _e3(measured: Measured) -> Judged:
    gaps = _gains(measured, "con", "host")
    first, last = measured.points[0], measured.points[-1]
    # Negative: the overlay has less capacity.
    holds = gaps[first] <= min(gaps.values()) + 0.02 and gaps[first] < gaps[last]
    return holds, f"con against host: {_listed(gaps)}"


def _e6(measured: Measured) -> Judged:
    point = measured.points[0]
    host, con = (measured.value(point, mode, stages) for mode in ("host", "con"))
    return abs(host - 1) < 0.25 and abs(con - 3) < 0.5, f"host {host:.1f}, overlay {con:.1f}"


def _e7(measured: Measured) -> Judged:
    ratio = measured.ratio(measured.points[0], "con", "host", softirqs)
    return 2.9 <= ratio <= 4.3, f"overlay {ratio:.1f} times host at {measured.points[0]}"


def _e8(measured: Measured) -> Judged:
    """Of the CPUs that work, one is the NIC's and one runs the program."""
    used = {
        p: [measured.value(p, mode, workers) - 2 for mode in ("con", "falcon")]
        for p in measured.points
    }
    listed = ", ".join(f"{p}: {con:g} and {own:g}" for p, (con, own) in used.items())
    holds = all(con <= int(flows) for flows, (con, _) in used.items())
    return holds, f"CPUs for stages, con and Falcon, by flows: {listed}"


def _e10(measured: Measured) -> Judged:
    best = {
        p: max(measured.ratio(p, m, "host", capacity) for m in ("falcon", "falcon+split"))
        for p in measured.points
    }
    listed = ", ".join(f"{point}: {share:.0%}" for point, share in best.items())
    return max(best.values()) >= 0.87, f"Falcon, the better of split and not, of host: {listed}"


def _e11(measured: Measured) -> Judged:
    point = measured.points[0]
    host, con, own = (measured.value(point, mode, workers) for mode in ("host", "con", "falcon"))
    said = f"CPUs that work: host {host:g}, con {con:g}, Falcon {own:g}"
    return con <= 3 and own == con + 2, said


def _most(mode: str, at_least: float) -> Callable[[Measured], Judged]:
    """A gain over the plain overlay of up to so much, and nowhere a loss."""

    def judge(measured: Measured) -> Judged:
        gains = _gains(measured, mode, "con")
        holds = max(gains.values()) >= at_least and min(gains.values()) > -0.05
        return holds, f"{mode} against con: {_listed(gains)}"

    return judge


def _e17(measured: Measured) -> Judged:
    split = _gains(measured, "host+split", "host")
    best = {
        p: max(measured.ratio(p, m, "host", capacity) for m in ("falcon", "falcon+split")) - 1
        for p in measured.points
    }
    said = f"host+split against host: {_listed(split)}; Falcon's best against host: {_listed(best)}"
    return max(split.values()) >= 0.56 and max(best.values()) >= 0.37, said


def _e21(measured: Measured) -> Judged:
    gains = {
        p: measured.ratio(p, "falcon", "falcon-static", stage_capacity) - 1 for p in measured.points
    }
    best = {
        kind: max((gain for point, gain in gains.items() if kind in point), default=None)
        for kind in ("UDP", "TCP")
    }
    udp, tcp = best.values()
    if udp is None or tcp is None:
        raise LookupError(f"one of UDP and TCP alone was measured: {_listed(gains)}")
    holds = udp >= 0.18 and tcp >= 0.15
    said = (
        f"two choices against static hashing, by the busiest of the stages' CPUs: {_listed(gains)}"
    )
    return holds, said


def _e25(measured: Measured) -> Judged:
    ratio = measured.ratio(measured.points[0], "falcon", "con", total)
    return ratio <= 1.10, f"Falcon {ratio - 1:+.1%} instructions a packet against con"


def _e26(measured: Measured) -> Judged:
    ratio = measured.ratio(measured.points[0], "falcon", "con", softirqs)
    return ratio <= 1.45, f"Falcon {ratio - 1:+.0%} softirqs against con"


JUDGES: dict[str, Callable[[Measured], Judged]] = {
    "E2": _e2,
    "E3": _e3,
    "E6": _e6,
    "E7": _e7,
    "E8": _e8,
    "E10": _e10,
    "E11": _e11,
    "E16": _most("falcon", 0.63),
    "E17": _e17,
    "E18": _most("falcon", 0.27),
    "E21": _e21,
    "E25": _e25,
    "E26": _e26,
}


def verdicts(experiment: Experiment, rows: Sequence[Row]) -> list[Verdict]:
    """A verdict on each claim of the experiment."""
    return [_verdict(claims()[name], Measured(rows)) for name in experiment.claims]


def _verdict(claim: Claim, measured: Measured) -> Verdict:
    try:
        holds, said = JUDGES[claim.name](measured)
    except (LookupError, IndexError) as nothing:
        return Verdict(claim, NOT_MEASURED, str(nothing) or "no samples")
    return Verdict(claim, REPRODUCED if holds else NOT_REPRODUCED, said)
