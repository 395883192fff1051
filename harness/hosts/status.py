# SPDX-License-Identifier: GPL-2.0-only
"""What runs on hosts, what boots next, and what of ours is there. Changes nothing.

In: a host. Out: `Status`; a table of several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from harness.errors import FalconError
from harness.hosts import deadman, uninstall
from harness.hosts.fleet import Outcome
from harness.hosts.grub import TRIAL_ID, Grub
from harness.hosts.host import Host
from harness.machine.ssh import SshMachine
from harness.overlay.rpspipe import STATE as RPS_STATE

FALCON = {"": "not in this kernel", "0": "off", "1": "on"}


@dataclass(frozen=True)
class Status:
    """``falcon``: net.core.falcon, "" without. ``default``: the kernel that boots by itself, ""
    where that cannot be told. ``ours``: installed kernels of ours. ``leftovers``: what an
    install-kernel that was cut off has left, and whether RPS masks of ours are set.
    """

    release: str
    falcon: str
    default: str
    ours: tuple[str, ...]
    leftovers: tuple[str, ...]


def look(machine: SshMachine, _report: Callable[[str], None]) -> Status:
    """Look at a host."""
    host = Host(machine)
    grub = Grub(host)
    default, leftovers = "", []
    if host.has("grub-editenv"):
        default = grub.default_release()
        if grub.environment().get("next_entry") == TRIAL_ID:
            leftovers.append("one boot of a new kernel is armed")
    if host.exists(deadman.UNIT):
        leftovers.append(f"{deadman.NAME} is there")
    if host.exists(str(RPS_STATE)):
        leftovers.append("RPS masks are set (rps-pipeline --undo)")
    ours = uninstall.packages(host) if host.has("dpkg-query") else ()
    return Status(machine.kernel_release(), host.falcon(), default, ours, tuple(leftovers))


def table(outcomes: Sequence[Outcome[Status]]) -> Table:
    """A row a host."""
    shown = Table("host", "kernel", "Falcon", "boots by default", "kernels of ours", "to note")
    for outcome in outcomes:
        status = outcome.value
        if status is None:
            assert isinstance(outcome.error, FalconError)
            shown.add_row(outcome.host, "?", "", "", "", str(outcome.error), style="red")
            continue
        shown.add_row(
            outcome.host,
            status.release,
            FALCON.get(status.falcon, status.falcon),
            status.default or "?",
            ", ".join(status.ours) or "none",
            "; ".join(status.leftovers),
        )
    return shown
