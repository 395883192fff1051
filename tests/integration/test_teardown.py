# SPDX-License-Identifier: GPL-2.0-only
"""Devices and namespaces go away under traffic, and leave nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import nic
import pytest
from rig import Rig, active_objects, run_intact, switch_on, wait_until
from segments import Stream, Wire

from harness.overlay import falcon, receiving
from harness.overlay.cpus import CpuPlan
from harness.overlay.netns import Namespace
from harness.overlay.plan import Plan
from harness.overlay.topology import BRIDGE, CONTAINER_DEVICE, NIC, VXLAN, one_machine
from harness.workload.udpflow import Receiver, Sender

ROUNDS = 2
RATE = 5_000.0
# Packets that drivers keep for their next use: NAPI_SKB_CACHE_SIZE a CPU, and some.
KEPT_SKBS_PER_CPU = 128
# GRO may hold packets for longer than a removal needs to find them.
HOLD_NS, HELD_STREAMS = 20_000_000, 16
# Some are held at any time; a flood would leave emulated CPUs no time for the removal.
ROUND_S, ENOUGH = 0.002, 500


@contextmanager
def doomed_traffic(cpus: CpuPlan, *, split: bool = False) -> Iterator[Rig]:
    """A rig of its own with a flow under way, which may have its NIC split."""
    with one_machine(Plan()) as topology:
        rig = Rig(topology, cpus)
        source, sink = rig.ends()
        host = rig.server.at()
        if split:
            nic.give_napi(host, NIC)
        with (
            Receiver(sink) as receiver,
            Sender(source.namespace, sink.ip, rate=RATE, cpu=cpus.nic),
        ):
            wait_until(lambda: receiver.report().received > 0, "packets arrive")
            if split:
                wait_until(lambda: falcon.counters(host).stage(NIC).split > 0, "the NIC is split")
            yield rig


@contextmanager
def held_packets(rig: Rig) -> Iterator[None]:
    """GRO holds some packets of the server's NIC, at any time."""
    receiving.set_gro_flush_timeout(rig.server.at(), NIC, HOLD_NS)
    stop = threading.Event()
    with Wire(rig) as wire, ExitStack() as sending:
        sender = threading.Thread(target=send_to_be_held, args=(wire, stop))
        sender.start()
        sending.callback(sender.join)
        sending.callback(stop.set)
        yield


def wait_for_split(host: Namespace, count: int) -> None:
    """Wait until so many more packets of the NIC came and were handed over before GRO."""
    enough = falcon.counters(host).stage(NIC).split + count
    wait_until(lambda: falcon.counters(host).stage(NIC).split > enough, "more packets come")


def send_to_be_held(wire: Wire, stop: threading.Event) -> None:
    """Until told to stop, or the wire is gone."""
    streams = [Stream(number) for number in range(30_000, 30_000 + HELD_STREAMS)]
    with suppress(OSError):
        while not stop.is_set():
            for stream in streams:
                wire.send(stream)
            time.sleep(ROUND_S)


DOOMS: dict[str, Callable[[Rig], None]] = {
    "vxlan": lambda rig: rig.server.namespace.delete(VXLAN),
    "veth": lambda rig: rig.server.namespace.delete("veth0"),
    "wire": lambda rig: rig.server.namespace.delete(NIC),
    "bridge": lambda rig: rig.server.namespace.delete(BRIDGE),
    "container-device": lambda rig: rig.server.at(0).delete(CONTAINER_DEVICE),
    "server": lambda rig: rig.server.namespace.close(),
    "client": lambda rig: rig.topology.client.namespace.close(),
}


# What the packets that a split NIC hands over belong to, or go to next.
SPLIT_DOOMS = ("vxlan", "wire", "server", "client")
CASES = [(doom, False) for doom in DOOMS] + [(doom, True) for doom in SPLIT_DOOMS]
CASE_IDS = [f"{doom}-split" if split else doom for doom, split in CASES]


@pytest.mark.parametrize(("doom", "split"), CASES, ids=CASE_IDS)
def test_removal_under_traffic(rig: Rig, cpus: CpuPlan, doom: str, split: bool) -> None:
    """What is removed is gone, and other flows are none the worse."""
    switch_on(cpus.stages, gro_split=int(split))
    for _ in range(ROUNDS):
        with doomed_traffic(cpus, split=split) as doomed:
            DOOMS[doom](doomed)
    wait_for_clean_up()
    run_intact(rig.flow())


@pytest.mark.parametrize("doom", ["wire", "server", "client"])
def test_removal_while_gro_holds_packets(rig: Rig, cpus: CpuPlan, doom: str) -> None:
    """No packet of a device is left in GRO when the device is gone."""
    switch_on(cpus.stages, gro_split=1)
    for _ in range(ROUNDS):
        with doomed_traffic(cpus, split=True) as doomed, held_packets(doomed):
            wait_for_split(doomed.server.at(), ENOUGH)
            DOOMS[doom](doomed)
    wait_for_clean_up()
    run_intact(rig.flow())


def test_nothing_leaks(rig: Rig, cpus: CpuPlan) -> None:
    """Namespaces and packets are as many as before."""
    switch_on(cpus.stages, gro_split=1)
    run_intact(rig.flow())
    wait_for_clean_up()
    namespaces, packets = active_objects("net_namespace"), active_objects("skbuff_head_cache")
    for doom, split in CASES:
        with doomed_traffic(cpus, split=split) as doomed:
            DOOMS[doom](doomed)
    wait_for_clean_up()
    wait_until(
        lambda: active_objects("net_namespace") <= namespaces, "all new namespaces are freed"
    )
    kept = KEPT_SKBS_PER_CPU * (len(cpus.stages) + 2)
    wait_until(
        lambda: active_objects("skbuff_head_cache") <= packets + kept, "all packets are freed"
    )


def wait_for_clean_up() -> None:
    """Namespaces are removed one after the other: when a new one is gone, all before are.

    A device that somebody still holds would stop that.
    """
    with Namespace("witness") as witness:
        with Namespace("doomed") as doomed:
            peer = {"ifname": "eth0", "net_ns_fd": doomed.fd}
            witness.ip("link", "add", ifname="canary", kind="veth", peer=peer)
        wait_until(lambda: not witness.has("canary"), "removed namespaces are gone")
