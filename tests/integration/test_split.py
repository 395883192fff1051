# SPDX-License-Identifier: GPL-2.0-only
"""GRO splitting, and GRO on Falcon's own queues.

The NIC has a NAPI here, as a real one does (``nic.py``). Joined, its packets go
through GRO and on to VXLAN on the CPU that polls it; split, on one more CPU::

    veth0 of the client  |  nic0: poll  |  nic0: GRO  |  vxlan0  |  eth0 of the server's container
                      same CPU

Removal of devices while split is in test_teardown.py, CPU hotplug in
test_hotplug.py, and what goes through in any mode in test_traffic.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

import nic
import pytest
import tracing
from rig import (
    ATTEMPTS,
    COUNT,
    PATIENCE_S,
    Rig,
    Traced,
    assert_order_while_everything_changes,
    assert_tcp_in_order,
    burning,
    run_intact,
    skip_unless_apart,
    switch_on,
    trace,
    wait_until,
)
from segments import Stream, Watch, Wire

from harness.overlay import falcon, receiving
from harness.overlay.modes import rps_cpus
from harness.overlay.topology import CONTAINER_DEVICE, NIC, VXLAN
from harness.workload.probes import TcpTransfer
from harness.workload.udpflow import Receiver, Sender

JOINED_STAGES, SPLIT_STAGES = 3, 4
STRAY = COUNT // 10
# Each has all stages apart in about half of all cases, with six CPUs.
FLOWS = 32

SEED = 20210427
PACKETS = 60_000
RATE = 6_000.0

SWITCHES = 60
SWITCH_RATE = 3_000.0
# Long enough that a device is seen and split in between.
SWITCH_PAUSE_S = 0.05
SWITCH_INTERVAL_MS = 5
TCP_BYTES = 4 << 20
# The segments of so many bytes fit in any queue on the way, however fast they are sent.
TCP_BUFFER = 256 << 10
# In several parts: one in which an emulated CPU stands still proves nothing.
PARTS, PART_SWITCHES = 8, 8

# Share of a CPU's time that its softirqs must take; sending takes the rest of it.
OVERLOAD = 25
AUTO_INTERVAL_MS = 100
# So few packets, in a second, are not too much for a CPU's poll, emulated or not.
TRICKLE = 50
# GRO that merges anything at all in a bulk transfer merges more than that.
MERGED = 0.9
MERGE_BYTES = 2 << 20
# The two segments of a pair come in different polls, but well within the time that GRO may hold
# the first one. Chance, that is a CPU that stands still, may prevent either, but rarely.
PAIRS, PAIR_S, HOLD_NS = 100, 0.002, 20_000_000
FIRST_PORT = 30_000
# What GRO held came so late: Falcon lets it hold for ten milliseconds at most.
HELD_S = 0.008
# More flows than a poll can hand over at once, on as few CPUs as will do, and held for so short a
# time that it ends in many a poll.
CROWD, CROWD_PACKETS, CROWD_RATE = 80, 10_000, 5_000.0
CROWD_HOLD_NS, CROWD_S = 3_000_000, 600.0


@pytest.fixture(autouse=True)
def polled_nic(rig: Rig) -> Iterator[None]:
    """The server's NIC has a NAPI of its own."""
    with nic.polled(rig.server.at(), NIC):
        yield


@contextmanager
def holding(rig: Rig, ns: int) -> Iterator[None]:
    """GRO may hold packets of the server's NIC and of its VXLAN device beyond a poll."""
    devices = (NIC, VXLAN)
    try:
        for device in devices:
            receiving.set_gro_flush_timeout(rig.server.at(), device, ns)
        yield
    finally:
        for device in devices:
            receiving.set_gro_flush_timeout(rig.server.at(), device, 0)


def gro_state(rig: Rig) -> str:
    return falcon.counters(rig.server.at()).stage(NIC).gro


def split_so_far(rig: Rig) -> int:
    return falcon.counters(rig.server.at()).stage(NIC).split


def switch_on_split(rig: Rig) -> None:
    """Falcon on, and the NIC split: it is once a packet of it was seen."""
    switch_on(rig.cpus.stages, gro_split=1)
    run_intact(rig.flow(count=100))
    wait_until(lambda: gro_state(rig) == "split", "the NIC is split")


def assert_steered(seen: Traced, stages: int) -> None:
    """Every packet passed so many stages, each on a Falcon CPU, and none was held or lost."""
    assert sum(seen.cpus_steered_to().values()) == stages
    for row in (seen.host.stage(NIC), seen.host.stage(VXLAN)):
        assert row.second == row.gated == row.held == row.dropped == 0
    assert COUNT <= seen.host.stage(VXLAN).first <= COUNT + STRAY


