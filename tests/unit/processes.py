# SPDX-License-Identifier: GPL-2.0-only
"""What became of other processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

PATIENCE_S = 60.0


def children(pid: int, number: int) -> list[int]:
    """The processes that ``pid`` started, once there are so many."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        everybody = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = [other for other in everybody if _status(other)[1:2] == [str(pid)]]
        if len(found) == number:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_gone(pids: Iterable[int]) -> None:
    """Wait until none of them runs: gone, or dead and waiting to be collected."""
    deadline = time.monotonic() + PATIENCE_S
    for pid in pids:
        while _status(pid)[:1] not in ([], ["Z"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _status(pid: int) -> list[str]:
    """State and parent, and more; nothing of a process that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return []
    return stat.rsplit(")", 1)[1].split()


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` started, and those that they started."""
    everybody = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    parents = {other: _status(other)[1:2] for other in everybody}
    found, generation = [], {str(pid)}
    while generation:
        generation = {str(other) for other, parent in parents.items() if set(parent) & generation}
        found += map(int, generation)
    return found
