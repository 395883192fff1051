# SPDX-License-Identifier: GPL-2.0-only
"""A pristine kernel tree in the cache, wherever it comes from.

In: a series, and what the user named, if anything. Out: ``Source``, whose tree
is unpacked once, complete, and never modified. The places themselves are in
``providers``; here they are asked in order, and what they give is checked
and published.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.console import note
from harness.errors import FalconError
from harness.kernel import cache
from harness.kernel.providers import (
    CannotServe,
    Distribution,
    GitRevision,
    KernelOrg,
    Provider,
    UserPath,
)
from harness.kernel.series import Series
from harness.kernel.version import version_of
from harness.paths import cache_dir


@dataclass(frozen=True)
class Source:
    """A pristine tree: its full ``version``, where it came from, and its content's ``key``."""

    tree: Path
    version: str
    origin: str
    key: str


def get(
    series: Series,
    *,
    path: Path | None = None,
    git: Path | None = None,
    rev: str | None = None,
) -> Source:
    """The source of ``series``: from ``path`` or ``git`` and ``rev`` if named, else found.

    ``path`` is a tree or a tarball, ``git`` a repository (bare ones too); the
    variable ``FALCON_SOURCE_6_1`` names either for all that is done with 6.1.
    Raises ``FalconError`` when a named source does not serve or is of another
    version, and, where none was named, with the reason of every place asked.
    """
    if path and (git or rev):
        raise FalconError("--source and --git exclude each other", todo="name one of them")
    if bool(git) != bool(rev):
        raise FalconError("--git and --rev belong together", todo="give both")
    if path:
        return _from_first([UserPath(path)], series)
    if git and rev:
        return _from_first([GitRevision(git, rev)], series)
    if remembered := os.environ.get(variable(series)):
        return _from_first([_remembered(remembered)], series)
    packaged = [Distribution(series.package)] if series.package else []
    return _from_first([*packaged, KernelOrg(series.tarball)], series)


def variable(series: Series) -> str:
    """The environment variable that names a source of ``series``: PATH, or REPOSITORY@REVISION."""
    return "FALCON_SOURCE_" + series.name.replace(".", "_")


def _remembered(value: str) -> Provider:
    path = Path(value).expanduser()
    repository, at, rev = value.rpartition("@")
    if at and not path.exists():
        return GitRevision(Path(repository).expanduser(), rev)
    return UserPath(path)


def _from_first(providers: Sequence[Provider], series: Series) -> Source:
    reasons = []
    for provider in providers:
        try:
            return _publish(provider, series)
        except CannotServe as refusal:
            reasons.append(f"{provider.origin}: {refusal}")
    raise FalconError(
        f"no source of Linux {series.name}",
        ". ".join(reasons),
        f"name one with --source PATH, --git PATH --rev REV or {variable(series)}",
    )


def _publish(provider: Provider, series: Series) -> Source:
    """The provider's tree from the cache, unpacked there first when it is new."""
    with cache.lock("sources"):
        key = f"{series.name}-{provider.key()}"
        tree = cache_dir() / "sources" / key
        if not tree.exists():
            _refuse_other_version(provider.early_version(), series, provider)
            note(f"unpacking Linux {series.name} from {provider.origin}")
            with cache.publish(tree) as empty:
                provider.export(empty)
                _refuse_other_version(version_of(empty), series, provider)
    return Source(tree, version_of(tree), provider.origin, key)


def _refuse_other_version(version: str | None, series: Series, provider: Provider) -> None:
    if version and not series.matches(version):
        raise FalconError(
            f"the source is Linux {version}, the patch series is for {series.name}",
            f"read from {provider.origin}",
            "choose another source, or another series with --kernel",
        )
