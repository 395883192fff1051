# SPDX-License-Identifier: GPL-2.0-only
"""A program that a workload runs in a namespace: started, waited for, ended.

In: a namespace and a command line. Out: what it said. It ends with its object's
context; and should this process be killed, or the namespace closed, it is told so.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

from harness import tools
from harness.closing import Closing
from harness.errors import FalconError
from harness.overlay.cpus import format_cpu_list
from harness.overlay.netns import Namespace
from harness.workload.udpflow import Endpoint, not_listening

LISTENING_WITHIN_S = 60.0
STOPPED_WITHIN_S = 10.0
LATE_BY_S = 60.0
POLL_S = 0.02
# The state column of /proc/net/tcp and /proc/net/udp: listening, and not connected.
LISTENS = {"tcp": "0A", "udp": "07"}


class Program(Closing):
    """A running program. ``cpus``: the only ones it may run on, with all its threads.

    Being a process group of its own, a Ctrl-C at the terminal ends us, and we end it.
    """

    def __init__(
        self, namespace: Namespace, name: str, *arguments: object, cpus: Collection[int] = ()
    ):
        tools.require(name)
        self.name = Path(name).name
        self._namespace = namespace
        # setpriv and taskset make way for the program: the process stays the same.
        self._command = ["setpriv", "--pdeathsig", "TERM", "--"]
        if cpus:
            self._command += ["taskset", "-c", format_cpu_list(cpus)]
        self._command += [str(tools.find(name)), *map(str, arguments)]
        self._start()

    def _start(self) -> None:
        # A file without a name: no pipe that is full can make the program wait for us.
        with ExitStack() as opened:
            self._said = opened.enter_context(tempfile.TemporaryFile())
            self._process = self._namespace.popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            pidfd = os.pidfd_open(self.pid)
            opened.callback(os.close, pidfd)
            self._end = select.poll()
            self._end.register(pidfd, select.POLLIN)
            self._opened = opened.pop_all()

    def restart(self) -> None:
        """End it, if it has not ended, and start it anew; what it printed is forgotten."""
        self.close()
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._ends_within(0)

    def said(self) -> str:
        """All it printed so far, without colours."""
        size = os.fstat(self._said.fileno()).st_size
        # The program shares the file's position, so that is left alone.
        text = os.pread(self._said.fileno(), size, 0).decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def last_words(self) -> str:
        """The end of what it printed: as a rule, what went wrong."""
        return self.said().strip()[-300:] or "it said nothing"

    def wait_until_ended(self, seconds: float) -> str:
        """Wait for its own end, due in ``seconds``; return all it printed."""
        if not self._ends_within(seconds + LATE_BY_S):
            raise FalconError(
                f"{self.name} has not ended {LATE_BY_S:g} s after its time", self.last_words()
            )
        return self.said()

    def interrupt(self) -> str:
        """End it as Ctrl-C would, so that it sums up; return all it printed."""
        os.kill(self.pid, signal.SIGINT)
        self._ends_within(STOPPED_WITHIN_S)
        return self.said()

    def wait_until_it_listens(self, at: Endpoint, port: int, protocol: str = "tcp") -> None:
        """Wait until it has a socket at ``port``; otherwise say why not, and end it."""
        deadline = time.monotonic() + LISTENING_WITHIN_S
        try:
            while not self._listens(at, port, protocol):
                if self._ends_within(POLL_S) or time.monotonic() > deadline:
                    raise not_listening(self.name, at, port, self.last_words())
        except BaseException:
            self.close()
            raise

    def _listens(self, at: Endpoint, port: int, protocol: str) -> bool:
        """True when a listening socket is its own, not one of somebody who was there before."""
        table = protocol + ("6" if ip_address(at.ip).version == 6 else "")
        sockets = set()
        for line in at.namespace.read_proc_net(table).splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(f":{port:04X}") and columns[3] == LISTENS[protocol]:
                sockets.add(f"socket:[{columns[9]}]")
        return bool(sockets & self._open_files())

    def _open_files(self) -> set[str]:
        files = set()
        with suppress(OSError):
            for entry in Path(f"/proc/{self.pid}/fd").iterdir():
                with suppress(OSError):
                    files.add(str(entry.readlink()))
        return files

    def _ends_within(self, seconds: float) -> bool:
        """Wait for its end, but leave it uncollected: its number stays its own until `close`."""
        return bool(self._end.poll(seconds * 1000))

    def close(self) -> None:
        """End it with all its processes, whatever they are doing."""
        if self._process.returncode is not None:
            return
        try:
            os.kill(self.pid, signal.SIGTERM)
            self._ends_within(STOPPED_WITHIN_S)
        finally:
            # Itself, uncollected, is still of this group: the number is no stranger's.
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._opened.close()
