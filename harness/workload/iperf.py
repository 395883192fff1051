# SPDX-License-Identifier: GPL-2.0-only
"""TCP flows by iperf3: servers and clients started, and the client's report read.

In: two endpoints (`Endpoint`), a message size, how many. Out: `Carried`, what came through.
A test ends when the client has given all to its socket; what is under way then the
server does not read. Paced, that is little.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.workload.program import Program
from harness.workload.udpflow import Endpoint

FIRST_PORT = 5201
BITS = 8
# TCP goes slower than it should where CPUs are emulated, and the host is busy.
HELD_UP_S = 240.0
# A server that has not put the flow before away refuses the next one. It says so, or hangs up
# before that is read.
REFUSALS = ("server is busy", "reset by peer")
TAKEN_WITHIN_S, POLL_S = 60.0, 0.1


@dataclass(frozen=True)
class Carried:
    """Messages ``sent``, those ``received``, in how many seconds; segments sent again."""

    sent: int
    received: int
    seconds: float
    retransmits: int

    @property
    def packets_per_second(self) -> float:
        """Messages received a second."""
        return self.received / self.seconds


class Server(Program):
    """Takes one flow after the other at an endpoint; it listens when the constructor returns.

    ``cpu``: the only CPU it may run on.
    """

    def __init__(self, at: Endpoint, *, port: int = FIRST_PORT, cpu: int | None = None):
        cpus = () if cpu is None else (cpu,)
        super().__init__(at.namespace, "iperf3", "-s", "-B", at.ip, "-p", port, cpus=cpus)
        self.wait_until_it_listens(at, port)


class Client(Program):
    """Sends ``count`` messages of ``size`` bytes to an address, ``rate`` a second at most.

    ``rate`` 0: as fast as it goes. Each message is a write of its own, sent at once
    (TCP_NODELAY). ``source_port`` 0 leaves the port to the kernel.
    """

    def __init__(
        self,
        source: Namespace,
        to_ip: str,
        *,
        size: int,
        count: int,
        rate: float = 0,
        port: int = FIRST_PORT,
        source_port: int = 0,
    ):
        options: dict[str, object] = {
            "-c": to_ip,
            "-p": port,
            "-l": size,
            "-n": size * count,
            "-b": int(rate * size * BITS) or None,
            "--cport": source_port or None,
        }
        given = [word for pair in options.items() if pair[1] is not None for word in pair]
        super().__init__(source, "iperf3", "--json", "--no-delay", *given)
        self._size = size
        self._seconds = (count / rate if rate else 0.0) + HELD_UP_S

    def wait(self) -> Carried:
        """Wait until all is sent."""
        until = time.monotonic() + TAKEN_WITHIN_S
        text = self.wait_until_ended(self._seconds)
        while _is_refused(text) and time.monotonic() < until:
            time.sleep(POLL_S)
            self.restart()
            text = self.wait_until_ended(self._seconds)
        return parse(text, self._size)


def _is_refused(text: str) -> bool:
    """Whether not a byte was sent, because the server was not done with the flow before."""
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        return False
    began = report.get("start", {}).get("connected")
    return not began and any(words in str(report.get("error", "")) for words in REFUSALS)


def parse(text: str, size: int) -> Carried:
    """What a client's report says, in messages of ``size`` bytes; raises what went wrong."""
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        raise FalconError("iperf3 ended without a report", text.strip()[-200:]) from None
    if "error" in report:
        raise FalconError("iperf3 failed", str(report["error"]))
    sent, received = report["end"]["sum_sent"], report["end"]["sum_received"]
    return Carried(
        sent=sent["bytes"] // size,
        received=received["bytes"] // size,
        seconds=sent["seconds"],
        retransmits=sent.get("retransmits", 0),
    )
