# SPDX-License-Identifier: GPL-2.0-only
"""Figures: their definitions, what is kept of them, and the verdicts on the paper's claims."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import FalconError
from harness.lab import campaign, experiments, goals, instructions, selection, timed, verdicts
from harness.lab.campaign import Row, Setup
from harness.lab.experiments import COUNTED, EXPERIMENTS, INSTRUCTIONS, TIME, TIMED, Experiment
from harness.lab.instructions import Sample
from harness.lab.loads import MemcachedLoad, TcpLoad, UdpLoad
from harness.lab.pair import Facts, Pair, Site, Wire
from harness.lab.rig import Boot, Config
from harness.machine import LocalMachine, accel, hardware
from harness.overlay.modes import MODES
from harness.report import figures
from harness.report.evidence import MEASURES
from harness.workload.latency import Latencies

SETUP = Setup(Path("/bzImage"), "6.12.7", rounds=2, kvm_kernel=Path("/kvm/bzImage"))
STARTED = "2025-11-26T08:00:00+00:00"
HERE = {"accel": "kvm", "cpus": 7, "host_cpus": 8}
NO_KVM = "there is no /dev/kvm"


@pytest.fixture(autouse=True)
def kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works, and each virtual CPU has a real one."""
    monkeypatch.setattr(accel, "kvm_trouble", lambda: "")
    monkeypatch.setattr(timed, "host_cpus", lambda: HERE["host_cpus"])


@pytest.fixture
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "kvm_trouble", lambda: NO_KVM)


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
    assert set(experiment.claims) <= set(verdicts.JUDGES[experiment.measure])
    assert experiment.metrics and set(experiment.metrics) <= set(MEASURES[experiment.measure])
    assert all(point.load.unit == experiment.points[0].load.unit for point in experiment.points)
    SETUP.check([experiment])


@pytest.mark.parametrize(("defined", "measure"), [(COUNTED, INSTRUCTIONS), (TIMED, TIME)])
def test_every_judge_has_an_experiment(defined: dict[str, Experiment], measure: str) -> None:
    asked = {claim for experiment in defined.values() for claim in experiment.claims}
    assert asked == set(verdicts.JUDGES[measure])
    assert {experiment.measure for experiment in defined.values()} == {measure}


def test_a_figure_may_have_both_measures() -> None:
    assert experiments.named("14") == (COUNTED["14"], TIMED["14-time"])
    assert experiments.named("13-time") == (TIMED["13-time"],)
    assert experiments.named("12") == (TIMED["12-time"],)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("2", ["2", "2-time", "2c-time", "2d-time"]),
        ("2c", ["2c-time"]),
        ("9", ["9a-time"]),
        ("13", ["13", "13cd", "13-time", "13cd-time"]),
        ("13cd", ["13cd", "13cd-time"]),
        ("13-instructions", ["13"]),
        ("13cd-time", ["13cd-time"]),
    ],
)
def test_a_figure_has_its_parts(name: str, keys: list[str]) -> None:
    assert [experiment.key for experiment in experiments.named(name)] == keys


@pytest.mark.parametrize(
    ("load", "measure"), [(UdpLoad(), INSTRUCTIONS), (MemcachedLoad(550), TIME)]
)
def test_a_load_of_ones_own(load: UdpLoad, measure: str) -> None:
    assert experiments.single(load, ("con", "falcon")).measure == measure


@pytest.mark.parametrize(
    "load", [UdpLoad(64, flows=2, containers=2), TcpLoad(4096), MemcachedLoad(550, flows=100)]
)
def test_a_point_tells_its_load(load: UdpLoad) -> None:
    (point,) = experiments.single(load, ("con",)).points
    assert experiments.load_of(point.label) == load
    with pytest.raises(FalconError, match="there is no load 16 B"):
        experiments.load_of("16 B")


def test_loads_by_different_protocols_are_different_points() -> None:
    """Or the one was said to be measured when the other was."""
    points = [experiments.single(load(64), ("con",)).points for load in (UdpLoad, TcpLoad)]
    assert points[0][0].label != points[1][0].label


def test_a_figure_that_is_not_there() -> None:
    with pytest.raises(FalconError, match=r"no experiment for figure 99.*10.*18"):
        experiments.named("99")
    with pytest.raises(FalconError, match="no experiment for figure 1: there"):
        experiments.named("1")  # is not the beginning of 10


def test_a_hurried_setup_measures_little() -> None:
    setup = SETUP.hurried()
    chosen = EXPERIMENTS["10"].chosen(setup.quick)
    assert 0 < len(chosen) < len(EXPERIMENTS["10"].points)
    assert setup.rounds == campaign.QUICK_ROUNDS
    assert setup.seconds == campaign.QUICK_SECONDS


# ---- what can be measured here --------------------------------------------------------------

BOTH = [COUNTED["13"], TIMED["12-time"], TIMED["18-time"]]


def test_with_kvm_everything_can_be_measured() -> None:
    assert campaign.measurable(SETUP, BOTH) == (BOTH, [])


def test_without_kvm_figures_by_time_are_named_once_with_the_reason(no_kvm: None) -> None:
    found, lines = campaign.measurable(SETUP, BOTH)
    assert found == [COUNTED["13"]]
    assert lines == [
        f"figures 12, 18, by time, are not measurable here: time takes KVM, and {NO_KVM};"
        " --accel tcg emulates it, without verdicts"
    ]


def test_emulated_time_is_measured_if_it_is_asked_for(no_kvm: None) -> None:
    setup = replace(SETUP, accel="tcg")
    assert campaign.measurable(setup, BOTH) == (BOTH, [])
    config = setup.config(BOTH[1], BOTH[1].points[0])
    assert (config.kernel, config.boot.accel) == (Path("/bzImage"), "tcg")
    config = replace(SETUP, accel="kvm").config
    with pytest.raises(FalconError, match="KVM can't be used"):
        config(BOTH[1], BOTH[1].points[0])


@pytest.mark.parametrize(("real", "todo"), [(4, ""), (6, "--smp 6 has fewer; ")])
def test_with_too_few_cpus_figures_by_time_are_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, real: int, todo: str
) -> None:
    """And not measured for hours, for no verdict."""
    monkeypatch.setattr(timed, "host_cpus", lambda: real)
    found, lines = campaign.measurable(SETUP, BOTH)
    assert found == [COUNTED["13"]]
    assert lines == [
        "figures 12, 18, by time, are not measurable here: time takes real CPUs, and 7 virtual CPUs"
        f" share {real} real ones; {todo}--accel kvm measures it all the same, without verdicts"
    ]
    assert campaign.measurable(replace(SETUP, accel="kvm"), BOTH) == (BOTH, [])
    if todo:
        assert campaign.measurable(replace(SETUP, smp=6), BOTH) == (BOTH, [])


