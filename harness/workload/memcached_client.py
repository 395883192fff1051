# SPDX-License-Identifier: GPL-2.0-only
"""Asks a memcached server all the time, and takes how long each answer takes.

In: a `Job` (as JSON, on the command line), in the network namespace it is started in.
Out: one line of JSON, an `Operations`. Each process keeps its connections busy in a
closed loop: a connection asks again when it was answered.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import select
import signal
import socket
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from statistics import fmean
from typing import NamedTuple

from harness.errors import FalconError
from harness.workload.latency import Latencies

NS_PER_US, NS_PER_S = 1000, 1_000_000_000
ANSWER_WITHIN_S = 2.0
# All processes begin together, once each is there.
BEGIN_AFTER_S, BEGIN_AFTER_S_EACH = 0.2, 0.05
STORED_AT_ONCE = 64
PR_SET_PDEATHSIG = 1
STORED, NOT_THERE = b"STORED\r\n", b"END\r\n"


@dataclass(frozen=True)
class Job:
    """What to ask for.

    ``processes`` with ``connections`` each; one operation in flight a connection.
    ``get_share`` of the operations are gets, the others sets, of ``value_bytes``.
    All ``keys`` are set before the ``seconds`` begin.
    """

    ip: str
    port: int
    processes: int
    connections: int
    seconds: float
    get_share: float
    value_bytes: int
    keys: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Operations(Latencies):
    """What all connections did in ``seconds``; the latency of those answered as they should be.

    ``seconds`` lie between the first question and the last answer.
    ``errors``: answers that were wrong, late or none, and connections that broke.
    ``misses``: gets of a key that the server has no more; they count as gets, too.
    """

    gets: int
    sets: int
    misses: int
    errors: int
    seconds: float

    @property
    def operations(self) -> int:
        return self.gets + self.sets

    @property
    def operations_per_second(self) -> float:
        return self.operations / self.seconds

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Operations:
        return cls(**json.loads(text))


# ---- one connection, one process -------------------------------------------------


class _Asker:
    """A connection that asks, and knows what the answer has to be."""

    def __init__(self, sock: socket.socket, job: Job, seed: int):
        sock.setblocking(True)
        self.sock = sock
        self._job, self._random = job, random.Random(seed)
        self._value = _value(job)
        self._answer = self._wanted = b""
        self.is_get, self.asked_ns = False, 0

    def ask(self) -> None:
        key = b"key-%d" % self._random.randrange(self._job.keys)
        self.is_get = self._random.random() < self._job.get_share
        size, value = len(self._value), self._value
        if self.is_get:
            request = b"get %b\r\n" % key
            self._wanted = b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, size, value)
        else:
            request, self._wanted = _set(key, value), STORED
        self._answer = b""
        self.asked_ns = time.perf_counter_ns()
        self.sock.sendall(request)

    def read(self) -> bool:
        """Read what came; True when it is an answer. Raises `OSError` on any other end."""
        chunk = self.sock.recv(1 << 16)
        if not chunk:
            raise ConnectionError("closed by the server")
        self._answer += chunk
        if len(self._answer) >= len(self._wanted):
            return True
        # It may be another one, and shorter.
        return self._answer.endswith(b"\r\n" + NOT_THERE) or (
            self._answer.endswith(b"\r\n") and self._answer[:6] != self._wanted[:6]
        )

    @property
    def was_answered(self) -> bool:
        return self._answer == self._wanted

    @property
    def was_missed(self) -> bool:
        return self.is_get and self._answer == NOT_THERE


class _Report(NamedTuple):
    counts: dict[str, int]
    seconds: float
    took_ns: bytes


class _Loop:
    """A process's connections, each in its closed loop, and what came of it."""

    def __init__(self, askers: list[_Asker]):
        self._askers = {asker.sock.fileno(): asker for asker in askers}
        self._poll = select.epoll()
        for fd in self._askers:
            self._poll.register(fd, select.EPOLLIN)
        self.counts = {"gets": 0, "sets": 0, "misses": 0, "errors": 0}
        self.took_ns = array("q")
        self.seconds = 0.0

    def run(self, seconds: float) -> None:
        """Keep asking for ``seconds``, then wait for the last answers."""
        self._begin_ns, end = time.perf_counter_ns(), time.monotonic() + seconds
        for asker in list(self._askers.values()):
            self._ask(asker)
        while self._askers and (left := end - time.monotonic()) > 0:
            self._handle(left, again=True)
        late = time.monotonic() + ANSWER_WITHIN_S
        while self._askers and (left := late - time.monotonic()) > 0:
            self._handle(left, again=False)
        self.counts["errors"] += len(self._askers)

    def _handle(self, within_s: float, again: bool) -> None:
        for fd, _ in self._poll.poll(within_s):
            asker = self._askers[fd]
            try:
                if not asker.read():
                    continue
            except OSError:
                self._give_up(asker)
                continue
            self._count(asker)
            if again:
                self._ask(asker)
            else:
                self._forget(asker)

    def _ask(self, asker: _Asker) -> None:
        try:
            asker.ask()
        except OSError:
            self._give_up(asker)

    def _count(self, asker: _Asker) -> None:
        now_ns = time.perf_counter_ns()
        if asker.was_answered or asker.was_missed:
            self.counts["gets" if asker.is_get else "sets"] += 1
            self.counts["misses"] += asker.was_missed
            self.took_ns.append(now_ns - asker.asked_ns)
            self.seconds = (now_ns - self._begin_ns) / NS_PER_S
        else:
            self.counts["errors"] += 1

    def _give_up(self, asker: _Asker) -> None:
        self.counts["errors"] += 1
        self._forget(asker)

    def _forget(self, asker: _Asker) -> None:
        self._poll.unregister(asker.sock)
        del self._askers[asker.sock.fileno()]


