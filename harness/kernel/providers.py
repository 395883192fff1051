# SPDX-License-Identifier: GPL-2.0-only
"""The places a kernel's source comes from.

In: a path, a git revision, a package name or a tarball's address. Out: a key
that names the content, and the content itself in an empty directory. A place
that cannot serve says why in one line (``CannotServe``).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.kernel import cache
from harness.kernel.download import download
from harness.kernel.process import capture, child, last_words, output
from harness.kernel.progress import Bar
from harness.kernel.series import Tarball
from harness.kernel.version import parse_version, version_of
from harness.paths import cache_dir

DISTRIBUTION_DIR = Path("/usr/src")

_UNPACKERS = {".xz": "xz", ".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd", ".tar": "cat"}

# Where a blob may be absent from a partial clone and the tree still builds:
# our configurations take next to nothing from there. Elsewhere it matters.
_SPARSE = ("Documentation/", "drivers/", "samples/", "sound/", "MAINTAINERS", "CREDITS")
_FEW_ABSENT = 200


class CannotServe(Exception):
    """The one-line reason why a place has no source for us."""


class Provider(Protocol):
    """What ``source`` asks of a place."""

    @property
    def origin(self) -> str:
        """The place, for people."""

    def key(self) -> str:
        """A name for the content: the same content, the same name."""

    def early_version(self) -> str | None:
        """The tree's version where that costs nothing, before it is exported."""

    def export(self, empty: Path) -> None:
        """Fill the directory ``empty`` with the tree."""


@dataclass(frozen=True)
class UserPath:
    """A tree or a tarball the user names."""

    path: Path

    @property
    def origin(self) -> str:
        return str(self.path)

    def key(self) -> str:
        if self.path.is_dir():
            self._refuse_built_tree()
            return "tree-" + cache.digest(_signature(self.path))
        if self.path.is_file():
            _unpacker(self.path)
            return "tar-" + cache.remembered_sha256(self.path)[:16]
        raise CannotServe("there is no such file or directory")

    def early_version(self) -> str | None:
        return version_of(self.path) if self.path.is_dir() else None

    def export(self, empty: Path) -> None:
        if self.path.is_dir():
            tools.require("rsync")
            output(
                ["rsync", "-a", "--exclude=/.git", f"{self.path}/", f"{empty}/"],
                f"copying {self.path}",
            )
        else:
            unpack(self.path, empty)

    def _refuse_built_tree(self) -> None:
        for trace in (".config", "include/config"):
            if (self.path / trace).exists():
                raise CannotServe(
                    f"a kernel was configured in this tree ({trace} exists): "
                    "run make mrproper there, or use --git with its revision"
                )


@dataclass(frozen=True)
class GitRevision:
    """A revision of a git repository the user names; it may be bare, and partial."""

    repository: Path
    rev: str

    @property
    def origin(self) -> str:
        return f"{self.repository} at {self.rev}"

    def key(self) -> str:
        return "git-" + cache.digest([self._tree, *sorted(self._absent)])

    def early_version(self) -> str | None:
        return parse_version(self._git("show", f"{self._tree}:Makefile"), self.origin)

    def export(self, empty: Path) -> None:
        """By a throw-away index, so that files whose blobs are absent can be left out."""
        absent = self._absent
        self._refuse_absent(absent)
        index = empty.with_name(empty.name + ".index")
        env = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(empty)}
        try:
            self._git("read-tree", self._tree, env=env)
            if absent:
                removals = "".join(f"0 {'0' * 40}\t{path}\0" for path in absent)
                self._git("update-index", "-z", "--index-info", env=env, stdin=removals)
            self._git("checkout-index", "--all", env=env)
        finally:
            index.unlink(missing_ok=True)

    @cached_property
    def _absent(self) -> list[str]:
        """The paths of the revision's files whose content the repository lacks."""
        listed = self._git("rev-list", "--objects", "--missing=print", self._tree)
        missing = {line[1:] for line in listed.splitlines() if line.startswith("?")}
        if not missing:
            return []
        entries = self._git("ls-tree", "-r", "-z", self._tree).split("\0")
        fields = (entry.split(None, 3) for entry in entries if entry)
        return [path for _mode, _kind, oid, path in fields if oid in missing]

    def _refuse_absent(self, absent: list[str]) -> None:
        needed = [path for path in absent if not path.startswith(_SPARSE)]
        if needed or len(absent) > _FEW_ABSENT:
            raise CannotServe(
                f"the repository is partial: it lacks the content of {len(absent)} files, "
                f"{(needed or absent)[0]} among them"
            )
        if absent:
            note(f"left out, absent from {self.repository}: {', '.join(absent)}")

    @cached_property
    def _tree(self) -> str:
        return self._git("rev-parse", "--verify", "--quiet", f"{self.rev}^{{tree}}").strip()

    def _git(self, *words: str, env: dict[str, str] | None = None, stdin: str | None = None) -> str:
        tools.require("git")
        # A partial clone must not go and fetch file by file what it lacks.
        settings = {"GIT_NO_LAZY_FETCH": "1", **(env or {})}
        done = capture(["git", "-C", self.repository, *words], env=settings, stdin=stdin)
        if done.returncode == 0:
            return done.stdout
        if words[0] == "rev-parse":
            raise CannotServe(self._why_no_revision(done))
        raise CannotServe(last_words(done))

    def _why_no_revision(self, done: subprocess.CompletedProcess[str]) -> str:
        if not self.repository.is_dir():
            return "there is no such directory"
        return f"it has no revision {self.rev}" if not done.stderr else last_words(done)


