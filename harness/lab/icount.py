# SPDX-License-Identifier: GPL-2.0-only
"""Instructions that an emulated machine executes, by CPU and by kernel function.

In: the vmlinux of the kernel that is booted. Out: the `Counter`'s plugin option for
`QemuMachine`, and `Counts` between any two moments. Emulated CPUs are threads of a
shared host: the time they take says little, what they execute repeats.
"""

from __future__ import annotations

import mmap
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness import tools
from harness.closing import Closing
from harness.errors import FalconError
from harness.kernel import cache
from harness.kernel.process import capture, output
from harness.machine.accel import QEMU, qemu_version
from harness.paths import cache_dir

SOURCE = Path(__file__).with_name("icount.c")
# No address of the kernel's text is below; percpu "addresses" of symbols are.
FIRST_TEXT = 0xFFFFFFFF_80000000
USER = "user space"
# What QEMU says to a plugin of a version that it no longer takes.
_TOO_OLD = re.compile(r"minimum version of (\d+)")
_FIRST_API = 1
_PROBE_S = 30.0


# ---- the plugin ---------------------------------------------------------------------


def build() -> Path:
    """The plugin, compiled for the QEMU that is installed, if that was not done yet."""
    tools.require("gcc", QEMU)
    key = cache.digest([SOURCE.read_text(encoding="utf-8"), qemu_version()])
    plugin = cache_dir() / "tools" / f"icount-{key}.so"
    if not plugin.exists():
        plugin.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=plugin.parent) as directory:
            made = Path(directory) / "icount.so"
            _compile(made, _FIRST_API)
            if (wanted := _wanted_api(made)) != _FIRST_API:
                _compile(made, wanted)
            made.replace(plugin)
    return plugin


def _compile(target: Path, api: int) -> None:
    command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    command += ["-fvisibility=hidden", f"-DICOUNT_API={api}", "-o", str(target), str(SOURCE)]
    done = capture(command)
    if done.returncode:
        raise FalconError(f"{SOURCE.name} does not compile", done.stderr.strip())


def _wanted_api(plugin: Path) -> int:
    """The interface version that this QEMU takes; asked without booting anything."""
    command = [QEMU, "-machine", "none", "-display", "none", "-qmp", "stdio"]
    quit_at_once = '{"execute": "qmp_capabilities"}\n{"execute": "quit"}\n'
    try:
        done = subprocess.run(
            # Without its arguments the plugin itself refuses, after QEMU took it.
            [*command, "-plugin", str(plugin)],
            input=quit_at_once,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
        )
    except subprocess.TimeoutExpired:
        raise FalconError(f"{QEMU} does not answer", f"for {_PROBE_S:g} s") from None
    if match := _TOO_OLD.search(done.stderr):
        return int(match[1])
    if "icount:" in done.stderr:
        return _FIRST_API
    why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise FalconError(f"{QEMU} takes no plugins", why, "install a QEMU that was built with them")


# ---- functions ----------------------------------------------------------------------


@dataclass(frozen=True)
class Functions:
    """A kernel's functions: their ``starts``, ascending, and their ``names``."""

    starts: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, vmlinux: Path) -> Functions:
        """Those in the symbol table of ``vmlinux``; of several at one address the first."""
        text = output(["nm", "--numeric-sort", vmlinux], f"reading the symbols of {vmlinux}")
        return cls.parse(text.splitlines())

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Functions:
        """From lines as nm prints them, sorted by address."""
        found: dict[int, str] = {}
        for line in lines:
            address, kind, name = line.split(maxsplit=2)
            if kind in "tTwW" and int(address, 16) >= FIRST_TEXT:
                found.setdefault(int(address, 16), name)
        if not found:
            raise FalconError("this vmlinux has no symbols")
        return cls(tuple(found), tuple(found.values()))


# ---- counting -----------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Executed instructions: ``table`` has a row a CPU and a column a name of ``names``."""

    names: tuple[str, ...]
    table: npt.NDArray[np.int64]

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(self.names, self.table - earlier.table)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.names, self.table + other.table)

    def by_cpu(self) -> tuple[int, ...]:
        """All of each CPU."""
        return tuple(int(count) for count in self.table.sum(axis=1))

    def by_name(self, cpu: int | None = None) -> dict[str, int]:
        """The instructions of each function that executed any, most first; of one CPU or all."""
        column = self.table.sum(axis=0) if cpu is None else self.table[cpu]
        order = np.argsort(column)[::-1]
        return {self.names[at]: int(column[at]) for at in order if column[at]}


class Counter(Closing):
    """Counts from the start of a machine with ``cpus`` CPUs on, while its context lasts.

    ``plugin``: what `QemuMachine` must be given.
    """

    def __init__(self, vmlinux: Path, cpus: int):
        self.functions = Functions.of(vmlinux)
        self._cpus, self._columns = cpus, 1 + len(self.functions.starts)
        self._directory = tempfile.TemporaryDirectory(prefix="falcon-icount-")
        home = Path(self._directory.name)
        (home / "functions").write_text(
            "".join(f"{start:x}\n" for start in self.functions.starts), encoding="ascii"
        )
        with (home / "counters").open("w+b") as file:
            file.truncate(cpus * self._columns * 8)
            self._memory = mmap.mmap(file.fileno(), 0)
        self.plugin = f"{build()},functions={home / 'functions'},counters={home / 'counters'}"

    def counts(self) -> Counts:
        """What was executed so far."""
        shape = (self._cpus, self._columns)
        table = np.frombuffer(self._memory[:], dtype=np.int64).reshape(shape)
        return Counts((USER, *self.functions.names), table)

    def close(self) -> None:
        self._memory.close()
        self._directory.cleanup()
