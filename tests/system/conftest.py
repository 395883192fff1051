# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the system test: one server, and `./inv` as its administrator runs it.

The tests are one story, told in the order of the file: a boot of an emulated server takes
minutes. Each relies on those before it, so the first that fails is the last.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import image
import pytest
from server import Server

from harness.console import note
from harness.kernel import series, source
from harness.kernel.package import Package, build_package
from harness.kernel.process import child
from harness.kernel.progress import duration
from harness.paths import PROJECT, RESULTS, cache_dir

# What the server's kernel is built of; tcg.config and slow.config as long as it is emulated.
FRAGMENTS = "guest,tcg,server,slow"
# How long an ./inv that is ended may clean up, on a slow server.
GRACE_S = 120.0
CONSOLE_LOG = RESULTS / "system-console.log"


@dataclass(frozen=True)
class Console:
    """A terminal in which ``server``'s administrator works."""

    server: Server

    def inv(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``./inv WORDS``; what it prints is shown, too, as it comes."""
        command = [sys.executable, "-m", "invoke", "--search-root", str(PROJECT), *words]
        ours = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
        environment = {
            **ours,
            "HOME": str(self.server.directory),
            "FALCON_CACHE": str(cache_dir()),
            "COLUMNS": "150",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            **env,
        }
        note(f"$ ./inv {' '.join(words)}")
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with (  # in this order: the readers end when the child does
            ThreadPoolExecutor(2) as readers,
            child(
                command, grace_s=GRACE_S, cwd=PROJECT, env=environment, text=True, **pipes
            ) as process,
        ):
            stdout, stderr = readers.map(_shown, (process.stdout, process.stderr))
            return subprocess.CompletedProcess(command, process.wait(), stdout, stderr)


def _shown(pipe: IO[str]) -> str:
    """All that comes out of a pipe, shown line by line meanwhile."""
    lines = []
    for line in pipe:
        note(line.rstrip("\n"))
        lines.append(line)
    return "".join(lines)


@pytest.fixture(scope="session")
def package() -> Package:
    """The kernel that is installed, built before the server boots."""
    chosen = series.load()
    return build_package(chosen, source.get(chosen), fragments=FRAGMENTS.split(","))


@pytest.fixture(scope="session")
def disk() -> image.Image:
    """The server's disk as a distribution left it."""
    return image.get()


@pytest.fixture(scope="session")
def server(
    disk: image.Image, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The server, booted by its own GRUB into Debian's kernel."""
    # A package that a test wants is built before: it takes as long as the server would wait.
    if any("package" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("package")
    layer = image.layer(disk, tmp_path_factory.mktemp("server"))
    try:
        with Server(layer, disk.key, disk.host_key, console=CONSOLE_LOG) as made:
            note(f"the server booted in {duration(made.boot_s)}; its console: {CONSOLE_LOG}")
            yield made
    finally:
        layer.unlink()  # a gigabyte, which pytest would keep for three runs


@pytest.fixture(scope="session")
def console(server: Server) -> Console:
    return Console(server)


@pytest.fixture(autouse=True)
def console_of_failures(server: Server, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails shows what the server's console said last."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        note(f"--- the end of {server.console} ---\n{server.console_tail(30)}\n---")
