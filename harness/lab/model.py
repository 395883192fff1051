# SPDX-License-Identifier: GPL-2.0-only
"""Predictions for more CPUs, flows and containers than can be booted.

In: what stages cost, as measured with one flow (`feed`), and a `Setup`. Out: a `Prediction`
for each mode (`predict`), and a `Check` for each measured point that the model was not fed
with (`check`). What is simulated, and what is not: `harness.lab.pipeline`,
``docs/decisions/0041``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

from harness.console import note
from harness.errors import FalconError
from harness.kernel import series
from harness.lab import campaign, selection, stagecosts
from harness.lab.campaign import Row
from harness.lab.experiments import COUNTED, Point
from harness.lab.instructions import LOST_AT_MOST, Sample
from harness.lab.loads import Load, UdpLoad
from harness.lab.pipeline import Simulation
from harness.lab.scenario import Cpus, Outcome, Scenario, StageCosts
from harness.overlay import modes
from harness.overlay.cpus import CpuPlan

# The figure whose samples of one flow say what stages cost.
FIGURE = "10"
# Packets a run, and how often flows' hashes are drawn.
PACKETS, PACKETS_A_FLOW, DRAWS = 20_000, 100, 5
# The least number of times that a run samples the load; the kernel's interval is for longer ones.
SAMPLES, INTERVAL_S = 20, 0.05
# A capacity is searched to this share of itself, and random arrivals make it uncertain by as
# much; what a run may end with more under way than it began with, as a share of what came.
PRECISION, LEFT_AT_MOST = 0.01, 0.01
# Latency is asked at this share of the least capacity of all modes.
LATENCY_LOAD = 0.8
# A check is of loads that make no CPU busy, as in a measurement: so often, so many packets.
CALM_LOAD, CALM_DRAWS, CALM_PACKETS_A_FLOW = 0.2, 31, 30

Costs = Mapping[str, StageCosts]


# ---- what it is fed with ------------------------------------------------------------------


@dataclass(frozen=True)
class Fed:
    """``costs`` by mode, as measured with messages of ``size`` bytes on Linux ``release``."""

    release: str
    size: int
    costs: Costs

    @property
    def point(self) -> str:
        """The label of the point they are from."""
        return f"{self.size} B"

    def of(self, mode: str) -> StageCosts:
        """The costs in a mode."""
        modes.named(mode)
        if mode not in self.costs:
            raise FalconError(
                f"nothing says what a packet's stages cost in mode {mode}",
                f"figure {FIGURE}, {self.point}, has samples that do for {', '.join(self.costs)}",
                f"take one of these, or measure more rounds: ./inv bench --figure {FIGURE}",
            )
        return self.costs[mode]


def feed(kernel: str, size: int) -> Fed:
    """The costs as measured on the newest release of a kernel line."""
    release = next(iter(campaign.releases(kernel)), "")
    rows = _rows(release, FIGURE) if release else []
    samples = [row.sample for row in rows if row.point == f"{size} B"]
    costs = stagecosts.by_mode(samples)
    if not costs:
        raise FalconError(
            f"the model has nothing to be fed with for Linux {kernel} and {size} B",
            f"results/bench has no samples of figure {FIGURE} that say what a stage costs",
            f"run: ./inv bench --figure {FIGURE}"
            + ("" if kernel == series.DEFAULT else f" --kernel {kernel}"),
        )
    return Fed(release, size, costs)


def _rows(release: str, figure: str) -> list[Row]:
    return selection.select(COUNTED[figure], campaign.load(release, figure))


# ---- predictions --------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """A host to predict: ``ips`` instructions a second on each of its ``cpus``."""

    flows: int
    containers: int
    cpus: Cpus
    ips: float

    def scenario(self, mode: str, rate: float, seed: int) -> Scenario:
        """Long enough for `PACKETS`, and for each flow's hundred."""
        seconds = max(PACKETS, PACKETS_A_FLOW * self.flows) / rate
        return Scenario(
            mode=mode,
            rate=rate,
            cpus=self.cpus,
            ips=self.ips,
            flows=self.flows,
            containers=self.containers,
            seconds=seconds,
            seed=seed,
            interval=min(INTERVAL_S, seconds / SAMPLES),
        )


@dataclass(frozen=True)
class Prediction:
    """``capacities``, packets a second, one a draw of flows' hashes; the ``bound``: what the
    busiest CPU does at the median one. ``p50`` and ``p99`` of the latency, seconds, at ``rate``.
    """

    mode: str
    capacities: tuple[float, ...]
    bound: str
    rate: float
    p50: float
    p99: float


def predict(fed: Fed, setup: Setup, names: Sequence[str]) -> list[Prediction]:
    """What the model says of each mode. The same arguments give the same numbers."""
    costs = {mode: fed.of(mode) for mode in names}
    found = {}
    for mode in names:
        found[mode] = [capacity(costs[mode], setup, mode, seed) for seed in range(DRAWS)]
        note(f"model: {mode}: {median(c.rate for c in found[mode]):,.0f} packets/s")
    rate = LATENCY_LOAD * min(c.rate for draws in found.values() for c in draws)
    return [_prediction(costs[mode], setup, mode, found[mode], rate) for mode in names]


