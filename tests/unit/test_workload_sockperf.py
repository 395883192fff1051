# SPDX-License-Identifier: GPL-2.0-only
"""sockperf: its reports, and short runs between two namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import wait_until_gone

from harness import tools
from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.overlay.plan import Plan
from harness.overlay.topology import one_machine
from harness.workload import sockperf
from harness.workload.sockperf import (
    Handled,
    Latency,
    PingPongClient,
    Server,
    Throughput,
    ThroughputClient,
    UnderLoadClient,
)
from harness.workload.udpflow import Endpoint

needs_sockperf = pytest.mark.skipif(
    not tools.find("sockperf") or os.geteuid() != 0,
    reason="needs sockperf, and root for namespaces",
)

# From sockperf 3.7, shortened.
UNDER_LOAD = """\
sockperf: Starting test...
sockperf: Test end (interrupted by timer)
sockperf: Test ended
sockperf: [Total Run] RunTime=1.002 sec; Warm up time=400 msec; SentMessages=67689; ReceivedMessages=466
sockperf: ========= Printing statistics for Server No: 0
sockperf: [Valid Duration] RunTime=0.544 sec; SentMessages=28501; ReceivedMessages=213
sockperf: ====> avg-latency=842.247 (std-dev=1258.741)
sockperf: # dropped messages = 73; # duplicated messages = 2; # out-of-order messages = 1
sockperf: Summary: Latency is 842.247 usec
sockperf: Total 213 observations; each percentile contains 2.13 observations
sockperf: ---> <MAX> observation = 4835.388
sockperf: ---> percentile 99.999 = 4835.388
sockperf: ---> percentile 99.990 = 4835.388
sockperf: ---> percentile 99.900 = 4835.388
sockperf: ---> percentile 99.000 = 3638.026
sockperf: ---> percentile 90.000 = 3029.056
sockperf: ---> percentile 75.000 = 1760.451
sockperf: ---> percentile 50.000 =   12.693
sockperf: ---> percentile 25.000 =    8.209
sockperf: ---> <MIN> observation =    7.073
"""  # noqa: E501
THROUGHPUT = """\
sockperf: Test ended
sockperf: Total of 45875 messages sent in 1.250 sec

sockperf: NOTE: test was performed, using msg-size=65507.
sockperf: Summary: Message Rate is 45853 [msg/sec], Packet Rate is about 2063385 [pkt/sec]
sockperf: Summary: BandWidth is 2864.544 MBps (22916.355 Mbps)
"""
SERVER = """\
sockperf: [tid 16411] using recvfrom() to block on socket(s)
sockperf: Starting new session: [127.0.0.1:56355]
sockperf: [127.0.0.1:56355]       Total Dropped/OOO: 542         GAP:(542)   [270 - 811]
sockperf: Starting new session: [127.0.0.1:50512]
sockperf: Test end (interrupted by user)
sockperf: Total 131097 messages received and handled
sockperf: [127.0.0.1:50512]       Summary: Total Dropped/OOO: 3
sockperf: [127.0.0.1:56355]       Summary: Total Dropped/OOO: 542
sockperf: cleanupAfterLoop() exit
"""


def test_latency_report() -> None:
    seen = sockperf.parse_latency(UNDER_LOAD)
    assert seen == Latency(
        sent=28501,
        received=213,
        seconds=0.544,
        dropped=73,
        duplicated=2,
        out_of_order=1,
        mean_us=842.247,
        p50_us=12.693,
        p90_us=3029.056,
        p99_us=3638.026,
        p999_us=4835.388,
        max_us=4835.388,
    )
    assert seen.messages_per_second == 28501 / 0.544


def test_throughput_report() -> None:
    seen = sockperf.parse_throughput(THROUGHPUT, 65507)
    assert seen == Throughput(sent=45875, seconds=1.25, size=65507)
    assert (seen.messages_per_second, seen.bytes_per_second) == (36700, 36700 * 65507)


def test_server_report() -> None:
    assert sockperf.parse_handled(SERVER) == Handled(131097)
    assert sockperf.parse_handled(SERVER, gaps=True) == Handled(131097, missing=545)
    nothing = "sockperf: No messages were received on the server.\n"
    assert sockperf.parse_handled(nothing) == Handled(0)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "sockperf: ERROR: [fd=3] Can`t bind socket, IP to bind: 127.0.0.1:17001\n"
            " (errno=98 Address already in use)\nsockperf: cleanupAfterLoop() exit\n",
            "[fd=3] Can`t bind socket, IP to bind: 127.0.0.1:17001"
            " (errno=98 Address already in use)",
        ),
        (
            "sockperf: '-i' Invalid address: ::1\nunder-load (ul): Run\n",
            "'-i' Invalid address: ::1",
        ),
        (
            "sockperf: No messages were received from the server. Is the server down?\n",
            "No messages were received from the server. Is the server down?",
        ),
        ("Killed\n", "Killed"),
        ("", "it said nothing"),
    ],
)
def test_what_went_wrong_is_one_line(said: str, meant: str) -> None:
    with pytest.raises(FalconError) as caught:
        sockperf.parse_latency(said)
    assert str(caught.value) == f"sockperf failed: {meant}"


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Namespace, Endpoint]]:
    """Where clients run, and where the server does: two containers of an overlay."""
    with one_machine(Plan(containers=1)) as topology:
        yield topology.client.at(0), Endpoint.of(topology.server)


def check(latency: Latency) -> None:
    """What holds of every run."""
    assert 0 < latency.received <= latency.sent
    assert latency.seconds > 0
    rising = (latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us)
    assert list(rising) == sorted(rising) and rising[0] > 0
    assert 0 < latency.mean_us <= latency.max_us


@needs_sockperf
@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("size", [16, sockperf.MAX_BYTES])
def test_throughput(ends: tuple[Namespace, Endpoint], tcp: bool, size: int) -> None:
    source, sink = ends
    with Server(sink, tcp=tcp, cpu=0) as server:
        assert os.sched_getaffinity(server.pid) == {0}
        with ThroughputClient(
            source, sink.ip, size=size, seconds=1, tcp=tcp, rate=200, cpus=(1,)
        ) as client:
            seen = client.wait()
        assert seen.sent > 0 and seen.size == size
        assert server.stop().messages > 0


@needs_sockperf
@pytest.mark.parametrize("tcp", [False, True])
def test_ping_pong(ends: tuple[Namespace, Endpoint], tcp: bool) -> None:
    source, sink = ends
    with (
        Server(sink, tcp=tcp) as server,
        PingPongClient(source, sink.ip, size=16, seconds=1, tcp=tcp) as client,
    ):
        latency = client.wait()
        check(latency)
        assert latency.sent == latency.received + latency.dropped
        assert server.stop().messages >= latency.sent


@needs_sockperf
@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("rate", [500, 0])
def test_under_load(ends: tuple[Namespace, Endpoint], tcp: bool, rate: float) -> None:
    source, sink = ends
    with (
        Server(sink, tcp=tcp) as server,
        UnderLoadClient(
            source, sink.ip, size=64, seconds=1, tcp=tcp, rate=rate, reply_every=5
        ) as client,
    ):
        latency = client.wait()
        check(latency)
        assert latency.received <= latency.sent / 5 + 1
        assert server.stop().messages > 0


@needs_sockperf
def test_three_clients_in_one_flow(ends: tuple[Namespace, Endpoint]) -> None:
    """The paper's stress test; here slow enough that nothing is lost."""
    source, sink = ends

    def run(_: int) -> Throughput:
        with ThroughputClient(
            source, sink.ip, size=16, seconds=1, rate=200, source_port=20_000
        ) as client:
            return client.wait()

    with Server(sink) as server:
        with ThreadPoolExecutor(max_workers=3) as clients:
            sent = sum(seen.sent for seen in clients.map(run, range(3)))
        # And those that a client sends to warm up.
        assert server.stop().messages >= sent > 300


