# SPDX-License-Identifier: GPL-2.0-only
"""What every machine can do, wherever it is.

In: a command line, files. Out: a `Result` (exit status, output, duration), or
one of the `FalconError` kinds below. The rest of the harness knows machines
only by this interface; ``local``, ``qemu`` and ``ssh`` implement it.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.closing import Closing
from harness.errors import FalconError

FALCON_SYSCTL = "/proc/sys/net/core/falcon"
# How often a waiting command looks whether its machine is still well.
HEALTH_INTERVAL_S = 0.5
# How long a killed command may take to go before it is called unkillable.
KILL_GRACE_S = 10.0

Input = bytes | str | int | None


@dataclass(frozen=True)
class Result:
    """What a finished command left: ``exit_status`` is a shell's (128+N for signal N)."""

    argv: tuple[str, ...]
    exit_status: int
    stdout_bytes: bytes
    stderr_bytes: bytes
    duration_s: float

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode(errors="replace")


class MachineDied(FalconError):
    """The machine panicked, hung or vanished; ``console`` is what its kernel said of it."""

    def __init__(self, what: str, why: str = "", todo: str = "", *, console: str = ""):
        super().__init__(what, why, todo)
        self.console = console


class CommandFailed(FalconError):
    """A command that had to succeed ended with another status; see ``result``."""

    def __init__(self, result: Result):
        last_line = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        super().__init__(
            f"`{shlex.join(result.argv)}` ended with status {result.exit_status}",
            "".join(last_line),
        )
        self.result = result


class CommandTimeout(FalconError):
    """A command outlived its time and was killed; ``result`` has its output so far."""

    complaint = "ran longer than"

    def __init__(self, result: Result, limit_s: float, *, killed: bool):
        super().__init__(
            f"`{shlex.join(result.argv)}` {self.complaint} {limit_s:g} s",
            "it was killed" if killed else "and could not be killed",
        )
        self.result = result


class CommandSilent(CommandTimeout):
    """It had written nothing for that time."""

    complaint = "said nothing for"


class Process:
    """A command under way on a machine. Made by `Machine.start`.

    The machine feeds it from its own threads (`feed`, `finish`); one thread
    of the user's waits for it. With ``stream`` the output is also passed on
    to our stdout and stderr while it comes.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        kill: Callable[[], None],
        health: Callable[[], None] = lambda: None,
        stream: bool = False,
    ):
        self.argv = tuple(argv)
        self._kill = kill
        self._health = health
        self._sinks = (sys.stdout.buffer, sys.stderr.buffer) if stream else None
        self._output = (bytearray(), bytearray())
        self._exit_status: int | None = None
        self._started = self._ended = self._last_heard = time.monotonic()
        self._changed = threading.Condition()

    # -- for the machine ----------------------------------------------------

    def feed(self, stream: int, data: bytes) -> None:
        """Take output: ``stream`` is 0 for stdout, 1 for stderr."""
        with self._changed:
            self._output[stream].extend(data)
            self._last_heard = time.monotonic()
            self._changed.notify_all()
        if self._sinks:
            self._sinks[stream].write(data)
            self._sinks[stream].flush()

    def finish(self, exit_status: int) -> None:
        with self._changed:
            self._exit_status = exit_status
            self._ended = time.monotonic()
            self._changed.notify_all()

    # -- for the user ----------------------------------------------------------

    @property
    def exit_status(self) -> int | None:
        """None while the command runs."""
        return self._exit_status

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        with self._changed:
            return self._output[0].decode(errors="replace")

    def kill(self) -> None:
        """Kill the command and what it started, if it still runs."""
        if self._exit_status is None:
            self._kill()

    def check_health(self) -> None:
        """Raise `MachineDied` if the command's machine is not well."""
        self._health()

    def wait_for(self, text: str, timeout_s: float) -> None:
        """Wait until ``text`` stands in stdout (a server's "ready", say).

        Raises `FalconError` when the command ends first or time runs out.
        """
        self._wait_until(lambda: text.encode() in self._output[0] or self._has_ended(), timeout_s)
        if text.encode() not in self._output[0]:
            stderr = self._result().stderr.strip()
            how = "still runs" if self._exit_status is None else f"ended ({self._exit_status})"
            raise FalconError(
                f"`{shlex.join(self.argv)}` did not say {text!r} in {timeout_s:g} s",
                f"it {how}, its errors: {stderr or 'none'}",
            )

    def wait(
        self,
        timeout_s: float | None = None,
        *,
        silence_s: float | None = None,
        check: bool = False,
    ) -> Result:
        """Wait for the end and return the `Result`.

        After ``timeout_s`` seconds the command is killed and `CommandTimeout`
        raised, and after ``silence_s`` without a word `CommandSilent`; with
        ``check`` a status other than 0 raises `CommandFailed`; a machine that
        dies meanwhile raises `MachineDied`. Ctrl-C kills the command, too.
        """
        try:
            ended = self._wait_until(self._has_ended, timeout_s, silence_s)
        except KeyboardInterrupt:
            with suppress(FalconError):  # a dead machine needs no kill
                self.kill()
            raise
        if not ended:
            limit_s, error = timeout_s, CommandTimeout
            if silence_s is not None and self._silence_s() >= silence_s:
                limit_s, error = silence_s, CommandSilent
            assert limit_s is not None
            self._kill()
            killed = self._wait_until(self._has_ended, KILL_GRACE_S)
            raise error(self._result(), limit_s, killed=killed)
        result = self._result()
        if check and result.exit_status != 0:
            raise CommandFailed(result)
        return result

    def _has_ended(self) -> bool:
        return self._exit_status is not None

    def _silence_s(self) -> float:
        return time.monotonic() - self._last_heard

    def _wait_until(
        self,
        condition: Callable[[], bool],
        timeout_s: float | None,
        silence_s: float | None = None,
    ) -> bool:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left_s = HEALTH_INTERVAL_S
                if deadline is not None:
                    left_s = min(left_s, deadline - time.monotonic())
                if silence_s is not None:
                    left_s = min(left_s, silence_s - self._silence_s())
                if left_s <= 0:
                    return False
                if not self._changed.wait(left_s):
                    self._health()
        return True

    def _result(self) -> Result:
        status = -1 if self._exit_status is None else self._exit_status
        ended = time.monotonic() if self._exit_status is None else self._ended
        return Result(
            self.argv,
            status,
            bytes(self._output[0]),
            bytes(self._output[1]),
            ended - self._started,
        )


