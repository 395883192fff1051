# SPDX-License-Identifier: GPL-2.0-only
"""The kernels there is a Falcon for.

In: ``patches/series.toml``, which explains its own fields. Out: ``Series``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FalconError
from harness.paths import PATCHES

DEFAULT = "6.12"


@dataclass(frozen=True)
class Tarball:
    """A point release on kernel.org."""

    version: str
    url: str
    sha256: str


@dataclass(frozen=True)
class Series:
    """A patch series and the kernel line it is for, e.g. ``name`` "6.12"."""

    name: str
    patch_dir: Path
    package: str | None
    tarball: Tarball
    build_steps: int
    absent: frozenset[str] = frozenset()
    applied_on: tuple[str, ...] = ()
    booted_on: tuple[str, ...] = ()

    def matches(self, version: str) -> bool:
        """Whether ``version``, e.g. "6.12.117", is a release of this line."""
        return version.split("-")[0].split(".")[:2] == self.name.split(".")


def names(table: Path = PATCHES / "series.toml") -> tuple[str, ...]:
    """The names of all series, in the table's order."""
    return tuple(_read(table))


def load(name: str = DEFAULT, table: Path = PATCHES / "series.toml") -> Series:
    """The series called ``name``; ``FalconError`` naming the known ones if there is none."""
    known = _read(table)
    if name not in known:
        raise FalconError(
            f"there is no patch series for Linux {name}",
            f"there is one for {', '.join(known)}",
            "choose with --kernel",
        )
    entry = known[name]
    return Series(
        name=name,
        patch_dir=table.parent / entry["patches"],
        package=entry.get("package"),
        tarball=Tarball(**entry["tarball"]),
        build_steps=entry["build_steps"],
        absent=frozenset(entry.get("absent", ())),
        applied_on=tuple(entry.get("applied_on", ())),
        booted_on=tuple(entry.get("booted_on", ())),
    )


def _read(table: Path) -> dict[str, dict]:
    return tomllib.loads(table.read_text(encoding="utf-8"))