@needs_sockperf
def test_numbers_left_out_are_counted(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with Server(sink, gaps=True) as server:
        with ThroughputClient(source, sink.ip, size=16, seconds=1, rate=100) as client:
            client.wait()
        assert server.stop().missing == 0
    with Server(sink, gaps=True) as server:
        assert server.stop() == Handled(0, missing=0)


@needs_sockperf
@pytest.mark.parametrize("tcp", [False, True])
def test_a_port_that_is_taken(ends: tuple[Namespace, Endpoint], tcp: bool) -> None:
    sink = ends[1]
    with Server(sink, tcp=tcp), pytest.raises(FalconError, match=r"^sockperf does not listen.*98"):
        Server(sink, tcp=tcp)


@needs_sockperf
def test_nobody_there(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        PingPongClient(source, sink.ip, size=16, seconds=1) as udp,
        PingPongClient(source, sink.ip, size=16, seconds=1, tcp=True) as tcp,
    ):
        with pytest.raises(FalconError, match=r"^sockperf failed: No messages"):
            udp.wait()
        with pytest.raises(FalconError, match=r"^sockperf failed: .*refused\)$"):
            tcp.wait()


@needs_sockperf
@pytest.mark.parametrize("size", [sockperf.MIN_BYTES - 1, sockperf.MAX_BYTES + 1])
def test_a_size_that_sockperf_refuses(ends: tuple[Namespace, Endpoint], size: int) -> None:
    source, sink = ends
    with (
        ThroughputClient(source, sink.ip, size=size, seconds=1) as client,
        pytest.raises(FalconError, match=rf"^sockperf failed: '-m' Invalid message size: {size}"),
    ):
        client.wait()


@needs_sockperf
def test_a_cpu_that_is_not_there(ends: tuple[Namespace, Endpoint]) -> None:
    with pytest.raises(FalconError, match=r"^sockperf does not listen.*Invalid argument"):
        Server(ends[1], cpu=4095)


@needs_sockperf
def test_it_ends_with_its_context(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        pytest.raises(KeyboardInterrupt),
        Server(sink) as server,
        ThroughputClient(source, sink.ip, size=16, seconds=3600, rate=10) as client,
    ):
        raise KeyboardInterrupt
    assert not Path(f"/proc/{server.pid}").exists()
    assert not Path(f"/proc/{client.pid}").exists()
    with Server(sink):
        pass


@needs_sockperf
def test_it_dies_with_its_parent() -> None:
    """Also when the parent has no time to say so."""
    script = (
        "import time\n"
        "from harness.overlay.netns import Namespace\n"
        "from harness.workload.sockperf import Server\n"
        "from harness.workload.udpflow import Endpoint\n"
        "namespace = Namespace('parent')\n"
        "namespace.ip('link', 'set', index=1, state='up')\n"
        "print(Server(Endpoint(namespace, '127.0.0.1')).pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until_gone([child])


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tools.find", lambda command: None)
    with Namespace.current() as here, pytest.raises(FalconError) as caught:
        Server(Endpoint(here, "127.0.0.1"))
    assert str(caught.value) == ("the program sockperf is missing; run: apt-get install sockperf")
