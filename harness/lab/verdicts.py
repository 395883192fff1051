# SPDX-License-Identifier: GPL-2.0-only
"""Claim beside measurement.

In: the rows of an experiment. Out: a `Verdict` on each of its claims: what was measured
in the claim's own terms, and whether that reproduces it. By instructions, throughput is judged
by capacity, the inverse of those on the busiest CPU (`instructions`); by time, by what
came through a second (`timed`), and only where time is that of real CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.lab import timed
from harness.lab.campaign import Row
from harness.lab.experiments import INSTRUCTIONS, TIME, Claim, Experiment, claims
from harness.lab.instructions import Sample

# A loss is reproduced if it is so near to the paper's.
NEAR = 0.15
# Ratios that differ by less are the same.
SAME = 0.05
# Bytes that the paper calls a packet of Ethernet's.
MTU = 1500
# Of the busiest CPU's work; the clock and interrupts from other CPUs are less.
WORKER_SHARE = 0.1
# Percent that a CPU is busy which has no time left, and from which on Falcon looks for another one.
FULL, BUSY = 95, 85
REPRODUCED, IN_PART, NOT_REPRODUCED = "reproduced", "reproduced in part", "not reproduced"
NOT_MEASURED, NOT_MEASURABLE = "not measured", "not measurable here"
STATES = (REPRODUCED, IN_PART, NOT_REPRODUCED, NOT_MEASURED, NOT_MEASURABLE)


@dataclass(frozen=True)
class Verdict:
    """``state`` is one of `STATES`; ``said``: what was measured, or why nothing was.

    `IN_PART`: what was looked at is as claimed, and the claim says more than that.
    """

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

    def value(self, point: str, mode: str, of: Callable[[Any], float]) -> float:
        """The median of something; raises `LookupError` where nothing was measured."""
        own = [of(r.sample) for r in self._rows if (r.point, r.sample.mode) == (point, mode)]
        if not own:
            raise LookupError(f"{mode} was not measured at {point}")
        return median(own)

    def is_bound_by_program(self, point: str, mode: str = "") -> bool:
        """Has the receiving program's CPU the most work in every window of a point, or of a mode
        there?

        No by time, where work is not counted.
        """
        at = [row.sample for row in self._rows if row.point == point]
        own = [sample for sample in at if mode in ("", sample.mode)]
        return all(isinstance(s, Sample) and s.work[-1] == s.busiest for s in own)

    def ratio(self, point: str, mode: str, baseline: str, of: Callable[[Any], float]) -> float:
        """``mode`` over ``baseline``, the median over rounds of the ratios within a round."""
        values: dict[tuple[int, str], float] = {
            (r.sample.round, r.sample.mode): of(r.sample) for r in self._rows if r.point == point
        }
        own = [
            value / values[number, baseline]
            for (number, name), value in values.items()
            if name == mode and values.get((number, baseline))
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
    return 1 / sample.busiest_stage


def total(sample: Sample) -> float:
    return sample.total


def softirqs(sample: Sample) -> float:
    return sample.softirqs


def stages(sample: Any) -> float:
    """How often the stack receives a packet."""
    found: float | None = sample.stages
    if found is None:
        raise LookupError("how often a packet was received was not counted")
    return found


def workers(sample: Any) -> float:
    """CPUs that do a noteworthy part of the work: NIC, stages, receiving program."""
    each = sample.work if isinstance(sample, Sample) else sample.busy
    return sum(cpu >= WORKER_SHARE * max(each) for cpu in each)


def throughput(sample: Any) -> float:
    """Packets for each instruction that binds, or messages a second: more is better."""
    return capacity(sample) if isinstance(sample, Sample) else sample.rate


def all_work(sample: Any) -> float:
    """What all CPUs together do: instructions a packet, or percent of one CPU."""
    return total(sample) if isinstance(sample, Sample) else sample.cpus


def nic_busy(sample: timed.Sample) -> float:
    """Percent of the NIC's CPU."""
    return sample.busy[0]


def receiver_busy(sample: timed.Sample) -> float:
    """Percent of the CPU that the receiving program has for itself."""
    return sample.busy[-1]


def busiest_stage(sample: timed.Sample) -> float:
    """Percent of the busiest of the stages' CPUs."""
    return max(sample.busy[1:-1])