# ---- which CPU does what ------------------------------------------------------------


def test_split_moves_gro_to_another_cpu(rig: Rig) -> None:
    """All packets are handed over before GRO, and one more CPU works on them."""
    skip_unless_apart(rig, SPLIT_STAGES)
    switch_on_split(rig)
    for number in range(FLOWS):
        seen = trace(rig, rig.flow(source_port=23_000 + number))
        row = seen.host.stage(NIC)
        assert row.gro == "split"
        assert COUNT <= row.split == row.first <= COUNT + STRAY
        # A real host's own network cards are split, too.
        assert row.split <= seen.host.total("split") <= row.split + STRAY
        assert_steered(seen, SPLIT_STAGES)
        steered = seen.cpus_steered_to()
        assert len(steered) > 1
        if len(steered) == SPLIT_STAGES:
            assert seen.work.received_on() == set(steered)
            return
    raise AssertionError(f"in none of {FLOWS} flows all stages ran on different CPUs")


def test_joined_is_not_handed_over(rig: Rig) -> None:
    """Not split: the CPU that polls the NIC does its GRO, and takes the packet to VXLAN."""
    skip_unless_apart(rig, JOINED_STAGES)
    switch_on(rig.cpus.stages, gro_split=0)
    for number in range(FLOWS):
        seen = trace(rig, rig.flow(source_port=23_000 + number))
        row = seen.host.stage(NIC)
        assert row.gro == "joined"
        assert row.split == row.steered == row.gated == row.held == 0
        assert_steered(seen, JOINED_STAGES)
        steered = seen.cpus_steered_to()
        if len(steered) == JOINED_STAGES:
            assert seen.work.received_on() == set(steered)
            return
    raise AssertionError(f"in none of {FLOWS} flows all stages ran on different CPUs")


def test_off_is_not_handed_over(rig: Rig) -> None:
    """Falcon off: nothing is split, whatever the setting says."""
    falcon.write_sysctl("falcon_gro_split", 1)
    seen = trace(rig, rig.flow())
    assert seen.work.received_on() == {rig.cpus.nic}
    for column in ("received", "steered", "split"):
        assert seen.host.total(column) == 0


def test_joined_again(rig: Rig) -> None:
    """Switched back, the NIC joins, and no packet is handed over any more."""
    switch_on_split(rig)
    falcon.write_sysctl("falcon_gro_split", 0)
    wait_until(lambda: gro_state(rig) == "joined", "the NIC is joined")
    assert trace(rig, rig.flow()).host.stage(NIC).split == 0


def test_closed_gate_joins(rig: Rig) -> None:
    """With no room on the Falcon CPUs a poll keeps its packets."""
    switch_on_split(rig)
    falcon.write_sysctl("falcon_load_threshold", 60)
    with burning(rig.cpus.stages):
        wait_until(lambda: not falcon.counters().gate_is_open, "the gate is closed")
        seen = trace(rig, rig.flow(rate=500))
    row = seen.host.stage(NIC)
    assert row.steered <= STRAY
    assert row.gated + row.held >= COUNT - STRAY


# ---- order ----------------------------------------------------------------------------


def test_order_while_everything_changes(rig: Rig) -> None:
    """All settings and the load change all the time, on a NIC that can be split."""
    switch_on_split(rig)
    before = split_so_far(rig)
    assert_order_while_everything_changes(rig, random.Random(SEED), PACKETS, RATE)
    assert split_so_far(rig) > before


@pytest.mark.parametrize("name", ["falcon_gro_split", "falcon"])
def test_udp_order_while_switched(rig: Rig, name: str) -> None:
    """No packet overtakes another while splitting, or Falcon, goes on and off."""
    source, sink = rig.ends()
    switch_on_split(rig)
    falcon.write_sysctl("falcon_load_interval", SWITCH_INTERVAL_MS)
    before = split_so_far(rig)
    with (
        Receiver(sink, cpu=rig.cpus.app) as receiver,
        Sender(source.namespace, sink.ip, rate=SWITCH_RATE, cpu=rig.cpus.nic) as sender,
    ):
        receiver.wait_for(1, PATIENCE_S)
        for state in (0, 1) * SWITCHES:
            falcon.write_sysctl(name, state)
            time.sleep(SWITCH_PAUSE_S)
        receiver.drain(sender.stop().sent)
        came = receiver.stop()
    assert (came.out_of_order, came.duplicates, came.corrupted) == (0, 0, 0), came
    # Packets went both ways: split and joined.
    assert 0 < split_so_far(rig) - before < came.received


