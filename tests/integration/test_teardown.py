# SPDX-License-Identifier: GPL-2.0-only
"""Devices and namespaces go away under traffic, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import nic
import pytest
from rig import Rig, active_objects, run_intact, switch_on, wait_until

from harness.overlay import falcon
from harness.overlay.cpus import CpuPlan
from harness.overlay.netns import Namespace
from harness.overlay.plan import Plan
from harness.overlay.topology import BRIDGE, CONTAINER_DEVICE, NIC, VXLAN, one_machine
from harness.workload.udpflow import Receiver, Sender

ROUNDS = 2
RATE = 5_000.0
# Packets that drivers keep for their next use: NAPI_SKB_CACHE_SIZE a CPU, and some.
KEPT_SKBS_PER_CPU = 128


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
