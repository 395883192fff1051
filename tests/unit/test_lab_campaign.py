# SPDX-License-Identifier: GPL-2.0-only
"""Figures: their definitions, what is kept of them, and the verdicts on the paper's claims."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.lab import campaign, experiments, instructions, verdicts
from harness.lab.campaign import Row, Setup
from harness.lab.experiments import EXPERIMENTS, Experiment
from harness.lab.instructions import Sample
from harness.lab.loads import UdpLoad
from harness.lab.rig import Boot, Config
from harness.overlay.modes import MODES
from harness.report import figures

SETUP = Setup(Path("/bzImage"), "6.12.7", rounds=2)


def sample(
    mode: str, number: int, busiest: float = 1000.0, workers: int = 2, **other: float
) -> Sample:
    values = {"softirqs": 1.0, "stages": 3.0, **other}
    idle = [0.05 * busiest] * (6 - workers)
    return Sample(
        mode=mode,
        round=number,
        delivered=1000,
        lost=0,
        out_of_order=0,
        sent_per_second=4000.0,
        work=(busiest, *idle, *[busiest / 2] * (workers - 1)),
        groups={"VXLAN": busiest},
        **values,
    )


# ---- definitions --------------------------------------------------------------------------


def test_the_papers_claims_are_all_there() -> None:
    assert list(experiments.claims()) == [f"E{n}" for n in range(1, 27)]
    assert all(c.source and c.workload and c.text for c in experiments.claims().values())


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
def test_definitions_are_sound(experiment: Experiment) -> None:
    assert set(experiment.modes) <= set(MODES)
    assert experiment.baseline in experiment.modes
    labels = [point.label for point in experiment.points]
    assert len(labels) == len(set(labels))
    assert experiment.quick and experiment.quick <= set(labels)
    assert set(experiment.claims) <= set(verdicts.JUDGES)
    SETUP.check([experiment])


def test_every_judge_has_an_experiment() -> None:
    asked = {claim for experiment in EXPERIMENTS.values() for claim in experiment.claims}
    assert asked == set(verdicts.JUDGES)


def test_a_figure_that_is_not_there() -> None:
    with pytest.raises(FalconError, match=r"no experiment for figure 99.*10"):
        experiments.named("99")


def test_a_hurried_setup_measures_little() -> None:
    setup = SETUP.hurried()
    chosen = EXPERIMENTS["10"].chosen(setup.quick)
    assert 0 < len(chosen) < len(EXPERIMENTS["10"].points)
    assert setup.rounds == campaign.QUICK_ROUNDS


# ---- what is kept ----------------------------------------------------------------------------

ONE = experiments.single(UdpLoad(), ("con", "falcon"))


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(campaign, "RESULTS", tmp_path)
    monkeypatch.setattr(campaign, "commit", lambda: "abc")
    return tmp_path


class Machines:
    """What was booted and given up, and what was measured; it breaks after so many samples."""

    def __init__(self, breaks_after: int = 100, at: str = ""):
        self.asked: list[Config] = []
        self.booted: list[Boot] = []
        self.ended: list[str] = []
        self.breaks_after, self.at = breaks_after, at

    @contextmanager
    def opened(self, boot: Boot) -> Iterator[Boot]:
        self.booted.append(boot)
        try:
            yield boot
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("in good order")

    def measure(self, config: Config, rig: Boot) -> Iterator[Sample]:
        assert rig == config.boot
        self.asked.append(config)
        given = 0
        for number in range(config.rounds):
            for mode in config.mode_names:
                if given == self.breaks_after and (not self.at or str(config.load) == self.at):
                    raise FalconError("the guest hung")
                given += 1
                yield sample(mode, number)


def measuring(
    monkeypatch: pytest.MonkeyPatch, breaks_after: int = 100, at: str = ""
) -> list[Config]:
    """Every measurement gives samples until it breaks; the configurations asked for."""
    return machines_of(monkeypatch, breaks_after, at).asked


def machines_of(monkeypatch: pytest.MonkeyPatch, breaks_after: int = 100, at: str = "") -> Machines:
    machines = Machines(breaks_after, at)
    monkeypatch.setattr(instructions, "opened", machines.opened)
    monkeypatch.setattr(instructions, "measure", machines.measure)
    return machines


def run(setup: Setup = SETUP, experiment: Experiment = ONE) -> list[Row]:
    ((_, rows),) = campaign.run(setup, [experiment], "./inv bench")
    return rows


def test_samples_survive_a_crash_and_the_point_is_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measuring(monkeypatch, breaks_after=3)
    with pytest.raises(FalconError, match="hung"):
        run()
    assert len(campaign.load("6.12.7", "own")) == 3
    asked = measuring(monkeypatch)
    assert len(run()) == 4
    assert len(asked) == 1


def test_what_is_complete_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measuring(monkeypatch)
    first = run()
    assert run() == first
    assert len(asked) == 1


@pytest.mark.parametrize("change", [{"rounds": 3}, {"packets": 5}, {"smp": 8}])
def test_other_conditions_are_measured_anew(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, int]
) -> None:
    asked = measuring(monkeypatch)
    run()
    run(replace(SETUP, **change))
    assert len(asked) == 2


def test_another_commit_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measuring(monkeypatch)
    run()
    monkeypatch.setattr(campaign, "commit", lambda: "def")
    run()
    assert len(asked) == 2


def test_half_a_line_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring(monkeypatch)
    rows = run()
    path = campaign.file_of("6.12.7", "own")
    path.write_text(path.read_text()[:-20])
    assert campaign.load("6.12.7", "own") == rows[:-1]
    assert "no sample" in capsys.readouterr().err
    assert json.loads(path.read_text().splitlines()[0])["context"]["command"] == "./inv bench"


THREE = replace(
    ONE,
    points=tuple(
        experiments.Point(str(n), UdpLoad(flows=n, containers=1 + n // 3)) for n in (1, 2, 3)
    ),
)


def test_points_share_a_machine_as_long_as_they_need_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines = machines_of(monkeypatch)
    assert len(run(experiment=THREE)) == 12
    assert [boot.plan.containers for boot in machines.booted] == [1, 2]
    assert machines.ended == ["in good order"] * 2


def test_a_point_that_fails_stops_no_other_and_gets_no_machine_that_was_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = machines_of(monkeypatch, breaks_after=3, at=str(THREE.points[0].load))
    measured = campaign.run(SETUP, [THREE], "./inv bench")
    _, rows = next(measured)
    with pytest.raises(FalconError, match=r"1 points could not.*own, 1: the guest hung") as error:
        next(measured)
    assert "\n" not in str(error.value)
    assert [row.point for row in rows] == ["1"] * 3 + ["2"] * 4 + ["3"] * 4
    assert len(machines.booted) == 3 and machines.ended[0] == "FalconError"
    assert "marked as cut short" in capsys.readouterr().err


def test_progress_is_of_all_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring(monkeypatch, breaks_after=1)
    with pytest.raises(FalconError):
        run(experiment=THREE)
    measuring(monkeypatch)
    capsys.readouterr()
    run(experiment=THREE)
    assert re.search(r"all windows: 12 of 12 \(100 %\), .* left", capsys.readouterr().err)


def test_ctrl_c_gives_the_machine_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = machines_of(monkeypatch)

    def interrupted(config: Config, rig: Boot) -> Iterator[Sample]:
        yield sample("con", 0)
        raise KeyboardInterrupt

    monkeypatch.setattr(instructions, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert machines.ended == ["KeyboardInterrupt"]
    assert len(campaign.load("6.12.7", "own")) == 1


# ---- verdicts ---------------------------------------------------------------------------------


def rows_of(figure: str, values: dict[tuple[str, str], dict[str, float]]) -> list[Row]:
    """Two rounds of each (point, mode)."""
    return [
        Row(figure, point, sample(mode, number, **kinds), {"kernel": "6.12.7"})
        for (point, mode), kinds in values.items()
        for number in range(2)
    ]


def states(figure: str, values: dict[tuple[str, str], dict[str, float]]) -> dict[str, str]:
    found = verdicts.verdicts(EXPERIMENTS[figure], rows_of(figure, values))
    return {verdict.claim.name: verdict.state for verdict in found}


def test_softirqs_and_stages_a_packet() -> None:
    host = {("16 B", "host"): {"softirqs": 0.1, "stages": 1.0}}
    as_claimed = host | {("16 B", "con"): {"softirqs": 0.36, "stages": 3.0}}
    assert states("4", as_claimed) == {"E6": "reproduced", "E7": "reproduced"}
    otherwise = host | {("16 B", "con"): {"softirqs": 0.2, "stages": 2.0}}
    assert states("4", otherwise) == {"E6": "not reproduced", "E7": "not reproduced"}


@pytest.mark.parametrize(("falcon", "state"), [(500.0, "reproduced"), (900.0, "not reproduced")])
def test_a_gain_of_up_to_so_much(falcon: float, state: str) -> None:
    values = {("4", "con"): {}, ("4", "falcon"): {"busiest": falcon}}
    assert states("13", values) == {"E16": state}


def test_a_gain_here_does_not_make_up_for_a_loss_there() -> None:
    values = {
        ("1", "con"): {},
        ("1", "falcon"): {"busiest": 1100.0},
        ("4", "con"): {},
        ("4", "falcon"): {"busiest": 500.0},
    }
    assert states("13", values) == {"E16": "not reproduced"}


@pytest.mark.parametrize(
    ("split", "falcon", "state"),
    [
        (600.0, 700.0, "reproduced"),
        (800.0, 700.0, "not reproduced"),
        (600.0, 900.0, "not reproduced"),
    ],
)
def test_splitting_helps_host_and_overlay(split: float, falcon: float, state: str) -> None:
    values = {
        ("1", "host"): {},
        ("1", "host+split"): {"busiest": split},
        ("1", "falcon"): {"busiest": 950.0},
        ("1", "falcon+split"): {"busiest": falcon},
    }
    assert states("13cd", values) == {"E17": state}


def test_the_better_of_split_and_not_is_held_against_host() -> None:
    values = {
        ("16 B", "host"): {"busiest": 800.0},
        ("16 B", "con"): {"busiest": 2000.0},
        ("16 B", "falcon"): {"busiest": 1500.0},
        ("16 B", "falcon+split"): {"busiest": 900.0},
        ("1422 B", "host"): {"busiest": 800.0},
        ("1422 B", "con"): {"busiest": 1200.0},
        ("1422 B", "falcon"): {"busiest": 1500.0},
        ("1422 B", "falcon+split"): {"busiest": 1000.0},
    }
    assert states("10", values) == {"E3": "reproduced", "E10": "reproduced"}


@pytest.mark.parametrize(
    ("udp", "tcp", "state"),
    [
        (2000.0, 1900.0, "reproduced"),
        (1200.0, 1900.0, "not reproduced"),
        (2000.0, 3500.0, "not reproduced"),
    ],
)
def test_a_loss_is_near_the_papers_or_not(udp: float, tcp: float, state: str) -> None:
    values = {
        ("UDP", "host"): {},
        ("UDP", "con"): {"busiest": udp},
        ("TCP", "host"): {},
        ("TCP", "con"): {"busiest": tcp},
    }
    assert states("2", values) == {"E2": state}
    del values["TCP", "con"]
    assert states("2", values) == {"E2": "not measured"}


@pytest.mark.parametrize(("con", "state"), [(4, "reproduced"), (5, "not reproduced")])
def test_an_overlay_uses_as_many_cpus_as_flows(con: int, state: str) -> None:
    """Besides the NIC's and the program's."""
    values = {("2", "con"): {"workers": con}, ("2", "falcon"): {"workers": 6}}
    assert states("5", values) == {"E8": state}


@pytest.mark.parametrize(("con", "falcon"), [(3, 5), (3, 4), (4, 6)])
def test_falcon_uses_two_cpus_more(con: int, falcon: int) -> None:
    values = {
        ("16 B", "host"): {"workers": 3},
        ("16 B", "con"): {"workers": con},
        ("16 B", "falcon"): {"workers": falcon},
    }
    holds = (con, falcon) == (3, 5)
    assert states("11", values) == {"E11": "reproduced" if holds else "not reproduced"}


@pytest.mark.parametrize(
    ("udp", "tcp", "state"),
    [
        (800.0, 850.0, "reproduced"),
        (900.0, 850.0, "not reproduced"),
        (800.0, 900.0, "not reproduced"),
    ],
)
def test_two_choices_cool_a_hotspot(udp: float, tcp: float, state: str) -> None:
    values = {
        ("4 UDP of 16 B", "falcon-static"): {},
        ("4 UDP of 16 B", "falcon"): {"busiest": udp},
        ("8 UDP of 16 B", "falcon-static"): {},
        ("8 UDP of 16 B", "falcon"): {},
        ("4 TCP of 4 KB", "falcon-static"): {},
        ("4 TCP of 4 KB", "falcon"): {"busiest": tcp},
    }
    assert states("16", values) == {"E21": state}
    only_udp = {key: kinds for key, kinds in values.items() if "UDP" in key[0]}
    assert states("16", only_udp) == {"E21": "not measured"}


def test_a_hotspot_is_a_stages_cpu() -> None:
    """Not the NIC's, which has to do with all flows, nor the receiver's."""
    hot, cooled = (replace(sample("falcon", 0), work=(900.0, of, 90.0, 900.0)) for of in (400, 200))
    assert verdicts.stage_capacity(cooled) == 2 * verdicts.stage_capacity(hot)


def test_what_was_not_measured_is_said_and_never_guessed() -> None:
    assert states("19", {("16 B", "con"): {}}) == {"E25": "not measured", "E26": "not measured"}
    assert states("19", {}) == {"E25": "not measured", "E26": "not measured"}


def test_a_figure_is_shown_with_its_claims(capsys: pytest.CaptureFixture[str]) -> None:
    values = {("16 B", "con"): {}, ("16 B", "falcon"): {"busiest": 1050.0, "softirqs": 2.0}}
    figures.show(EXPERIMENTS["19"], rows_of("19", values))
    shown = capsys.readouterr().out
    assert "Figure 19" in shown and "+5.0%" in shown
    assert "not reproduced" in shown and "+100%" in shown
