# SPDX-License-Identifier: GPL-2.0-only
"""Which CPUs a mode gives to which stage."""

from __future__ import annotations

from itertools import combinations

import pytest

from harness.errors import FalconError
from harness.overlay import falcon, modes
from harness.overlay.cpus import CpuPlan

PLAN = CpuPlan.of(tuple(range(8)))


def test_con_gives_all_stages_the_same_cpus() -> None:
    assert modes.MODES["con"].rps(PLAN) == (PLAN.stages,) * 3


@pytest.mark.parametrize("cpus", [5, 6, 7, 8, 20])
def test_rps_pipe_gives_each_stage_its_own(cpus: int) -> None:
    plan = CpuPlan.of(tuple(range(cpus)))
    masks = modes.MODES["rps-pipe"].rps(plan)
    assert all(masks)
    assert all(not set(a) & set(b) for a, b in combinations(masks, 2))
    assert set().union(*masks) == set(plan.stages)


@pytest.mark.parametrize("name", ["falcon", "falcon-static"])
def test_falcon_leaves_only_the_nic_to_rps(name: str) -> None:
    """Were it on for the other devices, RPS would move what Falcon placed."""
    assert modes.MODES[name].rps(PLAN) == (PLAN.stages, (), ())


def test_stock_kernel_has_the_modes_without_falcon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(falcon, "is_present", lambda: False)
    assert [mode.name for mode in modes.available()] == ["host", "con", "rps-pipe"]


def test_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FalconError, match="no mode rfs; take one of host, con, rps-pipe"):
        modes.named("rfs")
