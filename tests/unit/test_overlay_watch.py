# SPDX-License-Identifier: GPL-2.0-only
"""Rates from two readings, through all that may happen between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.overlay import falcon, namespaces, softnet, watch
from harness.overlay.falcon import Counters, CpuRow, StageRow
from harness.overlay.namespaces import Found
from harness.overlay.softnet import CpuWork, Snapshot
from harness.overlay.watch import Rates, Reading, Watch

HOST, RED = Found(1, "host", Path("/proc/1/ns/net")), Found(2, "red", Path("/run/netns/red"))
STATE = {"state": "on"}
CPUS = {0: CpuRow(steered=1000, first=1000), 1: CpuRow(load=9, received=1000)}


def reading(
    at_s: float,
    cpus: dict[int, CpuRow],
    stages: dict[Found, dict[str, StageRow]],
    work: dict[int, CpuWork] | None = None,
) -> Reading:
    counters = {one: Counters(STATE, cpus, rows) for one, rows in stages.items()}
    return Reading(at_s, counters, Snapshot(work or {}), 0)


def test_rates_are_differences_over_the_time_between() -> None:
    row = StageRow(5, "split", 100, 100, split=100)
    before = reading(10.0, CPUS, {HOST: {}, RED: {"nic0": row}}, {0: CpuWork(softirq_ticks=5)})
    cpus = {
        0: CpuRow(steered=2000, first=1900, second=100, gated=30),
        1: CpuRow(load=55, received=1500, held=4, dropped=2),
    }
    later = StageRow(5, "leaving", 700, 650, 50, 8, 6, 400, 2)
    work = {0: CpuWork(softirq_ticks=15), 1: CpuWork(softirq_ticks=30)}
    measured = reading(12.0, cpus, {HOST: {}, RED: {"nic0": later}}, work).since(before)
    assert (measured.seconds, measured.namespaces, measured.state) == (2.0, 2, STATE)
    first, second = measured.cpus
    assert (first.cpu, first.load, first.received) == (0, None, 0)
    assert first.rates == Rates(steered=500, first=450, second=50, gated=15)
    assert first.rates.share(first.rates.second) == 0.1
    assert (second.cpu, second.load, second.received) == (1, 55, 250)
    assert second.rates == Rates(held=2, dropped=1)
    (stage,) = measured.stages
    assert (stage.namespace, stage.device, stage.ifindex) == ("red", "nic0", 5)
    assert stage.gro == "leaving"
    assert stage.rates == Rates(300, 275, 25, 4, 3, 150, 1)
    assert stage.rates.decisions == 307


def test_softirq_shares_are_of_the_time_between() -> None:
    before = reading(0, CPUS, {HOST: {}}, {n: CpuWork(softirq_ticks=100) for n in (0, 1)})
    work = {0: CpuWork(softirq_ticks=101), 1: CpuWork(softirq_ticks=103)}
    shares = [cpu.softirq_share for cpu in reading(1, CPUS, {HOST: {}}, work).since(before).cpus]
    assert shares == [0.25, 0.75]


def test_cpu_that_came_back_has_no_rates_of_its_past() -> None:
    work = {0: CpuWork(softirq_ticks=1)}
    before = reading(0, {0: CPUS[0]}, {HOST: {}}, work)
    now = reading(1, CPUS, {HOST: {}}, {0: CpuWork(softirq_ticks=2), 1: CpuWork(softirq_ticks=99)})
    back = now.since(before).cpus[1]
    assert (back.received, back.rates, back.softirq_share) == (0, Rates(), 0)
    assert [cpu.cpu for cpu in before.since(now).cpus] == [0]


@pytest.mark.parametrize(
    ("before", "steered"),
    [
        ({}, 90),  # no packet had come to it
        ({"eth0": StageRow(7, steered=80)}, 10),
        ({"old-name": StageRow(7, steered=80)}, 10),
        ({"eth0": StageRow(6, steered=80)}, 90),  # another device had its name
        ({"eth0": StageRow(7, steered=95)}, 90),  # it was moved away and back
    ],
)
def test_device_is_known_by_its_index(before: dict[str, StageRow], steered: int) -> None:
    now = reading(1, CPUS, {RED: {"eth0": StageRow(7, steered=90)}})
    (stage,) = now.since(reading(0, CPUS, {RED: before})).stages
    assert stage.rates.steered == steered


def test_namespace_found_later_has_no_rates_of_its_past() -> None:
    now = reading(1, CPUS, {HOST: {}, RED: {"eth0": StageRow(7, steered=90)}})
    (stage,) = now.since(reading(0, CPUS, {HOST: {}})).stages
    assert stage.rates == Rates()


def test_namespace_keeps_its_rates_under_another_name() -> None:
    now = reading(1, CPUS, {replace(RED, name="blue"): {"eth0": StageRow(7, steered=90)}})
    (stage,) = now.since(reading(0, CPUS, {RED: {"eth0": StageRow(7, steered=80)}})).stages
    assert (stage.namespace, stage.rates.steered) == ("blue", 10)


# ---- taking readings ------------------------------------------------------------------

TEXT = """\
state on gate open load 1 threshold 85 interval 50 two_choice 1 gro_split 0 cpus 1

cpu load in steered first second gated held split dropped
1 1 0 0 0 0 0 0 0 0

stage ifindex gro steered first second gated held split dropped
"""


class Machine:
    """What namespaces there are, and which of them can be read."""

    def __init__(self) -> None:
        self.there = [HOST, RED]
        self.readable = [HOST, RED]
        self.searches = 0

    def find(self) -> tuple[Found, ...]:
        self.searches += 1
        return tuple(self.there)

    def read_proc_net(self, found: tuple[Found, ...], name: str) -> dict[int, str]:
        assert name == "falcon"
        return {one.inode: TEXT for one in found if one in self.readable}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    (tmp_path / "falcon").touch()
    monkeypatch.setattr(falcon, "SYSCTL", tmp_path)
    monkeypatch.setattr(namespaces, "find", made.find)
    monkeypatch.setattr(namespaces, "read_proc_net", made.read_proc_net)
    monkeypatch.setattr(softnet, "snapshot", lambda: Snapshot({}))
    return made


def test_namespaces_are_looked_for_now_and_then(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watch()
    assert [set(watched.read().counters) for _ in range(3)] == [{HOST, RED}] * 3
    assert machine.searches == 1
    monkeypatch.setattr(watch, "SEARCH_S", 0.0)
    watched.read()
    assert machine.searches == 2


def test_namespace_that_went_away_is_looked_for_at_once(machine: Machine) -> None:
    watched = Watch()
    watched.read()
    machine.there = machine.readable = [HOST]
    now = watched.read()
    assert set(now.counters) == {HOST} and now.hidden == 0
    assert machine.searches == 2


def test_namespaces_that_cannot_be_read_are_counted(machine: Machine) -> None:
    machine.readable = [HOST]
    watched = Watch()
    assert [watched.read().hidden for _ in range(3)] == [1, 1, 1]
    assert machine.searches == 1
    machine.readable = []
    with pytest.raises(FalconError, match="no network namespace can be looked into; run as root"):
        watched.read()


def test_machine_without_falcon_is_told(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "falcon").unlink()
    with pytest.raises(FalconError, match="has no Falcon"):
        Watch()