def latency(name: str) -> Callable[[timed.Sample], float]:
    """One of the `Latencies`, in microseconds."""

    def of(sample: timed.Sample) -> float:
        if sample.latency is None:
            raise LookupError("nothing was answered, so there is no latency")
        found: float = getattr(sample.latency, name)
        return found

    return of


Judged = tuple[bool, str]


def _gains(measured: Measured, mode: str, baseline: str) -> dict[str, float]:
    return {p: measured.ratio(p, mode, baseline, throughput) - 1 for p in measured.points}


def _better(measured: Measured, baseline: str) -> dict[str, float]:
    """The gain of Falcon over a mode, with the NIC split or not, whichever is better."""
    own = [_gains(measured, mode, baseline) for mode in ("falcon", "falcon+split")]
    return {point: max(gains[point] for gains in own) for point in measured.points}


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
    is_largest = gaps[first] <= min(gaps.values()) + 0.02 and gaps[first] < gaps[last]
    return is_largest and max(gaps.values()) < -SAME, f"con against host: {_listed(gaps)}"


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


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{point}: {share:.0%}" for point, share in shares.items())


def _e10(measured: Measured) -> Judged:
    """Up to so much of host, and less than host where a message is smaller than an MTU."""
    best = {point: 1 + gain for point, gain in _better(measured, "host").items()}
    small = [share for point, share in best.items() if int(point.split()[0]) < MTU]
    if not small:
        raise LookupError(f"no size below {MTU} B was measured: {_shares(best)}")
    said = f"Falcon, the better of split and not, of host: {_shares(best)}"
    if bound := [point for point in best if measured.is_bound_by_program(point)]:
        said += f"; the receiving program bounds every mode at {', '.join(bound)}"
    return max(best.values()) >= 0.87 and max(small) < 1 - SAME, said


def _e11(measured: Measured) -> Judged:
    point = measured.points[0]
    host, con, own = (measured.value(point, mode, workers) for mode in ("host", "con", "falcon"))
    bound = [mode for mode in ("host", "falcon") if measured.is_bound_by_program(point, mode)]
    said = (
        f"CPUs that work: host {host:g}, con {con:g}, Falcon {own:g}; by instructions the receiving"
        f" thread limits {' and '.join(bound) or 'neither host nor falcon'}"
    )
    return con <= 3 and own == con + 2, said


def _of_several(gains: dict[str, float]) -> dict[str, float]:
    """Without the point of one flow."""
    several = {flows: gain for flows, gain in gains.items() if flows != "1"}
    if not several:
        raise LookupError(f"one flow alone was measured: {_listed(gains)}")
    return several


def _flows(measured: Measured) -> Judged:
    """Of several flows a gain of up to so much, nowhere a loss, and so much of host."""
    gains, of_host = (_gains(measured, "falcon", other) for other in ("con", "host"))
    several = _of_several(gains)
    shares = {flows: 1 + gain for flows, gain in _of_several(of_host).items()}
    is_gain = max(several.values()) >= 0.63 and min(gains.values()) > -SAME
    is_like_host = min(shares.values()) >= 0.58 - NEAR and max(shares.values()) <= 0.75 + NEAR
    said = f"falcon against con: {_listed(gains)}; of host: {_shares(shares)}"
    return is_gain and is_like_host, said


def _e16(measured: Measured) -> Judged:
    """The paper's one flow is as fast as its client, and no client bounds instructions."""
    holds, said = _flows(measured)
    return holds, f"{said}; one flow, which is bound by the paper's client, is not judged"


def _e16_timed(measured: Measured) -> Judged:
    """One flow is as fast as in the stock overlay."""
    holds, said = _flows(measured)
    if "1" not in measured.points:
        return holds, f"{said}; one flow was not measured"
    return holds and _gains(measured, "falcon", "con")["1"] <= SAME, said


def _e17(measured: Measured) -> Judged:
    split = _gains(measured, "host+split", "host")
    best = _better(measured, "host")
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
    """Of several rates the highest is the last."""
    point = measured.points[-1]
    con, host = (measured.ratio(point, "falcon", other, all_work) for other in ("con", "host"))
    said = f"Falcon {con - 1:+.1%} instructions a packet against con, {host - 1:+.1%} against host"
    return con <= 1.10 and host > 1, said


