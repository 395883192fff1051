# SPDX-License-Identifier: GPL-2.0-only
"""memcached: what its client makes of answers, and short runs between two namespaces."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S, children, wait_until_gone

from harness import tools
from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.overlay.plan import Plan
from harness.overlay.topology import one_machine
from harness.workload import memcached, memcached_client
from harness.workload.memcached import Client, Server
from harness.workload.memcached_client import Job, Operations
from harness.workload.udpflow import Endpoint

KEYS = 50
needs_memcached = pytest.mark.skipif(
    not tools.find("memcached") or os.geteuid() != 0,
    reason="needs memcached, and root for namespaces",
)


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Namespace, Endpoint]]:
    """Where clients run, and where the server does: two containers of an overlay."""
    with one_machine(Plan(containers=1)) as topology:
        yield topology.client.at(0), Endpoint.of(topology.server)


def check(done: Operations) -> None:
    """What holds of every run against a server that is well."""
    assert done.errors == 0
    assert done.operations == done.gets + done.sets > 0
    assert done.operations_per_second == done.operations / done.seconds
    rising = (done.p50_us, done.p90_us, done.p99_us, done.p999_us, done.max_us)
    assert list(rising) == sorted(rising) and rising[0] > 0
    assert 0 < done.mean_us <= done.max_us


def test_percentiles_are_answers_that_there_were() -> None:
    took_us = [*range(1, 1000), 5000]
    halves = [array("q", [1000 * us for us in took_us[first::2]]) for first in (0, 1)]
    counts = {"gets": 250, "sets": 250, "misses": 0, "errors": 0}
    reports = [memcached_client._Report(counts, 2.0, half.tobytes()) for half in halves]
    done = memcached_client._sum_up(Job("10.0.0.1", 1, 2, 1, 2.0, 0.5, 1, 1), reports)
    assert (done.p50_us, done.p90_us, done.p99_us) == (501.0, 901.0, 991.0)
    assert (done.p999_us, done.max_us, done.operations) == (5000.0, 5000.0, 1000)
    assert done.mean_us == sum(took_us) / 1000


def statistics(at: Endpoint) -> dict[str, int]:
    """What memcached itself counted."""
    with at.namespace.call(memcached_client.connect, at.ip, memcached.PORT) as sock:
        sock.sendall(b"stats\r\n")
        said = b""
        while not said.endswith(b"END\r\n"):
            said += sock.recv(1 << 16)
    lines = [line.split() for line in said.decode().splitlines()[:-1]]
    return {words[1]: int(words[2]) for words in lines if words[2].isdigit()}


@needs_memcached
@pytest.mark.parametrize(("processes", "connections"), [(1, 1), (3, 4)])
def test_what_the_server_counted(
    ends: tuple[Namespace, Endpoint], processes: int, connections: int
) -> None:
    source, sink = ends
    with Server(sink, threads=2, cpus=(0,)) as server:
        assert {os.sched_getaffinity(int(task.name)) == {0} for task in tasks(server.pid)} == {True}
        with Client(
            source,
            sink.ip,
            processes=processes,
            connections=connections,
            seconds=1,
            get_share=0.5,
            keys=KEYS,
        ) as client:
            done = client.wait()
        check(done)
        assert done.misses == 0 and done.gets > 0 and done.sets > 0
        counted = statistics(sink)
    assert counted["cmd_get"] == counted["get_hits"] == done.gets
    assert counted["cmd_set"] == done.sets + KEYS
    # One that sets the keys, and ours.
    assert counted["total_connections"] >= processes * connections + 2
    assert counted["threads"] == 2 and counted["curr_items"] == KEYS


def tasks(pid: int) -> Iterator[Path]:
    return Path(f"/proc/{pid}/task").iterdir()


@needs_memcached
@pytest.mark.parametrize("share", [0, 1])
def test_only_sets_and_only_gets(ends: tuple[Namespace, Endpoint], share: float) -> None:
    source, sink = ends
    with (
        Server(sink),
        Client(
            source, sink.ip, processes=1, connections=2, seconds=0.5, get_share=share, keys=KEYS
        ) as client,
    ):
        done = client.wait()
    check(done)
    assert (done.gets == 0, done.sets == 0) == (share == 0, share == 1)


@needs_memcached
def test_two_clients_at_once(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    many: dict[str, Any] = {"processes": 1, "connections": 3, "seconds": 0.5, "keys": KEYS}
    with (
        Server(sink),
        Client(source, sink.ip, **many) as first,
        Client(source, sink.ip, **many) as second,
    ):
        for client in (first, second):
            check(client.wait())


@needs_memcached
def test_keys_that_do_not_fit_are_missed(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        Server(sink, memory_mib=4),
        Client(
            source,
            sink.ip,
            processes=1,
            connections=2,
            seconds=0.5,
            get_share=1,
            value_bytes=100_000,
            keys=200,
        ) as client,
    ):
        done = client.wait()
    check(done)
    assert 0 < done.misses <= done.gets


@needs_memcached
def test_values_that_are_too_large(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        Server(sink),
        Client(
            source, sink.ip, processes=1, connections=1, seconds=1, value_bytes=2 << 20, keys=1
        ) as client,
        pytest.raises(FalconError, match=r"^the memcached client failed: memcached does not store"),
    ):
        client.wait()


@needs_memcached
def test_a_server_that_ends_in_between(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        Server(sink) as server,
        Client(source, sink.ip, processes=2, connections=3, seconds=30, keys=KEYS) as client,
    ):
        deadline = time.monotonic() + PATIENCE_S
        while statistics(sink)["cmd_get"] < 100:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.close()
        done = client.wait()
    assert done.errors == 6 and done.operations > 0 and done.seconds < 30


@needs_memcached
def test_nobody_there(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        Client(source, sink.ip, processes=1, connections=1, seconds=1) as client,
        pytest.raises(FalconError) as caught,
    ):
        client.wait()
    assert str(caught.value) == (
        f"the memcached client failed: cannot connect to memcached at {sink.ip}, port 11211:"
        " [Errno 111] Connection refused"
    )


@needs_memcached
def test_a_port_that_is_taken(ends: tuple[Namespace, Endpoint]) -> None:
    with Server(ends[1]), pytest.raises(FalconError, match=r"^memcached does not listen.*in use"):
        Server(ends[1])


@needs_memcached
def test_a_key_is_stored() -> None:
    for ip in ("127.0.0.1", "::1"):
        with Namespace("memcached") as namespace:
            namespace.ip("link", "set", index=namespace.index("lo"), state="up")
            at = Endpoint(namespace, ip)
            with Server(at) as server:
                server.store("page", b"text")
                with at.namespace.call(memcached_client.connect, ip, memcached.PORT) as sock:
                    sock.sendall(b"get page\r\n")
                    assert sock.recv(100) == b"VALUE page 0 4\r\ntext\r\nEND\r\n"


@needs_memcached
def test_all_processes_end_with_the_context(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        pytest.raises(KeyboardInterrupt),
        Server(sink) as server,
        Client(source, sink.ip, processes=3, connections=1, seconds=600, keys=KEYS) as client,
    ):
        pids = [server.pid, client.pid, *children(client.pid, 3)]
        raise KeyboardInterrupt
    wait_until_gone(pids)


@needs_memcached
def test_processes_die_with_their_parent(ends: tuple[Namespace, Endpoint]) -> None:
    """Also when it has no time to say so."""
    source, sink = ends
    with (
        Server(sink),
        Client(source, sink.ip, processes=2, connections=1, seconds=600, keys=KEYS) as client,
    ):
        pids = children(client.pid, 2)
        os.kill(client.pid, signal.SIGKILL)
        wait_until_gone(pids)
        with pytest.raises(FalconError, match="the memcached client failed: it said nothing"):
            client.wait()


@needs_memcached
def test_a_process_that_is_killed(ends: tuple[Namespace, Endpoint]) -> None:
    source, sink = ends
    with (
        Server(sink),
        Client(source, sink.ip, processes=2, connections=1, seconds=2, keys=KEYS) as client,
    ):
        os.kill(children(client.pid, 2)[0], signal.SIGKILL)
        with pytest.raises(FalconError, match=r"ended without a report$"):
            client.wait()


# ---- answers that memcached does not give -----------------------------------------


def answered(*answers: bytes) -> Operations:
    """What a client of one connection says of a server that gives these, then is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as other:
        listener.settimeout(PATIENCE_S)

        def serve() -> None:
            asking, _ = listener.accept()
            setting, _ = listener.accept()
            with asking, setting:
                assert setting.recv(1000).startswith(b"set key-0 0 0 3\r\nxxx\r\n")
                setting.sendall(b"STORED\r\n")
                for answer in answers:
                    assert asking.recv(1000) == b"get key-0\r\n"
                    asking.sendall(answer[:9])
                    time.sleep(0.05)
                    asking.sendall(answer[9:])
                asking.recv(1000)
                asking.recv(1000)

        serving = other.submit(serve)
        job = Job("127.0.0.1", listener.getsockname()[1], 1, 1, 1.0, 1.0, 3, 1)
        done = subprocess.run(
            [sys.executable, "-m", memcached_client.__name__, job.to_json()],
            capture_output=True,
            text=True,
        )
        serving.result()
    return memcached.parse(done.stdout or done.stderr)


