# SPDX-License-Identifier: GPL-2.0-only
"""A seed decides everything that is done, and nothing impossible is asked for."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from harness.torture import actions
from harness.torture.actions import (
    ACTIONS,
    LEAST_ONLINE,
    SETTINGS,
    VETH_RING,
    Model,
    SetGro,
)
from harness.torture.ports import JUMBO, SENDING, SMALL, Port
from harness.torture.sequence import SORTS, Epoch, Step, epochs

CPUS = (0, 1, 2, 3)
MANY = 40


def row(seed: int, count: int = MANY) -> list[Epoch]:
    return list(islice(epochs(seed, CPUS), count))


def spelled(row_of_epochs: list[Epoch]) -> list[str]:
    """All that an epoch is, as text."""
    return [
        repr((e.number, e.sort.name, e.flows, e.streams))
        + "".join(f"{s} {s.pause_s}" for s in (*e.before, *e.steps))
        for e in row_of_epochs
    ]


@pytest.fixture(scope="module", params=[1, 42, 2**32 - 1])
def some(request: pytest.FixtureRequest) -> list[Epoch]:
    return row(request.param)


def test_the_same_seed_gives_the_same_actions() -> None:
    assert spelled(row(42)) == spelled(row(42))
    assert spelled(row(42)) != spelled(row(43))


def test_a_longer_run_only_goes_on() -> None:
    assert spelled(row(7, 10)) == spelled(row(7, 20))[:10]


def test_the_row_does_not_depend_on_others_randomness() -> None:
    random.seed(1)
    first = spelled(row(5, 3))
    random.seed(2)
    assert spelled(row(5, 3)) == first


def test_every_sort_has_its_turn(some: list[Epoch]) -> None:
    names = [epoch.sort.name for epoch in some]
    for start in range(0, len(names), len(SORTS)):
        assert set(names[start : start + len(SORTS)]) == {sort.name for sort in SORTS}
    assert names[0] == "settings"


def test_every_action_is_drawn(some: list[Epoch]) -> None:
    drawn = {step.action.name for epoch in some for step in epoch.steps}
    assert drawn == {action.name for action in ACTIONS}
    assert any(epoch.before for epoch in some)


def test_an_epoch_has_only_actions_of_its_sort(some: list[Epoch]) -> None:
    for epoch in some:
        assert {step.action.kind for step in epoch.steps} <= epoch.sort.kinds | {"hotplug"}
        if not epoch.deaths:
            assert {step.action.kind for step in epoch.steps} <= epoch.sort.kinds


def test_only_falcons_settings_change_where_order_is_asked_for(some: list[Epoch]) -> None:
    strict = [epoch for epoch in some if epoch.sort.in_order]
    assert strict
    for epoch in strict:
        assert {step.action.name for step in epoch.steps} <= {"set", "garbage"}
        assert all(flow.cpu in CPUS for flow in epoch.flows), "the scheduler would reorder them"


def test_flows_that_share_a_napi_before_a_tunnel_are_sent_from_one_cpu() -> None:
    rings: set[Port] = set()
    seen = {True: set(), False: set()}
    for epoch in row(1, 400):
        for step in (*epoch.before, *epoch.steps):
            port = step.arguments.get("port")
            if not isinstance(port, Port) or not isinstance(port.topology, str):
                continue
            if step.action.name == "recast":
                (rings.discard if step.arguments["mode"] == "plain" else rings.add)(port)
            elif step.action.name == "gro" and port.is_veth:
                (rings.add if step.arguments["on"] else rings.discard)(port)
        if epoch.sort.in_order:
            shared = any(port.device == "nic0" for port in rings)
            seen[shared] |= {flow.cpu for flow in epoch.flows}
            # RPS spreads what one CPU sends, TCP sends on the CPUs of acknowledgements.
            off = {step.arguments["port"] for step in epoch.before if step.action.name == "rps"}
            assert off == (set(SENDING) if shared else set())
            assert bool(epoch.streams) != shared
    assert seen == {True: {0}, False: set(CPUS)}, "the stock kernel would reorder them"


def test_cpus_go_and_come_back(some: list[Epoch]) -> None:
    for epoch in some:
        online = set(CPUS)
        for step in epoch.steps:
            if step.action.name == "off":
                online.remove(step.arguments["cpu"])
            elif step.action.name == "on":
                assert step.arguments["cpu"] not in online
                online.add(step.arguments["cpu"])
            assert 0 in online and len(online) >= LEAST_ONLINE
        assert online == set(CPUS), "the next epoch would start without one"


def test_what_goes_has_come_and_is_there_while_it_is_touched(some: list[Epoch]) -> None:
    overlays: set[int] = set()
    devices: set[int] = set()
    for epoch in some:
        for step in epoch.steps:
            slot = step.arguments.get("slot")
            there = overlays if step.action.kind == "overlay" else devices
            if step.action.name.endswith(" comes"):
                assert slot not in there
                there.add(slot)
            elif step.action.name.endswith(" goes"):
                there.remove(slot)
            port = step.arguments.get("port")
            if port and isinstance(port.topology, int):
                assert port.topology in overlays


def test_actions_that_depend_on_each_other_are_in_one_lane() -> None:
    lanes = {action.name: action.lane for action in ACTIONS}
    churn = (
        "overlay comes",
        "overlay goes",
        "device comes",
        "device goes",
        "rps",
        "xdp",
        "gro",
        "hold",
    )
    assert len({lanes[name] for name in churn}) == 1
    assert lanes["on"] == lanes["off"]
    assert lanes["set"] == lanes["garbage"], "garbage must see that nothing changed"


def test_a_veth_of_the_small_topology_keeps_its_napi_under_traffic(some: list[Epoch]) -> None:
    """Or packets would be lost that no counter knows of."""
    for epoch in some:
        for step in epoch.steps:
            port = step.arguments.get("port")
            if port and port.topology == SMALL and port.is_veth:
                assert step.action.name != "gro"
                assert step.arguments.get("mode") != "native"


def test_a_flow_number_is_used_once_an_epoch(some: list[Epoch]) -> None:
    for epoch in some:
        flows = [s.arguments["flow"] for s in epoch.steps if s.action.name == "burst"]
        assert len(flows) == len(set(flows))
        assert all(flow <= 255 for flow in flows)


def test_only_rings_may_be_lost(some: list[Epoch]) -> None:
    assert any(epoch.deaths for epoch in some), "not what a dead CPU had queued, either"
    for epoch in some:
        assert epoch.may_lose(SMALL) == 0
        assert epoch.may_lose(JUMBO) == sum(step.may_lose() for step in epoch.steps)


def test_rings_count_only_where_a_napi_is_taken_away_under_traffic() -> None:
    def lost(topology: str | int, device: str, on: bool) -> int:
        return Step(SetGro(), {"port": Port(topology, 1, None, device), "on": on}, 0).may_lose()

    assert lost(JUMBO, "nic0", False) == VETH_RING
    assert lost(JUMBO, "nic0", True) == 0
    assert lost(JUMBO, "vxlan0", False) == 0
    assert lost(SMALL, "vxlan0", False) == 0


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_are_drawn_as_the_kernel_prints_them(setting: str) -> None:
    rng = random.Random(1)
    for _ in range(100):
        value = SETTINGS[setting](rng, (0, 1, 2, 3, 8))
        assert value and value == value.strip() and not value.endswith(",")


def test_an_impossible_action_is_not_drawn() -> None:
    rng, model = random.Random(1), Model((0, 1))
    off = next(action for action in ACTIONS if action.name == "off")
    on = next(action for action in ACTIONS if action.name == "on")
    assert on.draw(rng, model) is None
    assert off.draw(rng, model) is None, "two CPUs must stay"
    goes = next(action for action in ACTIONS if action.name == "overlay goes")
    assert goes.draw(rng, model) is None


def test_a_step_is_told_in_one_short_line() -> None:
    for epoch in row(11):
        for step in (*epoch.before, *epoch.steps):
            assert "\n" not in str(step) and len(str(step)) < 200
    assert str(Port(SMALL, 1, 0, "eth0")) == "small/server/0/eth0"
    assert str(Port(2, 0, None, "nic0")) == "2/client/nic0"


class FakeWorld:
    """Settings that take all or nothing."""

    def __init__(self, *, takes: bool = False, error: int = 22, changes: bool = False):
        self.values = {"falcon": "0", "falcon_load_threshold": "85"}
        self.takes, self.error, self.changes = takes, error, changes

    def has_setting(self, name: str) -> bool:
        return name in self.values

    def write_setting(self, name: str, value: str) -> None:
        if self.changes:
            self.values["falcon"] = "1"
        if not self.takes:
            raise OSError(self.error, "refused")
        self.values[name] = value

    def settings(self) -> dict[str, str]:
        return dict(self.values)


def garbage(world: FakeWorld, setting: str = "falcon_load_threshold") -> None:
    actions.SetGarbage().apply(world, setting=setting, value="1x")  # type: ignore[arg-type]


def test_refused_garbage_is_as_it_must_be() -> None:
    garbage(FakeWorld())
    garbage(FakeWorld(takes=True), "falcon_gro_split")  # a series without it


@pytest.mark.parametrize(
    ("world", "complaint"),
    [
        (FakeWorld(takes=True), "took '1x'"),
        (FakeWorld(error=12), "refused"),
        (FakeWorld(changes=True), "settings changed"),
    ],
)
def test_garbage_that_is_taken_or_changes_something_is_a_failure(
    world: FakeWorld, complaint: str
) -> None:
    with pytest.raises(actions.FalconError, match=complaint):
        garbage(world)


def test_a_setting_that_does_not_stick_is_a_failure() -> None:
    world = FakeWorld(takes=True)
    actions.SetFalcon().apply(world, setting="falcon", value="1")  # type: ignore[arg-type]
    world.write_setting = lambda name, value: None  # type: ignore[method-assign]
    with pytest.raises(actions.FalconError, match="was set to 0 and says 1"):
        actions.SetFalcon().apply(world, setting="falcon", value="0")  # type: ignore[arg-type]
