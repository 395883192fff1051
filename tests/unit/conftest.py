# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures for the kernel side: a fake kernel with a two-patch series, a cache of its own."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import fakelinux
import hypothesis
import pytest

from harness.kernel import config, source
from harness.kernel.series import Series, Tarball
from harness.kernel.source import Source


def pytest_configure():
    # Tests send SIGINT, but what a shell starts in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A machine that stands still for a moment is no failure of the code.
    hypothesis.settings.register_profile("no-deadline", deadline=None)
    hypothesis.settings.load_profile("no-deadline")


@dataclass(frozen=True)
class Lab:
    """A fake kernel ``tree``, the ``series`` for it, and where its fragments lie."""

    tree: Path
    series: Series
    fragments: Path

    def source(self) -> Source:
        return source.get(self.series, path=self.tree)

    def patch(self, *diffs: str) -> None:
        fakelinux.write_patches(self.series.patch_dir, *diffs)

    def with_series(self, **changes) -> Lab:
        return replace(self, series=replace(self.series, **changes))


@pytest.fixture
def cache_home(tmp_path, monkeypatch) -> Path:
    """An empty cache directory for this test alone."""
    monkeypatch.setenv("FALCON_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("FALCON_SOURCE_")]:
        monkeypatch.delenv(name)
    return tmp_path / "cache"


@pytest.fixture
def lab(tmp_path, cache_home, monkeypatch) -> Lab:
    """A fake kernel with a series of two patches and a guest fragment."""
    fragments = fakelinux.write(
        tmp_path / "configs",
        {
            "guest.config": "CONFIG_NET=y\n",
            "falcon.config": "CONFIG_NET_FALCON=y\n",
            "uniprocessor.config": "CONFIG_NET=y\n",
        },
    )
    monkeypatch.setattr(config, "KERNEL_CONFIGS", fragments)
    series = Series(
        name="6.12",
        patch_dir=fakelinux.write_patches(
            tmp_path / "v6.12", fakelinux.ADD_FALCON, fakelinux.HOOK_DEV
        ),
        package="linux-source-6.12",
        tarball=Tarball("6.12.7", "http://127.0.0.1:9/linux-6.12.7.tar.xz", "0" * 64),
        build_steps=4,
    )
    return Lab(fakelinux.make_tree(tmp_path / "linux"), series, fragments)