def _prediction(
    costs: StageCosts, setup: Setup, mode: str, draws: Sequence[Capacity], rate: float
) -> Prediction:
    calm = [run(costs, setup.scenario(mode, rate, seed)) for seed in range(DRAWS)]
    percent = quantiles([value for out in calm for value in out.latencies], n=100)
    middle = sorted(draws, key=lambda draw: draw.rate)[len(draws) // 2]
    rates = tuple(draw.rate for draw in draws)
    return Prediction(mode, rates, middle.bound, rate, percent[49], percent[98])


@dataclass(frozen=True)
class Capacity:
    """The highest ``rate``, packets a second; ``bound``: what the CPU does that is busiest then."""

    rate: float
    bound: str


def capacity(costs: StageCosts, setup: Setup, mode: str, seed: int) -> Capacity:
    """The highest rate at which no more than `LOST_AT_MOST` is dropped and no queue only grows.

    That is the paper's rate "before packet drop occurs" (section 6.1).
    """
    low, high, bound = 0.0, _ceiling(costs, setup), ""
    guess = setup.ips / busiest(costs, setup, mode, seed)
    rate, step = min(guess, high) * (1 - PRECISION / 2), PRECISION
    while high - low > 1.01 * PRECISION * high:
        out = run(costs, setup.scenario(mode, rate, seed))
        if _keeps_up(out):
            low, bound, further = rate, setup.cpus.role(out.busiest), rate * (1 + step)
        else:
            high, further = rate, rate * (1 - step)
        # From the guess by longer and longer steps; then half way between the two.
        rate, step = (further if low < further < high else (low + high) / 2), 2 * step
    return Capacity(low, bound)


def _ceiling(costs: StageCosts, setup: Setup) -> float:
    """A rate that no way to place stages could reach."""
    cpus = setup.cpus
    cheapest = max(
        costs.nic / len(cpus.nics), costs.app / len(cpus.programs), costs.total / len(cpus.all)
    )
    return (1 + PRECISION) * setup.ips / cheapest


def _keeps_up(out: Outcome) -> bool:
    few_lost = out.dropped.total() <= LOST_AT_MOST * out.sent
    return few_lost and len(out.latencies) >= (1 - LEFT_AT_MOST) * out.sent_then


def run(costs: StageCosts, scenario: Scenario) -> Outcome:
    """Simulate a scenario."""
    return Simulation(costs, scenario).run()


def busiest(costs: StageCosts, setup: Setup, mode: str, seed: int) -> float:
    """Instructions a packet on the busiest CPU, at a rate that makes none busy."""
    rate = CALM_LOAD * setup.ips / costs.total
    scenario = replace(
        setup.scenario(mode, rate, seed),
        seconds=CALM_PACKETS_A_FLOW * setup.flows / rate,
        steady=True,
    )
    out = run(costs, scenario)
    return out.busy[out.busiest] * setup.ips / len(out.latencies)


# ---- the model against what was measured --------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Instructions a packet on the busiest CPU, ``predicted`` and ``measured``, each for several
    draws of flows' hashes.

    That is the inverse of a capacity, so nothing depends on the speed of CPUs.
    """

    figure: str
    point: str
    mode: str
    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def error(self) -> float:
        """The median of the one over that of the other, less 1."""
        return median(self.predicted) / median(self.measured) - 1


def check(fed: Fed) -> list[Check]:
    """The model against every point measured with several flows of the same messages."""
    found = []
    for figure, experiment in COUNTED.items():
        rows = _rows(fed.release, figure)
        for point in experiment.points:
            if _is_comparable(fed, point):
                own = [row.sample for row in rows if row.point == point.label]
                found += _checks(fed, figure, point, own)
    if not found:
        raise FalconError(
            f"nothing was measured with {fed.size} B on Linux {fed.release} to check against",
            "but one flow, which the model is fed with",
            "run: ./inv bench --figure 13-instructions,14",
        )
    return found


def _is_comparable(fed: Fed, point: Point) -> bool:
    """A model of datagrams knows nothing of TCP, nor of a flow that is hotter than others; and with
    one flow it was fed, whatever the figure.
    """
    load = point.load
    is_like_fed = isinstance(load, UdpLoad) and load.size == fed.size and load.heat == 1
    return is_like_fed and load != UdpLoad(fed.size)


def _checks(fed: Fed, figure: str, point: Point, samples: Sequence[Sample]) -> list[Check]:
    """One for each mode that was measured and has costs."""
    found = []
    for mode, costs in fed.costs.items():
        own = [sample for sample in samples if sample.mode == mode]
        if own:
            setup = as_measured(point.load, len(own[0].work))
            predicted = tuple(busiest(costs, setup, mode, seed) for seed in range(CALM_DRAWS))
            measured = tuple(sample.busiest for sample in own)
            found.append(Check(figure, point.label, mode, predicted, measured))
    return found


def as_measured(load: Load, cpus: int) -> Setup:
    """The host that was measured, with so many CPUs; their speed makes no difference here."""
    plan = CpuPlan.of(tuple(range(cpus)))
    return Setup(load.flows, load.containers, Cpus.of(plan), ips=1e9)