def test_each_measure_has_its_machine() -> None:
    counted, by_time, _ = (SETUP.config(e, e.points[0]) for e in BOTH)
    assert (counted.kernel, counted.boot.accel) == (Path("/bzImage"), "tcg")
    assert (by_time.kernel, by_time.boot.accel) == (Path("/kvm/bzImage"), "kvm")


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tools.find", lambda name: None if name == "memcached" else name)
    found, lines = campaign.measurable(SETUP, BOTH)
    assert found == BOTH[:2]
    assert lines == [
        "figure 18, by time, is not measurable here:"
        " the program memcached is missing; run: apt-get install memcached"
    ]


# ---- on hosts -------------------------------------------------------------------------------


def hosts(has_falcon: bool = False, missing: tuple[str, ...] = ()) -> Pair:
    """Two that were looked at; ``missing`` programs on the client."""
    facts = Facts("6.1.0-18-amd64", "#1 SMP Debian", "x86_64", has_falcon, (), False, (), "an EPYC")
    wire = Wire("10.0.0.2", "eth0", "10.0.0.1", "eth1", 1500, tuple(range(16)))
    sites = (Site("alpha", LocalMachine()), Site("beta", LocalMachine()))
    return Pair(*sites, facts, replace(facts, missing=missing), wire, 7)


def setup_on(pair: Pair) -> Setup:
    return replace(SETUP, hosts=pair, release=pair.release, smp=pair.smp)


def test_a_host_without_falcon_gets_the_modes_that_it_has(no_kvm: None) -> None:
    asked = [COUNTED["13"], *(TIMED[f"{figure}-time"] for figure in ("9a", "12", "15", "18"))]
    found, lines = campaign.measurable(setup_on(hosts()), asked)
    assert {one.figure: one.modes for one in found} == {
        "12": ("host", "con", "rps-pipe"),
        "18": ("con", "rps-pipe"),
    }
    assert lines == [
        "figure 13 is not measurable here: instructions are counted on emulated CPUs; on hosts time"
        " is measured",
        "figure 9a, by time, is not measurable here: alpha has no Falcon, and falcon is the"
        " baseline",
        "figure 15, by time, is not measurable here: alpha has no Falcon to compare con with",
        "alpha: its kernel 6.1.0-18-amd64 has no Falcon; measured are the patch-free modes",
    ]
    found, lines = campaign.measurable(setup_on(hosts(has_falcon=True)), asked[1:])
    assert found == asked[1:] and lines == []


def test_a_program_that_a_host_lacks_is_named_with_the_host() -> None:
    setup = setup_on(hosts(has_falcon=True, missing=("memcached",)))
    found, lines = campaign.measurable(setup, BOTH[1:])
    assert found == [TIMED["12-time"]]
    assert lines == [
        "figure 18, by time, is not measurable here: beta lacks the program memcached;"
        " run there: apt-get install memcached"
    ]


def test_a_load_to_more_containers_than_run_is_told() -> None:
    pair = hosts(has_falcon=True)
    running = replace(pair, containers=2, wire=replace(pair.wire, vni=4097))
    two, three = (
        experiments.single(UdpLoad(16, flows=3, containers=n), ("con", "falcon"), by_time=True)
        for n in (2, 3)
    )
    assert campaign.measurable(setup_on(running), [two]) == ([two], [])
    assert campaign.measurable(setup_on(pair), [three]) == ([three], []), "ours has any number"
    found, (line,) = campaign.measurable(setup_on(running), [three])
    assert not found and line.endswith(
        "alpha runs 2 containers of the overlay 4097, and the load goes to 3"
    )


