# SPDX-License-Identifier: GPL-2.0-only
"""What this machine is made of, as it stands beside numbers that were measured on it.

In: nothing. Out: a line for people. It runs on other hosts, too (`harness.lab.survey`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PROC = Path("/proc")


def described(proc: Path = PROC) -> str:
    """The model and number of CPUs, and the memory: "Intel Xeon E5-2630 v4, 40 CPUs, 126 GiB"."""
    model = _first(r"^model name\s*:\s*(.+)$", proc / "cpuinfo") or "unknown CPUs"
    memory = _first(r"^MemTotal:\s*(\d+) kB$", proc / "meminfo")
    told = [model, f"{os.cpu_count()} CPUs"]
    return ", ".join([*told, f"{int(memory) / 2**20:.0f} GiB"] if memory else told)


def _first(pattern: str, file: Path) -> str:
    found = re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else ""
