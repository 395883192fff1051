# SPDX-License-Identifier: GPL-2.0-only
"""What the integration tests share: flows with one retry rule, load, the kernel's log.

Emulated CPUs stand still for whole seconds when the host is busy. So nothing
here asserts a time; what takes time is waited for, and a flow that lost
packets is sent again. Damage, duplicates and wrong order are never excused.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import tracing

from harness.machine.console import find_splat
from harness.overlay import falcon, snmp, softnet
from harness.overlay.cpus import CpuPlan, online_files
from harness.overlay.netns import Namespace
from harness.overlay.topology import CONTAINER_DEVICE, NIC, VXLAN, Host, Topology
from harness.workload.udpflow import Endpoint, FlowResult, Receiver, Sender, UdpFlow

PATIENCE_S = 60.0
POLL_S = 0.1
ATTEMPTS = 3
# Enough packets to see where they go; slow enough for an emulated CPU.
COUNT, RATE = 1000, 2000.0
FIXED_SLOTS = 3  # FALCON_FIXED_SLOTS of falcon_pick.h
# Of harness.machine.qemu, which not every host can import.
COMMAND_LINE, OURS = Path("/proc/cmdline"), "rdinit=/init"
# Changes of settings that a burst of load lasts, and the longest pause between two.
BURST, PAUSE_S = 5, 0.05


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for ``condition``; fail the test, saying ``what``, when it never comes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)


# ---- flows ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Rig:
    """A topology and the CPUs its work is spread over."""

    topology: Topology
    cpus: CpuPlan

    def ends(self, overlay: bool = True) -> tuple[Endpoint, Endpoint]:
        """Client and server end: their first containers, or the hosts themselves."""
        container = 0 if overlay else None
        return (
            Endpoint.of(self.topology.client, container),
            Endpoint.of(self.topology.server, container),
        )

    @property
    def server(self) -> Host:
        return self.topology.server

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.topology.client, self.topology.server

    def flow(
        self,
        *,
        overlay: bool = True,
        count: int = COUNT,
        rate: float = RATE,
        size: int = 64,
        source_port: int = 0,
    ) -> UdpFlow:
        """A flow from client to server, sent on the NIC's CPU."""
        source, sink = self.ends(overlay)
        return UdpFlow(source, sink, count, rate, size, source_port, sender_cpu=self.cpus.nic)


def run_intact(flow: UdpFlow) -> FlowResult:
    """Run a flow until every packet of it has come; at most `ATTEMPTS` times."""
    for _ in range(ATTEMPTS):
        result = flow.run()
        assert_in_order(result)
        if result.is_intact:
            return result
    raise AssertionError(f"packets were lost {ATTEMPTS} times over, at last: {result}")


def assert_in_order(result: FlowResult) -> None:
    """Whatever came is undamaged, came once, and in the order it was sent."""
    came = result.received
    assert (came.out_of_order, came.duplicates, came.corrupted) == (0, 0, 0), result


@dataclass(frozen=True)
class Traced:
    """A flow, and what Falcon (``host``, ``container``) and softnet_stat counted meanwhile."""

    flow: FlowResult
    host: falcon.Counters
    container: falcon.Counters
    work: softnet.Snapshot

    def cpus_steered_to(self) -> dict[int, int]:
        """CPUs that got most of a stage's packets, and of how many stages."""
        sent = self.flow.sent.sent
        stages = {cpu: round(row.received / sent) for cpu, row in self.host.cpus.items()}
        return {cpu: count for cpu, count in stages.items() if count}


def trace(rig: Rig, flow: UdpFlow) -> Traced:
    """Run ``flow`` intact and tell what was counted; earlier attempts are not in it."""
    for _ in range(ATTEMPTS):
        host, container = rig.server.at(), rig.server.at(0)
        before = falcon.counters(host), falcon.counters(container), softnet.snapshot()
        result = flow.run()
        assert_in_order(result)
        if result.is_intact:
            return Traced(
                result,
                falcon.counters(host) - before[0],
                falcon.counters(container) - before[1],
                softnet.snapshot() - before[2],
            )
    raise AssertionError(f"packets were lost {ATTEMPTS} times over, at last: {result}")


# ---- TCP ------------------------------------------------------------------------------


def assert_tcp_in_order(rig: Rig, send: Callable[[], None], times: int = 1) -> None:
    """While ``send`` works, no segment comes to the server's container before its turn.

    What is lost is sent late; and after a timeout a connection gets another hash,
    which makes it another flow. Such a call proves nothing; ``times`` others have to.
    """
    proven = 0
    for _ in range(ATTEMPTS * times):
        early, excuses = _early_segments(rig), drops_on_the_way(rig) + _timeouts(rig)
        send()
        if drops_on_the_way(rig) + _timeouts(rig) == excuses:
            assert _early_segments(rig) == early
            proven += 1
        if proven == times:
            return
    raise AssertionError(
        f"segments were lost, or came too late, all but {proven} of {ATTEMPTS * times} times"
    )


def _early_segments(rig: Rig) -> int:
    """Segments that came before one that was sent earlier."""
    return protocol_counter(rig.server.at(0), "netstat", "TcpExt", "TCPOFOQueue")


def _timeouts(rig: Rig) -> int:
    return protocol_counter(rig.topology.client.at(0), "netstat", "TcpExt", "TCPTimeouts")


# ---- load ------------------------------------------------------------------------------


@contextmanager
def burning(cpus: tuple[int, ...]) -> Iterator[None]:
    """Keep ``cpus`` busy with user programs."""
    burners = []
    try:
        for cpu in cpus:
            burner = subprocess.Popen(["sh", "-c", "while :; do :; done"])
            burners.append(burner)
            os.sched_setaffinity(burner.pid, {cpu})
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


