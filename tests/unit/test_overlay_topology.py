# SPDX-License-Identifier: GPL-2.0-only
"""Topologies on this host's own kernel: they carry traffic and leave nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.machine.tap import open_tap
from harness.overlay.modes import rps_cpus
from harness.overlay.netns import Namespace
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import (
    CONTAINER_DEVICE,
    NIC,
    VXLAN,
    nic_server,
    one_machine,
    tap_client,
)
from harness.workload.probes import Ping, TcpTransfer
from harness.workload.udpflow import Endpoint, UdpFlow

PATIENCE_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    try:
        Namespace("probe").close()
    except FalconError as error:
        pytest.skip(str(error))


def wait_until_gone(namespace: Namespace, device: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while namespace.has(device):
        assert time.monotonic() < deadline, f"{device} is still there"
        time.sleep(0.1)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_traffic_between_containers_and_between_hosts(outer: int, inner: int) -> None:
    with one_machine(Plan(containers=2, outer=outer, inner=inner)) as both:
        for container in (0, 1, None):
            ends = Endpoint.of(both.client, container), Endpoint.of(both.server, container)
            assert UdpFlow(*ends, count=500, rate=2000, sender_cpu=0).run().is_intact
            assert Ping(*ends, count=1).run().answered == 1
            assert TcpTransfer(*ends, size=1 << 20).run().is_intact


def test_packets_of_a_flow_reach_no_other_container() -> None:
    """The bridge knows where everyone is: nothing is flooded."""
    with one_machine(Plan(containers=2)) as both:
        ends = Endpoint.of(both.client, 1), Endpoint.of(both.server, 1)
        assert UdpFlow(*ends, count=200, rate=2000).run().is_intact
        statistics = f"/sys/class/net/{CONTAINER_DEVICE}/statistics/rx_packets"
        assert int(both.server.at(0).read(statistics)) < 20


def test_rps_mask_is_put_back() -> None:
    with one_machine(Plan()) as both:
        host = both.server.namespace
        file = f"/sys/class/net/{VXLAN}/queues/rx-0/rps_cpus"
        with rps_cpus(host, VXLAN, (0,)):
            assert int(host.read(file).replace(",", ""), 16) == 1
        assert int(host.read(file).replace(",", ""), 16) == 0


def test_nothing_appears_in_our_own_namespace() -> None:
    with Namespace.current() as current:
        before = set(current.devices())
        with one_machine(Plan()), tap_client(Plan()):
            assert set(current.devices()) == before
        assert set(current.devices()) == before


def test_tap_client_offers_the_servers_card() -> None:
    with tap_client(Plan(), queues=2) as (client, nic):
        assert nic.mac == Plan().host(SERVER).mac
        assert len(nic.fds) == 2
        assert "rx-1" in client.at().listdir(f"/sys/class/net/{NIC}/queues")
        fds = nic.fds
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)


@contextmanager
def card_with(mac: str) -> Iterator[int]:
    """A TAP device in our own namespace that stands in for a VM's network card; its queue."""
    (queue,) = open_tap("falcon-card", 1)
    try:
        with Namespace.current() as current:
            current.ip("link", "set", index=current.index("falcon-card"), address=mac)
        yield queue
    finally:
        os.close(queue)


@contextmanager
def cable(one: int, other: int) -> Iterator[None]:
    """Carry packets between two TAP queues, as QEMU does."""
    end, ended = os.pipe()
    ways = {one: other, other: one}

    def carry() -> None:
        while True:
            ready, _, _ = select.select([end, *ways], [], [])
            if end in ready:
                return
            for queue in ready:
                # A device that is not up yet takes nothing.
                with suppress(OSError):
                    os.write(ways[queue], os.read(queue, 1 << 16))

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join()
        os.close(end)


@pytest.mark.parametrize("version", [4, 6])
def test_halves_that_are_built_apart_fit(version: int) -> None:
    """The two-machine form: the client on a TAP device, the server on a card with a given MAC."""
    plan = Plan(containers=2, outer=version, inner=version)
    with (
        tap_client(plan) as (client, nic),
        card_with(nic.mac) as card,
        cable(nic.fds[0], card),
        Namespace.current() as current,
    ):
        with nic_server(plan) as server:
            assert not current.has("falcon-card")
            for container in (1, None):
                ends = Endpoint.of(client, container), Endpoint.of(server, container)
                assert UdpFlow(*ends, count=200, rate=1000, size=1000).run().is_intact
                assert TcpTransfer(*ends, size=1 << 18).run().is_intact
                assert Ping(*ends, count=1, size=8000).run().answered == 1
        assert nic.mac in [link.get("address") for link in current.ip("link", "dump")]


def test_missing_card_is_named() -> None:
    with pytest.raises(FalconError, match="no network card with the address 02:77"):  # noqa: SIM117
        with nic_server(Plan()):
            pass


DOOMED = """
from harness.overlay.netns import Namespace
from harness.overlay.plan import Plan
from harness.overlay.topology import one_machine
from harness.workload.udpflow import Endpoint, Receiver, Sender
import time
with Namespace.current() as witness, one_machine(Plan()) as both:
    for number, namespace in enumerate((both.client.at(), both.server.at(0))):
        peer = {"ifname": "canary", "net_ns_fd": namespace.fd}
        witness.ip("link", "add", ifname=f"canary{number}", kind="veth", peer=peer)
    sink = Endpoint.of(both.server)
    with Receiver(sink), Sender(both.client.at(0), sink.ip, rate=100):
        print("ready", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_we_die(how: signal.Signals, tmp_path: Path) -> None:
    """Namespaces hold the far ends of two veth pairs: they go when the namespaces go."""
    with Namespace("witness") as witness:
        process = witness.popen(
            [sys.executable, "-c", DOOMED],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert witness.has("canary0") and witness.has("canary1")
        process.send_signal(how)
        process.wait(PATIENCE_S)
        process.stdout.close()
        wait_until_gone(witness, "canary0")
        wait_until_gone(witness, "canary1")


def test_errors_say_what_was_tried() -> None:
    with Namespace("lonely") as lonely:
        with pytest.raises(FalconError, match="lonely has no device eth9"):
            lonely.index("eth9")
        with pytest.raises(FalconError, match=r"ip link del index 999.* No such device"):
            lonely.ip("link", "del", index=999)