def test_samples_of_hosts_stand_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From those of virtual machines and of other hosts; and a report shows them."""
    machines = machines_of(monkeypatch)
    monkeypatch.setattr(Pair, "opened", lambda self, boot: machines.opened(boot))
    monkeypatch.setattr(
        timed,
        "measure",
        lambda config, rig: iter([by_time(mode, 0, mean=9.0) for mode in config.mode_names]),
    )
    pair = hosts()
    setup = replace(setup_on(pair), rounds=1, quick=True)
    ((experiment,), _) = campaign.measurable(setup, [TIMED["12-time"]])
    rows = run(setup, experiment)
    context = rows[0].context
    assert (context["server"], context["client"], context["cpus"]) == ("alpha", "beta", 7)
    assert (context["kernel"], context["host_cpus"]) == ("6.1.0-18-amd64", 16)
    assert context["hardware"] == "an EPYC; from an EPYC" and "qemu" not in context
    assert timed.trouble(context) == ""
    assert run(setup, experiment) == rows and len(machines.booted) == 1, "measured before"
    other = replace(pair, client=Site("gamma", LocalMachine()))
    assert run(replace(setup, hosts=other), experiment) != rows
    assert len(machines.booted) == 2
    shown = selection.select(TIMED["12-time"], rows)
    assert shown == rows, "all the modes that this host has"
    figures.show(TIMED["12-time"], rows)
    assert "rps-pipe" in capsys.readouterr().out
    kept = campaign.load(pair.release, "12-time")
    whole = [replace(row, context=row.context | {"modes": list(ALL)}) for row in rows]
    assert selection.select(TIMED["12-time"], whole) == [], "of a host with Falcon some are missing"
    assert len(kept) == 2 * len(rows)


ALL = TIMED["12-time"].modes


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
        had = {before.round for before in config.before}
        for number in range(max(had, default=-1) + 1, config.rounds):
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


class Clock:
    """A time of which all that counts is how it is written."""

    def __init__(self, at: str):
        self.at = at

    def isoformat(self, **_: Any) -> str:
        return self.at


def machines_of(monkeypatch: pytest.MonkeyPatch, breaks_after: int = 100, at: str = "") -> Machines:
    machines = Machines(breaks_after, at)
    monkeypatch.setattr(instructions, "opened", machines.opened)
    monkeypatch.setattr(instructions, "measure", machines.measure)
    return machines


def run(setup: Setup = SETUP, experiment: Experiment = ONE) -> list[Row]:
    ((_, rows),) = campaign.run(setup, [experiment], "./inv bench")
    return rows


def run_at(
    monkeypatch: pytest.MonkeyPatch, at: str, breaks_after: int = 100, **other: Any
) -> tuple[list[Row], list[int]]:
    """What a run that begins at a time gives, and how many samples each of its points, if it is
    measured, had before; no rows of a run that breaks.
    """
    monkeypatch.setattr(campaign, "datetime", SimpleNamespace(now=lambda _: Clock(at)))
    asked = measuring(monkeypatch, breaks_after)
    rows: list[Row] = []
    try:
        rows = run(**other)
    except FalconError as error:
        assert "hung" in str(error)
    return rows, [len(config.before) for config in asked]


def whole_rounds(rows: list[Row]) -> list[tuple[str, int, str]]:
    """When each row that a report shows was measured, its round and its mode."""
    shown = selection.select(ONE, rows)
    return [(row.context["started"], row.sample.round, row.sample.mode) for row in shown]


def test_a_crash_loses_the_round_that_it_came_in_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    three = replace(SETUP, rounds=3)
    assert run_at(monkeypatch, "08:00", 3, setup=three) == ([], [0])
    assert run_at(monkeypatch, "09:00", 3, setup=three) == ([], [2])
    assert len(campaign.load("6.12.7", "own")) == 6, "every sample is kept"
    rows, had = run_at(monkeypatch, "10:00", setup=three)
    assert had == [4]
    # The sample of a round that was cut stands beside none of another boot.
    expected = [
        (at, number, mode)
        for number, at in enumerate(("08:00", "09:00", "10:00"))
        for mode in ONE.modes
    ]
    assert whole_rounds(rows) == expected and len(rows) == 6
    assert whole_rounds(campaign.load("6.12.7", "own")) == expected
    assert run_at(monkeypatch, "11:00", setup=three)[1] == [], "measured before"


@pytest.mark.parametrize(
    ("setup", "modes", "commit"),
    [
        (SETUP, ("con", "falcon"), "def"),
        (SETUP, ("con", "rps-pipe", "falcon"), "abc"),
        (SETUP, ("falcon",), "abc"),
        (replace(SETUP, packets=5), ("con", "falcon"), "abc"),
    ],
)
def test_rounds_of_other_conditions_or_modes_do_not_count(
    monkeypatch: pytest.MonkeyPatch, setup: Setup, modes: tuple[str, ...], commit: str
) -> None:
    run_at(monkeypatch, "08:00", 3)
    monkeypatch.setattr(campaign, "commit", lambda: commit)
    other = replace(ONE, modes=modes, baseline=modes[0])
    rows, had = run_at(monkeypatch, "09:00", setup=setup, experiment=other)
    assert had == [0] and {row.context["started"] for row in rows} == {"09:00"}


def test_a_point_of_which_no_round_is_whole_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    run_at(monkeypatch, "08:00", 1)
    rows, had = run_at(monkeypatch, "09:00")
    assert had == [0] and "goes_on_with" not in rows[0].context
    assert len(whole_rounds(campaign.load("6.12.7", "own"))) == 4


def test_what_is_measured_again_goes_on_with_nothing_but_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = replace(SETUP, again=True)
    run_at(monkeypatch, "08:00", 3)
    assert run_at(monkeypatch, "09:00", 3, setup=again)[1] == [0]
    assert run_at(monkeypatch, "10:00")[1] == [2]
    rows, had = run_at(monkeypatch, "11:00", setup=again)
    assert had == [2] and [at for at, *_ in whole_rounds(rows)] == [*["09:00"] * 2, *["11:00"] * 2]
    kept = campaign.load("6.12.7", "own")
    (second,) = selection.repeated(ONE, kept, rows).values()
    assert [row.context["started"] for row in second] == [*["08:00"] * 2, *["10:00"] * 2]
    assert run_at(monkeypatch, "12:00", setup=again)[1] == [0], "both are complete"


def test_what_is_complete_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measuring(monkeypatch)
    first = run()
    assert run() == first
    assert len(asked) == 1


def test_what_is_complete_is_measured_again_if_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = measuring(monkeypatch)
    run()
    assert len(run(replace(SETUP, again=True))) == 4
    assert len(asked) == 2 and len(campaign.load("6.12.7", "own")) == 8


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


def test_another_image_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same release and commit, as happens while files differ from the commit."""
    asked = measuring(monkeypatch)
    run(replace(SETUP, kernel=Path("/images/6.12-a/bzImage")))
    run(replace(SETUP, kernel=Path("/images/6.12-b/bzImage")))
    run(replace(SETUP, kernel=Path("/images/6.12-b/bzImage")))
    assert len(asked) == 2


def test_the_machine_of_a_number_is_kept_and_another_qemu_counts_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = measuring(monkeypatch)
    monkeypatch.setattr(accel, "qemu_version", lambda: "7.2.22")
    monkeypatch.setattr(hardware, "described", lambda: "AMD EPYC 7B13, 8 CPUs, 31 GiB")
    context = run()[0].context
    assert (context["qemu"], context["hardware"]) == ("7.2.22", "AMD EPYC 7B13, 8 CPUs, 31 GiB")
    monkeypatch.setattr(accel, "qemu_version", lambda: "9.0.0")
    run()
    assert len(asked) == 2


def test_samples_that_do_not_tell_their_machine_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch)
    path, context = campaign.file_of("6.12.7", "own"), run()[0].context
    known = {name: value for name, value in context.items() if name not in ("qemu", "hardware")}
    rows = [replace(row, context=known) for row in campaign.load("6.12.7", "own")]
    path.write_text("".join(f"{row.to_json()}\n" for row in rows))
    assert campaign.load("6.12.7", "own") == rows == selection.select(ONE, rows)


def test_hardware_is_one_line(tmp_path: Path) -> None:
    assert re.fullmatch(r".+, \d+ CPUs, \d+ GiB", hardware.described())
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t: fpu\n" * 2
    )
    (tmp_path / "meminfo").write_text("MemTotal:       32505856 kB\nMemFree: 1 kB\n")
    told = hardware.described(tmp_path)
    assert told.startswith("AMD EPYC 7B13, ") and told.endswith(" CPUs, 31 GiB")


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


def test_a_row_after_half_a_line_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch)
    rows = run()
    path = campaign.file_of("6.12.7", "own")
    path.write_text(path.read_text()[:-20])
    again = run()
    assert again[:2] == rows[:2]
    assert campaign.load("6.12.7", "own") == [*rows[:-1], *again[2:]]
    assert path.read_text().count("\n") == len(rows) + len(again[2:]), "and no line is empty"


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
    with pytest.raises(FalconError, match=r"not be measured: 1: .*own, 1: the guest hung") as error:
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


