# SPDX-License-Identifier: GPL-2.0-only
"""Change a series with git: commits are its patches.

In: a series and its source. Out: a git tree to edit, with the source under the
tag ``falcon-base`` and one commit a patch on top; and from such a tree, the
series' patch files, the same bytes for the same commits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.kernel import cache
from harness.kernel.patches import ANONYMOUS, Patch
from harness.kernel.process import capture, last_words, output
from harness.kernel.series import Series
from harness.kernel.source import Source

BASE = "falcon-base"

_FORMAT = (
    "--zero-commit",
    "--no-signature",
    "--no-numbered",
    "--abbrev=12",
    "--stat=72",
    "--summary",
    "--no-renames",
    "--diff-algorithm=myers",
    "--unified=3",
    "--subject-prefix=PATCH",
)


@dataclass(frozen=True)
class Change:
    """What a refresh did to one patch file: "new", "changed" or "removed"."""

    name: str
    kind: str


def edit_tree(source: Source, stack: Sequence[Patch], tree: Path) -> None:
    """Make ``tree`` a git tree of the source with the series as commits, to be edited.

    It must not exist yet: somebody's work may be in it.
    """
    tools.require("git", "cp")
    if tree.exists():
        raise FalconError(f"{tree} exists", todo="edit there, or remove it for a fresh one")
    note(f"making a git tree of Linux {source.version} in {tree}")
    with cache.publish(tree) as empty:
        output(["cp", "-a", "--reflink=auto", f"{source.tree}/.", empty], "copying the source")
        _import(empty, f"Linux {source.version}")
        files = [patch.path.resolve() for patch in stack]
        if files:
            _git(empty, "am", "--quiet", "--committer-date-is-author-date", *files)


def _import(tree: Path, message: str) -> None:
    _let_new_files_be_seen(tree / ".gitignore")
    _git(tree, "init", "--quiet")
    _git(tree, "config", "gc.auto", "0")
    _git(tree, "add", "--all", "--force")
    _git(tree, "commit", "--quiet", "-m", message)
    _git(tree, "tag", BASE)


def _let_new_files_be_seen(gitignore: Path) -> None:
    """Drop the rule of Debian's source package that makes git ignore every new file."""
    if gitignore.exists():
        lines = gitignore.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if line.strip() != "/*")
        cache.write_atomically(gitignore, kept)


def regenerate(series: Series, tree: Path, base: str = BASE) -> list[Change]:
    """Write the commits of ``tree`` after ``base`` as the patch files of ``series``.

    Files whose text stays are left alone. Raises ``FalconError`` when the tree
    holds uncommitted changes, which would be lost, or no commit after ``base``.
    """
    if not (tree / ".git").exists():
        raise FalconError(
            f"{tree} is no git tree", todo="make one with ./inv refresh-patches --edit"
        )
    dirty = _git(tree, "status", "--porcelain").splitlines()
    if dirty:
        raise FalconError(
            f"{tree} has uncommitted changes", dirty[0].strip(), "commit or remove them"
        )
    with tempfile.TemporaryDirectory(prefix="falcon-") as fresh:
        _git(tree, "format-patch", "--quiet", *_FORMAT, "-o", fresh, f"{base}..HEAD")
        made = {path.name: path.read_bytes() for path in Path(fresh).glob("*.patch")}
    if not made:
        raise FalconError(f"{tree} has no commit after {base}", todo="commit the patches there")
    return _replace_files(series.patch_dir, made)


def _replace_files(directory: Path, made: dict[str, bytes]) -> list[Change]:
    before = {path.name: path.read_bytes() for path in directory.glob("*.patch")}
    changes = [Change(name, "removed") for name in sorted(before.keys() - made.keys())]
    for name, text in sorted(made.items()):
        if before.get(name) != text:
            cache.write_atomically(directory / name, text)
            changes.append(Change(name, "changed" if name in before else "new"))
    for change in changes:
        if change.kind == "removed":
            (directory / change.name).unlink()
    return changes


def _git(tree: Path, *words: str | Path) -> str:
    done = capture(["git", "-C", tree, *words], env=ANONYMOUS)
    if done.returncode:
        raise FalconError(f"git {words[0]} failed in {tree}", last_words(done))
    return done.stdout
