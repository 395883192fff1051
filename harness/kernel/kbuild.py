# SPDX-License-Identifier: GPL-2.0-only
"""``make`` in a kernel tree, always in the same way.

In: a tree and a directory for what it builds. Out: the argument vector, the
same for us and for the user who wants to repeat it by hand, and its run with
progress, a log and the first error.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.kernel.process import output, stream

# Reproducible images: no date, user or host of ours in them.
REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "falcon",
    "KBUILD_BUILD_HOST": "falcon",
}
# Objects compiled in one directory serve another user's or clone's build; and a
# miss is looked up by the compiler's own list of headers, not by preprocessing twice.
CCACHE = {"CCACHE_BASEDIR": "/", "CCACHE_NOHASHDIR": "1", "CCACHE_DEPEND": "1"}

NEEDED = ("make", "gcc", "ld", "flex", "bison", "bc", "perl")

_STEP = re.compile(r"^  [A-Z][A-Z0-9_]* +\S")
_ERROR = re.compile(
    r"(: (fatal )?error: |undefined reference|^ld: |: not found$|No rule to make target"
    r"|\*\*\* .*(Error|[Mm]issing|not clean|No such)|^ERROR: |^error: |^FAILED: )"
)
# make's own last words repeat what went wrong above them.
_AFTERMATH = re.compile(r"^make(\[\d+\])?: \*\*\* (\[.*\] Error \d+|Waiting for)")
_MADE_STEP = re.compile(r"^(  [A-Z][A-Z0-9_]* +\S|make(\[\d+\])?: )")
_EXCERPT_LINES = 12


@dataclass(frozen=True)
class Kbuild:
    """A kernel tree, its build directory and how many jobs run at once."""

    tree: Path
    build_dir: Path
    jobs: int
    localversion: str = ""

    def argv(self, *targets: str) -> list[str]:
        """The whole command; it needs nothing from the environment."""
        settings = {**CCACHE, **REPRODUCIBLE} if _has_ccache() else REPRODUCIBLE
        compiler = ["CC=ccache gcc", "HOSTCC=ccache gcc"] if _has_ccache() else []
        return [
            "env",
            *(f"{name}={value}" for name, value in settings.items()),
            *("make", "-C", str(self.tree), f"O={self.build_dir}", f"-j{self.jobs}"),
            *(f"LOCALVERSION={self.localversion}", *compiler, *targets),
        ]

    def command(self, *targets: str) -> str:
        """``argv`` as a line for a shell."""
        return shlex.join(self.argv(*targets))

    def run(self, *targets: str, on_step: Callable[[], None] = lambda: None) -> list[str]:
        """Make ``targets``; the lines printed, warnings among them.

        ``on_step`` is called for every file made. A failure shows the first
        error, and raises ``FalconError`` with it; all is in ``build.log``.
        """
        tools.require(*NEEDED)
        self.build_dir.mkdir(parents=True, exist_ok=True)
        lines: list[str] = []

        def take(line: str) -> None:
            lines.append(line)
            if _STEP.match(line):
                on_step()

        log_path = self.build_dir / "build.log"
        with log_path.open("a", encoding="utf-8") as log:
            log.write(f"$ {self.command(*targets)}\n")
            status = stream(self.argv(*targets), take, log=log)
        if status:
            excerpt = first_error(lines)
            note("\n".join(excerpt))
            why = excerpt[0] if excerpt else f"make ended with status {status}"
            raise FalconError(f"make {' '.join(targets)} failed", why, f"all of it: {log_path}")
        return lines


@cache
def _has_ccache() -> bool:
    return tools.find("ccache") is not None


@cache
def compiler_version() -> str:
    """The compiler and the linker, each by the first line of its --version."""
    tools.require("gcc", "ld")
    shown = (output([name, "--version"], f"asking {name} its version") for name in ("gcc", "ld"))
    return "; ".join(text.splitlines()[0] for text in shown)


def first_error(lines: Iterable[str]) -> list[str]:
    """The first error in make's output, with the lines that explain it.

    With several jobs make goes on for a while after an error and ends with a
    page of aftermath; the cause is the first line that states one.
    """
    lines = list(lines)
    real = (n for n, line in enumerate(lines) if _states_error(line))
    aftermath = (n for n, line in enumerate(lines) if _AFTERMATH.match(line))
    start = next(real, None)
    if start is None:
        start = next(aftermath, None)
    if start is None:
        return []
    excerpt = [lines[start]]
    for line in lines[start + 1 : start + _EXCERPT_LINES]:
        if _MADE_STEP.match(line):
            break
        excerpt.append(line)
    return excerpt


def _states_error(line: str) -> bool:
    return bool(_ERROR.search(line)) and "warning: " not in line and not _AFTERMATH.match(line)


def reset_log(build_dir: Path) -> None:
    """Start ``build.log`` anew: it holds one build."""
    (build_dir / "build.log").unlink(missing_ok=True)


def kernel_release(kbuild: Kbuild) -> str:
    """What ``uname -r`` will say of a built kernel."""
    return (kbuild.build_dir / "include/config/kernel.release").read_text().strip()


def jobs_default() -> int:
    """One job a CPU we may use, and one more to cover waiting for files."""
    return len(os.sched_getaffinity(0)) + 1