def test_progress_counts_rounds_that_are_added_and_no_points_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = machines_of(monkeypatch, breaks_after=3, at=str(THREE.points[0].load))
    plain = machines.measure

    def wavering(config: Config, rig: Boot) -> Iterator[Sample]:
        yield from plain(config, rig)
        yield from (sample(mode, config.rounds) for mode in config.mode_names)

    monkeypatch.setattr(instructions, "measure", wavering)
    list_of = campaign.run(SETUP, [THREE], "./inv bench")
    next(list_of)
    told = re.findall(r"(\d+) of (\d+) \(", capsys.readouterr().err)
    # Of 12, one was lost with the first point; the others have a round more, known when it comes.
    assert told[2:4] == [("3", "12"), ("4", "11")]
    assert told[6:9] == [("7", "11"), ("8", "13"), ("9", "13")]
    assert told[-1] == ("15", "15")


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


# ---- samples by time ------------------------------------------------------------------------


def by_time(
    mode: str,
    number: int,
    rate: float = 1000.0,
    mean: float | None = None,
    busy: float = 50.0,
    **other: float,
) -> timed.Sample:
    """``mean`` is of all percentiles, but for those in ``other``; so many ``workers`` are busy."""
    names = ("mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us")
    softirqs, stages = other.pop("softirqs", 100.0), other.pop("stages", None)
    workers, receiver = int(other.pop("workers", 6)), other.pop("receiver", 20.0)
    between = [10.0] * (workers - 2) + [1.0] * (6 - workers)
    between[1] = other.pop("stage", between[1])
    latency = None
    if mean is not None:
        latency = Latencies(**{name: mean for name in names} | other)
    return timed.Sample(
        mode=mode,
        round=number,
        delivered=1000,
        lost=0,
        out_of_order=None if latency else 0,
        unit="messages",
        rate=rate,
        asked=0.0,
        errors=0,
        softirqs=softirqs,
        busy=(busy, *between, receiver),
        latency=latency,
        stages=stages,
    )


@pytest.mark.parametrize("mean", [None, 12.5])
def test_a_sample_by_time_is_kept(mean: float | None) -> None:
    row = Row("12-time", "UDP", by_time("con", 0, mean=mean), {"measure": TIME})
    assert Row.from_json(row.to_json()) == row


def test_a_campaign_by_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = machines_of(monkeypatch)
    monkeypatch.setattr(timed, "opened", machines.opened)
    monkeypatch.setattr(
        timed, "measure", lambda config, rig: iter([by_time("con", 0), by_time("falcon", 0)])
    )
    experiment = experiments.single(MemcachedLoad(550), ("con", "falcon"))
    rows = run(replace(SETUP, rounds=1), experiment)
    assert campaign.load("6.12.7", "own-time") == rows
    context = rows[0].context
    assert {name: context[name] for name in ("measure", "accel", "cpus", "host_cpus")} == {
        "measure": TIME,
        **HERE,
    }
    assert context["seconds"] == SETUP.seconds and "packets" not in context
    assert "1,000 messages/s; all windows: 2 of 2" in capsys.readouterr().err
    assert run(replace(SETUP, rounds=1, accel="kvm"), experiment) == rows, "the same, named"
    figures.show(experiment, rows)
    assert "1,000" in capsys.readouterr().out


# ---- verdicts ---------------------------------------------------------------------------------


def rows_of(
    figure: str, values: dict[tuple[str, str], dict[str, float]], **context: Any
) -> list[Row]:
    """Two rounds of each (point, mode)."""
    made = by_time if EXPERIMENTS[figure].measure == TIME else sample
    return [
        Row(
            figure,
            point,
            made(mode, number, **kinds),
            {"kernel": "6.12.7", "started": STARTED, **HERE, **context},
        )
        for (point, mode), kinds in values.items()
        for number in range(2)
    ]


def states(
    figure: str, values: dict[tuple[str, str], dict[str, float]], **context: Any
) -> dict[str, str]:
    found = verdicts.verdicts(EXPERIMENTS[figure], rows_of(figure, values, **context))
    return {verdict.claim.name: verdict.state for verdict in found}


def test_softirqs_and_stages_a_packet() -> None:
    host = {("16 B", "host"): {"softirqs": 0.1, "stages": 1.0}}
    as_claimed = host | {("16 B", "con"): {"softirqs": 0.36, "stages": 3.0}}
    assert states("4", as_claimed) == {"E6": "reproduced", "E7": "reproduced"}
    otherwise = host | {("16 B", "con"): {"softirqs": 0.2, "stages": 2.0}}
    assert states("4", otherwise) == {"E6": "not reproduced", "E7": "not reproduced"}


@pytest.mark.parametrize(("falcon", "state"), [(500.0, "reproduced"), (900.0, "not reproduced")])
def test_a_gain_of_up_to_so_much(falcon: float, state: str) -> None:
    values = {("4", "con"): {}, ("4", "falcon"): {"busiest": falcon}, ("4", "host"): HOST}
    assert states("13", values) == {"E16": state}


HOST = {"busiest": 350.0}
LIKE_THE_PAPERS_FLOWS: dict[tuple[str, str], dict[str, float]] = {
    **{("1", "con"): {}, ("1", "falcon"): {"busiest": 600.0}, ("1", "host"): HOST},
    **{("4", "con"): {}, ("4", "falcon"): {"busiest": 500.0}, ("4", "host"): HOST},
}


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "reproduced"),
        # A gain here does not make up for a loss there, nor one flow's for those of several.
        ({("1", "falcon"): {"busiest": 1100.0}}, "not reproduced"),
        ({("4", "falcon"): {"busiest": 980.0}}, "not reproduced"),
        ({("4", "host"): {"busiest": 100.0}}, "not reproduced"),
        ({("4", "host"): {"busiest": 600.0}}, "not reproduced"),
    ],
)
def test_several_flows(changed: dict[tuple[str, str], dict[str, float]], state: str) -> None:
    assert states("13", LIKE_THE_PAPERS_FLOWS | changed) == {"E16": state}


def test_one_flow_alone_says_nothing_of_several() -> None:
    one = {key: kinds for key, kinds in LIKE_THE_PAPERS_FLOWS.items() if key[0] == "1"}
    assert states("13", one) == {"E16": "not measured"}


