# SPDX-License-Identifier: GPL-2.0-only
"""TCP by iperf3, over the loopback device of a namespace of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.workload import iperf
from harness.workload.udpflow import Endpoint

IP = "127.0.0.1"
needs_iperf = pytest.mark.skipif(
    not shutil.which("iperf3") or os.geteuid() != 0, reason="needs iperf3, and root for a namespace"
)


@pytest.fixture
def here() -> Iterator[Endpoint]:
    with Namespace("iperf") as namespace:
        namespace.ip("link", "set", index=namespace.index("lo"), state="up")
        yield Endpoint(namespace, IP)


@needs_iperf
def test_one_flow_after_the_other(here: Endpoint) -> None:
    with iperf.Server(here, cpu=0):
        for source_port in (20_000, 0):
            with iperf.Client(
                here.namespace, IP, size=1000, count=5000, source_port=source_port
            ) as client:
                carried = client.wait()
            assert carried.sent == 5000
            assert 0 < carried.received <= 5000


@needs_iperf
def test_a_flow_waits_for_the_one_before_it(here: Endpoint) -> None:
    with (
        iperf.Server(here),
        iperf.Client(here.namespace, IP, size=1000, count=600, rate=300.0) as first,
    ):
        with iperf.Client(here.namespace, IP, size=1000, count=100) as second:
            assert second.wait().sent == 100
        assert first.wait().sent == 600


@needs_iperf
def test_a_paced_flow_arrives(here: Endpoint) -> None:
    with (
        iperf.Server(here),
        iperf.Client(here.namespace, IP, size=1000, count=300, rate=300.0) as client,
    ):
        carried = client.wait()
    assert carried.packets_per_second < 400
    assert 0 <= carried.sent - carried.received < 150


@needs_iperf
def test_nobody_there(here: Endpoint) -> None:
    with (
        iperf.Client(here.namespace, IP, size=1000, count=1) as client,
        pytest.raises(FalconError, match=r"iperf3 failed.*refused"),
    ):
        client.wait()


@needs_iperf
def test_a_port_that_is_taken(here: Endpoint) -> None:
    with iperf.Server(here), pytest.raises(FalconError, match="does not listen"):
        iperf.Server(here)


def test_no_report() -> None:
    with pytest.raises(FalconError, match=r"without a report.*Killed"):
        iperf.parse("Killed\n", 1)