def _process(job: Job, socks: dict[int, socket.socket], begin: float, to: Connection) -> None:
    """One process of the client: asks over its numbered connections, then reports."""
    _die_with_parent()
    loop = _Loop([_Asker(sock, job, number) for number, sock in socks.items()])
    time.sleep(max(0.0, begin - time.monotonic()))
    loop.run(job.seconds)
    to.send(_Report(loop.counts, loop.seconds, loop.took_ns.tobytes()))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Before that it may have died already.
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        sys.exit(1)


# ---- all of them -------------------------------------------------------------------


def run(job: Job) -> Operations:
    """Connect, set all keys, then ask from all processes at once."""
    socks = [connect(job.ip, job.port) for _ in range(job.processes * job.connections)]
    with connect(job.ip, job.port) as sock:
        store(sock, {b"key-%d" % number: _value(job) for number in range(job.keys)})
    # Forked, they have the connections; and this process has no threads.
    context = multiprocessing.get_context("fork")
    begin = time.monotonic() + BEGIN_AFTER_S + BEGIN_AFTER_S_EACH * job.processes
    ends = []
    for number in range(job.processes):
        here, there = context.Pipe(duplex=False)
        # Every so manieth is its own.
        own = dict(list(enumerate(socks))[number :: job.processes])
        context.Process(target=_process, args=(job, own, begin, there), daemon=True).start()
        there.close()
        ends.append(here)
    return _sum_up(job, [_received(end) for end in ends])


def _received(end: Connection) -> _Report:
    try:
        report: _Report = end.recv()
    except EOFError:
        raise FalconError("a process of the memcached client ended without a report") from None
    return report


def _sum_up(job: Job, reports: list[_Report]) -> Operations:
    took_ns = array("q", b"".join(report.took_ns for report in reports))
    if not took_ns:
        raise FalconError(f"memcached at {job.ip}, port {job.port} answered nothing")
    took = sorted(took_ns)

    def at(permille: int) -> float:
        # One that was measured, not one between two.
        return took[-(-(len(took) - 1) * permille // 1000)] / NS_PER_US

    return Operations(
        **{name: sum(report.counts[name] for report in reports) for name in reports[0].counts},
        seconds=max(report.seconds for report in reports),
        mean_us=fmean(took) / NS_PER_US,
        p50_us=at(500),
        p90_us=at(900),
        p99_us=at(990),
        p999_us=at(999),
        max_us=at(1000),
    )


# ---- memcached's text protocol -------------------------------------------------------


def connect(ip: str, port: int) -> socket.socket:
    """A connection to a memcached server."""
    try:
        sock = socket.create_connection((ip, port), timeout=ANSWER_WITHIN_S)
    except OSError as error:
        raise FalconError(f"cannot connect to memcached at {ip}, port {port}", str(error)) from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def store(sock: socket.socket, values: dict[bytes, bytes]) -> None:
    """Set keys over a connection."""
    requests = [_set(key, value) for key, value in values.items()]
    for first in range(0, len(requests), STORED_AT_ONCE):
        some = requests[first:][:STORED_AT_ONCE]
        try:
            sock.sendall(b"".join(some))
            answer = _lines(sock, len(some))
        except OSError as error:
            raise FalconError("memcached does not store", str(error)) from None
        if answer != STORED * len(some):
            why = answer.replace(STORED, b"").decode(errors="replace")
            raise FalconError("memcached does not store", why or "it closed the connection")


def _lines(sock: socket.socket, number: int) -> bytes:
    """As many lines of an answer, or fewer if the server ends it."""
    answer = b""
    while answer.count(b"\r\n") < number and (chunk := sock.recv(1 << 12)):
        answer += chunk
    return answer


def _set(key: bytes, value: bytes) -> bytes:
    return b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value)


def _value(job: Job) -> bytes:
    return b"x" * job.value_bytes


def main() -> int:
    """Run the job given as JSON in the first argument."""
    try:
        print(run(Job.from_json(sys.argv[1])).to_json(), flush=True)
    except FalconError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