@pytest.mark.parametrize(("one", "state"), [(1020.0, "reproduced"), (1300.0, "not reproduced")])
def test_one_flow_by_time_is_as_fast_as_ever(one: float, state: str) -> None:
    values = {
        **{("1", "con"): {}, ("1", "falcon"): {"rate": one}, ("1", "host"): {"rate": 1100.0}},
        **{("4", "con"): {}, ("4", "falcon"): {"rate": 1700.0}, ("4", "host"): {"rate": 2500.0}},
    }
    assert states("13-time", values) == {"E16": state}


@pytest.mark.parametrize(("six", "state"), [(700.0, "reproduced"), (990.0, "not reproduced")])
def test_containers_by_instructions(six: float, state: str) -> None:
    """Two of them are as one flow is, and 20 are another claim."""
    busiest = {"2": 500.0, "6": six, "10": 1000.0, "20": 1500.0}
    values = {(n, "falcon"): {"busiest": work} for n, work in busiest.items()}
    values |= {(n, "con"): {} for n in busiest}
    assert states("14", values) == {"E18": state}
    few = {key: kinds for key, kinds in values.items() if key[0] in ("2", "20")}
    assert states("14", few) == {"E18": "not measured"}


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


SIZES: dict[tuple[str, str], dict[str, float]] = {
    ("16 B", "host"): {"busiest": 800.0},
    ("16 B", "con"): {"busiest": 2000.0},
    ("16 B", "falcon"): {"busiest": 1500.0},
    ("16 B", "falcon+split"): {"busiest": 1000.0},
    ("4096 B", "host"): {"busiest": 800.0},
    ("4096 B", "con"): {"busiest": 1200.0},
    ("4096 B", "falcon"): {"busiest": 1500.0},
    ("4096 B", "falcon+split"): {"busiest": 900.0},
}


@pytest.mark.parametrize(
    ("changed", "e3", "e10"),
    [
        ({}, "reproduced", "reproduced"),
        ({("4096 B", "con"): {"busiest": 780.0}}, "not reproduced", "reproduced"),
        ({("16 B", "con"): {"busiest": 1000.0}}, "not reproduced", "reproduced"),
        ({("16 B", "falcon+split"): {"busiest": 790.0}}, "reproduced", "not reproduced"),
        ({("4096 B", "falcon+split"): {"busiest": 1000.0}}, "reproduced", "not reproduced"),
    ],
)
def test_by_size_host_is_ahead_of_the_overlay_and_of_falcon(
    changed: dict[tuple[str, str], dict[str, float]], e3: str, e10: str
) -> None:
    """Of Falcon the better of split and not counts."""
    assert states("10", SIZES | changed) == {"E3": e3, "E10": e10}


def test_large_packets_alone_say_nothing_of_small_ones() -> None:
    large = {key: kinds for key, kinds in SIZES.items() if key[0] == "4096 B"}
    assert states("10", large)["E10"] == "not measured"


def test_where_the_program_bounds_every_mode_is_said() -> None:
    rows = [
        replace(row, sample=replace(row.sample, work=row.sample.work[::-1]))
        if row.point == "4096 B"
        else row
        for row in rows_of("10", SIZES)
    ]
    said = {v.claim.name: v.said for v in verdicts.verdicts(EXPERIMENTS["10"], rows)}["E10"]
    assert said.endswith("; the receiving program bounds every mode at 4096 B")


@pytest.mark.parametrize(
    ("busiest", "softirqs", "e25", "e26"),
    [
        (1050.0, 1.45, "reproduced in part", "reproduced"),
        (1200.0, 1.45, "not reproduced", "reproduced"),
        (500.0, 1.45, "not reproduced", "reproduced"),
        (1050.0, 0.65, "reproduced in part", "not reproduced"),
        (1050.0, 1.7, "reproduced in part", "not reproduced"),
    ],
)
def test_what_a_packet_costs(busiest: float, softirqs: float, e25: str, e26: str) -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        ("16 B", "host"): {"busiest": 600.0},
        ("16 B", "con"): {},
        ("16 B", "falcon"): {"busiest": busiest, "softirqs": softirqs},
    }
    assert states("19", values) == {"E25": e25, "E26": e26}


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
    (found,) = verdicts.verdicts(EXPERIMENTS["11"], rows_of("11", values))
    assert found.state == ("reproduced in part" if holds else "not reproduced")
    assert found.said.endswith(
        "by instructions the receiving thread limits neither host nor falcon;"
        " not looked at: what limits by time"
    )


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


@pytest.mark.parametrize("key", EXPERIMENTS)
def test_a_figure_of_which_nothing_came_has_no_verdict(key: str) -> None:
    assert set(states(key, {}).values()) <= {"not measured"}


def test_a_figure_is_shown_with_its_claims(capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        ("16 B", mode): {} for mode in EXPERIMENTS["19"].modes
    }
    values["16 B", "falcon"] = {"busiest": 1050.0, "softirqs": 2.0}
    figures.show(EXPERIMENTS["19"], rows_of("19", values))
    shown = capsys.readouterr().out
    assert "Figure 19" in shown and "+5.0%" in shown
    assert "not reproduced" in shown and "+100%" in shown


def test_what_stages_cost_is_shown_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    works = {"con": (1200.0, 4600.0, 5.0, 5.0, 5.0, 1000.0)}
    pipeline = (1200.0, 1700.0, 1500.0, 1400.0, 5.0, 1000.0)
    names = ("con", "rps-pipe", "falcon")
    rows = rows_of("10", {("16 B", mode): {} for mode in names}, modes=list(names))
    figures.show(EXPERIMENTS["10"], rows)
    assert "BRIDGE" not in capsys.readouterr().out, "nothing tells"
    own = [replace(r.sample, work=works.get(r.sample.mode, pipeline)) for r in rows]
    rows = [replace(row, sample=sample) for row, sample in zip(rows, own, strict=True)]
    figures.show(EXPERIMENTS["10"], rows)
    shown = capsys.readouterr().out.splitlines()
    (heads,) = (line for line in shown if "BRIDGE" in line)
    assert len(heads) <= 80
    told = [
        re.findall(r"[\d,-]+", line) for line in shown if re.match("│ (con|falcon) .*6,800", line)
    ]
    assert told == [["1,200", "-", "1,700", "1,500", "1,400", "1,000", "6,800"]] * 2


