# SPDX-License-Identifier: GPL-2.0-only
"""The addresses of an overlay."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from harness.errors import FalconError
from harness.overlay.plan import CLIENT, MAX_CONTAINERS, SERVER, Plan

SIDES = (CLIENT, SERVER)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_every_address_is_its_own(outer: int, inner: int) -> None:
    plan = Plan(containers=MAX_CONTAINERS, outer=outer, inner=inner)
    hosts = [plan.host(side) for side in SIDES]
    inside = [plan.container(side, n) for side in SIDES for n in range(plan.containers)]
    assert {a.version for a in hosts} == {outer}
    assert {a.version for a in inside} == {inner}
    everything = hosts + inside
    assert len({a.mac for a in everything}) == len({a.ip for a in everything}) == len(everything)
    assert len({ip_interface(f"{a.ip}/{a.prefix_bits}").network for a in inside}) == 1


def test_addresses_are_valid_and_macs_are_local_unicast() -> None:
    for side in SIDES:
        address = Plan().container(side, MAX_CONTAINERS - 1)
        ip_address(address.ip)
        assert int(address.mac[:2], 16) & 3 == 2


@pytest.mark.parametrize(("outer", "mtu"), [(4, 1450), (6, 1430)])
def test_what_fits_into_the_wire(outer: int, mtu: int) -> None:
    assert Plan(outer=outer).container_mtu == mtu
    assert Plan(outer=outer, overlay_mtu=1500).container_mtu == 1500


def test_plan_survives_the_way_to_another_machine() -> None:
    plan = Plan(containers=3, outer=6, overlay_mtu=1400)
    assert Plan(**plan.as_json()) == plan


@pytest.mark.parametrize("wrong", [{"containers": 0}, {"containers": 999}, {"outer": 5}])
def test_impossible_plans_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(FalconError):
        Plan(**wrong)
