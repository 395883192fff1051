# SPDX-License-Identifier: GPL-2.0-only
"""Falcon's controls and counters on this machine.

In: values for ``net.core.falcon*``. Out: `Settings` as the kernel has them, and
`Counters` from /proc/net/falcon.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import FalconError
from harness.overlay.cpus import format_cpu_list, parse_cpu_list
from harness.overlay.netns import Namespace

SYSCTL = Path("/proc/sys/net/core")
# Columns that say how something is now, and those of them that are words.
STATE_COLUMNS = ("load", "ifindex", "gro")
TEXT_COLUMNS = ("gro",)
Row = TypeVar("Row", "CpuRow", "StageRow")


@dataclass(frozen=True)
class Settings:
    """All of ``net.core.falcon*``.

    ``cpus`` are the Falcon CPUs; ``load_threshold`` is in percent, at 100 the
    gate never closes; ``load_interval`` is in ms; without ``two_choice`` hashing
    is static. ``gro_split``: 0 never splits a device, 1 every one whose packets
    pass a NAPI's GRO, 2 those whose poll overloads a CPU.
    """

    on: bool
    cpus: tuple[int, ...]
    load_threshold: int
    load_interval: int
    two_choice: bool
    gro_split: int


@dataclass(frozen=True)
class CpuRow:
    """A CPU of /proc/net/falcon.

    ``load`` in percent, None for a CPU that is no Falcon CPU; ``received``
    packets came to its queue. The others count decisions taken on it; ``split``
    are those of ``first`` and ``second`` that were handed over before GRO.
    """

    load: int | None = None
    received: int = 0
    steered: int = 0
    first: int = 0
    second: int = 0
    gated: int = 0
    held: int = 0
    split: int = 0
    dropped: int = 0

    def __sub__(self, earlier: CpuRow) -> CpuRow:
        return _difference(self, earlier)


@dataclass(frozen=True)
class StageRow:
    """A device of /proc/net/falcon: decisions on packets about to enter it.

    ``gro``: "split", "joined" or "leaving" (from split to joined); "-" for a
    device none of whose packets came through a NAPI's GRO.
    """

    ifindex: int = 0
    gro: str = "-"
    steered: int = 0
    first: int = 0
    second: int = 0
    gated: int = 0
    held: int = 0
    split: int = 0
    dropped: int = 0

    def __sub__(self, earlier: StageRow) -> StageRow:
        return _difference(self, earlier)

    @property
    def decided(self) -> int:
        """All packets, wherever they went."""
        return self.steered + self.gated + self.held


@dataclass(frozen=True)
class Counters:
    """/proc/net/falcon as one network namespace sees it.

    ``state`` holds the words of the first line ("gate": "open", "load": "12");
    ``stages`` are by device name.
    """

    state: dict[str, str]
    cpus: dict[int, CpuRow]
    stages: dict[str, StageRow]

    def __sub__(self, earlier: Counters) -> Counters:
        """What happened since; the state is the later one."""
        return Counters(
            self.state,
            {cpu: row - earlier.cpus.get(cpu, CpuRow()) for cpu, row in self.cpus.items()},
            {name: row - earlier.stages.get(name, StageRow()) for name, row in self.stages.items()},
        )

    @property
    def gate_is_open(self) -> bool:
        return self.state["gate"] == "open"

    @property
    def load(self) -> int:
        """The mean load of the Falcon CPUs in percent, as the gate sees it."""
        return int(self.state["load"])

    @property
    def forced(self) -> int:
        """How often Falcon waited no longer for queues to drain, and gave up order."""
        return int(self.state.get("forced", 0))

    def stage(self, device: str) -> StageRow:
        """The row of ``device``; all zero when no packet has come to it."""
        return self.stages.get(device, StageRow())

    def total(self, column: str) -> int:
        """The sum of a column over all CPUs."""
        return sum(getattr(row, column) for row in self.cpus.values())


def is_present() -> bool:
    """True when the running kernel has Falcon."""
    return (SYSCTL / "falcon").exists()


def require() -> None:
    """Raise `FalconError` unless the running kernel has Falcon."""
    if not is_present():
        raise FalconError(
            f"the running kernel {os.uname().release} has no Falcon",
            f"{SYSCTL / 'falcon'} is missing",
            "boot a patched one: ./inv boot",
        )


# ---- settings -------------------------------------------------------------------


def read_sysctl(name: str) -> str:
    """The text of ``net.core.<name>``."""
    try:
        return (SYSCTL / name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise FalconError(
            f"the running kernel {os.uname().release} has no net.core.{name}",
            "its patches are not those of this harness",
            "boot one with the present series: ./inv boot",
        ) from None


def write_sysctl(name: str, value: object) -> None:
    """Set ``net.core.<name>``; raises `OSError` (EINVAL) when the kernel refuses."""
    (SYSCTL / name).write_text(f"{value}\n", encoding="ascii")


def files() -> list[Path]:
    """All of ``net.core.falcon*``; the switch, ``falcon``, is the last."""
    return sorted(SYSCTL.glob("falcon*"), reverse=True)


def settings() -> Settings:
    """What the kernel is set to."""
    return Settings(
        on=read_sysctl("falcon") == "1",
        cpus=parse_cpu_list(read_sysctl("falcon_cpus")),
        load_threshold=int(read_sysctl("falcon_load_threshold")),
        load_interval=int(read_sysctl("falcon_load_interval")),
        two_choice=read_sysctl("falcon_two_choice") == "1",
        gro_split=int(read_sysctl("falcon_gro_split")),
    )


def apply(wanted: Settings) -> None:
    """Set everything. Raises `FalconError` naming the value the kernel refused."""
    values = {
        "falcon_cpus": format_cpu_list(wanted.cpus),
        "falcon_load_threshold": wanted.load_threshold,
        "falcon_load_interval": wanted.load_interval,
        "falcon_two_choice": int(wanted.two_choice),
        "falcon_gro_split": wanted.gro_split,
        "falcon": int(wanted.on),
    }
    for name, value in values.items():
        try:
            write_sysctl(name, value)
        except OSError as error:
            raise FalconError(
                f"net.core.{name} = {value} was refused", os.strerror(error.errno or 0)
            ) from None


@contextmanager
def preserved() -> Iterator[Settings]:
    """Put all settings back at the end, whatever happened to them; yields them."""
    require()
    before = settings()
    try:
        yield before
    finally:
        apply(before)


# ---- counters ---------------------------------------------------------------------


def counters(namespace: Namespace | None = None) -> Counters:
    """/proc/net/falcon as ``namespace`` (this process's own) sees it."""
    if namespace is None:
        return parse_counters(Path("/proc/net/falcon").read_text(encoding="ascii"))
    return parse_counters(namespace.read_proc_net("falcon"))


def parse_counters(text: str) -> Counters:
    """Read the text of /proc/net/falcon; columns not known here are passed over."""
    state_line, cpu_table, stage_table = (text.rstrip() + "\n\n\n").split("\n\n", 2)[:3]
    words = state_line.split()
    return Counters(
        state=dict(zip(words[::2], words[1::2], strict=True)),
        cpus={int(key): _row(CpuRow, row) for key, row in _table(cpu_table)},
        stages={key: _row(StageRow, row) for key, row in _table(stage_table)},
    )


def _table(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a table with a header line: first column, and the others by name."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for line in lines[1:]:
        yield line[0], dict(zip(lines[0][1:], line[1:], strict=True))


def _row(kind: type[Row], columns: dict[str, str]) -> Row:
    if "in" in columns:
        columns["received"] = columns.pop("in")
    known = {f.name for f in fields(kind)} & set(columns)
    return kind(**{name: _value(name, columns[name]) for name in known})


def _value(column: str, text: str) -> Any:
    if column in TEXT_COLUMNS:
        return text
    return None if text == "-" else int(text)


def _difference(later: Row, earlier: Row) -> Row:
    """``later`` with its counters, and nothing else, counted from ``earlier``."""
    counted = [f.name for f in fields(later) if f.name not in STATE_COLUMNS]
    return replace(
        later, **{name: getattr(later, name) - getattr(earlier, name) for name in counted}
    )