def test_a_figure_that_was_cut_short_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    values = {("16 B", mode): {} for mode in EXPERIMENTS["19"].modes}
    whole = rows_of("19", values)
    figures.show(EXPERIMENTS["19"], whole[:-1])
    shown = capsys.readouterr().out
    left_out = len(EXPERIMENTS["19"].modes) - 1
    assert f"Cut short: {left_out} samples of rounds that lack a mode" in shown
    again = [replace(row, context=row.context | {"started": "2025-11-27"}) for row in whole]
    before = [row for row in whole if row.sample.round == 0]
    figures.show(EXPERIMENTS["19"], [*before, *again])
    shown = capsys.readouterr().out
    assert f"Cut short: {len(before)} samples" in shown, "no ratio is of two attempts"
    figures.show(EXPERIMENTS["19"], whole)
    assert "Cut short" not in capsys.readouterr().out


def test_a_figure_by_time_fits_a_terminal_and_its_reason_stands_there_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment = EXPERIMENTS["12-time"]
    values: dict[tuple[str, str], dict[str, float]] = {
        (CALM, mode): {"rate": 11_870.0, "mean": 500_000.0, "p99_us": 1_249_244.0}
        for mode in experiment.modes
    }
    values[CALM, "falcon"] = {"rate": 20_000.0, "mean": 250_000.0}
    figures.show(experiment, rows_of("12-time", values, accel="tcg"))
    shown = capsys.readouterr().out
    assert shown.count("emulated time") == 1 and "Claims E12, E13, E14, E15" in shown
    assert "…" not in shown and max(map(len, shown.splitlines()[1:-1])) <= 80
    row = next(line for line in shown.splitlines() if "│falcon " in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert "late: - is where nobody looked at the order of all messages" in shown
    assert cells[1:] == ["20,000", "250,000", "250,000", "0.50", "0.50 to 0.50", "-", "0"]


# ---- goals -------------------------------------------------------------------------------------


def reached(figure: str, values: dict[tuple[str, str], dict[str, float]]) -> dict[str, str]:
    found = goals.outcomes(EXPERIMENTS[figure], rows_of(figure, values))
    return {outcome.goal: outcome.state for outcome in found}


FAST: dict[tuple[str, str], dict[str, float]] = {
    ("16 B", "con"): {"busiest": 1000.0},
    ("16 B", "rps-pipe"): {"busiest": 550.0},
    ("16 B", "falcon"): {"busiest": 650.0, "workers": 4},
    ("16 B", "falcon+split"): {"busiest": 450.0, "workers": 6},
}


@pytest.mark.parametrize(
    ("mode", "changed", "missed"),
    [
        ("con", {}, []),
        ("falcon", {"busiest": 680.0}, ["capacity of falcon: at least 1.5 times con"]),
        (
            "falcon+split",
            {"busiest": 460.0, "workers": 5},
            [
                "capacity of falcon+split: at least 2.2 times con",
                "capacity of falcon+split: at least 1.2 times rps-pipe",
            ],
        ),
        (
            "falcon",
            {"busiest": 650.0, "workers": 5},
            ["all CPUs of falcon: at most 1.05 times con"],
        ),
    ],
)
def test_goals_of_one_flow(mode: str, changed: dict[str, float], missed: list[str]) -> None:
    found = reached("10", FAST | ({("16 B", mode): changed} if changed else {}))
    assert len(found) == 6
    names = [goal for goal, state in found.items() if state == "missed"]
    assert len(names) == len(missed)
    assert all(name.endswith(end) for name, end in zip(names, missed, strict=True))


def test_goals_of_several_flows_and_of_containers() -> None:
    """Two that differ by what is uncertain are the same; one flow is not asked for."""
    values = {(n, mode): {} for n in ("1", "4", "8") for mode in ("con", "falcon", "falcon+split")}
    values["1", "falcon"] = {"busiest": 1500.0}
    values["4", "falcon"] = {"busiest": 1020.0}
    values["8", "falcon+split"] = {"busiest": 1050.0}
    found = reached("13", values)
    assert found["capacity of falcon: never below con"] == "reached"
    assert found["capacity of falcon+split: never below con"] == "missed"
    assert set(reached("14", {("40", "con"): {}, ("40", "falcon"): {}}).values()) == {
        "not measured",
        "reached",
    }
    assert reached("4", {("16 B", "con"): {}}) == {} == reached("13-time", {("1", "con"): {}})


def test_a_packet_out_of_order_misses_a_goal() -> None:
    rows = rows_of("13", {("4", mode): {} for mode in ("con", "falcon")})
    late = [replace(row, sample=replace(row.sample, out_of_order=3)) for row in rows]
    for mode, state, said in (("con", "reached", "0 of 2,000"), ("falcon", "missed", "6 of 2,000")):
        mixed = [b if b.sample.mode == mode else a for a, b in zip(rows, late, strict=True)]
        order = goals.outcomes(EXPERIMENTS["13"], mixed)[-1]
        assert (order.state, order.said) == (state, said)


def test_goals_are_shown_with_their_figure(capsys: pytest.CaptureFixture[str]) -> None:
    values = {("2", mode): {} for mode in EXPERIMENTS["14"].modes}
    figures.show(EXPERIMENTS["14"], rows_of("14", values))
    shown = capsys.readouterr().out
    assert "goals" in shown and "never below con" in shown and "2: 1.00" in shown
    assert re.search(r"2: 1\.00 +│ reached +│\n│ .*│ \(1 of 4 points\) │", shown)
    assert re.search(r"0 of 2,000 +│ reached +│\n│ .*│ \(1 of 4 points\) │", shown)
    every = {(n, mode): {} for n in ("2", "6", "10", "20") for mode in EXPERIMENTS["14"].modes}
    del every["6", "falcon"]
    found = goals.outcomes(EXPERIMENTS["14"], rows_of("14", every))
    assert [one.told for one in found] == ["reached (3 of 4 points)"] * 2


# ---- verdicts by time -------------------------------------------------------------------------


CALM, FULL = "UDP 16 B, underloaded", "UDP 16 B, overloaded"


@pytest.mark.parametrize(
    ("context", "why"),
    [
        ({"accel": "tcg"}, "emulated time"),
        ({"cpus": 9}, "9 virtual CPUs share 8 real ones"),
    ],
)
def test_time_of_cpus_that_are_not_real_says_nothing(context: dict[str, Any], why: str) -> None:
    values = {("UDP", "host"): {"rate": 1000.0}, ("UDP", "con"): {"rate": 470.0}}
    rows = rows_of("2-time", values, **context)
    (verdict,) = verdicts.verdicts(EXPERIMENTS["2-time"], rows)
    assert verdict.state == "not measurable here" and why in verdict.said


@pytest.mark.parametrize(
    ("con", "softirqs", "e6", "e7"),
    [
        (3.0, 360.0, "reproduced", "reproduced"),
        (2.0, 360.0, "not reproduced", "reproduced"),
        (3.0, 200.0, "reproduced", "not reproduced"),
    ],
)
def test_softirqs_a_second_and_stages(con: float, softirqs: float, e6: str, e7: str) -> None:
    values = {
        ("16 B", "host"): {"stages": 1.0},
        ("16 B", "con"): {"stages": con, "softirqs": softirqs},
    }
    assert states("4-time", values) == {"E6": e6, "E7": e7}
    del values["16 B", "con"]["stages"]
    assert states("4-time", values) == {"E6": "not measured", "E7": e7}, "a sample of before"


@pytest.mark.parametrize(("con", "state"), [(4, "reproduced"), (5, "not reproduced")])
def test_an_overlay_keeps_as_many_cpus_busy_as_flows(con: int, state: str) -> None:
    values = {("2", "con"): {"workers": con}, ("2", "falcon"): {}}
    assert states("5-time", values) == {"E8": state}


@pytest.mark.parametrize(
    ("con", "falcon", "host_receiver", "state"),
    [
        (3, 5, 97.0, "reproduced"),
        (4, 6, 97.0, "not reproduced"),
        (3, 4, 97.0, "not reproduced"),
        (3, 5, 80.0, "not reproduced"),
    ],
)
def test_two_cpus_more_are_busy_and_the_receiver_limits(
    con: int, falcon: int, host_receiver: float, state: str
) -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        ("16 B", "host"): {"workers": 2, "receiver": host_receiver},
        ("16 B", "con"): {"workers": con, "receiver": 30.0},
        ("16 B", "falcon"): {"workers": falcon, "receiver": 99.0},
    }
    (found,) = verdicts.verdicts(EXPERIMENTS["11-time"], rows_of("11-time", values))
    assert found.state == state
    assert found.said.endswith(f"thread's CPU, host: {host_receiver:.0f} %, falcon: 99 %")


