# SPDX-License-Identifier: GPL-2.0-only
"""Tiny flows that udpflow understands, and TCP streams whose every byte is known."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from harness.overlay.netns import Namespace
from harness.torture import traffic
from harness.torture.traffic import Mice, Stream, Tally
from harness.workload.udpflow import PORT, Endpoint, Receiver

IP = "127.0.0.1"


@pytest.fixture(scope="module")
def here() -> Iterator[Endpoint]:
    with Namespace.current() as namespace:
        yield Endpoint(namespace, IP)


def test_udpflow_takes_mice_for_its_own(here: Endpoint) -> None:
    with Receiver(here) as receiver:
        mice = Mice(here, IP, rate=5000)
        time.sleep(0.3)
        sent = mice.stop()
        mice.close()
        receiver.drain(sent)
        seen = receiver.stop()
    assert seen.is_intact and seen.received == sent > 0
    assert seen.flows == min(sent, traffic.MICE)
    assert seen.bytes == 16 * sent


def test_udpflow_sees_a_mouse_that_comes_late(here: Endpoint) -> None:
    with (
        Receiver(here) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        for number in (0, 2, 1):
            sock.sendto(traffic.mouse_packet(20, number), (IP, PORT))
        receiver.drain(3)
        assert receiver.stop().out_of_order == 1


@pytest.mark.parametrize("offset", [0, 1, 65_520, 65_521, 10**9])
def test_a_stream_is_the_same_however_it_is_cut(offset: int) -> None:
    whole = traffic.stream_bytes(offset, 30_000)
    assert len(whole) == 30_000
    assert whole == traffic.stream_bytes(offset, 7) + traffic.stream_bytes(offset + 7, 29_993)


def test_a_wrong_byte_is_found_where_it_is() -> None:
    data = bytearray(traffic.stream_bytes(70_000, 1000))
    assert traffic.first_difference(70_000, bytes(data)) is None
    data[123] ^= 1
    assert traffic.first_difference(70_000, bytes(data)) == 70_123


@pytest.mark.parametrize("shift", [1, 1448, 8948, 65_536])
def test_a_segment_in_the_wrong_place_is_seen(shift: int) -> None:
    assert traffic.first_difference(0, traffic.stream_bytes(shift, 1448)) is not None


def stream(here: Endpoint) -> Stream:
    with socket.socket() as sock:
        sock.bind((IP, 0))
        port = sock.getsockname()[1]
    made = Stream(here, here, port, bytes_per_s=1e8)
    made.start()
    return made


def test_a_stream_is_checked_to_its_last_byte(here: Endpoint) -> None:
    made = stream(here)
    time.sleep(0.2)
    made.stop()
    made.close()
    assert made.fault == ""
    assert made.received == made.sent > len(traffic.PATTERN)


def test_a_stream_that_is_not_what_was_sent_is_a_fault(
    here: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = traffic.stream_bytes
    calls: list[int] = []

    def sometimes(offset: int, size: int) -> bytes:
        calls.append(offset)
        return right(offset, size) if len(calls) != 2 else bytes(size)

    monkeypatch.setattr(traffic, "stream_bytes", sometimes)
    made = stream(here)
    time.sleep(0.2)
    made.stop()
    made.close()
    assert "is not what was sent" in made.fault


def test_a_stream_that_ends_early_is_a_fault(here: Endpoint) -> None:
    made = Stream(here, here, 1, 1e6, sent=10, received=9)
    assert made.fault == "TCP to 127.0.0.1:1: 10 bytes sent, 9 came"
    made.trouble = "TCP to 127.0.0.1:1: timed out"
    assert made.fault == "TCP to 127.0.0.1:1: timed out"


def tally(late: int = 0, faults: tuple[str, ...] = ()) -> Tally:
    return Tally({}, {}, {"small": late, "jumbo": 0}, 0, 0, faults)


def test_order_is_asked_for_only_where_nothing_excuses_it() -> None:
    traffic.check(tally(), in_order=True)
    traffic.check(tally(late=3), in_order=False)
    with pytest.raises(traffic.FalconError, match="3 packets came out of order"):
        traffic.check(tally(late=3), in_order=True)


def test_damage_is_never_excused() -> None:
    with pytest.raises(traffic.FalconError, match="2 damaged"):
        traffic.check(
            tally(faults=("UDP, small packets: 2 damaged, 0 came twice",)), in_order=False
        )
