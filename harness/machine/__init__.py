# SPDX-License-Identifier: GPL-2.0-only
"""Places that run a kernel, behind one small interface (`base.Machine`).

``local``: this host. ``qemu``: a kernel image in a virtual machine. ``ssh``: a host
at the other end of an SSH connection. ``boot``: what the command line does with
a virtual machine.

The names below are imported when first used: tests in a guest import ``tap``
and ``console`` from here, and all the rest costs seconds under emulation.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.machine.base import (
        CommandFailed,
        CommandSilent,
        CommandTimeout,
        Machine,
        MachineDied,
        Process,
        Result,
    )
    from harness.machine.boot import boot_command, boot_shell
    from harness.machine.local import LocalMachine
    from harness.machine.qemu import QemuMachine
    from harness.machine.ssh import Access, SshMachine
    from harness.machine.tap import TapNic, open_tap

__all__ = [
    "Access",
    "CommandFailed",
    "CommandSilent",
    "CommandTimeout",
    "LocalMachine",
    "Machine",
    "MachineDied",
    "Process",
    "QemuMachine",
    "Result",
    "SshMachine",
    "TapNic",
    "boot_command",
    "boot_shell",
    "open_tap",
]

_HOMES = {
    "Access": "ssh",
    "LocalMachine": "local",
    "QemuMachine": "qemu",
    "SshMachine": "ssh",
    "TapNic": "tap",
    "boot_command": "boot",
    "boot_shell": "boot",
    "open_tap": "tap",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES.get(name, 'base')}")
    return getattr(home, name)
