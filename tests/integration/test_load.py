# SPDX-License-Identifier: GPL-2.0-only
"""The load gate and the second choice, under real CPU load."""

from __future__ import annotations

from rig import ATTEMPTS, COUNT, Rig, burning, run_intact, switch_on, trace, wait_until

from harness.overlay import falcon
from harness.overlay.topology import NIC, VXLAN

STRAY = COUNT // 10
BUSY = 85


def wait_for_gate(*, is_open: bool) -> None:
    word = "open" if is_open else "closed"
    wait_until(lambda: falcon.counters().gate_is_open == is_open, f"the gate is {word}")


def assert_steered(rig: Rig) -> None:
    """The gate is open: every packet of a flow is steered.

    A busy host makes emulated CPUs busy, and may close the gate: try again.
    """
    for _ in range(ATTEMPTS):
        stages = trace(rig, rig.flow()).host.stages
        if all(stages[device].steered >= COUNT for device in (NIC, VXLAN)):
            return
    raise AssertionError(f"not all of {COUNT} packets were steered: {stages}")


def assert_gated(rig: Rig) -> None:
    """The gate is closed: packets go where they go without Falcon."""
    seen = trace(rig, rig.flow())
    assert seen.host.stage(NIC).gated + seen.host.stage(NIC).held >= COUNT
    assert seen.host.stage(NIC).steered <= STRAY
    assert seen.host.stage(VXLAN).steered <= STRAY


def test_gate_closes_and_opens_with_the_load(rig: Rig) -> None:
    switch_on(rig.cpus.stages, threshold=60)
    wait_for_gate(is_open=True)
    assert_steered(rig)
    with burning(rig.cpus.stages):
        wait_for_gate(is_open=False)
        assert_gated(rig)
    wait_for_gate(is_open=True)
    assert_steered(rig)


def test_gate_is_at_the_threshold(rig: Rig) -> None:
    """Half of the Falcon CPUs busy: closed at a threshold below, open at one above."""
    busy, idle = rig.cpus.stages[:2], rig.cpus.stages[2:4]
    switch_on(busy + idle, interval=200)
    with burning(busy):
        wait_until(lambda: 45 <= falcon.counters().load <= 60, "half of the CPUs are busy")
        for threshold, is_open in ((30, False), (85, True), (30, False), (100, True)):
            falcon.write_sysctl("falcon_load_threshold", threshold)
            wait_for_gate(is_open=is_open)


def test_gate_never_closes_at_100(rig: Rig) -> None:
    switch_on(rig.cpus.stages, threshold=100)
    with burning(rig.cpus.stages):
        wait_until(lambda: falcon.counters().load >= 90, "all Falcon CPUs are busy")
        assert falcon.counters().gate_is_open
        seen = trace(rig, rig.flow(rate=500))
    assert seen.host.stage(NIC).steered >= COUNT


def test_second_choice_when_the_first_is_busy(rig: Rig) -> None:
    flow = rig.flow(source_port=22_000)
    switch_on(rig.cpus.stages, threshold=BUSY)
    first = max(trace(rig, flow).cpus_steered_to())
    with burning((first,)):
        wait_until(lambda: load_of(first) >= BUSY, f"CPU {first} is busy")
        assert falcon.counters().gate_is_open

        # Without two choices the flow stays on the busy CPU.
        seen = trace(rig, rig.flow(source_port=22_000, rate=500))
        assert seen.host.cpus[first].received >= COUNT - STRAY
        assert seen.host.total("second") == 0

        falcon.write_sysctl("falcon_two_choice", 1)
        assert_moves_away(rig, first)


def load_of(cpu: int) -> int:
    return falcon.counters().cpus[cpu].load or 0


def assert_moves_away(rig: Rig, busy: int) -> None:
    """Nearly all packets take their second choice. A load that is sampled wavers: try again."""
    for _ in range(ATTEMPTS):
        seen = trace(rig, rig.flow(source_port=22_000, rate=500))
        if seen.host.total("second") >= COUNT - STRAY:
            break
    assert seen.host.total("second") >= COUNT - STRAY
    assert seen.host.cpus[busy].received <= STRAY


def test_load_of_idle_and_busy_cpus(rig: Rig) -> None:
    """The sampler reaches both ends: near 0 when idle (tickless too), 100 when busy."""
    cpu = rig.cpus.stages[0]
    switch_on(rig.cpus.stages, interval=100)
    wait_until(lambda: load_of(cpu) <= 5, f"CPU {cpu} is seen idle")
    with burning((cpu,)):
        wait_until(lambda: load_of(cpu) >= 98, f"CPU {cpu} is seen busy")
    wait_until(lambda: load_of(cpu) <= 5, f"CPU {cpu} is seen idle again")
    run_intact(rig.flow())
