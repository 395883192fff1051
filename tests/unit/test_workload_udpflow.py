# SPDX-License-Identifier: GPL-2.0-only
"""udpflow over the loopback: what it sends, and that it sees every kind of damage."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.workload import udpflow
from harness.workload.udpflow import Endpoint, Receiver, Sender, UdpFlow

IP = "127.0.0.1"
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def here() -> Iterator[Endpoint]:
    with Namespace.current() as namespace:
        yield Endpoint(namespace, IP)


@pytest.fixture
def port() -> int:
    """A port nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((IP, 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def packets(here: Endpoint) -> list[bytes]:
    """A hundred packets as udpflow makes them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((IP, 0))
        sock.settimeout(PATIENCE_S)
        to = sock.getsockname()[1]
        with Sender(here.namespace, IP, count=100, rate=5000, size=53, port=to) as sender:
            caught = [sock.recv(4096) for _ in range(100)]
            assert sender.wait().sent == 100
    return caught


def deliver(here: Endpoint, port: int, packets: list[bytes]) -> udpflow.Received:
    """Let a receiver judge ``packets`` in this order."""
    with (
        Receiver(here, port=port) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        for packet in packets:
            sock.sendto(packet, (IP, port))
        receiver.drain(len(packets))
        return receiver.stop()


def test_a_flow_is_intact(here: Endpoint) -> None:
    result = UdpFlow(here, here, count=1000, rate=20_000, size=200).run()
    assert result.is_intact
    assert result.received.bytes == 200 * 1000
    assert result.received.flows == 1


@pytest.mark.parametrize("size", [udpflow.HEADER_BYTES, 17, 1472, 65_507])
def test_every_size_is_filled_and_checked(here: Endpoint, size: int) -> None:
    assert UdpFlow(here, here, count=20, rate=200, size=size).run().is_intact


def test_rate_is_kept(here: Endpoint, port: int) -> None:
    with Sender(here.namespace, IP, count=300, rate=300, port=port) as sender:
        assert sender.wait().seconds >= 0.9


def test_a_sender_begins_later(here: Endpoint, port: int) -> None:
    began = time.monotonic()
    with Sender(here.namespace, IP, count=1, rate=1000, after_s=0.5, port=port) as sender:
        sent = sender.wait()
    assert time.monotonic() - began >= 0.5
    assert sent.sent == 1 and sent.seconds < 0.5, "waiting is no sending"


def test_a_sender_that_waits_can_be_ended(here: Endpoint, port: int) -> None:
    with Sender(here.namespace, IP, after_s=60, port=port) as sender:
        time.sleep(0.2)  # until it hears signals
        assert sender.stop().sent == 0


def test_untouched_packets_are_intact(here: Endpoint, port: int, packets: list[bytes]) -> None:
    assert {len(packet) for packet in packets} == {53}
    assert deliver(here, port, packets).is_intact


def test_late_packets_are_out_of_order(here: Endpoint, port: int, packets: list[bytes]) -> None:
    seen = deliver(here, port, packets[:10] + packets[20:] + packets[10:20])
    assert (seen.out_of_order, seen.lost, seen.duplicates) == (10, 0, 0)
    assert [late[1:3] for late in seen.late] == [(number, 99) for number in range(10, 18)]
    assert "number 10 came after 99" in str(seen.late[0])


def test_first_packet_may_come_late(here: Endpoint, port: int, packets: list[bytes]) -> None:
    seen = deliver(here, port, packets[1:] + packets[:1])
    assert (seen.out_of_order, seen.lost) == (1, 0)


def test_shuffled_packets_are_all_found(here: Endpoint, port: int, packets: list[bytes]) -> None:
    shuffled = random.Random(1).sample(packets, len(packets))
    seen = deliver(here, port, shuffled)
    numbers = [packets.index(packet) for packet in shuffled]
    late = sum(number < max(numbers[:at], default=-1) for at, number in enumerate(numbers))
    assert (seen.out_of_order, seen.lost, seen.duplicates) == (late, 0, 0)


def test_missing_packets_are_lost(here: Endpoint, port: int, packets: list[bytes]) -> None:
    seen = deliver(here, port, packets[:40] + packets[43:])
    assert (seen.lost, seen.out_of_order) == (3, 0)


def test_second_copies_are_duplicates(here: Endpoint, port: int, packets: list[bytes]) -> None:
    seen = deliver(here, port, packets + packets[50:60] + packets[99:])
    assert (seen.duplicates, seen.out_of_order, seen.lost) == (11, 0, 0)


@pytest.mark.parametrize("at", [0, 5, 15, 16, 47, 48, 52])
def test_flipped_bit_is_damage(here: Endpoint, port: int, packets: list[bytes], at: int) -> None:
    bad = bytearray(packets[50])
    bad[at] ^= 1
    seen = deliver(here, port, [*packets[:50], bytes(bad), *packets[51:]])
    assert (seen.corrupted, seen.lost) == (1, 1)


def test_truncated_packet_is_damage(here: Endpoint, port: int, packets: list[bytes]) -> None:
    seen = deliver(here, port, [packets[0], packets[1][:8], packets[2]])
    assert seen.corrupted == 1


def test_flows_are_told_apart(here: Endpoint, port: int) -> None:
    with Receiver(here, port=port) as receiver:
        for flow in (0, 255):
            with Sender(here.namespace, IP, count=50, rate=5000, flow=flow, port=port) as sender:
                sender.wait()
        receiver.drain(100)
        seen = receiver.stop()
    assert seen.is_intact and (seen.flows, seen.received) == (2, 100)


def test_senders_that_share_a_port_are_told_apart(here: Endpoint, port: int) -> None:
    """One flow to all that is on the way, and several to the receiver."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((IP, 0))
        shared = int(sock.getsockname()[1])
    with Receiver(here, port=port) as receiver, ExitStack() as opened:
        senders = [
            opened.enter_context(
                Sender(
                    here.namespace,
                    IP,
                    count=50,
                    rate=1000,
                    flow=flow,
                    source_port=shared,
                    port=port,
                )
            )
            for flow in range(3)
        ]
        assert [sender.wait().sent for sender in senders] == [50] * 3
        deadline = time.monotonic() + PATIENCE_S
        while not all(sender.has_ended for sender in senders) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all(sender.has_ended for sender in senders) and not receiver.has_ended
        received = receiver.wait_for(150, PATIENCE_S)
    assert (received.received, received.flows) == (150, 3)
    assert received.is_intact


def test_reports_can_be_subtracted(here: Endpoint, port: int) -> None:
    with (
        Receiver(here, port=port) as receiver,
        Sender(here.namespace, IP, rate=2000, port=port) as sender,
    ):
        first = receiver.wait_for(100, PATIENCE_S)
        later = receiver.wait_for(first.received + 100, PATIENCE_S)
        change = later.since(first)
        assert change.received >= 100 and change.seconds > 0
        assert change.packets_per_second == change.received / change.seconds
        assert sender.stop().sent >= 200


def test_sender_outlives_a_missing_receiver(here: Endpoint, port: int) -> None:
    """Port unreachable comes back; the numbers go on."""
    with Sender(here.namespace, IP, count=200, rate=2000, port=port) as sender:
        assert sender.wait().sent == 200


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["send", IP],
        ["send", IP, "9", "-s", "15"],
        ["send", IP, "9", "-f", "256"],
        ["send", IP, "9", "-x"],
        ["listen", IP, "9"],
        ["recv", "localhost", "9"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    done = subprocess.run([udpflow.build(), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr


def test_taken_port_is_an_error_in_one_line(here: Endpoint, port: int) -> None:
    with (
        Receiver(here, port=port),
        pytest.raises(FalconError, match=r"^udpflow does not listen at .*in use; stop what"),
    ):
        Receiver(here, port=port)


def test_it_dies_with_its_parent(port: int) -> None:
    """Also when the parent has no time to say so."""
    script = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen(['{udpflow.build()}', 'recv', '{IP}', '{port}'],"
        " stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + PATIENCE_S
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """True unless the process is gone, or dead and waiting to be collected."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_program_is_compiled_once() -> None:
    program = udpflow.build()
    before = program.stat().st_mtime_ns
    assert udpflow.build() == program and program.stat().st_mtime_ns == before
    assert os.access(program, os.X_OK)


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("FALCON_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(udpflow, "COMPILE", ("no-such-compiler",))
    with pytest.raises(FalconError, match="gcc is missing; run: apt-get install gcc"):
        udpflow.build()
