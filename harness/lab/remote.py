# SPDX-License-Identifier: GPL-2.0-only
"""The hosts of a measurement that are other machines, as seen by the one that measures.

In: how to start our program there. Out: a `Server` that takes modes and says what came
(`harness.lab.guest` runs there), and a `Sender` that sends (`harness.lab.sender`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from harness.errors import FalconError
from harness.lab.clients import Client, Done, Running, Sent
from harness.lab.loads import Flow, Load
from harness.machine.base import Machine, MachineDied, Process
from harness.overlay.cpus import CpuPlan
from harness.overlay.plan import Plan
from harness.paths import PROJECT
from harness.workload.latency import Latencies
from harness.workload.udpflow import Received

# Setting up a host takes minutes where emulated CPUs share a busy machine and there are many
# containers; a machine that hangs or dies is noticed before.
READY_TIMEOUT_S, ANSWER_TIMEOUT_S = 600.0, 180.0

# Starts a program of ours whose stdin is the descriptor.
Starter = Callable[[int], Process]


def in_guest(machine: Machine, plan: Plan) -> Starter:
    """The server host of ``plan`` in a virtual machine, which has our files."""
    command = [sys.executable, "-m", "harness.lab.guest", json.dumps({"plan": plan.as_json()})]
    return lambda stdin: machine.start(command, cwd=PROJECT, stdin=stdin)


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
    udpflow, and TCP's segments, that came out of order; NET_RX ``softirqs``; how often the stack
    ``received`` a packet, once a stage; by CPU ``busy`` and ``idle`` time in ticks. Without the CPU
    that runs the harness.
    """

    seconds: float
    datagrams: int
    packets: int
    late: int
    softirqs: int
    received: int
    busy: tuple[int, ...]
    idle: tuple[int, ...]

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            seconds=self.seconds - earlier.seconds,
            datagrams=self.datagrams - earlier.datagrams,
            packets=self.packets - earlier.packets,
            late=self.late - earlier.late,
            softirqs=self.softirqs - earlier.softirqs,
            received=self.received - earlier.received,
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


class Agent:
    """A program of ours on a machine (`harness.lab.dialogue`); ``name`` is for errors.

    Entered, it is set up, and ``ready`` is what it said then; left, all it did is undone.
    """

    def __init__(self, start: Starter, name: str):
        self._start, self.name = start, name
        self._answered = 0
        self.ready: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._theirs, self._commands = os.pipe()
        try:
            self._process = self._start(self._theirs)
        except BaseException:
            os.close(self._commands)
            os.close(self._theirs)
            raise
        try:
            self._wait_for('"ready"', READY_TIMEOUT_S)
            self.ready = json.loads(self._process.stdout.splitlines()[0])
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
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

    def ask(self, command: dict[str, Any], timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Its answer to a command."""
        os.write(self._commands, json.dumps(command).encode() + b"\n")
        self._wait_for(f'"number": {self._answered}}}\n', timeout_s)
        self._answered += 1
        answer: dict[str, Any] = json.loads(self._process.stdout.splitlines()[self._answered])
        del answer["number"]
        return answer

    def _wait_for(self, text: str, timeout_s: float) -> None:
        """Wait for that in what it says; if it ended instead, its last words are the error."""
        try:
            self._process.wait_for(text, timeout_s)
        except MachineDied:
            raise
        except FalconError:
            if not self._process.exit_status:
                raise
            result = self._process.wait()
            last = result.stderr.strip().splitlines()[-1:] or [
                f"our program there ended with status {result.exit_status}"
            ]
            raise FalconError(f"{self.name}: {last[0]}") from None


class Server(Agent):
    """The receiving host. ``cpus``: who does what there."""

    @property
    def cpus(self) -> CpuPlan:
        return CpuPlan.from_json(self.ready["cpus"])

    def mode(self, name: str, load: Load, settings: Mapping[str, str | int] | None = None) -> None:
        """Work in a mode of `harness.overlay.modes`, ready for ``load``.

        ``settings`` (net.core's) come on top of the mode's.
        """
        self.ask(
            {"do": "mode", "name": name, "load": load.to_dict(), "settings": dict(settings or {})}
        )

    def loads(self, seconds: float) -> list[float]:
        """The load of each Falcon CPU in percent, the mean over so many seconds from now on."""
        found: list[float] = self.ask({"do": "loads", "seconds": seconds})["loads"]
        return found

    def drain(self, packets: int) -> Drained:
        """What came since the last time, as soon as it is ``packets``, or no more comes."""
        answer = self.ask({"do": "drain", "packets": packets})
        return Drained(**answer | {"came": Received(**answer["came"] | {"late": ()})})

    def counters(self) -> Counters:
        """What it counted up to now."""
        answer = self.ask({"do": "counters"})
        return Counters(**answer | {"busy": tuple(answer["busy"]), "idle": tuple(answer["idle"])})


# ---- the sending host ------------------------------------------------------------------------


class Sender(Agent, Client):
    """The sending host, where it is another machine."""

    def require(self, *programs: str) -> None:
        self.ask({"do": "require", "programs": programs})

    @contextmanager
    def running(
        self, load: Load, flows: Sequence[Flow], rate: float, seconds: int
    ) -> Iterator[Running]:
        command = {"load": load.to_dict(), "flows": _told(flows), "rate": rate, "seconds": seconds}
        self.ask({"do": "start", **command})
        yield _Elsewhere(self, seconds)
        self.ask({"do": "stop"})  # not after an error: then the program itself is ended

    def sent(self, flows: Sequence[Flow]) -> Sent:
        return Sent(**self.ask({"do": "sent", "flows": _told(flows)}))


class _Elsewhere(Running):
    """Clients that were started there, for so many seconds."""

    def __init__(self, sender: Sender, seconds: int):
        self._sender, self._seconds = sender, seconds

    @property
    def all_run(self) -> bool:
        return bool(self._sender.ask({"do": "all_run"})["all_run"])

    def wait(self) -> Done:
        answer = self._sender.ask({"do": "wait"}, self._seconds + ANSWER_TIMEOUT_S)
        latency = answer["latency"]
        return Done(**answer | {"latency": latency and Latencies(**latency)})


def _told(flows: Sequence[Flow]) -> list[dict[str, Any]]:
    return [asdict(flow) for flow in flows]
