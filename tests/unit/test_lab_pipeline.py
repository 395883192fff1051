# SPDX-License-Identifier: GPL-2.0-only
"""The simulated pipeline: nothing is lost uncounted, nothing overtakes, and times are right."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import FalconError
from harness.lab import pipeline
from harness.lab.pipeline import Falcon, Simulation, Word
from harness.lab.scenario import Cpus, Outcome, Scenario, StageCosts
from harness.overlay.modes import MODES

COSTS = StageCosts(nic=1200, outer=1700, bridge=1500, inner=1400, app=1300)
IPS = 1e9
FALCON = [mode.name for mode in MODES.values() if mode.falcon]


def simulate(scenario: Scenario, costs: StageCosts = COSTS) -> Outcome:
    return Simulation(costs, scenario).run()


def scenario(mode: str, load: float, cpus: Cpus, packets: int = 2000, **other) -> Scenario:
    """``load``: the share of all CPUs that the packets would take."""
    rate = load * len(cpus.all) * IPS / COSTS.total
    return Scenario(mode=mode, rate=rate, cpus=cpus, ips=IPS, seconds=packets / rate, **other)


def cpu_ids(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 7), min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def scenarios(draw) -> Scenario:
    """Any mode, CPUs that do one thing or several, from idle to three times too much."""
    cpus = Cpus(draw(cpu_ids(3)), draw(cpu_ids(6)), draw(cpu_ids(3)))
    asked = scenario(
        draw(st.sampled_from(list(MODES))),
        draw(st.floats(0.05, 3)),
        cpus,
        packets=1500,
        flows=draw(st.integers(1, 12)),
        containers=draw(st.integers(1, 4)),
        steady=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )
    return replace(asked, interval=asked.seconds / draw(st.integers(2, 60)))


# ---- packets ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(scenarios())
def test_every_packet_is_accounted_for_and_in_order(asked):
    out = simulate(asked)
    assert out.sent > 500
    assert out.sent == out.delivered + out.dropped.total() + out.in_flight
    assert out.out_of_order == 0
    assert all(0 <= busy <= 1.0001 * asked.seconds for busy in out.busy.values())
    assert min(out.latencies, default=1) > 0


# Two flows through four CPUs that are now too busy and now not.
RESTLESS = replace(
    scenario("falcon", 0.52, Cpus.apart(1, 4, 2), packets=8000, flows=2, containers=2),
    interval=0.0004,
)
HEAVY = replace(COSTS, nic=100, app=100)


@pytest.mark.parametrize("mode", FALCON)
def test_flows_that_move_stay_in_order(mode):
    out = simulate(replace(RESTLESS, mode=mode), HEAVY)
    assert out.delivered > 1000
    assert out.out_of_order == 0


def test_and_they_do_move_and_would_overtake_without_the_rule(monkeypatch):
    out = simulate(RESTLESS, HEAVY)
    assert min(out.events[e] for e in (Falcon.FIRST, Falcon.SECOND, Falcon.HELD)) > 20
    monkeypatch.setattr(Word, "drained", property(lambda word: word.claims == 0))
    assert simulate(RESTLESS, HEAVY).out_of_order > 20


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_gives_the_same_numbers(mode):
    asked = scenario(mode, 0.6, Cpus.apart(2, 4, 2), flows=6, containers=2)
    assert simulate(asked) == simulate(asked)
    assert simulate(asked) != simulate(replace(asked, seed=2))


def test_what_is_too_much_is_dropped_where_it_is_too_much():
    cpus = Cpus.apart(1, 4, 1)
    nic = simulate(scenario("falcon", 2, cpus), replace(COSTS, nic=20_000))
    assert set(nic.dropped) == {"NIC's ring"}
    program = simulate(scenario("falcon", 0.5, cpus), replace(COSTS, app=20_000))
    assert set(program.dropped) == {"socket"}
    stage = simulate(scenario("rps-pipe", 0.5, cpus), replace(COSTS, bridge=20_000))
    assert set(stage.dropped) == {"backlog"}


# ---- time ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_cpus_do_the_work_of_the_packets_and_no_other(mode):
    asked = scenario(mode, 0.2, Cpus.apart(2, 5, 3), flows=9, containers=3, steady=True)
    overlay = MODES[mode].overlay
    costs = COSTS if overlay else replace(COSTS, outer=0, bridge=0)
    costs = replace(costs, gro=700) if MODES[mode].gro_split else costs
    out = simulate(asked, costs)
    work = {cpu: busy * IPS / len(out.latencies) for cpu, busy in out.busy.items()}
    assert sum(work.values()) == pytest.approx(costs.total, rel=0.01)
    assert sum(work[cpu] for cpu in asked.cpus.nics) == pytest.approx(costs.nic, rel=0.01)
    assert sum(work[cpu] for cpu in asked.cpus.programs) == pytest.approx(costs.app, rel=0.01)


def test_a_packet_alone_takes_the_time_of_its_stages():
    out = simulate(scenario("falcon", 0.01, Cpus.apart(1, 4, 1), packets=50, steady=True))
    assert out.latencies == pytest.approx([COSTS.total / IPS] * len(out.latencies))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_as_in_an_m_d_1_queue(load):
    """Random arrivals at one server that takes each the same time: Pollaczek and Khinchine."""
    service = 1e-6
    asked = Scenario(
        mode="con",
        rate=load / service,
        cpus=Cpus.apart(1, 1, 1),
        ips=IPS,
        seconds=40_000 * service / load,
    )
    out = simulate(asked, StageCosts(0, 0, 0, 0, app=service * IPS))
    assert fmean(out.latencies) == pytest.approx(service * (1 + load / (2 * (1 - load))), rel=0.05)


def test_stages_of_one_flow_run_side_by_side_with_falcon_and_not_without():
    asked = scenario("con", 0.5, Cpus.apart(1, 8, 1), packets=3000)
    ran = {}
    for mode in ("con", "falcon"):
        out = simulate(replace(asked, mode=mode))
        ran[mode] = sum(out.busy[cpu] > 0 for cpu in asked.cpus.stages)
    assert ran["con"] == 1
    assert ran["falcon"] >= 2


def test_the_gate_closes_when_there_is_no_room_left():
    asked = scenario("falcon", 2, Cpus.apart(1, 2, 1), packets=4000, flows=16)
    asked = replace(asked, interval=asked.seconds / 20)
    assert simulate(asked, HEAVY).events[Falcon.GATED] > 100
    assert simulate(replace(asked, rate=asked.rate / 20)).events[Falcon.GATED] == 0


def test_rss_spreads_flows_over_the_queues():
    asked = scenario("falcon", 0.3, Cpus.apart(4, 4, 4), flows=64, containers=4)
    out = simulate(asked)
    assert all(out.busy[cpu] > 0.1 * fmean(out.busy.values()) for cpu in asked.cpus.nics)
    assert {pipeline.rss_slot(hash_, 4) for hash_ in range(1000)} == {0, 1, 2, 3}


# ---- what cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"rate": 0}, {"ips": -1}, {"flows": 0}, {"containers": 0}, {"mode": "warp"}]
)
def test_scenarios_that_cannot_be(change):
    with pytest.raises(FalconError):
        replace(RESTLESS, **change)


def test_cpus_and_costs_that_cannot_be():
    with pytest.raises(FalconError, match="no set of CPUs"):
        Cpus.apart(0, 1, 1)
    with pytest.raises(FalconError, match="no set of CPUs"):
        Cpus((1, 1), (2,), (3,))
    with pytest.raises(FalconError, match="costs nothing or more"):
        StageCosts(0, 0, 0, 0, 0)
    with pytest.raises(FalconError, match="costs nothing or more"):
        replace(COSTS, inner=-1)
