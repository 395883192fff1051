# SPDX-License-Identifier: GPL-2.0-only
"""A flow's packets arrive in order, whatever changes under it."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from rig import (
    PATIENCE_S,
    Rig,
    assert_order_while_everything_changes,
    assert_tcp_in_order,
    switch_on,
)

from harness.overlay import falcon
from harness.workload.udpflow import Receiver, Sender

PACKETS = 100_000
SEED = 20210426
RATE = 8_000.0
DEADLINE_S = 5 * PATIENCE_S
SWITCHES = 100
SWITCH_RATE = 3_000.0
SWITCH_PAUSE_S = 0.02
# Small writes, so that the program and the acknowledgements send in turns.
WRITE_BYTES = 1000
WRITES, CONNECTIONS = 10_000, 15
TCP_PORT = 7002


def test_order_while_settings_and_load_change(rig: Rig) -> None:
    """CPU set, threshold, interval, two-choice and load change all the time."""
    switch_on(rig.cpus.stages)
    before = falcon.counters()
    assert_order_while_everything_changes(rig, random.Random(SEED), PACKETS, RATE)
    # It was no walk in the park: flows wanted to move and were held, or moved.
    change = falcon.counters() - before
    assert change.total("first") and change.total("second") and change.total("gated")


def test_order_while_switched_on_and_off(rig: Rig) -> None:
    """Switching keeps the order, too, at a rate at which queues do drain."""
    source, sink = rig.ends()
    switch_on(rig.cpus.stages)
    with (
        Receiver(sink, cpu=rig.cpus.app) as receiver,
        Sender(source.namespace, sink.ip, rate=SWITCH_RATE, cpu=rig.cpus.nic) as sender,
    ):
        receiver.wait_for(1, PATIENCE_S)
        for state in (0, 1) * SWITCHES:
            falcon.write_sysctl("falcon", state)
            time.sleep(SWITCH_PAUSE_S)
        receiver.drain(sender.stop().sent)
        came = receiver.stop()
    assert came.received
    assert (came.out_of_order, came.duplicates, came.corrupted) == (0, 0, 0), came


def test_tcp_order_of_small_writes(rig: Rig) -> None:
    """TCP sends in turns from the program that writes, and from softirqs on other CPUs.

    Its lock keeps these in order up to netif_rx(), and from there on it is for us to do.
    """
    switch_on(rig.cpus.stages)
    assert_tcp_in_order(rig, lambda: write_and_compare(rig), times=CONNECTIONS)


def write_and_compare(rig: Rig) -> None:
    """One connection, written to in small pieces; what arrives is what was written."""
    source, sink = rig.ends()
    written, piece = hashlib.sha256(), random.Random(SEED).randbytes(WRITE_BYTES)
    with (
        sink.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        source.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as sender,
        ThreadPoolExecutor(max_workers=1) as receiving,
    ):
        for end in (listener, sender):
            end.settimeout(DEADLINE_S)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((sink.ip, TCP_PORT))
        listener.listen(1)
        received = receiving.submit(digest_of, listener)
        sender.connect((sink.ip, TCP_PORT))
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(WRITES):
            sender.sendall(piece)
            written.update(piece)
        sender.shutdown(socket.SHUT_WR)
        assert received.result() == written.digest()


def digest_of(listener: socket.socket) -> bytes:
    """The SHA-256 of all that one connection brings."""
    connection, _ = listener.accept()
    connection.settimeout(DEADLINE_S)
    digest = hashlib.sha256()
    with connection:
        while data := connection.recv(1 << 16):
            digest.update(data)
    return digest.digest()
