# SPDX-License-Identifier: GPL-2.0-only
"""TCP flows by iperf3: servers and clients started, and the client's report read.

In: two endpoints (`Endpoint`), a message size, how many. Out: `Carried`, what came through.
A test ends when the client has given all to its socket; what is under way then the
server does not read. Paced, that is little.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from harness import tools
from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.workload.udpflow import Endpoint

FIRST_PORT = 5201
LISTENING = "Server listening"
LISTENING_WITHIN_S = 60.0
BITS = 8


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


class _Program:
    """A running iperf3. It ends with this object's context."""

    def __init__(self, namespace: Namespace, *arguments: object):
        tools.require("iperf3")
        self._process = namespace.popen(
            ["iperf3", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Server(_Program):
    """Takes one flow after the other at an endpoint; it listens when the constructor returns.

    ``cpu``: the only CPU it may run on.
    """

    def __init__(self, at: Endpoint, *, port: int = FIRST_PORT, cpu: int | None = None):
        super().__init__(at.namespace, "-s", "-B", at.ip, "-p", port, "--forceflush")
        if cpu is not None:
            os.sched_setaffinity(self._process.pid, {cpu})
        try:
            self._wait_until_it_listens(at, port)
        except BaseException:
            self.close()
            raise

    def _wait_until_it_listens(self, at: Endpoint, port: int) -> None:
        assert self._process.stdout is not None
        said = ""
        # Whatever keeps it from listening, it says so and ends; or it is ended.
        watchdog = threading.Timer(LISTENING_WITHIN_S, self._process.kill)
        watchdog.start()
        try:
            while LISTENING not in said:
                line = self._process.stdout.readline()
                if not line:
                    why = said.strip() or f"it said nothing for {LISTENING_WITHIN_S:g} s"
                    raise FalconError(f"iperf3 does not listen at {at.ip}, port {port}", why)
                said += line
        finally:
            watchdog.cancel()


class Client(_Program):
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
        super().__init__(source, "--json", "--no-delay", *given)
        self._size = size

    def wait(self) -> Carried:
        """Wait until all is sent."""
        text, _ = self._process.communicate()
        return parse(text, self._size)


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
