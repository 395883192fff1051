# SPDX-License-Identifier: GPL-2.0-only
"""sockperf, the paper's own load: servers and clients started, and their reports read.

In: two endpoints (`Endpoint`), a message size, seconds. Out: `Throughput` and `Latency`
from a client, `Handled` from the server. Several clients may send to one server.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.workload.latency import Latencies
from harness.workload.program import Program
from harness.workload.udpflow import Endpoint

PORT = 11111
# What sockperf takes, for UDP and TCP alike; 64 KB is the second one.
MIN_BYTES, MAX_BYTES = 14, 65_507
COMPLAINT = re.compile(
    r"ERROR: (.+(?:\n \(errno.+)?)|((?:'-\S+' )?Invalid .+)|(No messages were received from .+)"
)


@dataclass(frozen=True)
class Throughput:
    """What one client gave to its socket. What came is the server's to say: `Handled`."""

    sent: int
    seconds: float
    size: int

    @property
    def messages_per_second(self) -> float:
        return self.sent / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return self.sent * self.size / self.seconds


@dataclass(frozen=True, kw_only=True)
class Latency(Latencies):
    """One way, as half of the time to a message's answer, in microseconds.

    All is of the part of the run that sockperf calls valid, its start and end left out:
    ``sent`` messages, ``received`` answers to those that ask for one. ``dropped``,
    ``duplicated`` and ``out_of_order`` are answers, too.
    """

    sent: int
    received: int
    seconds: float
    dropped: int
    duplicated: int
    out_of_order: int

    @property
    def messages_per_second(self) -> float:
        """Messages sent a second."""
        return self.sent / self.seconds


@dataclass(frozen=True)
class Handled:
    """Messages that a server received from all clients, warming up included.

    ``missing`` with `Server`'s ``gaps``: numbers that did not come, or not in order.
    """

    messages: int
    missing: int | None = None


class _Sockperf(Program):
    def last_words(self) -> str:
        return complaint(self.said())


class Server(_Sockperf):
    """Receives, and answers what asks for it; it listens when the constructor returns.

    ``cpu``: the only CPU it may run on. ``gaps`` looks for numbers left out, at some cost.
    """

    def __init__(
        self,
        at: Endpoint,
        *,
        tcp: bool = False,
        port: int = PORT,
        cpu: int | None = None,
        gaps: bool = False,
    ):
        flags = ["--tcp"] * tcp + ["-g"] * gaps
        cpus = () if cpu is None else (cpu,)
        super().__init__(at.namespace, "sockperf", "sr", "-i", at.ip, "-p", port, *flags, cpus=cpus)
        self._gaps = gaps
        self.wait_until_it_listens(at, port, "tcp" if tcp else "udp")

    def stop(self) -> Handled:
        """End it and return what it counted."""
        return parse_handled(self.interrupt(), self._gaps)


class _Client(_Sockperf):
    """A client of one of sockperf's modes, from a namespace to an address.

    ``size`` bytes a message, for ``seconds``. ``source_port`` 0 leaves the port to the
    kernel; UDP clients of one namespace may share one, and are then one flow. ``cpus``: the
    only ones it may run on.
    """

    MODE = ""

    def __init__(
        self,
        source: Namespace,
        to_ip: str,
        *,
        size: int,
        seconds: int,
        tcp: bool = False,
        port: int = PORT,
        source_port: int = 0,
        cpus: Collection[int] = (),
        rate: float = 0,
        reply_every: int = 0,
    ):
        options: dict[str, object] = {
            "-i": to_ip,
            "-p": port,
            "-m": size,
            "-t": seconds,
            # Fractions are refused; and 0 a second would be for ever.
            "--mps": max(1, round(rate)) if rate else "max",
            "--reply-every": reply_every or None,
            "--client_port": source_port or None,
        }
        given = [word for pair in options.items() if pair[1] is not None for word in pair]
        flags = ["--tcp"] * tcp + ["--uc-reuseaddr"] * bool(source_port)
        super().__init__(source, "sockperf", self.MODE, *given, *flags, cpus=cpus)
        self._size, self._seconds = size, seconds


class ThroughputClient(_Client):
    """Sends one way, ``rate`` messages a second; 0, as fast as it goes.

    With TCP small messages are put together (Nagle), as sockperf does by itself.
    """

    MODE = "tp"

    def wait(self) -> Throughput:
        """Wait until all is sent."""
        return parse_throughput(self.wait_until_ended(self._seconds), self._size)


class PingPongClient(_Client):
    """Sends a message when the one before is answered; so the latency without a load."""

    MODE = "pp"

    def wait(self) -> Latency:
        """Wait until the time is over."""
        return parse_latency(self.wait_until_ended(self._seconds))


class UnderLoadClient(_Client):
    """Sends ``rate`` messages a second, 0 for as many as go; each ``reply_every``-th is answered.

    ``reply_every`` 0: what sockperf takes by itself, 100.
    """

    MODE = "ul"

    def wait(self) -> Latency:
        """Wait until the time is over."""
        return parse_latency(self.wait_until_ended(self._seconds))


def parse_throughput(text: str, size: int) -> Throughput:
    """What a throughput client's report says; raises what went wrong."""
    found = _find(r"Total of (\d+) messages sent in ([\d.]+) sec", text)
    return Throughput(int(found[1]), float(found[2]), size)


def parse_latency(text: str) -> Latency:
    """What a latency client's report says; raises what went wrong."""
    ran = _find(
        r"\[Valid Duration\] RunTime=([\d.]+) sec; SentMessages=(\d+); ReceivedMessages=(\d+)",
        text,
    )
    lost = _find(
        r"# dropped messages = (\d+); # duplicated messages = (\d+);"
        r" # out-of-order messages = (\d+)",
        text,
    )

    def at(percentile: str) -> float:
        return float(_find(rf"---> percentile {percentile} = +([\d.]+)", text)[1])

    return Latency(
        sent=int(ran[2]),
        received=int(ran[3]),
        seconds=float(ran[1]),
        dropped=int(lost[1]),
        duplicated=int(lost[2]),
        out_of_order=int(lost[3]),
        mean_us=float(_find(r"avg-latency= *([\d.]+)", text)[1]),
        p50_us=at("50.000"),
        p90_us=at("90.000"),
        p99_us=at("99.000"),
        p999_us=at("99.900"),
        max_us=float(_find(r"---> <MAX> observation = +([\d.]+)", text)[1]),
    )


def parse_handled(text: str, gaps: bool = False) -> Handled:
    """What an interrupted server's report says; raises what went wrong."""
    if "No messages were received on the server" in text:
        return Handled(0, 0 if gaps else None)
    messages = int(_find(r"Total (\d+) messages received and handled", text)[1])
    if not gaps:
        return Handled(messages)
    return Handled(messages, sum(map(int, re.findall(r"Summary: Total Dropped/OOO: (\d+)", text))))


def _find(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found:
        return found
    raise FalconError("sockperf failed", complaint(text))


def complaint(text: str) -> str:
    """What went wrong. sockperf then prints its manual, and exits with 0 whatever happened."""
    found = COMPLAINT.search(text)
    return found[found.lastindex or 0] if found else text.strip()[-300:] or "it said nothing"
