# SPDX-License-Identifier: GPL-2.0-only
"""Where things lie: what is in the repository, and what may be thrown away."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PATCHES = PROJECT / "patches"
KERNEL_CONFIGS = PROJECT / "kernel-configs"
TESTS = PROJECT / "tests"
RESULTS = PROJECT / "results"


def cache_dir() -> Path:
    """Sources, builds and images: ``$FALCON_CACHE``, else ``~/.cache/falcon``.

    Outside the repository, so that every clone on a machine shares one build.
    """
    path = Path(os.environ.get("FALCON_CACHE") or Path.home() / ".cache" / "falcon")
    path.mkdir(parents=True, exist_ok=True)
    return path