HIT, MISS = b"VALUE key-0 0 3\r\nxxx\r\nEND\r\n", b"END\r\n"


def test_an_answer_that_does_not_come_is_an_error() -> None:
    done = answered(HIT, MISS, HIT)
    assert (done.gets, done.misses, done.errors) == (3, 1, 1)
    assert done.p50_us > 0.05 * 1e6 / 2
    assert done.seconds < 1


@pytest.mark.parametrize(
    "wrong",
    [
        b"VALUE key-0 0 3\r\nxxy\r\nEND\r\n",
        b"VALUE key-1 0 3\r\nxxx\r\nEND\r\n",
        b"VALUE key-0 0 2\r\nxx\r\nEND\r\n",
        b"SERVER_ERROR out of memory\r\n",
        b"ERROR\r\n",
    ],
)
def test_a_wrong_answer_is_an_error(wrong: bytes) -> None:
    done = answered(HIT, wrong, HIT)
    assert (done.gets, done.misses, done.errors) == (2, 0, 2)


def test_no_answer_at_all() -> None:
    with pytest.raises(FalconError, match=r"answered nothing$"):
        answered()


def test_report_survives_its_way() -> None:
    done = Operations(
        gets=9,
        sets=1,
        misses=2,
        errors=3,
        seconds=0.5,
        mean_us=1.5,
        p50_us=1.0,
        p90_us=2.0,
        p99_us=3.0,
        p999_us=4.0,
        max_us=5.0,
    )
    assert memcached.parse(done.to_json() + "\n") == done
    assert done.operations_per_second == 20


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tools.find", lambda command: None)
    with Namespace.current() as here, pytest.raises(FalconError) as caught:
        Server(Endpoint(here, "127.0.0.1"))
    assert str(caught.value) == ("the program memcached is missing; run: apt-get install memcached")
