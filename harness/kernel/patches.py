# SPDX-License-Identifier: GPL-2.0-only
"""The patch series on top of a pristine tree.

In: a ``Source`` and a list of patches. Out: a work tree for ``make``, in which
only the files that differ from its last state were written. ``make`` goes by
times, so a file whose content stays must keep its time: that is what makes a
rebuild after one changed patch short.

The work tree is the pristine tree hard-linked, and nothing ever writes into
its files: a changed file is a new file under the old name.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unidiff import PatchedFile, PatchSet, UnidiffParseError

from harness import tools
from harness.errors import FalconError
from harness.kernel import cache
from harness.kernel.process import capture, output
from harness.kernel.series import Series
from harness.kernel.source import Source
from harness.paths import cache_dir

# Whatever the user has configured, git does the same, as nobody in particular.
ANONYMOUS = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "Falcon",
    "GIT_AUTHOR_EMAIL": "falcon@localhost",
    "GIT_COMMITTER_NAME": "Falcon",
    "GIT_COMMITTER_EMAIL": "falcon@localhost",
}


@dataclass(frozen=True)
class Patch:
    """One patch file: its subject line and the paths it touches, old and new."""

    path: Path
    subject: str
    touches: tuple[str, ...]
    adds: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class File:
    """What git keeps of a file."""

    data: bytes
    executable: bool


def load(series: Series, *, may_be_empty: bool = False) -> tuple[Patch, ...]:
    """The patches of ``series`` in order; ``FalconError`` for none or an unreadable one."""
    files = sorted(series.patch_dir.glob("*.patch"))
    if not files and not may_be_empty:
        raise FalconError(
            f"the series for Linux {series.name} has no patches",
            f"{series.patch_dir} holds no *.patch file",
        )
    return tuple(read(file) for file in files)


def read(path: Path) -> Patch:
    """One ``git format-patch`` file."""
    text = path.read_text(encoding="utf-8")
    subject = re.search(r"^Subject: (?:\[[^]]*\] *)?(.*(?:\n[ \t].*)*)", text, re.MULTILINE)
    files = _diff(path)
    touches = {name for file in files for name in _names(file)}
    return Patch(
        path=path,
        subject=" ".join(subject[1].split()) if subject else path.stem,
        touches=tuple(sorted(touches)),
        adds=tuple(sorted(file.path for file in files if file.is_added_file)),
    )


def _diff(path: Path) -> PatchSet:
    try:
        return PatchSet.from_filename(str(path), encoding="utf-8")
    except UnidiffParseError as error:
        raise FalconError(f"{path.name} is not a well-formed patch", str(error)) from None


def _names(file: PatchedFile) -> list[str]:
    """The paths of a patched file before and after, without their a/ and b/."""
    both = (file.source_file, file.target_file)
    return [name.split("/", 1)[1] for name in both if name and name != "/dev/null"]


def digest(patches: Sequence[Patch]) -> str:
    """A key for what the patches do, in their order; their messages are not in it."""
    return cache.digest(_below_message(patch.path.read_bytes()) for patch in patches)


def _below_message(mail: bytes) -> bytes:
    """The part of a patch file below its message."""
    _, separator, diff = mail.partition(b"\n---\n")
    return diff if separator else mail


def added_file(patches: Sequence[Patch], name: str) -> str:
    """The content of the file ``name`` that the series adds, for tests without a kernel tree.

    Takes git if more than one patch touches it: hosts that are tested have none.
    """
    touching = [patch for patch in patches if name in patch.touches]
    if not touching or name not in touching[0].adds:
        raise FalconError(f"the series adds no file {name}")
    if len(touching) == 1:
        (file,) = (file for file in _diff(touching[0].path) if name in _names(file))
        return "".join(line.value for hunk in file for line in hunk)
    with tempfile.TemporaryDirectory(prefix="falcon-") as box:
        for patch in touching:
            _git_apply(Path(box), patch, "the series alone", only=name)
        return Path(box, name).read_text(encoding="utf-8")


class WorkTree:
    """The tree that ``make`` reads, for one source and one purpose.

    ``purpose`` keeps trees apart whose patches change against each other: the
    build's from the one in which the checks go through every prefix.
    Hold ``cache.lock(tree.lock)`` from ``set_patches`` to the end of ``make``.
    """

    def __init__(self, source: Source, purpose: str = "build"):
        self.source = source
        self.home = cache_dir() / "trees" / f"{source.key}-{purpose}"
        self.path = self.home / "linux"
        self.lock = f"tree-{source.key}-{purpose}"
        self._state = self.home / "touched.json"

    def set_patches(self, patches: Sequence[Patch]) -> tuple[str, ...]:
        """Make the tree the source with ``patches`` applied; the paths that changed.

        Raises ``FalconError`` that names patch, file and hunk where one does not
        apply without fuzz; the tree is then as before.
        """
        wanted = applied(self.source, patches)
        if not self.home.exists():
            self._create()
        before = set(json.loads(self._state.read_text()))
        # Killed from here on, the next run still knows what to put right.
        self._remember(before | set(wanted))
        pristine = {name: _content(self.source.tree / name) for name in before - set(wanted)}
        changed = [
            name
            for name, content in sorted((pristine | wanted).items())
            if _replace(self.path / name, content)
        ]
        self._remember(set(wanted))
        return tuple(changed)

    def _create(self) -> None:
        with cache.publish(self.home) as empty:
            output(["cp", "-al", self.source.tree, empty / "linux"], "making the work tree")
            (empty / "touched.json").write_text("[]")

    def _remember(self, touched: set[str]) -> None:
        cache.write_atomically(self._state, json.dumps(sorted(touched), indent=1))


def patched_tree(series: Series, source: Source, to: Path | None = None) -> Path:
    """The source with the whole series applied: in the cache, or a copy of its own at ``to``."""
    tree = WorkTree(source)
    with cache.lock(tree.lock):
        tree.set_patches(load(series))
        if to is None:
            return tree.path
        if to.exists():
            raise FalconError(f"{to} exists", todo="name a directory that does not")
        with cache.publish(to) as empty:
            output(["cp", "-a", "--reflink=auto", f"{tree.path}/.", empty], f"copying to {to}")
    return to


def applied(source: Source, patches: Sequence[Patch]) -> dict[str, File | None]:
    """The content of every file the patches touch, after all of them; None where it is gone.

    Each patch is applied without fuzz, one after the other, in a directory that
    holds those files only.
    """
    names = sorted({name for patch in patches for name in patch.touches})
    with tempfile.TemporaryDirectory(prefix="falcon-") as box_name:
        box = Path(box_name)
        for name in names:
            if (source.tree / name).exists():
                (box / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source.tree / name, box / name)
        for patch in patches:
            _git_apply(box, patch, f"Linux {source.version}")
        return {name: _content(box / name) for name in names}


def _git_apply(box: Path, patch: Patch, onto: str, only: str | None = None) -> None:
    """``git apply`` takes shifted lines and no fuzz, just as ``git am`` does."""
    tools.require("git")
    # Inside somebody's repository git would take paths from its top.
    env = {**ANONYMOUS, "GIT_CEILING_DIRECTORIES": str(box.parent)}
    select = [f"--include={only}"] if only else []
    done = capture(
        ["git", "apply", "--whitespace=nowarn", *select, patch.path.resolve()], cwd=box, env=env
    )
    if done.returncode:
        raise FalconError(
            f"{patch.name} does not apply to {onto}",
            _why_not(patch, done.stderr),
            "mend it in a git tree (./inv refresh-patches --edit) or take another source",
        )


def _why_not(patch: Patch, complaint: str) -> str:
    """git's complaint as "hunk 2 of 5 of net/core/dev.c (line 5140) ..."."""
    failed = re.search(r"patch failed: (.+):(\d+)$", complaint, re.MULTILINE)
    if not failed:
        lines = complaint.removeprefix("error: ").splitlines()
        return lines[0] if lines else "git apply gave no reason"
    name, line = failed[1], int(failed[2])
    for file in _diff(patch.path):
        starts = [hunk.source_start for hunk in file]
        if name in _names(file) and line in starts:
            number = f"hunk {starts.index(line) + 1} of {len(starts)} of {name}"
            return f"{number} (line {line}) does not match the file"
    return f"{name}, line {line}, does not match the file"


def _content(path: Path) -> File | None:
    return File(path.read_bytes(), bool(path.stat().st_mode & 0o100)) if path.exists() else None


def _replace(path: Path, wanted: File | None) -> bool:
    """Give ``path`` this content (None: remove it); False when it has it already.

    Always a new file with a new time, also where pristine content comes back:
    an object built from the patched file in between is newer than the original.
    """
    if wanted == _content(path):
        return False
    if wanted is None:
        path.unlink()
    else:
        cache.write_atomically(path, wanted.data, mode=0o755 if wanted.executable else 0o644)
    return True