@dataclass(frozen=True)
class Distribution:
    """Debian's source package, installed if need be and possible."""

    package: str

    @property
    def origin(self) -> str:
        return f"the distribution's package {self.package}"

    @property
    def _tarball(self) -> Path:
        return DISTRIBUTION_DIR / f"{self.package}.tar.xz"

    def key(self) -> str:
        if not self._tarball.exists():
            self._install()
        return "deb-" + cache.remembered_sha256(self._tarball)[:16]

    def early_version(self) -> str | None:
        return None

    def export(self, empty: Path) -> None:
        unpack(self._tarball, empty)

    def _install(self) -> None:
        """apt-get it; with lists that are missing or old, after fetching new ones."""
        if tools.find("apt-get") is None:
            raise CannotServe("this is no Debian or Ubuntu system")
        root = _as_root()
        if root is None:
            raise CannotServe(f"not installed; run: sudo apt-get install {self.package}")
        note(f"installing {self.package}")
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        apt = [*root, "apt-get", "-qq", "-y"]
        install = [*apt, "install", "--no-install-recommends", self.package]
        done = capture(install, env=env)
        if done.returncode:
            capture([*apt, "update"], env=env)
            done = capture(install, env=env)
        if done.returncode or not self._tarball.exists():
            raise CannotServe(f"apt-get could not install it: {last_words(done)}")


@dataclass(frozen=True)
class KernelOrg:
    """A point release from kernel.org, checked by its SHA-256."""

    tarball: Tarball

    @property
    def origin(self) -> str:
        return f"kernel.org's linux-{self.tarball.version}.tar.xz"

    def key(self) -> str:
        return "org-" + self.tarball.sha256[:16]

    def early_version(self) -> str | None:
        return self.tarball.version

    def export(self, empty: Path) -> None:
        name = self.tarball.url.rpartition("/")[2]
        target = cache_dir() / "downloads" / name
        try:
            file = download(self.tarball.url, self.tarball.sha256, target)
        except FalconError as error:
            raise CannotServe(str(error)) from None
        unpack(file, empty)


def unpack(tarball: Path, into: Path) -> None:
    """Unpack ``tarball`` into the directory ``into``, without its top directory."""
    unpacker = _unpacker(tarball)
    tools.require("tar", unpacker)
    extract = ["tar", "-x", "--strip-components=1", "--no-same-owner", "-C", str(into)]
    size = tarball.stat().st_size
    pipe = subprocess.PIPE
    with (
        Bar(f"unpacking {tarball.name}", size, in_bytes=True) as bar,
        child([unpacker, *([] if unpacker == "cat" else ["-dc"])], stdin=pipe, stdout=pipe) as pack,
        child(extract, stdin=pack.stdout, stderr=pipe, text=True) as tar,
    ):
        assert pack.stdin and pack.stdout and tar.stderr
        pack.stdout.close()  # so that the unpacker notices when tar ends
        try:
            for chunk in _chunks(tarball):
                pack.stdin.write(chunk)
                bar.advance(len(chunk))
            pack.stdin.close()
        except BrokenPipeError:
            pass  # one of the two has failed; their status tells
        complaint = tar.stderr.read().strip().splitlines()
        if tar.wait() or pack.wait():
            why = complaint[-1] if complaint else f"{unpacker} ended with {pack.returncode}"
            raise CannotServe(f"{tarball.name} cannot be unpacked: {why}")


def _unpacker(tarball: Path) -> str:
    suffix = ".gz" if tarball.suffix == ".tgz" else tarball.suffix
    if suffix not in _UNPACKERS:
        known = ", ".join(".tar" + s for s in _UNPACKERS if s != ".tar")
        raise CannotServe(f"not a tree, and not a tarball by its name (.tar, {known})")
    return _UNPACKERS[suffix]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 18):
            yield chunk


def _signature(tree: Path) -> Iterator[str]:
    """What identifies a tree without reading it: every file's name, size and time."""
    for directory, subdirectories, files in os.walk(tree):
        subdirectories[:] = sorted(d for d in subdirectories if d != ".git")
        for name in sorted(files):
            stat = os.lstat(os.path.join(directory, name))  # noqa: PTH118 (90,000 files)
            yield f"{directory}/{name} {stat.st_size} {stat.st_mtime_ns}"


def _as_root() -> list[str] | None:
    """The words before a command that make root of us without a question; None: nothing does."""
    if os.geteuid() == 0:
        return []
    if tools.find("sudo") and capture(["sudo", "-n", "true"]).returncode == 0:
        return ["sudo", "-n"]
    return None
