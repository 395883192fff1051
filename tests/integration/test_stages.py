# SPDX-License-Identifier: GPL-2.0-only
"""Which CPU runs which stage of one flow, with Falcon on and off.

One packet from container to container passes four devices, each a stage::

    veth0 of the client    nic0      vxlan0     eth0 of the server's container
"""

from __future__ import annotations

from rig import COUNT, Rig, run_intact, skip_unless_apart, switch_on, trace

from harness.overlay import falcon
from harness.overlay.modes import rps_cpus
from harness.overlay.topology import CONTAINER_DEVICE, NIC, VXLAN, Host
from harness.workload.probes import Ping
from harness.workload.udpflow import Endpoint

STAGES = 4
# Each has all stages apart in about half of all cases, with six CPUs.
FLOWS = 32
# Now and then a packet of the kernel's own is on the way, too.
STRAY = COUNT // 10


def test_stages_run_on_different_cpus(rig: Rig) -> None:
    """NIC, VXLAN and veth of one flow on three CPUs, by Falcon's and by softnet's counters.

    Neighbouring stages never share a CPU. That two others do is up to the
    hash, so a few flows are tried until one has every stage for itself.
    """
    skip_unless_apart(rig, STAGES)
    switch_on(rig.cpus.stages)
    for number in range(FLOWS):
        seen = trace(rig, rig.flow(source_port=20_000 + number))
        for row in (seen.host.stage(NIC), seen.host.stage(VXLAN)):
            assert COUNT <= row.first <= COUNT + STRAY
            assert row.second == row.gated == row.held == row.split == row.dropped == 0
        assert COUNT <= seen.container.stage(CONTAINER_DEVICE).first <= COUNT + STRAY
        steered = seen.cpus_steered_to()
        assert sum(steered.values()) == STAGES
        assert set(steered) <= set(rig.cpus.stages)
        assert len(steered) > 1
        if len(steered) == STAGES:
            assert seen.work.received_on() == set(steered)
            return
    raise AssertionError(f"in none of {FLOWS} flows all stages ran on different CPUs")


def test_flow_keeps_its_cpus(rig: Rig) -> None:
    """The same flow and device: the same CPU, each time."""
    switch_on(rig.cpus.stages)
    flow = rig.flow(source_port=21_000)
    first, again = trace(rig, flow), trace(rig, flow)
    assert first.cpus_steered_to() == again.cpus_steered_to()


def test_one_cpu_is_enough(rig: Rig) -> None:
    """With a single Falcon CPU every stage runs there, and nothing is lost."""
    only = rig.cpus.stages[0]
    switch_on((only,))
    assert trace(rig, rig.flow()).cpus_steered_to() == {only: STAGES}


def test_off_is_vanilla_without_rps(rig: Rig) -> None:
    """Off: the sender's CPU runs every stage, and Falcon counts nothing."""
    seen = trace(rig, rig.flow())
    assert seen.work.received_on() == {rig.cpus.nic}
    assert seen.work.cpus[rig.cpus.nic].processed >= STAGES * COUNT
    assert_untouched(seen.host)


def test_off_is_vanilla_with_rps(rig: Rig) -> None:
    """Off: RPS decides. The CPU it names for the NIC runs all of the server's stages."""
    target = rig.cpus.stages[0]
    with rps_cpus(rig.server.namespace, NIC, (target,)):
        seen = trace(rig, rig.flow())
    assert seen.work.received_on() == {rig.cpus.nic, target}
    assert 3 * COUNT <= seen.work.cpus[target].processed <= 3 * COUNT + STRAY
    assert_untouched(seen.host)


def test_off_is_vanilla_with_disjoint_rps(rig: Rig) -> None:
    """Off: three RPS masks make the pipeline that a stock kernel can make."""
    nic, vxlan, veth = rig.cpus.stages[:3]
    with (
        rps_cpus(rig.server.namespace, NIC, (nic,)),
        rps_cpus(rig.server.namespace, VXLAN, (vxlan,)),
        rps_cpus(rig.server.at(0), CONTAINER_DEVICE, (veth,)),
    ):
        seen = trace(rig, rig.flow())
    assert {nic, vxlan, veth} <= seen.work.received_on()
    assert_untouched(seen.host)


def test_off_after_on(rig: Rig) -> None:
    """Switched off again, nothing of Falcon is left."""
    switch_on(rig.cpus.stages)
    run_intact(rig.flow())
    falcon.write_sysctl("falcon", 0)
    seen = trace(rig, rig.flow())
    assert seen.work.received_on() == {rig.cpus.nic}
    assert_untouched(seen.host)


def test_loopback_is_not_steered(rig: Rig) -> None:
    """A hop gains nothing on loopback."""
    switch_on(rig.cpus.stages)
    host: Host = rig.server
    own = Endpoint(host.at(0), "127.0.0.1")
    before = falcon.counters(host.at(0))
    assert Ping(own, own, count=20).run().answered == 20
    after = falcon.counters(host.at(0))
    assert "lo" not in after.stages
    assert (after - before).stage(CONTAINER_DEVICE).steered < 20


def assert_untouched(change: falcon.Counters) -> None:
    """Falcon took no decision."""
    for column in ("received", "steered", "gated", "held", "split", "dropped"):
        assert change.total(column) == 0
