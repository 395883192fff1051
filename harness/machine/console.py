# SPDX-License-Identifier: GPL-2.0-only
"""The guest's console: kept, and watched for the kernel's complaints.

In: the bytes QEMU writes for the serial port. Out: the splats, the lines that
explain a death, and when the kernel last said anything.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass

KEPT_LINES = 5000
TAIL_LINES = 40
# So long must the console be quiet for everything said to have arrived.
QUIET_S, QUIET_AT_MOST_S = 0.1, 2.0
# Of a dying kernel: what led to it, and the story it tells itself.
LEAD_LINES, STORY_LINES = 10, 60
FATAL = ("panic", "oops", "bug", "KASAN")

# Kernel messages no healthy run produces. The first match names the splat.
SPLAT_PATTERNS = (
    ("panic", r"Kernel panic - not syncing"),
    ("soft lockup", r"watchdog: BUG: soft lockup"),
    ("hard lockup", r"hard LOCKUP"),
    ("KASAN", r"BUG: KASAN"),
    ("bug", r"\b(?:BUG: |kernel BUG at )"),
    (
        "oops",
        r"\bOops\b|general protection fault[,:]|stack segment: |invalid opcode: "
        r"|divide error: |int3: |Unable to handle kernel",
    ),
    ("warning", r"\bWARNING: |refcount_t: "),
    ("RCU stall", r"rcu: .*(?:detected stall|self-detected stall|kthread starved)"),
    ("hung task", r"INFO: task .* blocked for more than"),
    ("lockdep", r"INFO: (?:possible|trying to register non-static|inconsistent)"),
    ("device leak", r"unregister_netdevice: waiting for"),
    ("leak", r"kmemleak: [1-9]\d* new suspected|Objects remaining in"),
    ("UBSAN", r"UBSAN: "),
    ("debug objects", r"ODEBUG: "),
    ("list corruption", r"list_(?:add|del) corruption"),
    ("allocation failure", r"page allocation failure"),
    ("out of memory", r"Out of memory: |oom-kill:"),
    ("transmit timeout", r"NETDEV WATCHDOG: "),
)
SPLAT = re.compile("|".join(f"({pattern})" for _, pattern in SPLAT_PATTERNS))
TIMESTAMP = re.compile(r"^\s*\[ *\d+\.\d+\]\s*")


@dataclass(frozen=True)
class Splat:
    """A complaint of the kernel: its ``kind`` and its line, without the timestamp."""

    kind: str
    line: str


def find_splat(line: str) -> Splat | None:
    """The splat a console line tells of, if any."""
    match = SPLAT.search(line)
    if match is None or match.lastindex is None:
        return None
    return Splat(SPLAT_PATTERNS[match.lastindex - 1][0], TIMESTAMP.sub("", line).strip())


class Console:
    """What the guest's serial port said. Fed by one thread, read by others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._partial = b""
        self._splats: list[Splat] = []
        self._seen_lines = 0
        self._fatal_at: int | None = None
        self.last_heard = time.monotonic()

    def feed(self, data: bytes) -> None:
        """Take what came from the port, however it is cut."""
        with self._lock:
            self.last_heard = time.monotonic()
            *complete, self._partial = (self._partial + data).split(b"\n")
            for raw in complete:
                line = raw.decode(errors="replace").rstrip("\r")
                self._keep(line)

    def _keep(self, line: str) -> None:
        splat = find_splat(line)
        if splat:
            self._splats.append(splat)
            if splat.kind in FATAL and self._fatal_at is None:
                self._fatal_at = self._seen_lines
        self._lines.append(line)
        self._seen_lines += 1

    @property
    def splats(self) -> tuple[Splat, ...]:
        with self._lock:
            return tuple(self._splats)

    def settle(self) -> None:
        """Wait for what the guest has said already.

        The end of a command comes by another way, and may overtake it.
        """
        deadline = time.monotonic() + QUIET_AT_MOST_S
        heard = None
        while heard != self.last_heard and time.monotonic() < deadline:
            heard = self.last_heard
            time.sleep(QUIET_S)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last ``lines`` lines, an unfinished one included."""
        with self._lock:
            last = list(self._lines)
            if self._partial:
                last.append(self._partial.decode(errors="replace"))
        return "\n".join(last[-lines:])

    def story(self) -> str:
        """What explains the end of a guest: the first fatal splat, else the `tail`.

        Backtraces of all CPUs follow a panic; its tail would be mere idle loops.
        """
        with self._lock:
            if self._fatal_at is None:
                start = None
            else:
                start = self._fatal_at - (self._seen_lines - len(self._lines)) - LEAD_LINES
            lines = list(self._lines)
        if start is None:
            return self.tail()
        return "\n".join(lines[max(start, 0) :][: LEAD_LINES + STORY_LINES])