class Machine(Closing):
    """A place that runs a kernel. Use it as a context manager."""

    @abstractmethod
    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
    ) -> Process:
        """Start a command and return at once.

        ``cwd`` defaults to this process's own directory; ``env`` is added to
        the machine's environment; ``stdin`` is all its input (none: empty), or
        a descriptor whose bytes are passed on as they come.
        A command that can't be started ends with 127 (not found) or 126.
        """

    @abstractmethod
    def reboot(self) -> None:
        """Boot again and wait until commands run."""

    @abstractmethod
    def close(self) -> None:
        """Give the machine up. Harmless when done twice."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None = None,
        silence_s: float | None = None,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
        check: bool = False,
    ) -> Result:
        """Run a command to its end: `start`, then `Process.wait`."""
        process = self.start(argv, cwd=cwd, env=env, stdin=stdin, stream=stream)
        return process.wait(timeout_s, silence_s=silence_s, check=check)

    def put(self, local: Path, remote: str | Path) -> None:
        """Copy one file from here to the machine; its mode comes along."""
        mode = f"{local.stat().st_mode & 0o7777:o}"
        script = 'cat >"$0" && chmod "$1" "$0"'
        self.run(["sh", "-c", script, str(remote), mode], stdin=local.read_bytes(), check=True)

    def get(self, remote: str | Path, local: Path) -> None:
        """Copy one file from the machine to here."""
        local.write_bytes(self.run(["cat", str(remote)], check=True).stdout_bytes)

    def kernel_release(self) -> str:
        """The running kernel's release, as ``uname -r`` says it."""
        return self.run(["uname", "-r"], check=True).stdout.strip()

    def is_falcon(self) -> bool:
        """True when the running kernel carries Falcon, on or off."""
        return self.run(["test", "-e", FALCON_SYSCTL]).exit_status == 0


def chunks(stdin: Input, size: int) -> Iterator[bytes]:
    """A command's input in pieces of at most ``size`` bytes."""
    if isinstance(stdin, int):
        while data := os.read(stdin, size):
            yield data
        return
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    for start in range(0, len(data), size):
        yield data[start : start + size]
