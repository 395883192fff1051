# SPDX-License-Identifier: GPL-2.0-only
"""TCP and ICMP probes over the loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from harness.overlay.netns import Namespace
from harness.workload.probes import Ping, TcpTransfer, internet_checksum
from harness.workload.udpflow import Endpoint

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")


@pytest.fixture(params=["127.0.0.1", "::1"])
def here(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    with Namespace.current() as namespace:
        yield Endpoint(namespace, request.param)


@pytest.mark.parametrize("buffer", [0, 8192])
@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_tcp(here: Endpoint, size: int, buffer: int) -> None:
    transfer = TcpTransfer(here, here, size, buffer=buffer).run()
    assert transfer.is_intact and transfer.bytes == size


@root_only
@pytest.mark.parametrize("size", [0, 1, 8001])
def test_ping(here: Endpoint, size: int) -> None:
    echo = Ping(here, here, count=3, size=size).run()
    assert (echo.sent, echo.answered) == (3, 3)


@root_only
def test_ping_without_an_answer() -> None:
    """A namespace whose loopback is down answers nothing."""
    with Namespace("silent") as namespace:
        own = Endpoint(namespace, "127.0.0.1")
        with pytest.raises(OSError):
            Ping(own, own, count=1, timeout_s=0.2).run()


def test_checksum_of_rfc_1071() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert internet_checksum(data) == ~0xDDF2 & 0xFFFF
    assert internet_checksum(b"\x01") == ~0x0100 & 0xFFFF
