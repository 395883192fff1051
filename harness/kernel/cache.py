# SPDX-License-Identifier: GPL-2.0-only
"""Directories that are either complete or not there, and locks between runs.

In: names below the cache directory. Out: published directories, held locks,
digests. A run that dies leaves at most a ``.tmp-*`` directory, which the next
holder of the same lock removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.console import note
from harness.paths import cache_dir

_TMP = ".tmp-"
_LOCKS = "locks"
_FROM_BUILDS = ("builds", "trees", "checked")


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock ``name``; says so once when another run holds it, and waits.

    The kernel drops the lock with the process, so none is ever left behind.
    """
    path = cache_dir() / _LOCKS / name
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another run holds the {name} lock: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def publish(target: Path) -> Iterator[Path]:
    """An empty directory that becomes ``target`` when the block ends well.

    Call it with the lock held that guards ``target``'s parent: what dead runs
    left there is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(_TMP + "*"):
        remove(leftover)
    temporary = Path(tempfile.mkdtemp(prefix=_TMP, dir=target.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        temporary.rename(target)
    except BaseException:
        remove(temporary)
        raise


def remove(tree: Path) -> None:
    """Remove a directory of ours; one that vanishes meanwhile is fine."""
    shutil.rmtree(tree, ignore_errors=True)


def write_atomically(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    """Replace ``path`` by a new file: never half a file, never a shared inode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(prefix=_TMP, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        Path(name).chmod(mode)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def digest(parts: Iterable[str | bytes]) -> str:
    """One short key for several texts; their borders count."""
    whole = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        whole.update(len(raw).to_bytes(8, "big") + raw)
    return whole.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """``file_sha256``, taken from memory while size and time of the file stay."""
    stat = path.stat()
    memory = cache_dir() / "digests.json"
    name = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if name not in known:
        known[name] = file_sha256(path)
        write_atomically(memory, json.dumps(known, indent=1))
    return known[name]


def clean(*, everything: bool) -> None:
    """Remove what builds left; with ``everything`` sources, downloads and images too.

    Waits for runs that are under way: what they use is removed only after them.
    """
    home = cache_dir()
    names = [path.name for path in home.iterdir() if path.name != _LOCKS]
    doomed = names if everything else [name for name in names if name in _FROM_BUILDS]
    with contextlib.ExitStack() as held:
        for path in sorted((home / _LOCKS).glob("*")):
            held.enter_context(lock(path.name))
        for name in doomed:
            remove(home / name)
            (home / name).unlink(missing_ok=True)
