# SPDX-License-Identifier: GPL-2.0-only
"""Predictions: what they are fed with, capacities that are known, and how far off they are."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import FalconError
from harness.lab import campaign, model, stagecosts
from harness.lab.campaign import Row
from harness.lab.experiments import EXPERIMENTS
from harness.lab.instructions import Sample
from harness.lab.model import Fed, Setup
from harness.lab.scenario import Cpus, StageCosts
from harness.report import predictions

RELEASE = "6.12.117-falcon"
IPS = 1e9
NIC, OUTER, BRIDGE, INNER, APP = COST = (1200.0, 1700.0, 1500.0, 1400.0, 1000.0)
COSTS = StageCosts(*COST)
# CPUs that ran no stage still have timers.
TIMER = 60.0


def sample(mode: str, *work: float, number: int = 0) -> Sample:
    return Sample(mode, number, 1000, 0, 0, 4000.0, 1.0, 3.0, work, {})


def con(scale: float = 1.0) -> Sample:
    return sample("con", NIC, TIMER, scale * (OUTER + BRIDGE + INNER), TIMER, TIMER, APP)


PIPE = sample("rps-pipe", NIC, OUTER, BRIDGE, INNER, TIMER, APP)
FALCON = sample("falcon", NIC + 10, INNER + 12, TIMER, OUTER + 30, BRIDGE + 11, APP)


# ---- what stages cost -----------------------------------------------------------------------


def test_costs_are_those_of_the_cpus():
    costs = stagecosts.by_mode([PIPE, FALCON, con(), sample("host", 900, 5, 800, 5, 5, 700)])
    assert costs["rps-pipe"] == COSTS
    assert costs["falcon"].stages == (NIC + 10, 0, OUTER + 30, BRIDGE + 11, INNER + 12, APP)
    assert costs["falcon-static"] == costs["falcon"]
    assert costs["host"].stages == (900, 0, 0, 0, 800, 700)
    assert costs["con"].stages == pytest.approx(COSTS.stages)


def test_what_is_like_no_other_stage_is_the_gro_of_a_split_nic():
    split = sample("falcon+split", 700, INNER + 12, 1000, OUTER + 30, BRIDGE + 11, APP)
    host = sample("host+split", 700, TIMER, INNER, 900, TIMER, APP)
    costs = stagecosts.by_mode([PIPE, split, host])
    assert costs["falcon+split"].stages == (700, 1000, OUTER + 30, BRIDGE + 11, INNER + 12, APP)
    assert costs["host+split"].stages == (700, 900, 0, 0, INNER, APP)
    met = sample("falcon+split", 700, 1000 + INNER, TIMER, OUTER, BRIDGE, APP)
    assert "falcon+split" not in stagecosts.by_mode([PIPE, met])


def test_a_masks_cpus_tell_the_stage_wherever_they_are():
    turned = sample("rps-pipe", NIC, TIMER, BRIDGE, INNER, OUTER, APP)
    assert stagecosts.by_mode([turned])["rps-pipe"] == COSTS


def test_the_median_of_the_samples_counts():
    samples = [sample("rps-pipe", *(n * cost for cost in COST[:4]), 0.0, APP) for n in (1, 2, 9)]
    assert stagecosts.by_mode(samples)["rps-pipe"].bridge == 2 * BRIDGE


def test_samples_whose_stages_share_cpus_tell_nothing():
    met = sample("falcon", NIC, OUTER, TIMER, BRIDGE + INNER, TIMER, APP)
    assert set(stagecosts.by_mode([PIPE, met])) == {"rps-pipe"}
    assert stagecosts.by_mode([PIPE, met, FALCON])["falcon"].bridge == BRIDGE + 11


def test_falcons_stages_are_not_guessed():
    assert stagecosts.by_mode([FALCON, con()]) == {}


# ---- capacities ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["con", "rps-pipe", "falcon", "falcon+split"])
def test_one_cpu_for_all_can_take_its_speed_over_all_costs(mode):
    setup = Setup(4, 4, Cpus((0,), (0,), (0,)), IPS)
    rate = model.capacity(COSTS, setup, mode, seed=1).rate
    assert rate == pytest.approx(IPS / COSTS.total, rel=0.02)


@pytest.mark.parametrize("slowest", range(5))
def test_a_pipeline_is_as_fast_as_its_slowest_stage(slowest):
    works = [900.0, 1000.0, 1200.0, 1400.0, 1100.0]
    works[slowest] = 1700.0
    setup = Setup(1, 1, Cpus.apart(1, 3, 1), IPS)
    found = model.capacity(StageCosts(*works), setup, "rps-pipe", seed=1)
    assert found.rate == pytest.approx(IPS / 1700, rel=0.02)
    assert found.bound == ("NIC", "stages", "stages", "stages", "program")[slowest]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("stage", ["nic", "gro", "outer", "bridge", "inner", "app"])
def test_every_stage_of_a_split_flow_has_a_cpu_of_its_own(stage, seed):
    costs = replace(replace(COSTS, gro=1000.0), **{stage: 1800.0})
    setup = Setup(1, 1, Cpus.apart(1, 4, 1), IPS)
    assert model.busiest(costs, setup, "falcon+split", seed) == pytest.approx(1800, rel=0.03)


def test_more_nic_queues_and_cpus_take_more(monkeypatch):
    monkeypatch.setattr(model, "PACKETS", 10_000)
    costs = replace(COSTS, nic=4000)
    one, four = (
        model.capacity(costs, Setup(32, 8, Cpus.apart(nics, 8, 8), IPS), "falcon", seed=1)
        for nics in (1, 4)
    )
    assert one.rate == pytest.approx(IPS / 4000, rel=0.05) and one.bound == "NIC"
    assert 2 * one.rate < four.rate < 4.2 * one.rate


# ---- from samples to tables -----------------------------------------------------------------


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(campaign, "RESULTS", tmp_path)
    return tmp_path


# Two stages met on a CPU: it says what the busiest CPU did, and not what a stage costs.
MET = (NIC, OUTER, TIMER, BRIDGE + INNER, TIMER, APP)


def measured(
    figure: str,
    point: str,
    *samples: Sample,
    release: str = RELEASE,
    commit: str = "abc",
    whole: bool = True,
) -> None:
    """Add a round to what was measured; a ``whole`` one has all modes of the figure."""
    given = {one.mode: one for one in samples}
    if whole:
        usual = {"con": con(), "rps-pipe": PIPE, "falcon": FALCON}
        names = EXPERIMENTS[figure].modes
        given = {name: usual.get(name, sample(name, *MET)) for name in names} | given
    context = {"measure": "instructions", "commit": commit, "cpus": 7, "packets": 10_000}
    context["started"] = "now"
    path = campaign.file_of(release, figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for one in given.values():
            file.write(json.dumps(asdict(Row(figure, point, one, context))) + "\n")


def fed() -> Fed:
    measured("10", "16 B", PIPE, FALCON, con())
    return model.feed("6.12", 16)


def test_it_is_fed_with_one_flow_of_the_newest_release_and_commit():
    measured("10", "16 B", sample("rps-pipe", *(9.0,) * 6), release="6.12.9-falcon")
    measured("10", "16 B", sample("rps-pipe", 9, 8, 7, 6, 0, 9), commit="old")
    measured("10", "1024 B", sample("rps-pipe", 9, 8, 7, 6, 0, 9))
    found = fed()
    assert found.release == RELEASE
    assert found.of("rps-pipe") == COSTS


@pytest.mark.parametrize("samples", [(), (con(),)])
def test_without_samples_it_says_what_to_run(samples):
    measured("10", "16 B", *samples, whole=False)
    with pytest.raises(FalconError) as raised:
        model.feed("6.12", 16)
    line = str(raised.value)
    assert "Linux 6.12 and 16 B" in line and line.endswith("run: ./inv bench --figure 10")
    assert "\n" not in line
    with pytest.raises(FalconError, match=r"for Linux 5\.4 .*--figure 10 --kernel 5\.4$"):
        model.feed("5.4", 16)


def test_a_mode_that_nothing_is_known_of():
    with pytest.raises(FalconError, match=r"mode falcon\+split.*for .*rps-pipe, con, falcon;"):
        fed().of("falcon+split")
    with pytest.raises(FalconError, match="there is no mode warp"):
        fed().of("warp")


def test_the_error_is_that_of_the_model():
    """The stage CPU of two flows that met does a quarter more than their costs say; in most of the
    model's draws they part.
    """
    found = fed()
    measured("13", "2", con(1.25), PIPE)
    errors = {check.mode: check.error for check in model.check(found)}
    assert set(errors) == {"con", "rps-pipe", "falcon"}
    assert errors["con"] == pytest.approx(0.5 / 1.25 - 1, abs=0.005)


def test_points_it_was_fed_with_are_no_check_nor_are_other_messages_and_protocols():
    found = fed()
    measured("13cd", "1", con())
    measured("10", "1024 B", con())
    for figure, point in (("4", "16 B"), ("13", "1"), ("16", "4 UDP of 16 B"), ("19", "16 B")):
        measured(figure, point, con())  # the same one flow, and one that is hot
    with pytest.raises(FalconError, match=r"nothing was measured with 16 B.*13-instructions,14"):
        model.check(found)
    measured("14", "2", con())
    assert {(check.figure, check.point) for check in model.check(found)} == {("14", "2")}


def test_flows_that_part_leave_the_busiest_cpu_less():
    """Eight flows over four CPUs: as much as one CPU has of one flow if all were to meet."""
    setup = Setup(8, 1, Cpus.apart(1, 4, 1), IPS)
    works = [model.busiest(COSTS, setup, "con", seed) for seed in range(10)]
    stages = OUTER + BRIDGE + INNER
    assert all(stages / 4 - 1 <= work <= stages + 1 for work in works)
    assert min(works) < 0.7 * stages


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "PACKETS", 2000)
    monkeypatch.setattr(model, "DRAWS", 2)


SETUP = Setup(2, 2, Cpus.apart(1, 4, 2), IPS)


@pytest.mark.usefixtures("hurried")
def test_predictions_repeat_and_scale_with_the_speed_of_cpus():
    found = model.predict(fed(), SETUP, ["falcon"])
    assert found == model.predict(fed(), SETUP, ["falcon"])
    faster = model.predict(fed(), replace(SETUP, ips=2 * IPS), ["falcon"])
    for slow, fast in zip(found, faster, strict=True):
        assert fast.capacities == pytest.approx([2 * rate for rate in slow.capacities], rel=0.03)
        assert COSTS.total / IPS < slow.p50 < slow.p99
        assert slow.rate < min(slow.capacities)


@pytest.mark.usefixtures("hurried")
def test_every_table_says_that_it_is_a_model():
    found, text = fed(), Console(record=True, width=80)
    predicted = model.predict(found, SETUP, ["con", "falcon"])
    text.print(predictions.table(predicted, predictions.title(found, SETUP)))
    shown = text.export_text()
    assert "Model, not a measurement: 2 UDP flows of 16 B to 2 containers" in shown
    assert "1e+09" in shown and "assumed" in shown and RELEASE in shown
    assert predictions.remark(predicted).startswith("model:")
    measured("13", "2", con(1.25))
    checks = model.check(found)
    text.print(predictions.check_table(checks, found))
    shown = text.export_text()
    assert "Model against measurement" in shown
    assert "-60%" in shown and "…" not in shown
    assert "at most by -60% (figure 13, 2, con)" in predictions.verdict(checks)