@pytest.mark.parametrize(("tcp", "state"), [(530.0, "reproduced"), (900.0, "not reproduced")])
def test_throughput_is_what_a_loss_by_time_is_of(tcp: float, state: str) -> None:
    values = {
        ("UDP", "host"): {},
        ("UDP", "con"): {"rate": 470.0},
        ("TCP", "host"): {},
        ("TCP", "con"): {"rate": tcp},
    }
    assert states("2-time", values) == {"E2": state}


@pytest.mark.parametrize(("four", "state"), [(300.0, "reproduced"), (700.0, "not reproduced")])
def test_more_flows_lose_more(four: float, state: str) -> None:
    rates = {"1": 800.0, "4": 600.0, "16": four}
    values = {(flows, "con"): {"rate": rate} for flows, rate in rates.items()}
    assert states("2c-time", values | {(flows, "host"): {} for flows in rates}) == {"E4": state}
    del values["16", "con"]
    assert states("2c-time", values | {("1", "host"): {}}) == {"E4": "not measured"}


@pytest.mark.parametrize(("tail", "state"), [(50.0, "reproduced"), (20.0, "not reproduced")])
def test_an_overlay_has_a_latency(tail: float, state: str) -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        ("UDP", "host"): {"mean": 10.0},
        ("UDP", "con"): {"mean": 20.0},
        ("TCP", "host"): {"mean": 10.0},
        ("TCP", "con"): {"mean": 20.0, "p99_us": tail},
    }
    assert states("2d-time", values) == {"E5": state}


@pytest.mark.parametrize(
    ("heavy", "light", "state"),
    [
        (99.0, 60.0, "reproduced in part"),
        (80.0, 60.0, "not reproduced"),
        (99.0, 99.0, "not reproduced"),
    ],
)
def test_one_load_alone_fills_the_nics_cpu(heavy: float, light: float, state: str) -> None:
    values = {
        ("TCP 4 KB", "falcon"): {"busy": heavy},
        ("TCP 1 KB", "falcon"): {"busy": 50.0},
        ("UDP 16 B", "falcon"): {"busy": light},
    }
    assert states("9a-time", values) == {"E9": state}
    assert states("9a-time", {("TCP 4 KB", "falcon"): {"busy": heavy}}) == {"E9": "not measured"}


LIKE_THE_PAPER: dict[tuple[str, str], dict[str, float]] = {
    (CALM, "con"): {"mean": 100.0},
    (CALM, "falcon"): {"mean": 95.0, "p99_us": 70.0},
    (FULL, "con"): {"mean": 100.0},
    (FULL, "falcon"): {"mean": 40.0},
    ("TCP 4 KB, underloaded", "host"): {"mean": 100.0},
    ("TCP 4 KB, underloaded", "falcon+split"): {"mean": 105.0, "p999_us": 300.0},
    ("TCP 16 B, overloaded", "host"): {"mean": 100.0},
    ("TCP 16 B, overloaded", "falcon+split"): {"mean": 105.0},
    ("TCP 4 KB, overloaded", "host"): {"mean": 100.0},
    ("TCP 4 KB, overloaded", "falcon+split"): {"mean": 300.0},
    ("TCP 1 KB, underloaded", "con"): {"mean": 100.0},
    ("TCP 1 KB, underloaded", "falcon"): {"mean": 98.0},
}


def test_latency_as_in_the_paper() -> None:
    assert set(states("12-time", LIKE_THE_PAPER).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "point", "mode", "changed"),
    [
        ("E12", CALM, "falcon", {"mean": 120.0, "p99_us": 70.0}),
        ("E12", CALM, "falcon", {"mean": 95.0}),
        ("E12", FULL, "falcon", {"mean": 80.0}),
        ("E13", "TCP 4 KB, underloaded", "falcon+split", {"mean": 150.0, "p999_us": 300.0}),
        ("E13", "TCP 4 KB, underloaded", "falcon+split", {"mean": 105.0}),
        ("E14", "TCP 16 B, overloaded", "falcon+split", {"mean": 105.0, "p999_us": 300.0}),
        ("E15", "TCP 1 KB, underloaded", "falcon", {"mean": 60.0}),
    ],
)
def test_latency_otherwise(claim: str, point: str, mode: str, changed: dict[str, float]) -> None:
    found = states("12-time", LIKE_THE_PAPER | {(point, mode): changed})
    assert found.pop(claim) == "not reproduced"
    assert set(found.values()) == {"reproduced"}


