# SPDX-License-Identifier: GPL-2.0-only
"""nginx and wrk: wrk's report, and short runs between two namespaces."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S, children, wait_until_gone

from harness import tools
from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.overlay.plan import Plan
from harness.overlay.topology import one_machine
from harness.workload import memcached, web
from harness.workload.udpflow import Endpoint
from harness.workload.web import CACHED, STATIC, Client, Served, Server

PAGE_BYTES = 3000
needs_web = pytest.mark.skipif(
    not all(map(tools.find, ("nginx", "memcached", "wrk"))) or os.geteuid() != 0,
    reason="needs nginx, memcached and wrk, and root for namespaces",
)

# From wrk 4.1.0 with wrk.lua, shortened.
REPORT = """\
Running 1s test @ http://127.0.0.1:8080/no
  2 threads and 4 connections
  44088 requests in 1.10s, 12.95MB read
  Non-2xx or 3xx responses: 44088
Requests/sec:  40094.58
Transfer/sec:     11.78MB
{"bad_statuses": 44088, "mean_us": 858.15383656423, "p50_us": 83, "requests": 44088, \
"p99_us": 32370, "p999_us": 46656, "seconds": 1.0996, "max_us": 48300, "bytes": 13579104, \
"connect_errors": 1, "read_errors": 2, "write_errors": 3, "timeouts": 4, "p90_us": 171}
"""


def test_report() -> None:
    served = web.parse(REPORT)
    assert served == Served(
        requests=44088,
        seconds=1.0996,
        bytes=13579104,
        connect_errors=1,
        read_errors=2,
        write_errors=3,
        timeouts=4,
        bad_statuses=44088,
        mean_us=858.15383656423,
        p50_us=83,
        p90_us=171,
        p99_us=32370,
        p999_us=46656,
        max_us=48300,
    )
    assert served.errors == 44098
    assert served.requests_per_second == 44088 / 1.0996


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "unable to connect to 127.0.0.1:1 Connection refused\n",
            "wrk failed: unable to connect to 127.0.0.1:1 Connection refused",
        ),
        ("number of connections must be >= threads\nUsage: wrk <options> <url>\n  -c\n", None),
        ("", "wrk failed: it said nothing"),
        (REPORT.replace('"requests": 44088', '"requests": 0'), "wrk got no answer: 44098 errors"),
    ],
)
def test_what_went_wrong_is_one_line(said: str, meant: str | None) -> None:
    with pytest.raises(FalconError) as caught:
        web.parse(said)
    meant = meant or "wrk failed: number of connections must be >= threads"
    assert str(caught.value).startswith(meant) and "\n" not in str(caught.value)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Namespace, Endpoint, Endpoint]]:
    """Where clients run, where nginx does, and where memcached does."""
    with one_machine(Plan(containers=2)) as topology:
        server = topology.server
        yield topology.client.at(0), Endpoint.of(server), Endpoint.of(server, 1)


@pytest.fixture
def servers(
    ends: tuple[Namespace, Endpoint, Endpoint], directory: Path
) -> Iterator[tuple[Server, memcached.Server]]:
    options: dict[str, Any] = {"page_bytes": PAGE_BYTES, "workers": 2, "cpus": (0,)}
    with memcached.Server(ends[2]) as cache, Server(ends[1], cache=cache, **options) as server:
        yield server, cache


def check(served: Served) -> None:
    """What holds of every run."""
    assert served.requests > 0 and served.seconds > 0
    rising = (served.p50_us, served.p90_us, served.p99_us, served.p999_us, served.max_us)
    assert list(rising) == sorted(rising) and rising[0] > 0
    assert 0 < served.mean_us <= served.max_us


def ask(source: Namespace, ip: str, page: str = STATIC) -> Served:
    with Client(source, ip, connections=4, threads=2, seconds=1, page=page) as client:
        return client.wait()


@needs_web
def test_both_pages(
    ends: tuple[Namespace, Endpoint, Endpoint],
    servers: tuple[Server, memcached.Server],
    directory: Path,
) -> None:
    source, at, _ = ends
    for page in (STATIC, CACHED):
        served = ask(source, at.ip, page)
        check(served)
        assert served.errors == 0
        # And a header each.
        assert served.bytes > served.requests * PAGE_BYTES
        assert at.namespace.call(fetch, f"http://{at.ip}:{web.PORT}{page}") == b"x" * PAGE_BYTES
    workers = children(servers[0].pid, 2)
    assert all(os.sched_getaffinity(pid) == {0} for pid in workers)
    # No page passed through a file, and no logs.
    (own,) = directory.iterdir()
    files = {path.name for path in own.rglob("*") if path.is_file()}
    assert files == {"nginx.conf", "pid", STATIC[1:]}


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        text: bytes = answer.read()
    return text


@needs_web
def test_what_is_not_there(
    ends: tuple[Namespace, Endpoint, Endpoint], servers: tuple[Server, memcached.Server]
) -> None:
    """No such page; and no memcached any more."""
    source, at, _ = ends
    servers[1].close()
    for page in ("/no-such-page", CACHED):
        served = ask(source, at.ip, page)
        check(served)
        assert served.errors == served.bad_statuses == served.requests


@needs_web
def test_without_memcached(ends: tuple[Namespace, Endpoint, Endpoint], directory: Path) -> None:
    source, at, _ = ends
    with Server(at, page_bytes=0):
        served = ask(source, at.ip)
        assert served.errors == 0
        served = ask(source, at.ip, CACHED)
        assert served.bad_statuses == served.requests > 0


@needs_web
def test_nobody_there(ends: tuple[Namespace, Endpoint, Endpoint]) -> None:
    with pytest.raises(FalconError, match=r"^wrk failed: unable to connect.*refused$"):
        ask(ends[0], ends[1].ip)


@needs_web
def test_nobody_answers(ends: tuple[Namespace, Endpoint, Endpoint]) -> None:
    source, at, _ = ends
    with at.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((at.ip, web.PORT))
        listener.listen(16)
        with pytest.raises(FalconError, match=r"^wrk got no answer: "):
            ask(source, at.ip)


@needs_web
def test_ipv6(directory: Path) -> None:
    with Namespace("web") as namespace:
        namespace.ip("link", "set", index=namespace.index("lo"), state="up")
        at = Endpoint(namespace, "::1")
        with memcached.Server(at) as cache, Server(at, page_bytes=10, cache=cache):
            assert ask(namespace, at.ip, CACHED).errors == 0


@needs_web
def test_a_port_that_is_taken(
    ends: tuple[Namespace, Endpoint, Endpoint],
    servers: tuple[Server, memcached.Server],
    directory: Path,
) -> None:
    before = list(directory.iterdir())
    with pytest.raises(FalconError, match=r"^nginx does not listen.*in use"):
        Server(ends[1], page_bytes=1)
    assert list(directory.iterdir()) == before


@needs_web
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left(
    ends: tuple[Namespace, Endpoint, Endpoint], directory: Path, error: type[BaseException]
) -> None:
    source, at, cache_at = ends
    with ExitStack() as opened:
        opened.enter_context(pytest.raises(error))
        cache = opened.enter_context(memcached.Server(cache_at))
        server = opened.enter_context(Server(at, page_bytes=1, cache=cache, workers=2))
        client = opened.enter_context(Client(source, at.ip, connections=2, seconds=600))
        pids = [cache.pid, server.pid, client.pid, *children(server.pid, 2)]
        assert list(directory.iterdir())
        raise error
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list(directory.iterdir())


@needs_web
def test_workers_end_also_without_their_master(
    ends: tuple[Namespace, Endpoint, Endpoint], directory: Path
) -> None:
    with Server(ends[1], page_bytes=1, workers=2) as server:
        workers = children(server.pid, 2)
        os.kill(server.pid, signal.SIGKILL)
    wait_until_gone(workers)
    assert not list(directory.iterdir())


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.setattr("harness.tools.find", lambda command: None)
    with Namespace.current() as here:
        with pytest.raises(FalconError) as caught:
            Server(Endpoint(here, "127.0.0.1"), page_bytes=1)
        assert str(caught.value) == "the program nginx is missing; run: apt-get install nginx"
        assert not list(directory.iterdir())
        with pytest.raises(FalconError) as caught:
            Client(here, "127.0.0.1", connections=1, seconds=1)
        assert str(caught.value) == "the program wrk is missing; run: apt-get install wrk"