def _e26(measured: Measured) -> Judged:
    ratio = measured.ratio(measured.points[-1], "falcon", "con", softirqs)
    return abs(ratio - 1.446) <= NEAR, f"Falcon {ratio - 1:+.0%} softirqs against con"


# ---- by time ------------------------------------------------------------------------------------


def _e4(measured: Measured) -> Judged:
    losses = _gains(measured, "con", "host")
    one, per_cpu, four = (losses[flows] for flows in ("1", "4", "16"))
    return four < per_cpu < one, f"con against host by flows: {_listed(losses)}"


def _e5(measured: Measured) -> Judged:
    """Up to: in the mean or in the tail."""
    found = {
        p: max(measured.ratio(p, "con", "host", latency(n)) for n in ("mean_us", "p99_us"))
        for p in measured.points
    }
    listed = ", ".join(f"{point}: {ratio:.1f}" for point, ratio in found.items())
    near = {kind: times * (1 - NEAR) for kind, times in (("UDP", 2), ("TCP", 5))}
    holds = all(found[kind] >= times for kind, times in near.items())
    return holds, f"latency of con, host = 1, mean or 99th percentile, the larger: {listed}"


def _e9(measured: Measured) -> Judged:
    busy = {p: measured.value(p, "falcon", nic_busy) for p in measured.points}
    listed = ", ".join(f"{point}: {percent:.0f} %" for point, percent in busy.items())
    heavy = busy["TCP 4 KB"]
    others = [percent for point, percent in busy.items() if point != "TCP 4 KB"]
    if not others:
        raise LookupError(f"TCP of 4 KB alone was measured: {listed}")
    said = f"the NIC's CPU with Falcon: {listed}"
    return heavy >= FULL and max(others) < FULL, said


def _e11_timed(measured: Measured) -> Judged:
    """What limits is the thread whose CPU has no time left."""
    point = measured.points[0]
    host, con, own = (measured.value(point, mode, workers) for mode in ("host", "con", "falcon"))
    busy = {mode: measured.value(point, mode, receiver_busy) for mode in ("host", "falcon")}
    listed = ", ".join(f"{mode}: {percent:.0f} %" for mode, percent in busy.items())
    said = (
        f"CPUs that work: host {host:g}, con {con:g}, Falcon {own:g}; the receiving thread's CPU,"
        f" {listed}"
    )
    return con <= 3 and own == con + 2 and min(busy.values()) >= FULL, said


def _latency_ratios(measured: Measured, point: str, mode: str, base: str) -> dict[str, float]:
    names = {"mean": "mean_us", "p90": "p90_us", "p99": "p99_us", "p99.9": "p999_us"}
    return {told: measured.ratio(point, mode, base, latency(name)) for told, name in names.items()}


def _changes(ratios: dict[str, float]) -> str:
    return _listed({name: ratio - 1 for name, ratio in ratios.items()})


def _e12(measured: Measured) -> Judged:
    """Modest: no loss, and less than in the tail. Large: a half."""
    calm = _latency_ratios(measured, "UDP 16 B, underloaded", "falcon", "con")
    full = _latency_ratios(measured, "UDP 16 B, overloaded", "falcon", "con")
    modest = max(calm["mean"], calm["p90"])
    holds = modest <= 1 + SAME and min(calm["p99"], calm["p99.9"]) < min(calm["mean"], calm["p90"])
    said = f"Falcon against con, underloaded: {_changes(calm)}; overloaded: {_changes(full)}"
    return holds and full["mean"] <= 0.5, said


def _e13(measured: Measured) -> Judged:
    found = _latency_ratios(measured, "TCP 4 KB, underloaded", "falcon+split", "host")
    near = max(found["mean"], found["p90"]) <= 1 + NEAR
    tail = max(found["p99"], found["p99.9"]) > 1 + NEAR
    return near and tail, f"Falcon with the NIC split against host: {_changes(found)}"


def _e14(measured: Measured) -> Judged:
    found = {
        size: _latency_ratios(measured, f"TCP {size}, overloaded", "falcon+split", "host")
        for size in ("16 B", "4 KB")
    }
    listed = "; ".join(f"{size}: {_changes(ratios)}" for size, ratios in found.items())
    holds = any(max(ratios.values()) <= 1 + NEAR for ratios in found.values())
    return holds, f"Falcon with the NIC split against host, {listed}"


