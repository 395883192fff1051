# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the system test: one server, and `./inv` as its administrator runs it.

The tests are one story, told in the order of the file: a boot of an emulated server takes
minutes. What a test needs of those before it, it looks at first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import image
import pytest
from server import Server

from harness.console import note
from harness.kernel import series, source
from harness.kernel.package import Package, build_package
from harness.kernel.progress import duration
from harness.paths import PROJECT, cache_dir

# What the server's kernel is built of; tcg.config and slow.config as long as it is emulated.
FRAGMENTS = "guest,tcg,server,slow"


@dataclass(frozen=True)
class Console:
    """A terminal in which ``server``'s administrator works."""

    server: Server

    def inv(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``./inv WORDS``; what it prints is shown, too."""
        command = [sys.executable, "-m", "invoke", "--search-root", str(PROJECT), *words]
        environment = {
            **os.environ,
            "HOME": str(self.server.directory),
            "FALCON_CACHE": str(cache_dir()),
            "COLUMNS": "150",
            **env,
        }
        note(f"$ ./inv {' '.join(words)}")
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        note(done.stderr + done.stdout)
        return done


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
    disk: image.Image, package: Package, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The server, booted by its own GRUB into Debian's kernel."""
    layer = image.layer(disk, tmp_path_factory.mktemp("server"))
    try:
        with Server(layer, disk.key, disk.host_key) as made:
            note(f"the server booted in {duration(made.boot_s)}")
            yield made
            kept = os.environ.get("FALCON_SYSTEM_CONSOLE")
            if kept:
                Path(kept).write_bytes(made.console.read_bytes())
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
        note(f"--- from the server's console ---\n{server.console_tail(30)}\n---")
