# SPDX-License-Identifier: GPL-2.0-only
"""The receiving host of a measurement: does what it is told, a line of JSON at a time.

In: a `Plan` (as JSON, on the command line), then commands on stdin. Out: an answer on
stdout to each. It runs on the machine under test, and while packets come it sleeps::

    the measuring machine (`remote`)       this program
    {"do": "mode", "name": "falcon"}  -->
                                      <--  {"number": 0}
    packets                           ==>  the receivers
    {"do": "drain", "packets": 5000}  -->
                                      <--  {"came": {"received": 5000, ...}, ..., "number": 1}
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from harness.errors import FalconError
from harness.overlay import falcon, irq, modes, softnet
from harness.overlay.cpus import CpuPlan, present_cpus
from harness.overlay.plan import Plan
from harness.overlay.topology import NIC, Host, nic_server
from harness.workload.udpflow import Endpoint, Received, Receiver

# Nothing more comes when nothing came for so long; emulated CPUs stand still at times.
QUIET_S = 5.0


def cpu_plan(cpus: tuple[int, ...]) -> CpuPlan:
    """Who does what: all CPUs but the last, where this program itself runs."""
    return CpuPlan.of(cpus[:-1])


class Guest:
    """A server host, its receivers, and the mode it is in."""

    def __init__(self, host: Host, cpus: CpuPlan, opened: ExitStack):
        self._host, self._cpus = host, cpus
        self._mode = opened.enter_context(ExitStack())
        self._receivers: list[Receiver] = []

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out a command and return its answer."""
        arguments = dict(command)
        deeds: dict[str, Callable[..., dict[str, Any]]] = {"mode": self.mode, "drain": self.drain}
        return deeds[arguments.pop("do")](**arguments)

    def mode(self, name: str, settings: dict[str, str | int] | None = None) -> dict[str, Any]:
        """Leave the mode there was, and enter this one; ``settings`` are net.core's, after it.

        The receivers are new ones, which take flows to begin at number 0.
        """
        self._mode.close()
        self._mode.enter_context(modes.applied(modes.named(name), self._host, self._cpus))
        for setting, value in (settings or {}).items():
            falcon.write_sysctl(setting, value)
        self._receivers = [
            self._mode.enter_context(Receiver(Endpoint.of(self._host, sink), cpu=self._cpus.app))
            for sink in (*range(self._host.plan.containers), None)
        ]
        self._seen, self._work = self._came(), softnet.snapshot()
        return {}

    def drain(self, packets: int) -> dict[str, Any]:
        """Wait for so many packets since the last time; what came, and the softirqs it took."""
        wanted = self._seen.received + packets
        for receiver in self._receivers:
            others = sum(r.report().received for r in self._receivers if r is not receiver)
            receiver.drain(wanted - others, QUIET_S)
            if self._came().received >= wanted:
                break
        before, self._seen = self._seen, self._came()
        work, self._work = self._work, softnet.snapshot()
        counted = [(self._work - work).cpus[cpu] for cpu in self._cpus.all]
        return {
            "came": asdict(self._seen.since(before)),
            "softirqs": sum(cpu.net_rx for cpu in counted),
            "received": sum(cpu.processed for cpu in counted),
        }

    def _came(self) -> Received:
        """All that the receivers got so far, as if it were one."""
        reports = [receiver.report() for receiver in self._receivers]
        counted = ("received", "bytes", "out_of_order", "duplicates", "corrupted", "lost", "flows")
        return replace(
            reports[0], **{name: sum(getattr(r, name) for r in reports) for name in counted}
        )


def answers(plan: Plan, commands: Iterator[str]) -> Iterator[str]:
    """Set everything up, then an answer to each of the ``commands``; at their end undo it."""
    present = present_cpus()
    cpus = cpu_plan(present)
    os.sched_setaffinity(0, {present[-1]})
    with ExitStack() as opened:
        host = opened.enter_context(nic_server(plan))
        irq.pin(host.namespace, NIC, cpus.nic)
        guest = Guest(host, cpus, opened)
        yield json.dumps({"ready": True, "cpus": asdict(cpus)})
        for number, line in enumerate(commands):
            yield json.dumps({**guest.do(json.loads(line)), "number": number})


def main() -> int:
    """Serve the commands on stdin."""
    try:
        for answer in answers(Plan(**json.loads(sys.argv[1])), sys.stdin):
            print(answer, flush=True)
    except FalconError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
