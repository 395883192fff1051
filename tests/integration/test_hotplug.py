# SPDX-License-Identifier: GPL-2.0-only
"""CPUs go off and come back under traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import nic
import pytest
from rig import PATIENCE_S, Rig, run_intact, switch_on, trace, wait_until

from harness.overlay import falcon
from harness.overlay.cpus import online_cpus, set_online
from harness.overlay.topology import NIC
from harness.workload.udpflow import Receiver, Sender

RATE = 2_000.0
# What a queue may hold, and so what may be lost when its CPU dies.
QUEUE = 1_000
ROUNDS = 2
STEP_PACKETS = 500


@pytest.fixture(autouse=True)
def all_back() -> Iterator[None]:
    """Every CPU is online again afterwards, and queues are as long as before."""
    before, queue = online_cpus(), falcon.read_sysctl("netdev_max_backlog")
    yield
    falcon.write_sysctl("netdev_max_backlog", queue)
    for cpu in set(before) - set(online_cpus()):
        set_online(cpu, True)


@pytest.mark.parametrize("split", [False, True], ids=["joined", "split"])
def test_cpus_offline_and_back_under_traffic(
    rig: Rig, split: bool, record_property: Callable[[str, object], None]
) -> None:
    """Each Falcon CPU dies in turn; the flow goes on, and loses at most what died with them."""
    source, sink = rig.ends()
    host = rig.server.at()
    switch_on(rig.cpus.stages, gro_split=int(split))
    falcon.write_sysctl("netdev_max_backlog", QUEUE)
    before = falcon.counters(host)
    deaths = 0
    with (
        nic.polled(host, NIC) if split else nullcontext(),
        Receiver(sink, cpu=rig.cpus.app) as receiver,
        Sender(source.namespace, sink.ip, rate=RATE, cpu=rig.cpus.nic) as sender,
    ):
        for cpu in rig.cpus.stages * ROUNDS:
            set_online(cpu, False)
            deaths += 1
            assert_goes_on(receiver)
            assert cpu not in falcon.counters().cpus
            set_online(cpu, True)
            assert_goes_on(receiver)
        sent = sender.stop()
        receiver.drain(sent.sent)
        came = receiver.stop()
        change = falcon.counters(host).stage(NIC) - before.stage(NIC)
    record_property("lost", sent.sent - came.received)
    assert bool(change.split) == split
    assert (came.duplicates, came.corrupted) == (0, 0), came
    assert sent.sent - came.received <= deaths * QUEUE


def assert_goes_on(receiver: Receiver) -> None:
    """Packets still come: no queue is stuck."""
    so_far = receiver.report().received
    wait_until(
        lambda: receiver.report().received >= so_far + STEP_PACKETS, "the flow goes on", PATIENCE_S
    )


def test_offline_cpu_is_never_chosen(rig: Rig) -> None:
    """A CPU set keeps its offline members, but none of them gets a packet."""
    off = rig.cpus.stages[:2]
    switch_on(rig.cpus.stages)
    for cpu in off:
        set_online(cpu, False)
    assert falcon.settings().cpus == rig.cpus.stages
    steered = trace(rig, rig.flow()).cpus_steered_to()
    assert steered and not set(steered) & set(off)


def test_no_falcon_cpu_online(rig: Rig) -> None:
    """Without any, packets take the original path."""
    off = rig.cpus.stages[:2]
    switch_on(off)
    for cpu in off:
        set_online(cpu, False)
    assert not falcon.counters().gate_is_open
    assert trace(rig, rig.flow()).host.total("steered") == 0


def test_returned_cpu_is_used_again(rig: Rig) -> None:
    only = rig.cpus.stages[0]
    switch_on((only,))
    set_online(only, False)
    run_intact(rig.flow())
    set_online(only, True)
    assert set(trace(rig, rig.flow()).cpus_steered_to()) == {only}