@pytest.mark.parametrize("hold_ns", [0, HOLD_NS])
@pytest.mark.parametrize("name", ["falcon_gro_split", "falcon"])
def test_tcp_order_while_switched(rig: Rig, name: str, hold_ns: int) -> None:
    """No segment overtakes another, either; nor one that GRO holds beyond its poll.

    TCP sends from whatever CPU an acknowledgement came to. A stock kernel may
    reorder that; so RPS gathers it on one CPU while Falcon is off.
    """
    switch_on_split(rig)
    falcon.write_sysctl("falcon_load_interval", SWITCH_INTERVAL_MS)
    before = split_so_far(rig)
    with holding(rig, hold_ns), rps_cpus(rig.topology.client.at(), "veth0", rig.cpus.stages[:1]):
        assert_tcp_in_order(rig, lambda: transfer_while_switched(rig, name), times=PARTS)
    assert split_so_far(rig) > before


def transfer_while_switched(rig: Rig, name: str) -> None:
    """One intact transfer after the other until ``name`` was switched often enough."""
    switches = 0
    with ThreadPoolExecutor(max_workers=1) as sending:
        while switches < PART_SWITCHES:
            whole = TcpTransfer(*rig.ends(), size=TCP_BYTES, buffer=TCP_BUFFER)
            transfer = sending.submit(whole.run)
            while not transfer.done():
                for state in (0, 1):
                    time.sleep(SWITCH_PAUSE_S)  # first: a fast transfer begins while it is on
                    falcon.write_sysctl(name, state)
                switches += 1
            done = transfer.result()
            assert done.is_intact and done.bytes == TCP_BYTES


def test_splitting_does_not_change_the_hash_behind_the_tunnel(rig: Rig) -> None:
    """Were it another one, what comes after a split could overtake what came before.

    Nobody asks for the hash of the outer headers here, RPS being off, but for splitting.
    """
    flows = range(FIRST_PORT, FIRST_PORT + FLOWS)
    ifindex = int(rig.server.at().read(f"/sys/class/net/{VXLAN}/ifindex"))
    switch_on(rig.cpus.stages, gro_split=0)
    with Wire(rig) as wire:
        joined = hashes_behind_the_tunnel(wire, flows, ifindex)
        switch_on_split(rig)
        assert hashes_behind_the_tunnel(wire, flows, ifindex) == joined
    assert len(joined) == FLOWS


def hashes_behind_the_tunnel(wire: Wire, flows: range, ifindex: int) -> set[str]:
    with tracing.steered() as hashes:
        for port in flows:
            wire.send_tunnelled(port)
        wait_until(lambda: len(hashes(VXLAN, ifindex)) >= len(flows), "all packets are unpacked")
        return set(hashes(VXLAN, ifindex))


# ---- automatic ------------------------------------------------------------------------


def test_overloaded_poll_is_split_and_joined_again(rig: Rig) -> None:
    """2: split while the poll of the NIC takes more than a CPU should give, and no longer.

    The packets of a flow between the hosts are polled on the CPU that sends
    them, as fast as it can; no stage of Falcon's takes part before it is split.
    """
    switch_on(rig.cpus.stages, threshold=OVERLOAD, interval=AUTO_INTERVAL_MS, gro_split=2)
    source, sink = rig.ends(overlay=False)
    before = split_so_far(rig)
    with (
        Receiver(sink, cpu=rig.cpus.app),
        Sender(source.namespace, sink.ip, cpu=rig.cpus.nic) as sender,
    ):
        wait_until(lambda: split_so_far(rig) > before, "the NIC is split")
        sender.stop()
    wait_until(lambda: gro_state(rig) == "joined", "the NIC is joined")
    so_far = split_so_far(rig)
    run_intact(rig.flow(overlay=False, count=TRICKLE, rate=TRICKLE))
    assert split_so_far(rig) == so_far


def test_cpu_that_is_busy_with_other_things_is_no_reason(rig: Rig) -> None:
    """2: not split as long as it is not the poll that makes its CPU busy."""
    switch_on(rig.cpus.stages, threshold=85, interval=AUTO_INTERVAL_MS, gro_split=2)
    before = split_so_far(rig)
    with burning((rig.cpus.nic,)):
        run_intact(rig.flow(overlay=False, rate=500))
        assert gro_state(rig) == "joined"
    assert split_so_far(rig) == before


