# SPDX-License-Identifier: GPL-2.0-only
"""Numbered UDP flows: ``udpflow.c`` compiled, started, and its reports read.

In: two endpoints (`Endpoint`) and a rate. Out: `Sent` and `Received`, which say
what was lost, duplicated, out of order or damaged on the way.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from harness.closing import Closing
from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.overlay.topology import Host
from harness.paths import cache_dir

SOURCE = Path(__file__).with_name("udpflow.c")
# Static, so that the same file runs in every guest.
COMPILE = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-static")
PORT = 7000
HEADER_BYTES = 16
QUIET_S = 2.0
POLL_S = 0.2


def build() -> Path:
    """The udpflow program, compiled if this very source was not yet."""
    source = SOURCE.read_bytes()
    key = hashlib.sha256(source + " ".join(COMPILE).encode()).hexdigest()[:16]
    program = cache_dir() / "tools" / f"udpflow-{key}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        _compile(program)
    return program


def _compile(program: Path) -> None:
    """Compile to ``program``, which is there whole or not at all."""
    with tempfile.TemporaryDirectory(dir=program.parent) as directory:
        unfinished = Path(directory) / "udpflow"
        command = [*COMPILE, "-o", str(unfinished), str(SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise FalconError(
                "the program gcc is missing", todo="run: apt-get install gcc libc6-dev"
            ) from None
        except subprocess.CalledProcessError as error:
            raise FalconError(f"{SOURCE.name} does not compile", error.stderr) from None
        unfinished.replace(program)


@dataclass(frozen=True)
class Endpoint:
    """One end of a flow: where a program runs and the IP address it has there."""

    namespace: Namespace
    ip: str

    @classmethod
    def of(cls, host: Host, container: int | None = 0) -> Endpoint:
        """A container of ``host``; the host itself for None."""
        return cls(host.at(container), host.address(container).ip)


def not_listening(name: str, at: Endpoint, port: int, why: str) -> FalconError:
    """What a program that does not come to listen is told by."""
    todo = "stop what has that port, or take another load" if "in use" in why else ""
    return FalconError(f"{name} does not listen at {at.ip}, port {port}", why.strip(), todo)


@dataclass(frozen=True)
class Sent:
    """A finished sender's report."""

    sent: int
    seconds: float

    @property
    def packets_per_second(self) -> float:
        return self.sent / self.seconds


class Late(NamedTuple):
    """A packet, ``number`` of its flow, that came after a later one."""

    flow: int
    number: int
    after: int
    at_seconds: float

    def __str__(self) -> str:
        return (
            f"flow {self.flow}: number {self.number} came after {self.after},"
            f" {self.at_seconds:.3f} s after the first packet"
        )


@dataclass(frozen=True)
class Received:
    """A receiver's counters so far, or between two reports (`since`).

    ``lost`` are numbers missing between the first and the last that came;
    ``seconds`` lie between the first and the last packet (between the reports,
    for a difference). ``late`` are the first few of those out of order.
    """

    received: int
    bytes: int
    out_of_order: int
    duplicates: int
    corrupted: int
    lost: int
    flows: int
    seconds: float
    at_seconds: float
    late: tuple[Late, ...] = ()

    @property
    def is_intact(self) -> bool:
        """True when everything came once, in order, undamaged."""
        return not (self.out_of_order or self.duplicates or self.corrupted or self.lost)

    @property
    def packets_per_second(self) -> float:
        return self.received / self.seconds if self.seconds else 0.0

    def since(self, earlier: Received) -> Received:
        """What came between ``earlier`` and this report."""
        counted = ("received", "bytes", "out_of_order", "duplicates", "corrupted", "lost")
        change: dict[str, Any] = {
            name: getattr(self, name) - getattr(earlier, name) for name in counted
        }
        return replace(self, seconds=self.at_seconds - earlier.at_seconds, **change)


