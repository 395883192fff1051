# SPDX-License-Identifier: GPL-2.0-only
"""The sending host of a measurement, where it is a real one: does what it is told.

In: a `Plan` and the device that the wire is plugged into; then commands. Out: an answer to
each (`harness.lab.dialogue`). Nothing of the host's own is changed. ::

    the measuring machine (`remote`)         this program
    {"do": "start", "load": ..., ...}   -->  clients, in containers
    {"do": "wait"}                      -->
                                        <--  {"operations": 9000, ..., "number": 1}
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from harness.lab import dialogue, loads
from harness.lab.clients import Here, Running
from harness.lab.dialogue import Fields
from harness.lab.loads import Flow
from harness.overlay.plan import CLIENT, Plan
from harness.overlay.running import on_this_machine
from harness.overlay.topology import Host


class Sending:
    """The client host and the clients that run there."""

    def __init__(self, host: Host, opened: ExitStack):
        self._here = Here(host)
        self._opened = opened.enter_context(ExitStack())
        self._running: Running

    def do(self, command: Fields) -> Fields:
        """Carry out a command and return its answer."""
        deeds: dict[str, Callable[..., Fields]] = {
            "require": self.require,
            "start": self.start,
            "all_run": lambda: {"all_run": self._running.all_run},
            "wait": lambda: asdict(self._running.wait()),
            "stop": self.stop,
            "sent": self.sent,
        }
        return dialogue.carry_out(deeds, command)

    def require(self, programs: Sequence[str]) -> Fields:
        """See that there are these programs."""
        self._here.require(*programs)
        return {}

    def start(self, load: Fields, flows: Sequence[Fields], rate: float, seconds: int) -> Fields:
        """Start clients, in place of those that there were."""
        self._opened.close()
        self._running = self._opened.enter_context(
            self._here.running(loads.of(**load), _flows(flows), rate, seconds)
        )
        return {}

    def stop(self) -> Fields:
        """End the clients."""
        self._opened.close()
        return {}

    def sent(self, flows: Sequence[Fields]) -> Fields:
        """What the kernel sent where these flows come from."""
        return asdict(self._here.sent(_flows(flows)))


def _flows(told: Sequence[Fields]) -> list[Flow]:
    return [Flow(**flow) for flow in told]


def answers(setting: Fields, commands: Iterator[str]) -> Iterator[str]:
    """Set the host up, then an answer to each of the ``commands``; at their end undo it.

    ``setting``: the "plan", and the "device".
    """
    with ExitStack() as opened:
        plan = Plan(**setting["plan"])
        host = opened.enter_context(on_this_machine(plan, CLIENT, setting["device"]))
        yield from dialogue.answers({}, Sending(host, opened).do, commands)


if __name__ == "__main__":
    sys.exit(dialogue.serve(answers))