def test_latency_that_was_not_measured_is_not_guessed() -> None:
    del (values := dict(LIKE_THE_PAPER))[CALM, "falcon"]
    assert states("12-time", values)["E12"] == "not measured"
    without = {(CALM, mode): {} for mode in ("con", "falcon")}
    rows = rows_of("12-time", LIKE_THE_PAPER | without)  # type: ignore[arg-type]
    said = {v.claim.name: v.said for v in verdicts.verdicts(EXPERIMENTS["12-time"], rows)}
    assert "no latency" in said["E12"]


@pytest.mark.parametrize(
    ("full", "e19"),
    [(1000.0, "reproduced"), (900.0, "not reproduced"), (1200.0, "not reproduced")],
)
def test_containers_in_a_busy_system(full: float, e19: str) -> None:
    rates = {"6 UDP": 1300.0, "10 UDP": 1100.0, "20 UDP": 1050.0, "40 UDP": full, "6 TCP": 1200.0}
    values = {(point, "falcon"): {"rate": rate} for point, rate in rates.items()}
    values |= {(point, "con"): {} for point in rates}
    assert states("14-time", values) == {"E18": "reproduced", "E19": e19}
    values["6 TCP", "falcon"] = {"rate": 1010.0}
    assert states("14-time", values)["E18"] == "not reproduced"
    del values["6 TCP", "con"], values["6 TCP", "falcon"]
    assert states("14-time", values)["E18"] == "not measured"


@pytest.mark.parametrize(
    ("rates", "state"),
    [
        ({50: 1000, 70: 1050, 80: 1200, 85: 1250, 90: 1200, 100: 900}, "reproduced"),
        ({50: 1000, 70: 1250, 80: 1200, 85: 1250, 90: 1200, 100: 900}, "not reproduced"),
        ({50: 1000, 70: 1050, 80: 1200, 85: 1250, 90: 1200, 100: 1250}, "not reproduced"),
        ({50: 1500, 70: 1050, 80: 1200, 85: 1250, 90: 1200, 100: 900}, "not reproduced"),
        ({85: 1250}, "not measured"),
    ],
)
def test_the_best_threshold(rates: dict[int, float], state: str) -> None:
    values = {
        (f"20 containers, {percent} %", mode): {"rate": float(rate)}
        for percent, falcon in rates.items()
        for mode, rate in (("con", 1000.0), ("falcon", falcon))
    }
    assert states("15-time", values) == {"E20": state}


def test_a_threshold_is_set_on_top_of_a_mode() -> None:
    experiment = TIMED["15-time"]
    config = SETUP.config(experiment, experiment.points[0])
    assert isinstance(config, timed.Config)
    assert config.settings == {"falcon_load_threshold": 50}


@pytest.mark.parametrize(
    ("four", "eight", "hot", "state"),
    [
        (1000.0, 1200.0, 99.0, "reproduced in part"),
        (1000.0, 1100.0, 99.0, "not reproduced"),
        # Where static hashing has time left, a gain is not of the second choice.
        (1300.0, 1000.0, 99.0, "not reproduced"),
        (1000.0, 1200.0, 70.0, "not measured"),
    ],
)
def test_two_choices_carry_more_of_a_hotspot(
    four: float, eight: float, hot: float, state: str
) -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        ("4 UDP of 16 B", "falcon-static"): {"stage": 60.0},
        ("4 UDP of 16 B", "falcon"): {"rate": four},
        ("8 UDP of 16 B", "falcon-static"): {"stage": hot, "busy": 99.0, "receiver": 99.0},
        ("8 UDP of 16 B", "falcon"): {"rate": eight},
    }
    (found,) = verdicts.verdicts(EXPERIMENTS["16-time"], rows_of("16-time", values))
    assert found.state == state and f"8 UDP of 16 B: {hot:.0f} %" in found.said
    assert ("not looked at: TCP" in found.said) == (state != "not measured")


def test_web_serving_is_called_an_analogue() -> None:
    page = "a file of 4 KB"
    values: dict[tuple[str, str], dict[str, float]] = {
        (page, "con"): {"rate": 1000.0, "mean": 100.0},
        (page, "falcon"): {"rate": 3000.0, "mean": 50.0},
        (page, "falcon+split"): {"rate": 4100.0, "mean": 30.0},
    }
    found = verdicts.verdicts(EXPERIMENTS["17-time"], rows_of("17-time", values))
    assert [verdict.state for verdict in found] == ["reproduced", "reproduced in part"]
    assert found[1].said.endswith("not looked at: the delay, as wrk has no target time")
    assert all("analogue" in verdict.said for verdict in found)
    values[page, "falcon+split"] = {"rate": 2000.0, "mean": 60.0}
    assert set(states("17-time", values).values()) == {"not reproduced"}


@pytest.mark.parametrize(("p99", "state"), [(47.0, "reproduced"), (90.0, "not reproduced")])
def test_data_caching(p99: float, state: str) -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        ("1", "con"): {"mean": 100.0},
        ("1", "falcon"): {"mean": 100.0, "p99_us": 93.0},
        ("10", "con"): {"mean": 100.0},
        ("10", "falcon"): {"mean": 49.0, "p99_us": p99},
    }
    assert states("18-time", values) == {"E24": state}


@pytest.mark.parametrize(
    ("high", "softirqs", "e25", "e26"),
    [
        (55.0, 140.0, "reproduced", "reproduced"),
        (80.0, 140.0, "not reproduced", "reproduced"),
        (55.0, 200.0, "reproduced", "not reproduced"),
    ],
)
def test_what_falcon_costs_at_fixed_rates(high: float, softirqs: float, e25: str, e26: str) -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        (rate, mode): {"busy": busy}
        for rate in ("20 %", "90 %")
        for mode, busy in (("host", 20.0), ("con", 50.0), ("falcon", 50.0))
    }
    values["90 %", "falcon"] = {"busy": high, "softirqs": softirqs}
    assert states("19-time", values) == {"E25": e25, "E26": e26}
    one = {key: kinds for key, kinds in values.items() if key[0] == "90 %"}
    assert states("19-time", one)["E25"] == "not measured"


def test_a_baseline_of_nothing_gives_no_ratio() -> None:
    values: dict[tuple[str, str], dict[str, float]] = {
        ("90 %", "con"): {"softirqs": 0.0},
        ("90 %", "falcon"): {},
        ("90 %", "host"): {},
    }
    assert states("19-time", values)["E26"] == "not measured"
