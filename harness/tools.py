# SPDX-License-Identifier: GPL-2.0-only
"""The system programs the harness calls, read from ``system-packages.txt``.

In: a command's name. Out: whether it is there, and which package brings it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import FalconError

PACKAGE_LIST = Path(__file__).with_name("system-packages.txt")


@dataclass(frozen=True)
class Tool:
    """One line of the package list; ``proof`` is a command or an absolute path."""

    package: str
    proof: str
    purpose: str

    @property
    def present(self) -> bool:
        if self.proof.startswith("/"):
            return Path(self.proof).exists()
        return find(self.proof) is not None


def find(command: str) -> str | None:
    """Where ``command`` is, also when the user's PATH lacks the sbin directories."""
    return shutil.which(command) or shutil.which(command, path="/usr/local/sbin:/usr/sbin:/sbin")


@cache
def known(path: Path = PACKAGE_LIST) -> tuple[Tool, ...]:
    """Every tool of the package list, in its order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(Tool(*line.split(None, 2)) for line in lines if line and line[0] != "#")


def require(*commands: str) -> None:
    """Raise ``FalconError`` naming the package of the first command that is missing."""
    for command in commands:
        if find(command) is None:
            package = next((t.package for t in known() if t.proof == command), command)
            raise FalconError(
                f"the program {command} is missing", todo=f"run: apt-get install {package}"
            )
