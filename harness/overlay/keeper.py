# SPDX-License-Identifier: GPL-2.0-only
"""A host's own settings get back what was in them, however we end.

In: files of the kernel's that are going to be written. Out: a `Keeper`, a process that read
them before, and writes what has become different as soon as we are gone: at the end of the
context, after Ctrl-C, after SIGKILL. It is in a session of its own, since who kills us kills
our process group, and waits for nothing but the end of a pipe, of which we have the other end.

There is one in a network namespace at a time, for that one's files: it has a socket that the
kernel gives to one alone, and takes back from one that died. So nobody takes a mask of ours for
the host's.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.closing import Closing
from harness.errors import FalconError

if TYPE_CHECKING:  # its process needs none of it
    from harness.overlay.netns import Namespace

# Abstract: it has no file, and is of a network namespace.
LOCK = "\0falcon-lab"
FREE_WITHIN_S, POLL_S = 20.0, 0.1
ENDED_WITHIN_S = 30.0
READY = "ready"
# How its process ends when another has the lock.
TAKEN = 3


class Keeper(Closing):
    """Keeps what is in ``files`` now.

    Entered before any of them is written. They are as seen in ``namespace``, or None: in the one
    this process runs in.
    """

    def __init__(self, files: Sequence[Path], namespace: Namespace | None = None):
        start = namespace.popen if namespace else partial(subprocess.Popen, text=True)
        self._process: subprocess.Popen[str] = start(
            [sys.executable, "-m", __name__, LOCK[1:], str(FREE_WITHIN_S), *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline().strip() != READY:
            self.close()
            if self._process.returncode == TAKEN:
                raise FalconError(
                    "another measurement or test is under way here", todo="wait for it to end"
                )
            raise FalconError(
                "what would be changed cannot be put back", f"not all is readable: {files}"
            )

    def close(self) -> None:
        """Let it put everything back, and wait until that is done."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(ENDED_WITHIN_S)
        if self._process.stdout:
            self._process.stdout.close()


# ---- the process ---------------------------------------------------------------------


def _locked(name: str, within_s: float) -> socket.socket | None:
    """The socket that only one can have; None if another does not give it up."""
    deadline = time.monotonic() + within_s
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    while True:
        try:
            lock.bind(f"\0{name}")
            return lock
        except OSError:
            if time.monotonic() > deadline:
                lock.close()
                return None
        time.sleep(POLL_S)


def main() -> int:
    """Lock, read the files; when stdin ends, write those that are different now."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name, within_s, *files = sys.argv[1:]
    lock = _locked(name, float(within_s))
    if lock is None:
        return TAKEN
    with lock:
        before = {file: file.read_text("ascii") for file in map(Path, files)}
        print(READY, flush=True)
        sys.stdin.read()
        for file, text in before.items():
            # It may be gone with its device, and one that is refused must not stop the others.
            with suppress(OSError):
                if file.read_text("ascii") != text:
                    file.write_text(text, "ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