def _e15(measured: Measured) -> Judged:
    found = _latency_ratios(measured, "TCP 1 KB, underloaded", "falcon", "con")
    holds = all(abs(found[name] - 1) <= NEAR for name in ("mean", "p90"))
    return holds, f"Falcon against con, TCP of 1 KB: {_changes(found)}"


def _by_containers(measured: Measured, least: int, most: int) -> dict[str, float]:
    """Falcon's gain over the stock overlay, with so many containers."""
    gains = _gains(measured, "falcon", "con")
    return {p: g for p, g in gains.items() if least <= int(p.split()[0]) <= most}


def _e18(measured: Measured) -> Judged:
    """With 6 or 10 containers, where the paper has gains."""
    gains = _by_containers(measured, 6, 10)
    if not gains:
        raise LookupError("neither 6 nor 10 containers were measured")
    holds = max(gains.values()) >= 0.27 and min(gains.values()) > -SAME
    return holds, f"falcon against con, UDP alone: {_listed(gains)}"


def _e18_timed(measured: Measured) -> Judged:
    """With 6 or 10 containers, by both protocols."""
    gains = _by_containers(measured, 6, 10)
    best = {kind: [g for p, g in gains.items() if kind in p] for kind in ("UDP", "TCP")}
    if not all(best.values()):
        raise LookupError(f"not both of UDP and TCP were measured: {_listed(gains)}")
    holds = max(best["UDP"]) >= 0.27 and max(best["TCP"]) >= 0.17
    return holds and min(gains.values()) > -SAME, f"falcon against con: {_listed(gains)}"


def _e19(measured: Measured) -> Judged:
    """Never a loss, and with the most containers no gain."""
    gains = _by_containers(measured, 20, 40)
    full = [gain for point, gain in gains.items() if point.startswith("40 ")]
    if not full:
        raise LookupError(f"40 containers were not measured: {_listed(gains)}")
    holds = min(gains.values()) > -SAME and max(full) < 2 * SAME
    return holds, f"falcon against con: {_listed(gains)}"


def _e20(measured: Measured) -> Judged:
    """Best at 80 to 90 %, at each number of containers that was measured with all thresholds."""
    gains = _gains(measured, "falcon", "con")
    by_load: dict[str, dict[int, float]] = {}
    for point, gain in gains.items():
        containers, threshold = point.split(", ")
        by_load.setdefault(containers, {})[int(threshold.split()[0])] = gain
    whole = [own for own in by_load.values() if {70, 80, 85, 90, 100} <= set(own)]
    if not whole:
        raise LookupError("too few thresholds were measured to compare them")
    holds = (
        all(_best(own) >= max(own.values()) - SAME for own in whole)
        and any(_best(own) > own[70] + SAME for own in whole)
        and any(_best(own) > own[100] + SAME for own in whole)
    )
    return holds, f"falcon against con: {_listed(gains)}"


def _best(gains: dict[int, float]) -> float:
    """Of the thresholds that the paper recommends."""
    return max(gains[percent] for percent in (80, 85, 90))


def _e21_timed(measured: Measured) -> Judged:
    """Of points at which static hashing leaves a CPU too busy; elsewhere both do the same."""
    busy = {p: measured.value(p, "falcon-static", busiest_stage) for p in measured.points}
    listed = ", ".join(f"{point}: {percent:.0f} %" for point, percent in busy.items())
    hot = [point for point, percent in busy.items() if percent >= BUSY]
    if not hot:
        raise LookupError(f"no CPU got busy enough for a second choice: {listed}")
    gains = _gains(measured, "falcon", "falcon-static")
    said = f"two choices against static hashing, whose busiest stage CPU is ({listed}): "
    return max(gains[point] for point in hot) >= 0.18, said + _listed(gains)


_ANALOGUE = "an analogue: nginx and wrk, no Elgg"


def _e22(measured: Measured) -> Judged:
    gains = _better(measured, "con")
    said = f"requests a second, Falcon's best against con: {_listed(gains)} ({_ANALOGUE})"
    return max(gains.values()) >= 3.0, said


def _e23(measured: Measured) -> Judged:
    changes = {
        p: min(measured.ratio(p, m, "con", latency("mean_us")) for m in ("falcon", "falcon+split"))
        - 1
        for p in measured.points
    }
    said = f"mean response time, Falcon's best against con: {_listed(changes)} ({_ANALOGUE})"
    return min(changes.values()) <= -0.63, said


