# SPDX-License-Identifier: GPL-2.0-only
"""Falcon's controls and counters, on files that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.overlay import falcon

TEXT = """\
state on gate open load 12 threshold 85 interval 50 two_choice 1 cpus 1-3

cpu load in steered first second gated held dropped
0 - 0 1000 990 10 0 0 0
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
    }
    for name, value in values.items():
        (tmp_path / name).write_text(value + "\n")
    monkeypatch.setattr(falcon, "SYSCTL", tmp_path)
    return tmp_path


def test_counters_are_read_by_column_name() -> None:
    seen = falcon.parse_counters(TEXT)
    assert seen.gate_is_open and seen.load == 12
    assert seen.state["cpus"] == "1-3"
    assert seen.cpus[0] == falcon.CpuRow(steered=1000, first=990, second=10)
    assert seen.cpus[1] == falcon.CpuRow(load=3, received=990, gated=7, held=2, dropped=1)
    assert seen.stage("vxlan0") == falcon.StageRow(5, 1000, 990, 10, 7, 2, 1)
    assert seen.stage("eth0") == falcon.StageRow()
    assert seen.total("gated") == 7


def test_later_columns_and_empty_tables_are_no_trouble() -> None:
    newer = TEXT.replace("dropped\n", "dropped split\n").replace(" 1\n", " 1 9\n")
    newer = newer.replace(" 0 0 0\n", " 0 0 0 9\n")
    assert falcon.parse_counters(newer).cpus == falcon.parse_counters(TEXT).cpus
    assert falcon.parse_counters(TEXT.rsplit("\n", 2)[0]).stages == {}


def test_difference_counts_what_happened_since() -> None:
    before = falcon.parse_counters(TEXT)
    after = falcon.parse_counters(TEXT.replace("1 3 990", "1 90 1990"))
    change = after - before
    assert change.cpus[1] == falcon.CpuRow(load=90, received=1000)
    assert change.stage("vxlan0") == falcon.StageRow(ifindex=5)


def test_settings_survive_a_round_trip(sysctls: Path) -> None:
    wanted = falcon.Settings(True, (1, 2, 5), 60, 10, False)
    falcon.apply(wanted)
    assert falcon.settings() == wanted
    assert (sysctls / "falcon_cpus").read_text() == "1-2,5\n"


def test_settings_are_put_back_after_a_failure(sysctls: Path) -> None:
    before = falcon.settings()
    with pytest.raises(ZeroDivisionError), falcon.preserved():
        falcon.apply(falcon.Settings(True, (7,), 1, 1, False))
        raise ZeroDivisionError
    assert falcon.settings() == before


def test_refused_value_is_named(sysctls: Path) -> None:
    (sysctls / "falcon_two_choice").unlink()
    (sysctls / "falcon_two_choice").mkdir()
    with pytest.raises(FalconError, match=r"net\.core\.falcon_two_choice = 0 was refused"):
        falcon.apply(falcon.Settings(True, (1,), 1, 1, False))


def test_unpatched_kernel_is_named(sysctls: Path) -> None:
    falcon.require()
    (sysctls / "falcon").unlink()
    assert not falcon.is_present()
    with pytest.raises(FalconError, match="has no Falcon"):
        falcon.require()
