# SPDX-License-Identifier: GPL-2.0-only
"""Which CPUs a mode gives to which stage."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.overlay import falcon, modes
from harness.overlay.cpus import CpuPlan, format_cpu_mask
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import Host

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


@pytest.mark.parametrize("name", ["falcon+split", "host+split"])
def test_a_split_nic_has_rps_on_the_stages_cpus(name: str) -> None:
    """RPS comes after GRO, and takes IP, UDP and VXLAN off the CPU that ran it."""
    mode = modes.named(name)
    assert mode.falcon and mode.gro_split and mode.two_choice
    assert mode.overlay == (name == "falcon+split")
    assert mode.rps(PLAN) == (PLAN.stages, (), ())


def test_only_the_split_modes_split() -> None:
    split = [mode.name for mode in modes.MODES.values() if mode.gro_split]
    assert split == ["falcon+split", "host+split"]


class FakeNamespace:
    """Devices with one receive queue each, and their RPS masks."""

    def __init__(self) -> None:
        self.masks: dict[str, str] = {}
        self.written: list[tuple[str, str]] = []

    def listdir(self, path: str) -> list[str]:
        return ["rx-0", "tx-0"]

    def read(self, path: str) -> str:
        return self.masks.get(path, "00000000")

    def write(self, path: str, text: str) -> None:
        self.masks[path] = text
        self.written.append((path.split("/")[4], text))

    def has(self, device: str) -> bool:
        return True


@pytest.fixture
def sysctls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in place of /proc/sys/net/core, Falcon off and splitting automatic."""
    names = "falcon falcon_cpus falcon_load_threshold falcon_load_interval falcon_two_choice"
    for name, value in zip(names.split(), ("0", "1-3", "85", "50", "0"), strict=True):
        (tmp_path / name).write_text(value)
    (tmp_path / "falcon_gro_split").write_text("2")
    monkeypatch.setattr(falcon, "SYSCTL", tmp_path)
    return tmp_path


@pytest.mark.parametrize("mode", modes.MODES.values(), ids=lambda mode: mode.name)
def test_mode_is_applied_and_taken_back(mode: modes.Mode, sysctls: Path) -> None:
    before = falcon.settings()
    namespace, container = FakeNamespace(), FakeNamespace()
    host = Host(Plan(), SERVER, namespace, (container,))  # type: ignore[arg-type]
    with modes.applied(mode, host, PLAN):
        now = falcon.settings()
        assert now.on == mode.falcon
        if mode.falcon:
            assert (now.cpus, now.two_choice) == (PLAN.stages, mode.two_choice)
            assert now.gro_split == int(mode.gro_split)
        masks = dict(namespace.written)
        assert masks["nic0"] == format_cpu_mask(mode.rps(PLAN)[0])
        assert masks["vxlan0"] == format_cpu_mask(mode.rps(PLAN)[1])
    assert falcon.settings() == before
    assert set(namespace.masks.values()) | set(container.masks.values()) == {"00000000"}


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
