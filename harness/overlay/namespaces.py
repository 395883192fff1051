# SPDX-License-Identifier: GPL-2.0-only
"""All network namespaces of this machine, as far as we may see them.

In: the threads under /proc, and where ``ip netns`` and Docker keep namespaces
that have none (an overlay network's bridge and VXLAN device are in such a one).
Out: `Found`, and a file of each. None is held open between two readings: a
namespace that we watch can go away at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.overlay.netns import enter

# By the prefix of their names.
MOUNTS = {"": Path("/run/netns"), "docker/": Path("/run/docker/netns")}


@dataclass(frozen=True)
class Found:
    """A network namespace: its ``inode``, a ``name`` to show, and a ``path`` to enter it by."""

    inode: int
    name: str
    path: Path


def find(proc: Path = Path("/proc"), mounts: dict[str, Path] = MOUNTS) -> tuple[Found, ...]:
    """The namespaces there are now: the host's first, then by name.

    One with an entry of ``ip netns`` or Docker is called by that, another by the
    first thread in it: its command and id.
    """
    found: dict[int, Found] = {}
    host = _identity(proc / "1/ns/net") or _identity(proc / "self/ns/net")
    for identity, place in [*_mounted(mounts), *_of_threads(proc)]:
        # A name that is left over, with no namespace behind it, is on another device.
        if host and identity[0] == host[0] and identity[1] not in found:
            name = "host" if identity == host else place.name
            found[identity[1]] = Found(identity[1], name, place.path)
    return tuple(
        sorted(found.values(), key=lambda n: (n.inode != (host and host[1]), n.name, n.inode))
    )


def inhabited(proc: Path = Path("/proc")) -> frozenset[int]:
    """The inodes of those that a thread lives in."""
    return frozenset(inode for (_, inode), _ in _of_threads(proc))


def read_proc_net(namespaces: Sequence[Found], name: str) -> dict[int, str]:
    """The text of ``/proc/net/<name>`` of each, by inode; without those that cannot be read."""
    # A thread of its own may go from one to the next, and leaves the last by ending.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns-reader") as reader:
        return reader.submit(_read_all, namespaces, name).result()


def _read_all(namespaces: Sequence[Found], name: str) -> dict[int, str]:
    texts: dict[int, str] = {}
    for namespace in namespaces:
        # It may be gone, or not be ours to enter.
        with suppress(OSError):
            fd = os.open(namespace.path, os.O_RDONLY)
            try:
                if os.fstat(fd).st_ino == namespace.inode:
                    enter(fd)
                    file = Path(f"/proc/thread-self/net/{name}")
                    texts[namespace.inode] = file.read_text(encoding="ascii")
            finally:
                os.close(fd)
    return texts


# ---- where they are found ---------------------------------------------------------

Identity = tuple[int, int]


@dataclass(frozen=True)
class _Place:
    name: str
    path: Path


def _identity(path: Path) -> Identity | None:
    """Device and inode of a namespace's file; None when it is gone or hidden from us."""
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _mounted(mounts: dict[str, Path]) -> Iterator[tuple[Identity, _Place]]:
    for prefix, directory in mounts.items():
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if identity := _identity(path):
                yield identity, _Place(f"{prefix}{path.name}", path)


def _of_threads(proc: Path) -> Iterator[tuple[Identity, _Place]]:
    """The first thread of each namespace, oldest processes first."""
    seen = set()
    for process in _numbers(proc):
        for thread in _numbers(proc / process / "task"):
            directory = proc / process / "task" / thread
            identity = _identity(directory / "ns/net")
            if identity and identity not in seen:
                seen.add(identity)
                yield identity, _Place(f"{_command(directory)}[{thread}]", directory / "ns/net")


def _numbers(directory: Path) -> list[str]:
    """The names in ``directory`` that are numbers, ascending; none when it is gone."""
    with suppress(OSError):
        return sorted((path.name for path in directory.iterdir() if path.name.isdigit()), key=int)
    return []


def _command(directory: Path) -> str:
    with suppress(OSError):
        return (directory / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return "?"