# ---- GRO on Falcon's queues --------------------------------------------------------------


def assert_merges(rig: Rig, count: Callable[[], tuple[int, int]], share_of: str) -> None:
    """A bulk TCP transfer raises the second count less than the first. Chance may prevent it."""
    for _ in range(ATTEMPTS):
        before = count()
        transfer = TcpTransfer(*rig.ends(), size=MERGE_BYTES).run()
        assert transfer.is_intact and transfer.bytes == MERGE_BYTES
        segments, merged = (now - then for now, then in zip(count(), before, strict=True))
        # What came is not what was sent because less came: it came whole.
        assert segments >= MERGE_BYTES // rig.server.plan.container_mtu
        if 0 < merged < MERGED * segments:
            return
    raise AssertionError(f"{segments} segments became {merged} packets {share_of}")


def test_gro_merges_on_the_split_cpu(rig: Rig) -> None:
    """What a split NIC hands over is one packet of the wire each; VXLAN gets what GRO makes."""
    switch_on_split(rig)

    def count() -> tuple[int, int]:
        now = falcon.counters(rig.server.at())
        return now.stage(NIC).split, now.stage(VXLAN).decided

    assert_merges(rig, count, "for VXLAN")


def test_gro_merges_inner_packets(rig: Rig) -> None:
    """With a joined NIC that cannot merge, the VXLAN stage merges what it unpacks."""
    client, server = rig.topology.client, rig.server

    def count() -> tuple[int, int]:
        sent = client.at(0).read(f"/sys/class/net/{CONTAINER_DEVICE}/statistics/tx_packets")
        return int(sent), falcon.counters(server.at(0)).stage(CONTAINER_DEVICE).decided

    switch_on(rig.cpus.stages, gro_split=0)
    with (
        nic.without(client.at(0), CONTAINER_DEVICE, "tso", "gso"),
        nic.without(server.at(), NIC, "gro"),
    ):
        assert_merges(rig, count, "for the container")


def test_gro_holds_for_as_long_as_the_device_allows(rig: Rig) -> None:
    """gro_flush_timeout of a split NIC: GRO merges what comes in several polls."""
    switch_on_split(rig)
    with Wire(rig) as wire:
        for _ in range(ATTEMPTS):
            at_once = merged_pairs(wire)
            with holding(rig, HOLD_NS):
                held = merged_pairs(wire)
            if at_once < PAIRS // 4 and held > PAIRS // 2:
                return
    raise AssertionError(f"of {PAIRS} pairs GRO merged {at_once}, and {held} when it could hold")


def test_time_of_receipt_is_that_before_the_wait(rig: Rig) -> None:
    """netdev_tstamp_prequeue, on by default: a packet that waits on another CPU has its time."""
    switch_on_split(rig)
    with Wire(rig) as wire, Watch(rig) as watch, holding(rig, HOLD_NS):
        seen = [watch.send(wire, Stream(FIRST_PORT + number)) for number in range(PAIRS)]
    held = [packet for packet in seen if packet.came > HELD_S]
    assert len(held) > PAIRS // 2
    assert median(packet.came - packet.stamped for packet in held) > HELD_S / 2


def test_timer_polls_a_queue_that_was_woken(rig: Rig) -> None:
    """Held packets have it polled before the kick that is due; then it is woken anew.

    A kernel that does not expect that kicks for ever, in a softirq.
    """
    switch_on(rig.cpus.stages[:2], gro_split=1)
    streams = [Stream(number) for number in range(FIRST_PORT, FIRST_PORT + CROWD)]
    source, sink = rig.ends()
    enough = split_so_far(rig) + CROWD_PACKETS
    with (
        Wire(rig) as wire,
        holding(rig, CROWD_HOLD_NS),
        Receiver(sink),
        Sender(source.namespace, sink.ip, rate=CROWD_RATE, cpu=rig.cpus.nic),
    ):

        def all_came() -> bool:
            for stream in streams:
                wire.send(stream)
            return split_so_far(rig) >= enough

        wait_until(all_came, "packets of all flows come", CROWD_S)
    run_intact(rig.flow())


def merged_pairs(wire: Wire) -> int:
    """Of how many pairs of segments GRO made one packet."""
    before = wire.arrived()
    for number in range(PAIRS):
        stream = Stream(FIRST_PORT + number)
        for _ in range(2):
            wire.send(stream)
            time.sleep(PAIR_S)
    wait_until(lambda: (wire.arrived() - before).segments >= 2 * PAIRS, "all segments arrive")
    came = wire.arrived() - before
    return came.segments - came.packets
