# SPDX-License-Identifier: GPL-2.0-only
"""Child processes that end when we do.

In: an argument vector. Out: its captured output, or its output line by line.
Every child leads a process group of its own, so that Ctrl-C, a signal or an
exception in the harness takes down ``make`` with all its compilers; and the
kernel ends it should the harness itself be killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from harness.errors import FalconError


@contextlib.contextmanager
def child(
    argv: Sequence[str | Path],
    *,
    end_by: signal.Signals = signal.SIGTERM,
    grace_s: float = 5.0,
    **popen: Any,
) -> Iterator[subprocess.Popen[Any]]:
    """Start ``argv`` in its own process group; nothing of it outlives the block.

    What still runs at its end gets ``end_by``, and after ``grace_s`` seconds, or when we
    are interrupted again, is killed.
    ``popen`` goes to ``subprocess.Popen``. Standard input is empty unless given:
    a background group must not read the terminal.
    """
    command = [str(word) for word in argv]
    tether = shutil.which("setpriv")
    if tether:
        command = [tether, "--pdeathsig", "TERM", "--", *command]
    popen.setdefault("stdin", subprocess.DEVNULL)
    process = subprocess.Popen(command, process_group=0, **popen)
    try:
        yield process
    finally:
        _end(process, end_by, grace_s)


def _end(process: subprocess.Popen[Any], end_by: signal.Signals, grace_s: float) -> None:
    """Make sure that the group of ``process`` is gone, gently at first."""
    if process.poll() is None:
        _signal_group(process, end_by)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
        finally:
            if process.poll() is None:
                _signal_group(process, signal.SIGKILL)
                process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _signal_group(process: subprocess.Popen[Any], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def capture(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` to its end and return its status, stdout and stderr as text.

    ``env`` is added to the environment. A non-zero status is the caller's matter.
    """
    pipe = subprocess.PIPE
    options: dict[str, Any] = {"cwd": cwd, "env": environment(env), "stdout": pipe, "stderr": pipe}
    if stdin is not None:
        options["stdin"] = pipe
    with child(argv, text=True, errors="replace", **options) as process:
        stdout, stderr = process.communicate(stdin)
    return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)


def output(argv: Sequence[str | Path], what: str, **options: Any) -> str:
    """Standard output of ``argv``; ``FalconError`` with its last words when it fails.

    ``what`` says what was being done, e.g. "unpacking linux-6.12.tar.xz".
    """
    done = capture(argv, **options)
    if done.returncode:
        raise FalconError(f"{what} failed", last_words(done))
    return done.stdout


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last line a failed program wrote, or its status when it wrote none."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"{Path(done.args[0]).name} ended with {done.returncode}"


def stream(
    argv: Sequence[str | Path],
    on_line: Callable[[str], None],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
) -> int:
    """Run ``argv``, hand each line of its stdout and stderr to ``on_line``; its status.

    The lines also go to ``log``, unchanged.
    """
    with child(
        argv,
        cwd=cwd,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if log:
                log.write(line)
            on_line(line.rstrip("\n"))
        return process.wait()


def environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """Our environment in the C locale (messages are parsed) with ``extra`` on top."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "", **(extra or {})}
