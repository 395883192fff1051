# SPDX-License-Identifier: GPL-2.0-only
"""Falcon's controls and counters, on files that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.overlay import falcon

TEXT = """\
state on gate open load 12 threshold 85 interval 50 two_choice 1 gro_split 2 forced 3 cpus 1-3

cpu load in steered first second gated held split dropped
0 - 0 1000 990 10 0 0 400 0
1 3 990 0 0 0 7 2 0 1

stage ifindex gro steered first second gated held split dropped
nic0 2 split 400 400 0 0 0 400 0
vxlan0 5 - 1000 990 10 7 2 0 1
"""
# A kernel whose Falcon cannot split.
OLDER = """\
state on gate open load 12 threshold 85 interval 50 two_choice 1 cpus 1-3

cpu load in steered first second gated held dropped
1 3 990 0 0 0 7 2 1

stage ifindex steered first second gated held dropped
vxlan0 5 1000 990 10 7 2 1
"""


@pytest.fixture
def sysctls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in place of /proc/sys/net/core."""
    values = {
        "falcon": "0",
        "falcon_cpus": "1-3",
        "falcon_load_threshold": "85",
        "falcon_load_interval": "50",
        "falcon_two_choice": "1",
        "falcon_gro_split": "2",
    }
    for name, value in values.items():
        (tmp_path / name).write_text(value + "\n")
    monkeypatch.setattr(falcon, "SYSCTL", tmp_path)
    return tmp_path


def test_counters_are_read_by_column_name() -> None:
    seen = falcon.parse_counters(TEXT)
    assert seen.gate_is_open and seen.load == 12
    assert (seen.state["gro_split"], seen.state["cpus"]) == ("2", "1-3")
    assert seen.forced == 3
    assert seen.cpus[0] == falcon.CpuRow(steered=1000, first=990, second=10, split=400)
    assert seen.cpus[1] == falcon.CpuRow(load=3, received=990, gated=7, held=2, dropped=1)
    assert seen.stage("nic0") == falcon.StageRow(2, "split", 400, 400, split=400)
    assert seen.stage("vxlan0") == falcon.StageRow(5, "-", 1000, 990, 10, 7, 2, 0, 1)
    assert seen.stage("vxlan0").decided == 1009
    assert seen.stage("eth0") == falcon.StageRow()
    assert (seen.total("gated"), seen.total("split")) == (7, 400)


def test_columns_that_an_older_kernel_lacks_are_zero() -> None:
    older, now = falcon.parse_counters(OLDER), falcon.parse_counters(TEXT)
    assert older.stage("vxlan0") == now.stage("vxlan0")
    assert older.cpus[1] == now.cpus[1]


def test_later_columns_and_empty_tables_are_no_trouble() -> None:
    state, cpus, stages = TEXT.split("\n\n")
    newer = "\n\n".join([state, *(t.replace("\n", " 9\n") for t in (cpus + "\n", stages))])
    newer = newer.replace("dropped 9", "dropped melted")
    assert falcon.parse_counters(newer).cpus == falcon.parse_counters(TEXT).cpus
    assert falcon.parse_counters(newer).stages == falcon.parse_counters(TEXT).stages
    assert falcon.parse_counters("\n\n".join([state, cpus])).stages == {}


def test_difference_counts_what_happened_since() -> None:
    before = falcon.parse_counters(TEXT)
    later = TEXT.replace("1 3 990", "1 90 1990").replace("split 400 400", "leaving 407 407")
    change = falcon.parse_counters(later) - before
    assert change.cpus[1] == falcon.CpuRow(load=90, received=1000)
    assert change.stage("vxlan0") == falcon.StageRow(ifindex=5)
    assert change.stage("nic0") == falcon.StageRow(2, "leaving", 7, 7)


def test_settings_survive_a_round_trip(sysctls: Path) -> None:
    wanted = falcon.Settings(True, (1, 2, 5), 60, 10, False, 1)
    falcon.apply(wanted)
    assert falcon.settings() == wanted
    assert (sysctls / "falcon_cpus").read_text() == "1-2,5\n"
    assert (sysctls / "falcon_gro_split").read_text() == "1\n"


def test_settings_are_put_back_after_a_failure(sysctls: Path) -> None:
    before = falcon.settings()
    with pytest.raises(ZeroDivisionError), falcon.preserved():
        falcon.apply(falcon.Settings(True, (7,), 1, 1, False, 0))
        raise ZeroDivisionError
    assert falcon.settings() == before
    assert before.gro_split == 2


def test_refused_value_is_named(sysctls: Path) -> None:
    (sysctls / "falcon_two_choice").unlink()
    (sysctls / "falcon_two_choice").mkdir()
    with pytest.raises(FalconError, match=r"net\.core\.falcon_two_choice = 0 was refused"):
        falcon.apply(falcon.Settings(True, (1,), 1, 1, False, 0))


def test_setting_that_the_kernel_lacks_is_named(sysctls: Path) -> None:
    (sysctls / "falcon_gro_split").unlink()
    with pytest.raises(FalconError, match=r"has no net\.core\.falcon_gro_split: its patches"):
        falcon.settings()


def test_unpatched_kernel_is_named(sysctls: Path) -> None:
    falcon.require()
    (sysctls / "falcon").unlink()
    assert not falcon.is_present()
    with pytest.raises(FalconError, match="has no Falcon"):
        falcon.require()