# ---- Falcon ------------------------------------------------------------------------------


def switch_on(
    cpus: tuple[int, ...],
    *,
    threshold: int = 100,
    interval: int = 20,
    two_choice: bool = False,
    gro_split: int = 0,
) -> None:
    """Falcon on; by default nothing about its choices depends on the load."""
    falcon.apply(falcon.Settings(True, cpus, threshold, interval, two_choice, gro_split))


def random_settings(generator: random.Random, cpus: tuple[int, ...]) -> falcon.Settings:
    """Any valid settings with at least one of ``cpus``."""
    return falcon.Settings(
        on=True,
        cpus=tuple(sorted(generator.sample(cpus, generator.randint(1, len(cpus))))),
        load_threshold=generator.randint(1, 100),
        load_interval=generator.randint(1, 50),
        two_choice=generator.random() < 0.5,
        gro_split=generator.randint(0, 2),
    )


def assert_order_while_everything_changes(
    rig: Rig, generator: random.Random, packets: int, rate: float
) -> None:
    """CPU set, threshold, interval, two-choice, split and load change until ``packets`` came."""
    source, sink = rig.ends()
    deadline = time.monotonic() + 5 * PATIENCE_S
    with (
        Receiver(sink, cpu=rig.cpus.app) as receiver,
        Sender(source.namespace, sink.ip, rate=rate, cpu=rig.cpus.nic),
    ):
        while receiver.report().received < packets and time.monotonic() < deadline:
            busy = generator.sample(rig.cpus.stages, generator.randint(0, 2))
            with burning(tuple(busy)):
                for _ in range(BURST):
                    falcon.apply(random_settings(generator, rig.cpus.stages))
                    time.sleep(generator.uniform(0, PAUSE_S))
        came = receiver.stop()
    assert came.received >= packets
    assert (came.out_of_order, came.duplicates, came.corrupted) == (0, 0, 0), came


def skip_unless_apart(rig: Rig, stages: int) -> None:
    """Skip where no flow can have each of ``stages`` on a CPU of its own.

    One of them comes out of the tunnel; `falcon_first_slot()` keeps the others, as devices of the
    tests are virtual, off three CPUs of the set.
    """
    needed = FIXED_SLOTS + stages - 1
    if len(rig.cpus.stages) < needed:
        pytest.skip(f"{needed} CPUs for stages are needed, there are {len(rig.cpus.stages)}")


def is_ours() -> bool:
    """Whether this is a virtual machine that was booted for the tests: nobody set anything."""
    return OURS in COMMAND_LINE.read_text(encoding="ascii").split()


def own_files() -> list[Path]:
    """What tests write that is the host's own, in the order to put it back: CPUs come first."""
    event = [tracing.STEER] if tracing.STEER.exists() else []  # tracefs may not be mounted
    queues = falcon.SYSCTL / "netdev_max_backlog"
    return [*online_files(), *event, queues, *falcon.files()]


# ---- what the kernel keeps and says ----------------------------------------------------------


# A lockdep report with its three stacks.
SPLAT_LINES = 120


class KernelLog:
    """The kernel's messages from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def splats(self) -> list[str]:
        """The messages no healthy kernel prints, each with what follows and explains it."""
        lines = list(self._lines())
        first = [number for number, line in enumerate(lines) if find_splat(line)]
        return ["\n".join(lines[number : number + SPLAT_LINES]) for number in first]

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                record = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # some were overwritten before they were read
            yield record.partition(";")[2].splitlines()[0]

    def close(self) -> None:
        os.close(self._fd)


def protocol_counter(namespace: Namespace, table: str, protocol: str, name: str) -> int:
    """A counter of /proc/net/``table`` (snmp, netstat); 0 where the kernel has none."""
    return snmp.parse(namespace.read_proc_net(table)).get(protocol + name, 0)


def dropped(namespace: Namespace, device: str, ways: tuple[str, ...] = ("rx", "tx")) -> int:
    """Packets that ``device`` threw away, coming in or going out."""
    statistics = f"/sys/class/net/{device}/statistics"
    return sum(int(namespace.read(f"{statistics}/{way}_dropped")) for way in ways)


def drops_on_the_way(rig: Rig) -> int:
    """Packets thrown away anywhere between the two containers, and at the server's sockets."""
    path = [
        *((host.at(), device) for host in rig.hosts for device in ("veth0", NIC)),
        *((host.at(0), CONTAINER_DEVICE) for host in rig.hosts),
    ]
    at_devices = sum(dropped(*place) for place in path)
    # Going out it drops the bridge's own multicast, which nobody is to get.
    at_devices += sum(dropped(host.at(), VXLAN, ("rx",)) for host in rig.hosts)
    at_socket = sum(
        protocol_counter(rig.server.at(0), "netstat", "TcpExt", name)
        for name in ("TCPBacklogDrop", "TCPRcvQDrop", "RcvPruned", "OfoPruned")
    )
    in_queues = softnet.snapshot().dropped + falcon.counters().total("dropped")
    return at_devices + at_socket + in_queues


def active_objects(cache: str) -> int:
    """How many objects of a slab cache are in use."""
    # Free objects that a CPU keeps for itself would be counted, too.
    with suppress(OSError):
        Path(f"/sys/kernel/slab/{cache}/shrink").write_text("1", encoding="ascii")
    text = Path("/proc/slabinfo").read_text(encoding="ascii")
    found = re.search(rf"^{cache} +(\d+)", text, re.MULTILINE)
    assert found, f"/proc/slabinfo has no {cache}"
    return int(found[1])
