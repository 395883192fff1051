# SPDX-License-Identifier: GPL-2.0-only
"""Measures modes in turns within one booted kernel.

In: a `Job` (as JSON, on the command line) on the machine that receives. Out: one
JSON line a `Window` on stdout, as they come. Each round visits every mode, and
each round starts with another one, so that drift hits all of them alike::

    round 0: con  rps-pipe  falcon    round 1: rps-pipe  falcon  con    ...
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import FalconError
from harness.overlay import irq, modes, softnet
from harness.overlay.cpus import CpuPlan, online_cpus, present_cpus, set_online
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import NIC, Host, nic_server, one_machine
from harness.workload.udpflow import Endpoint, Receiver, Sender

READY = "ready"


@dataclass(frozen=True)
class Job:
    """What to measure.

    With ``sender_here`` the whole topology is built on this machine and the
    sender runs beside the receiver, as fast as it goes, packets of ``size`` bytes;
    otherwise the packets come in through the network card.
    """

    plan: Plan
    mode_names: tuple[str, ...]
    rounds: int
    window_s: float
    settle_s: float
    sender_here: bool = False
    size: int = 64

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "plan": self.plan.as_json()})

    @classmethod
    def from_json(cls, text: str) -> Job:
        values: dict[str, Any] = json.loads(text)
        values["plan"] = Plan(**values["plan"])
        values["mode_names"] = tuple(values["mode_names"])
        return cls(**values)


@dataclass(frozen=True)
class Window:
    """What one mode did for ``seconds``.

    ``number`` counts windows, ``round`` the turns. ``delivered`` packets reached
    the receiving program. ``softirq_share``: each CPU's part of the softirq
    time.
    """

    number: int
    mode: str
    round: int
    seconds: float
    delivered: int
    out_of_order: int
    duplicates: int
    corrupted: int
    softirq_share: dict[int, float]

    @property
    def packets_per_second(self) -> float:
        return self.delivered / self.seconds

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Window:
        values: dict[str, Any] = json.loads(text)
        values["softirq_share"] = {int(k): v for k, v in values["softirq_share"].items()}
        return cls(**values)


def measure(job: Job) -> Iterator[Window]:
    """Build the receiving side, then yield the windows one by one."""
    cpus = CpuPlan.of(present_cpus())
    with ExitStack() as opened:
        server = opened.enter_context(_receiving_side(job, cpus))
        # Last, because in the demo they make everything else slow once they run.
        for cpu in set(present_cpus()) - set(online_cpus()):
            set_online(cpu, True)
        irq.pin(server.namespace, NIC, cpus.nic)
        receiver = opened.enter_context(Receiver(Endpoint.of(server), cpu=cpus.app))
        print(READY, flush=True)
        for number, (turn, name) in enumerate(turns(job.mode_names, job.rounds)):
            with modes.applied(modes.named(name), server, cpus):
                time.sleep(job.settle_s)
                yield _window(number, turn, name, receiver, job.window_s)


def turns(names: tuple[str, ...], rounds: int) -> Iterator[tuple[int, str]]:
    """The order of the windows: round and mode."""
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            yield turn, name


def _window(number: int, turn: int, mode: str, receiver: Receiver, seconds: float) -> Window:
    first, work = receiver.report(), softnet.snapshot()
    time.sleep(seconds)
    came, work = receiver.report().since(first), softnet.snapshot() - work
    return Window(
        number=number,
        mode=mode,
        round=turn,
        seconds=came.seconds,
        delivered=came.received,
        out_of_order=came.out_of_order,
        duplicates=came.duplicates,
        corrupted=came.corrupted,
        softirq_share=work.softirq_share(),
    )


@contextmanager
def _receiving_side(job: Job, cpus: CpuPlan) -> Iterator[Host]:
    if not job.sender_here:
        with nic_server(job.plan) as server:
            yield server
        return
    with one_machine(job.plan) as topology:
        source = topology.client.at(0)
        to_ip = job.plan.container(SERVER, 0).ip
        # Its packets enter the stack on the CPU it runs on: the "NIC's".
        with Sender(source, to_ip, size=job.size, cpu=cpus.nic):
            yield topology.server


def main() -> int:
    """Run the job given as JSON in the first argument."""
    try:
        for window in measure(Job.from_json(sys.argv[1])):
            print(window.to_json(), flush=True)
    except FalconError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
