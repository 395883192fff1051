# SPDX-License-Identifier: GPL-2.0-only
"""The initramfs: one static program, which mounts the root and serves commands.

In: the C files in ``guest/``, the host's compiler. Out: a cpio archive in the
cache, the same bytes for the same input.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FalconError
from harness.paths import cache_dir

GUEST = Path(__file__).resolve().parent / "guest"
COMPILER = "gcc"
CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-s")


@dataclass(frozen=True)
class Entry:
    """One file of the archive. ``device`` is (major, minor) for device nodes."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def cpio(entries: Iterable[Entry]) -> bytes:
    """A "newc" archive (Documentation/driver-api/early-userspace/buffer-format.rst).

    Owner root, time 0, inodes counted from 1: the same bytes every time, and
    no root needed for device nodes.
    """
    archive = bytearray()
    trailer = Entry("TRAILER!!!", 0)
    for inode, entry in enumerate([*entries, trailer], 1):
        name = entry.name.encode() + b"\0"
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += b"\0" * (-len(archive) % 4)
        archive += entry.data
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)


def contents(init: bytes) -> list[Entry]:
    """What is in the archive: ``init`` and the places it mounts on."""
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    return [
        *(Entry(name, directory) for name in ("dev", "lower", "upper", "root")),
        # The kernel opens it for /init before anything is mounted.
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("init", program, init),
    ]


def build_init() -> Path:
    """Compile ``guest/`` to one static program, or take it from the cache.

    Raises `FalconError` without a compiler or without its static libc.
    """
    sources = sorted(GUEST.glob("*.[ch]"))
    stamp = hashlib.sha256(" ".join((COMPILER, *CFLAGS)).encode())
    for source in sources:
        stamp.update(source.read_bytes())
    program = cache_dir() / "guest" / f"init-{stamp.hexdigest()[:16]}"
    if not program.exists():
        _compile([source for source in sources if source.suffix == ".c"], program)
    return program


def _compile(sources: list[Path], program: Path) -> None:
    program.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as directory:
        made = Path(directory, program.name)
        command = [COMPILER, *CFLAGS, "-o", str(made), *map(str, sources)]
        what, todo = "cannot compile the guest's init", "install the packages gcc and libc6-dev"
        try:
            env = {**os.environ, "LC_ALL": "C"}
            done = subprocess.run(command, capture_output=True, text=True, env=env)
        except FileNotFoundError:
            raise FalconError(what, f"{COMPILER} is not installed", todo) from None
        if done.returncode:
            complaint = re.search(r".*(?:error:|cannot find).*", done.stderr)
            raise FalconError(what, complaint[0] if complaint else done.stderr, todo)
        made.replace(program)


def build() -> Path:
    """The initramfs, from the cache if it is there."""
    init = build_init()
    path = init.with_name(f"{init.name}.cpio")
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            made = Path(directory, path.name)
            made.write_bytes(cpio(contents(init.read_bytes())))
            made.replace(path)
    return path
