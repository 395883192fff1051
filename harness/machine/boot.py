# SPDX-License-Identifier: GPL-2.0-only
"""Boot a kernel for its user: run one command, or work in a shell.

In: a kernel image, the user's terminal. Out: the exit status of what ran.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.console import note
from harness.machine.base import HEALTH_INTERVAL_S, MachineDied
from harness.machine.channel import CHUNK, TtyProcess
from harness.machine.qemu import QemuMachine


def boot_command(kernel: Path, argv: Sequence[str], **machine: Any) -> int:
    """Boot ``kernel``, run ``argv`` with its output on ours, return its exit status.

    ``machine``: see `QemuMachine`. Raises `MachineDied` when the guest panics
    or hangs, and when its kernel complained while the command ran: a splat
    is a failure even if the command did not notice.
    """
    with QemuMachine(kernel, **machine) as guest:
        status = guest.run(argv, stdin=_piped_input(), stream=True).exit_status
        _report_splats(guest)
    return status


def boot_shell(kernel: Path, **machine: Any) -> int:
    """Boot ``kernel`` and give the user a shell in it; returns the shell's status.

    Without a terminal the shell reads its commands from our standard input.
    """
    shell = "bash" if shutil.which("bash") else "sh"
    if not sys.stdin.isatty():
        return boot_command(kernel, [shell], **machine)
    with QemuMachine(kernel, **machine) as guest:
        config = guest.config
        note(
            f"Linux {guest.kernel_release()} booted in {guest.boot_s:.1f} s"
            f" ({config.smp} CPUs, {config.mem_mib} MiB, {config.accel})."
            " This is the host's file system; what you write is forgotten. `exit` powers off."
        )
        rows, columns = _window()
        process = guest.start_on_tty([shell], rows=rows, columns=columns)
        with _raw_terminal():
            status = _converse(process)
        _report_splats(guest)
    return status


def _piped_input() -> int | None:
    """Our standard input, if somebody piped or redirected one to us."""
    return None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.fileno()


def _report_splats(guest: QemuMachine) -> None:
    splats = guest.splats()
    if splats:
        kinds = ", ".join(sorted({splat.kind for splat in splats}))
        note(f"--- from the guest's console ---\n{guest.console.story()}\n---")
        raise MachineDied(f"the guest's kernel complained ({kinds})", splats[0].line)


def _window() -> tuple[int, int]:
    size = os.get_terminal_size(sys.stdin.fileno())
    return size.lines, size.columns


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key to the guest, Ctrl-C included; the terminal as before afterwards."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _converse(process: TtyProcess) -> int:
    """Pass keys on until the command ends; returns its status.

    The window's size is looked at in passing: a SIGWINCH handler would have to
    send a frame while this thread may be in the middle of sending one.
    """
    keyboard = sys.stdin.fileno()
    size = _window()
    while process.exit_status is None:
        process.check_health()
        if select.select([keyboard], [], [], HEALTH_INTERVAL_S)[0]:
            process.write(os.read(keyboard, CHUNK))
        if size != _window():
            size = _window()
            process.resize(*size)
    return process.exit_status
