# SPDX-License-Identifier: GPL-2.0-only
"""net.core.falcon*: what is taken, what is refused, who may."""

from __future__ import annotations

import errno
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from rig import Rig, is_ours

from harness.overlay import falcon
from harness.overlay.cpus import format_cpu_list
from harness.overlay.netns import Namespace

NUMBERS = {
    "falcon": (0, 1),
    "falcon_load_threshold": (1, 100),
    "falcon_load_interval": (1, 10_000),
    "falcon_two_choice": (0, 1),
    "falcon_gro_split": (0, 2),
}
DEFAULTS = {"load_threshold": 85, "load_interval": 50, "two_choice": True, "gro_split": 0}
NO_NUMBERS = (
    "",
    " ",
    "x",
    "1x",
    "1 1",
    "1 2",
    "1.0",
    "0x1",
    "1e0",
    "--1",
    "1" * 100,
    str(2**32 + 1),
    "0" * 15 + "1",
)
BAD_CPUS = (
    *("", " ", "x", "1,x", "-1", "1-", "-", "3-1", "1.2", "1;2", "0x3"),
    *("9999", "1-9999", "4294967297", "1," * 3000),
    *("all", "1-N", "1-3:1/2", "1/2"),  # some kernels take these for a list
)
BAD = [
    (name, value)
    for name, (least, greatest) in NUMBERS.items()
    for value in (*NO_NUMBERS, str(least - 1), str(greatest + 1), "-1", str(2**31))
] + [("falcon_cpus", value) for value in BAD_CPUS]


@pytest.mark.parametrize("name", [*NUMBERS, "falcon_cpus"])
@pytest.mark.parametrize("on", [0, 1], ids=["off", "on"])
def test_bad_values_are_refused_and_change_nothing(name: str, on: int) -> None:
    falcon.write_sysctl("falcon", on)
    before = falcon.settings()
    for value in [value for bad_name, value in BAD if bad_name == name]:
        with pytest.raises(OSError) as refused:
            falcon.write_sysctl(name, value)
            pytest.fail(f"{name} took {value!r}")
        assert refused.value.errno == errno.EINVAL, value
        assert falcon.settings() == before, value


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_are_taken(name: str) -> None:
    for value in NUMBERS[name]:
        falcon.write_sysctl(name, value)
        assert falcon.read_sysctl(name) == str(value)


@pytest.mark.parametrize("on", [0, 1], ids=["off", "on"])
def test_every_way_to_split_is_taken(on: int) -> None:
    """Also while Falcon is off: it counts from the next time it is on."""
    falcon.write_sysctl("falcon", on)
    for value in (2, 1, 0, 1, 2):
        falcon.write_sysctl("falcon_gro_split", value)
        assert falcon.settings().gro_split == value
        assert falcon.counters().state["gro_split"] == str(value)


@pytest.mark.parametrize("spelling", ["{0}", "{0}-{2}", "{0},{2}", "{2} {0}", " {0}-{1},{1}-{2} "])
def test_cpu_lists_are_taken(rig: Rig, spelling: str) -> None:
    """Any spelling goes in, the shortest comes out."""
    first, second, third = rig.cpus.stages[:3]
    meant = {
        "{0}": [first],
        "{0},{2}": [first, third],
        "{2} {0}": [first, third],
    }.get(spelling, [first, second, third])
    falcon.write_sysctl("falcon_cpus", spelling.format(first, second, third))
    assert falcon.read_sysctl("falcon_cpus") == format_cpu_list(meant)


def test_only_root_may_change_them() -> None:
    for name in (*NUMBERS, "falcon_cpus"):
        status = (falcon.SYSCTL / name).stat()
        assert status.st_uid == 0
        assert stat.S_IMODE(status.st_mode) == 0o644
    assert stat.S_IMODE(Path("/proc/net/falcon").stat().st_mode) == 0o444


def test_other_namespaces_do_not_have_them() -> None:
    """They steer the whole machine, so a container must not even see them."""
    with Namespace("other") as other:
        assert other.exists("/proc/sys/net/core/somaxconn")
        for name in (*NUMBERS, "falcon_cpus"):
            assert not other.exists(f"/proc/sys/net/core/{name}")


def test_defaults() -> None:
    """As documented; falcon is off (every test finds it so)."""
    now = falcon.settings()
    by_default = replace(now, on=False, **DEFAULTS)
    if now != by_default and not is_ours():
        pytest.skip(f"this host's administrator has set others: {now}")
    assert now == by_default


def test_proc_shows_the_settings(rig: Rig) -> None:
    falcon.apply(falcon.Settings(True, rig.cpus.stages, 77, 123, False, 2))
    state = falcon.counters().state
    assert state["state"] == "on"
    assert (state["threshold"], state["interval"]) == ("77", "123")
    assert (state["two_choice"], state["gro_split"]) == ("0", "2")
    assert state["cpus"] == format_cpu_list(rig.cpus.stages)
    assert {c for c, r in falcon.counters().cpus.items() if r.load is not None} == set(
        rig.cpus.stages
    )


def test_stages_are_shown_to_their_namespace_only(rig: Rig) -> None:
    assert "vxlan0" not in falcon.counters().stages
    assert "eth0" not in falcon.counters(rig.server.at()).stages
