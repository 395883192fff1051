# SPDX-License-Identifier: GPL-2.0-only
"""The receiving host of a measurement, as seen by the machine that measures.

In: a `Machine` and a `Plan`. Out: a `Server` that takes modes and says what came; see
`harness.lab.guest`, which runs there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from harness.lab.loads import Load
from harness.machine.base import Machine
from harness.overlay.cpus import CpuPlan
from harness.overlay.plan import Plan
from harness.paths import PROJECT
from harness.workload.udpflow import Received

READY_TIMEOUT_S, ANSWER_TIMEOUT_S = 180.0, 180.0


@dataclass(frozen=True)
class Drained:
    """What ``came``; in how many NET_RX ``softirqs``; and how often the stack ``received`` a
    packet, once a stage. Without the CPU that runs the harness.
    """

    came: Received
    softirqs: int
    received: int


@dataclass(frozen=True)
class Counters:
    """What the host under test counted; the difference of two is what happened between them.

    ``seconds`` of its clock; ``datagrams`` that the load's programs read; ``packets``: these, and
    segments that TCP received, where the load's programs are; ``late``: those of
    udpflow, and TCP's segments, that came out of order; NET_RX ``softirqs``; by CPU ``busy`` and
    ``idle`` time in ticks. Without the CPU that runs the harness.
    """

    seconds: float
    datagrams: int
    packets: int
    late: int
    softirqs: int
    busy: tuple[int, ...]
    idle: tuple[int, ...]

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            seconds=self.seconds - earlier.seconds,
            datagrams=self.datagrams - earlier.datagrams,
            packets=self.packets - earlier.packets,
            late=self.late - earlier.late,
            softirqs=self.softirqs - earlier.softirqs,
            busy=_less(self.busy, earlier.busy),
            idle=_less(self.idle, earlier.idle),
        )

    @property
    def busy_percent(self) -> tuple[float, ...]:
        """Of each CPU's time."""
        return tuple(
            100 * busy / max(1, busy + idle)
            for busy, idle in zip(self.busy, self.idle, strict=True)
        )


def _less(later: tuple[int, ...], earlier: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(later, earlier, strict=True))


class Server:
    """Entered, it is set up; left, everything there is undone. ``cpus``: who does what."""

    def __init__(self, machine: Machine, plan: Plan):
        self._machine, self._plan = machine, plan
        self._answered = 0
        self.cpus: CpuPlan

    def __enter__(self) -> Self:
        self._theirs, self._commands = os.pipe()
        command = [sys.executable, "-m", "harness.lab.guest", json.dumps(self._plan.as_json())]
        try:
            self._process = self._machine.start(command, cwd=PROJECT, stdin=self._theirs)
            self._process.wait_for('"ready"', READY_TIMEOUT_S)
        except BaseException:
            os.close(self._commands)
            os.close(self._theirs)
            raise
        cpus = json.loads(self._process.stdout.splitlines()[0])["cpus"]
        self.cpus = CpuPlan(**cpus | {"stages": tuple(cpus["stages"])})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._commands)  # the end of its commands is what it ends by
        try:
            if kind is None:
                self._process.wait(ANSWER_TIMEOUT_S, check=True)
            else:
                self._process.kill()
        finally:
            os.close(self._theirs)

    def mode(self, name: str, load: Load, settings: Mapping[str, str | int] | None = None) -> None:
        """Work in a mode of `harness.overlay.modes`, ready for ``load``.

        ``settings`` (net.core's) come on top of the mode's.
        """
        self._ask(
            {"do": "mode", "name": name, "load": load.to_dict(), "settings": dict(settings or {})}
        )

    def loads(self, seconds: float) -> list[float]:
        """The load of each Falcon CPU in percent, the mean over so many seconds from now on."""
        found: list[float] = self._ask({"do": "loads", "seconds": seconds})["loads"]
        return found

    def drain(self, packets: int) -> Drained:
        """What came since the last time, as soon as it is ``packets``, or no more comes."""
        answer = self._ask({"do": "drain", "packets": packets})
        return Drained(**answer | {"came": Received(**answer["came"] | {"late": ()})})

    def counters(self) -> Counters:
        """What it counted up to now."""
        answer = self._ask({"do": "counters"})
        return Counters(**answer | {"busy": tuple(answer["busy"]), "idle": tuple(answer["idle"])})

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        os.write(self._commands, json.dumps(command).encode() + b"\n")
        self._process.wait_for(f'"number": {self._answered}}}\n', ANSWER_TIMEOUT_S)
        self._answered += 1
        answer: dict[str, Any] = json.loads(self._process.stdout.splitlines()[self._answered])
        del answer["number"]
        return answer
