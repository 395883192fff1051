# SPDX-License-Identifier: GPL-2.0-only
"""CPU lists, masks and plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import FalconError
from harness.overlay import cpus
from harness.overlay.cpus import CpuPlan, format_cpu_list, format_cpu_mask, parse_cpu_list

cpu_sets = st.sets(st.integers(0, 4095))


@given(cpu_sets)
def test_list_survives_a_round_trip(chosen: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(chosen)) == tuple(sorted(chosen))


@given(cpu_sets)
def test_mask_has_the_bits_of_its_cpus(chosen: set[int]) -> None:
    mask = format_cpu_mask(chosen)
    assert int(mask.replace(",", ""), 16) == sum(1 << cpu for cpu in chosen)
    assert all(len(word) == 8 for word in mask.split(","))


def test_list_is_the_kernels_shortest() -> None:
    assert format_cpu_list([8, 1, 2, 3]) == "1-3,8"
    assert format_cpu_list([0, 1]) == "0-1"
    assert format_cpu_list([]) == ""


def test_isolated_cpus_are_those_of_either_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "CPU_DIRECTORY", tmp_path)
    assert cpus.isolated_cpus() == ()
    (tmp_path / "isolated").write_text("6-7\n")
    (tmp_path / "nohz_full").write_text("(null)\n")
    assert cpus.isolated_cpus() == (6, 7)
    (tmp_path / "nohz_full").write_text("2,6\n")
    assert cpus.isolated_cpus() == (2, 6, 7)


def test_plan_gives_each_role_its_cpu() -> None:
    plan = CpuPlan.of((0, 1, 2, 4, 5, 7))
    assert (plan.nic, plan.stages, plan.app) == (0, (1, 2, 4, 5), 7)


def test_too_few_cpus_are_refused() -> None:
    with pytest.raises(FalconError, match=r"4 CPUs are online.*--smp"):
        CpuPlan.of((0, 1, 2, 3))