def _e24(measured: Measured) -> Judged:
    one, ten = (_latency_ratios(measured, n, "falcon", "con") for n in ("1", "10"))
    holds = (
        one["p99"] <= 1 + SAME
        and abs(ten["mean"] - (1 - 0.51)) <= NEAR
        and abs(ten["p99"] - (1 - 0.53)) <= NEAR
    )
    told = {"1 client, p99": one["p99"], "10 clients, mean": ten["mean"], "p99": ten["p99"]}
    return holds, f"Falcon against con: {_changes(told)}"


def _e25_timed(measured: Measured) -> Judged:
    changes = {p: measured.ratio(p, "falcon", "con", all_work) - 1 for p in measured.points}
    above = min(measured.ratio(p, "falcon", "host", all_work) for p in measured.points)
    low, high = changes[measured.points[0]], changes[measured.points[-1]]
    if len(changes) < 2:
        raise LookupError(f"one rate alone was measured: {_listed(changes)}")
    said = (
        f"busy CPUs, Falcon against con: {_listed(changes)}; against host {above - 1:+.0%} at least"
    )
    return low <= SAME and high <= 0.10 and above > 1, said


Judge = Callable[[Measured], Judged]
JUDGES: dict[str, dict[str, Judge]] = {
    INSTRUCTIONS: {
        "E2": _e2,
        "E3": _e3,
        "E6": _e6,
        "E7": _e7,
        "E8": _e8,
        "E10": _e10,
        "E11": _e11,
        "E16": _e16,
        "E17": _e17,
        "E18": _e18,
        "E21": _e21,
        "E25": _e25,
        "E26": _e26,
    },
    TIME: {
        "E2": _e2,
        "E3": _e3,
        "E4": _e4,
        "E5": _e5,
        "E6": _e6,
        "E7": _e7,
        "E8": _e8,
        "E9": _e9,
        "E10": _e10,
        "E11": _e11_timed,
        "E12": _e12,
        "E13": _e13,
        "E14": _e14,
        "E15": _e15,
        "E16": _e16_timed,
        "E17": _e17,
        "E18": _e18_timed,
        "E19": _e19,
        "E20": _e20,
        "E21": _e21_timed,
        "E22": _e22,
        "E23": _e23,
        "E24": _e24,
        "E25": _e25_timed,
        "E26": _e26,
    },
}


# What judges do not look at, of claims that say several things.
UNSEEN: dict[str, dict[str, str]] = {
    INSTRUCTIONS: {
        "E11": "what limits by time",
        "E25": "low and high rates, as instructions are counted at one",
    },
    TIME: {
        "E9": "shares of functions, which figure 13cd has for all CPUs together",
        "E21": "TCP, of which a flow has one sender",
        "E23": "the delay, as wrk has no target time",
    },
}


def verdicts(experiment: Experiment, rows: Sequence[Row]) -> list[Verdict]:
    """A verdict on each claim of the experiment."""
    if experiment.measure == TIME and (why := _trouble(rows)):
        return [Verdict(claims()[name], NOT_MEASURABLE, why) for name in experiment.claims]
    if not rows:
        return [Verdict(claims()[name], NOT_MEASURED, "no samples") for name in experiment.claims]
    judges, unseen = JUDGES[experiment.measure], UNSEEN[experiment.measure]
    return [
        _verdict(judges[name], claims()[name], Measured(rows), unseen.get(name, ""))
        for name in experiment.claims
    ]


def _trouble(rows: Sequence[Row]) -> str:
    """Why the time of these rows says nothing."""
    return next(filter(None, (timed.trouble(row.context) for row in rows)), "")


def _verdict(judge: Judge, claim: Claim, measured: Measured, unseen: str) -> Verdict:
    try:
        holds, said = judge(measured)
    except LookupError as nothing:
        # A point's name alone is what is missing of a dictionary.
        return Verdict(claim, NOT_MEASURED, _missing(nothing))
    if unseen:
        said = f"{said}; not looked at: {unseen}"
    as_claimed = IN_PART if unseen else REPRODUCED
    return Verdict(claim, as_claimed if holds else NOT_REPRODUCED, said)


def _missing(nothing: LookupError) -> str:
    if isinstance(nothing, KeyError):
        return f"{nothing.args[0]} was not measured"
    return str(nothing)