class _Program(Closing):
    """A running udpflow. It ends with this object's context, and when we die."""

    def __init__(self, namespace: Namespace, *arguments: object):
        self._process = namespace.popen(
            [str(build()), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def has_ended(self) -> bool:
        return not self.is_running

    def _next_report(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise FalconError("udpflow ended without a report", self._process.stderr.read())
        report: dict[str, Any] = json.loads(line)
        return report

    def _stop(self) -> None:
        if self.is_running:
            self._process.terminate()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.communicate()


class Sender(_Program):
    """Sends numbered packets from a namespace to an address.

    ``size`` bytes of payload (at least 16); ``rate`` packets a second, 0 for as
    fast as it goes; ``count`` packets or ``seconds``, 0 for no limit, of which none
    pass in the ``after_s`` before it begins; ``flow`` 0 to 255 keeps several senders
    apart; ``source_port`` 0 leaves it to the kernel, and those that share one in a
    namespace are one flow to RSS, RPS and Falcon. ``cpu``: see `UdpFlow`.
    """

    def __init__(
        self,
        source: Namespace,
        to_ip: str,
        *,
        size: int = 64,
        rate: float = 0,
        count: int = 0,
        seconds: float = 0,
        after_s: float = 0,
        flow: int = 0,
        source_port: int = 0,
        cpu: int | None = None,
        port: int = PORT,
    ):
        options: dict[str, float | None] = {
            "-s": size,
            "-r": rate or None,
            "-n": count or None,
            "-t": seconds or None,
            "-w": after_s or None,
            "-f": flow,
            "-p": source_port or None,
            "-c": cpu,
        }
        given = [word for pair in options.items() if pair[1] is not None for word in pair]
        super().__init__(source, "send", to_ip, port, *given)

    def wait(self) -> Sent:
        """Wait until the limit is reached."""
        return Sent(**self._next_report())

    def stop(self) -> Sent:
        """End it now."""
        self._stop()
        return self.wait()


class Receiver(_Program):
    """Receives and checks at an endpoint; it listens when the constructor returns.

    ``cpu``: the only CPU it may run on.
    """

    def __init__(self, at: Endpoint, *, cpu: int | None = None, port: int = PORT):
        super().__init__(at.namespace, "recv", at.ip, port)
        try:
            self._next_report()
        except FalconError as error:
            raise not_listening("udpflow", at, port, error.why) from None
        if cpu is not None:
            os.sched_setaffinity(self._process.pid, {cpu})

    def report(self) -> Received:
        """The counters so far."""
        self._process.send_signal(signal.SIGUSR1)
        return self._received()

    def stop(self) -> Received:
        """End it and return the last counters."""
        self._stop()
        return self._received()

    def wait_for(self, packets: int, timeout_s: float) -> Received:
        """Report as soon as ``packets`` have come, or after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        return _poll(self.report, lambda r: r.received >= packets or time.monotonic() > deadline)

    def drain(self, packets: int, quiet_s: float = QUIET_S) -> Received:
        """Report as soon as ``packets`` have come, or nothing more did for ``quiet_s``."""
        return drained(self.report, packets, quiet_s)

    def _received(self) -> Received:
        known = {f.name for f in fields(Received)}
        values = {k: v for k, v in self._next_report().items() if k in known}
        return Received(**values | {"late": tuple(Late(*late) for late in values["late"])})


def drained(report: Callable[[], Received], packets: int, quiet_s: float) -> Received:
    """What ``report`` says as soon as ``packets`` came, or nothing more did for ``quiet_s``."""
    last, since = -1, time.monotonic()

    def done(now: Received) -> bool:
        nonlocal last, since
        if now.received != last:
            last, since = now.received, time.monotonic()
        return now.received >= packets or time.monotonic() - since > quiet_s

    return _poll(report, done)


def _poll(report: Callable[[], Received], done: Callable[[Received], bool]) -> Received:
    while not done(now := report()):
        time.sleep(POLL_S)
    return now


@dataclass(frozen=True)
class FlowResult:
    """One flow from its first packet to its last."""

    sent: Sent
    received: Received

    @property
    def is_intact(self) -> bool:
        """True when every packet sent came once, in order, undamaged."""
        return self.received.is_intact and self.received.received == self.sent.sent


@dataclass(frozen=True)
class UdpFlow:
    """A flow of ``count`` packets with ``size`` bytes of payload at ``rate`` a second.

    ``sender_cpu``: the CPU to send from. A sender that the scheduler moves puts
    packets of one flow into two CPUs' queues, and vanilla Linux reorders them.
    """

    source: Endpoint
    sink: Endpoint
    count: int
    rate: float
    size: int = 64
    source_port: int = 0
    sender_cpu: int | None = None

    def run(self) -> FlowResult:
        """Send everything, wait until it has come, or nothing more does."""
        with Receiver(self.sink) as receiver:
            with Sender(
                self.source.namespace,
                self.sink.ip,
                size=self.size,
                rate=self.rate,
                count=self.count,
                source_port=self.source_port,
                cpu=self.sender_cpu,
            ) as sender:
                sent = sender.wait()
            receiver.drain(sent.sent)
            return FlowResult(sent, receiver.stop())
