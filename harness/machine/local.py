# SPDX-License-Identifier: GPL-2.0-only
"""This machine, by the same interface as every other.

In: command lines. Out: `Process` objects fed from pipes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from harness.errors import FalconError
from harness.machine.base import Input, Machine, Process, chunks

# Output of a process left in the background is waited for no longer than this.
DRAIN_S = 0.5
CHUNK = 65536


class LocalMachine(Machine):
    """The machine this Python runs on."""

    def __init__(self) -> None:
        self._processes: list[tuple[subprocess.Popen[bytes], Process]] = []

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
    ) -> Process:
        try:
            child = subprocess.Popen(
                argv,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return self._not_started(argv, error, stream)
        process = Process(argv, kill=lambda: _kill(child), stream=stream)
        self._processes.append((child, process))
        threading.Thread(target=_attend, args=(child, process, stdin), daemon=True).start()
        return process

    @staticmethod
    def _not_started(argv: Sequence[str], error: OSError, stream: bool) -> Process:
        process = Process(argv, kill=lambda: None, stream=stream)
        process.feed(1, f"{error.filename or argv[0]}: {error.strerror}\n".encode())
        process.finish(127 if isinstance(error, FileNotFoundError) else 126)
        return process

    def reboot(self) -> None:
        raise FalconError("this machine is not rebooted", "the harness runs on it")

    def close(self) -> None:
        for child, process in self._processes:
            if process.exit_status is None:
                _kill(child)
        self._processes.clear()


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # it may have ended on its own meanwhile
        os.killpg(child.pid, signal.SIGKILL)


def _attend(child: subprocess.Popen[bytes], process: Process, stdin: Input) -> None:
    """Feed a child its input, take its output, and say when it ended."""
    assert child.stdin and child.stdout and child.stderr
    helpers = [
        threading.Thread(target=_write_all, args=(child.stdin, stdin), daemon=True),
        threading.Thread(target=_read_all, args=(child.stdout, process, 0), daemon=True),
        threading.Thread(target=_read_all, args=(child.stderr, process, 1), daemon=True),
    ]
    for helper in helpers:
        helper.start()
    code = child.wait()
    for helper in helpers:
        helper.join(DRAIN_S)
    process.finish(code if code >= 0 else 128 - code)


def _write_all(pipe: IO[bytes], stdin: Input) -> None:
    with suppress(BrokenPipeError), pipe:  # the command may not want it all
        for data in chunks(stdin, CHUNK):
            pipe.write(data)
            pipe.flush()


def _read_all(pipe: IO[bytes], process: Process, stream: int) -> None:
    with pipe:
        while data := os.read(pipe.fileno(), CHUNK):
            process.feed(stream, data)
