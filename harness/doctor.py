# SPDX-License-Identifier: GPL-2.0-only
"""What this machine has of all the project needs.

In: nothing. Out: findings, each with what to do about it; only a lack that
stops something from working counts as a failure.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import tools
from harness.kernel import series
from harness.kernel.providers import DISTRIBUTION_DIR
from harness.machine import accel
from harness.paths import cache_dir

GIB = 1 << 30
# A source, its work trees (hard links) and three build directories.
DISK_NEEDED_GIB = 8


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table; ``ok`` None is a remark that stops nothing."""

    topic: str
    ok: bool | None
    detail: str

    def line(self) -> str:
        """For a terminal, or for a mail."""
        mark = {True: "ok", False: "LACKS", None: "note"}[self.ok]
        return f"{mark:6} {self.topic:22} {self.detail}"

    @property
    def style(self) -> str:
        """The line's colour."""
        return {True: "", False: "red", None: "yellow"}[self.ok]


def examine() -> list[Finding]:
    """Look at everything once."""
    return [*_system(), *_tools(), *_machines(), *_sources()]


def _system() -> Iterator[Finding]:
    machine = platform.machine()
    yield Finding("processor", machine == "x86_64", f"{machine}, {os.cpu_count()} CPUs")
    yield Finding("Python", sys.version_info >= (3, 11), platform.python_version())
    free_gib = shutil.disk_usage(cache_dir()).free / GIB
    detail = f"{free_gib:.0f} GiB free in {cache_dir()}, {DISK_NEEDED_GIB} GiB needed"
    yield Finding("disk", free_gib >= DISK_NEEDED_GIB, detail)


def _tools() -> Iterator[Finding]:
    for tool in tools.known():
        todo = "" if tool.present else f"; run: apt-get install {tool.package}"
        yield Finding(tool.package, tool.present, tool.purpose + todo)


def _machines() -> Iterator[Finding]:
    if tools.find(accel.QEMU) is None:
        return
    trouble = accel.kvm_trouble()
    detail = (
        f"{trouble}: virtual machines are emulated, slower but the same" if trouble else "works"
    )
    yield Finding("KVM", None if trouble else True, detail)
    tap = os.geteuid() == 0 and Path("/dev/net/tun").exists()
    lack = "needs root and /dev/net/tun: the demo takes its one-machine form"
    yield Finding("TAP devices", True if tap else None, "can be made" if tap else lack)


def _sources() -> Iterator[Finding]:
    for name in series.names():
        known = series.load(name)
        tarball = DISTRIBUTION_DIR / f"{known.package}.tar.xz"
        detail = f"{tarball} is there" if tarball.exists() else f"{known.package} not installed yet"
        yield Finding(f"source of Linux {name}", True if tarball.exists() else None, detail)
