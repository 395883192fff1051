# SPDX-License-Identifier: GPL-2.0-only
"""RPS masks for the overlays of hosts, or of this machine: `harness.overlay.rpspipe` there.

In: what to do, for which hosts. Out: tables of queues and masks, and an exit status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from harness.console import note, out
from harness.errors import FalconError
from harness.hosts import fleet
from harness.hosts.payload import Payload
from harness.machine.ssh import Access, SshMachine
from harness.overlay import rpspipe
from harness.overlay.rpspipe import Queue

FILES, PACKAGES = ("harness",), ("pyroute2",)
DEEDS = ("show", "apply", "undo")


@dataclass(frozen=True)
class Request:
    """``do``: one of `DEEDS`. ``cpus``: a CPU list or "". ``vni``: one overlay alone."""

    do: str
    cpus: str = ""
    vni: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"do": self.do, "cpus": self.cpus, "vni": self.vni}


def run(request: Request, hosts: Sequence[str], access: Access) -> int:
    """Do it on all ``hosts``, or here when there are none, and show it; the exit status."""
    if not hosts:
        answer = rpspipe.answer(request.as_json())
        if "error" in answer:
            raise FalconError(*answer["error"])
        _show(answer, "")
        return 0

    def work(machine: SshMachine, report: Callable[[str], None]) -> dict[str, Any]:
        report("looking for overlays")
        with Payload(machine, FILES, PACKAGES) as payload:
            return payload.ask("harness.overlay.rpspipe", request.as_json())

    outcomes = fleet.on_each(hosts, access, work)
    fleet.only_error(outcomes)
    for outcome in outcomes:
        if outcome.value is not None:
            _show(outcome.value, outcome.host)
    if len(hosts) > 1:
        out.print(fleet.summary(outcomes, f"rps-pipeline --{request.do}", _words))
    return fleet.status(outcomes)


def _show(answer: Mapping[str, Any], host: str) -> None:
    if "queues" in answer:
        out.print(table([Queue.from_json(queue) for queue in answer["queues"]], host))
        return
    for queue in map(Queue.from_json, answer["gone"]):
        note(f"{_name(queue)} is gone, with its mask")
    for queue in map(Queue.from_json, answer["foreign"]):
        note(f"{_name(queue)} has a mask of somebody else's since, {queue.mask}: left as it is")
    out.print(f"{host}{': ' if host else ''}{_words(answer)}", markup=False)


def _words(answer: Mapping[str, Any]) -> str:
    if "queues" in answer:
        ours = sum(1 for queue in answer["queues"] if queue["ours"] is not None)
        return f"{len(answer['queues'])} queues, {ours} with masks of ours"
    restored = len(answer["restored"])
    return f"{restored} masks put back" if restored else "nothing was to be put back"


def _name(queue: Queue) -> str:
    return f"{queue.device.namespace}: {queue.device.name}/{queue.queue}"


def table(queues: Sequence[Queue], host: str = "") -> Table:
    """A row a queue: where it is, the CPUs it hands packets to now, and those from before."""
    shown = Table(title=host or None, title_justify="left")
    for column in ("VNI", "stage", "namespace", "queue", "RPS mask", "before"):
        shown.add_column(column)
    for queue in queues:
        shown.add_row(
            str(queue.vni),
            queue.stage,
            queue.device.namespace,
            f"{queue.device.name}/{queue.queue}",
            queue.mask,
            queue.before if queue.before is not None else "",
        )
    return shown
