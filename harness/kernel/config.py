# SPDX-License-Identifier: GPL-2.0-only
"""A kernel configuration out of fragments.

In: names of files in ``kernel-configs/``. Out: ``.config`` in the build
directory: ``make tinyconfig``, the fragments merged over it by the kernel's own
script, the rest decided by ``olddefconfig``. That last step silently drops what
a kernel does not have or whose dependencies are missing; here that is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import FalconError
from harness.kernel.kbuild import Kbuild
from harness.kernel.process import output
from harness.paths import KERNEL_CONFIGS

_SET = re.compile(r"^(CONFIG_\w+)=(.*)$")
_UNSET = re.compile(r"^# (CONFIG_\w+) is not set$")


def fragment(name: str) -> Path:
    """The file of the fragment ``name``; ``FalconError`` naming those there are."""
    path = KERNEL_CONFIGS / f"{name}.config"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in KERNEL_CONFIGS.glob("*.config")))
        raise FalconError(f"there is no configuration fragment {name}", f"there are {known}")
    return path


def parse(text: str) -> dict[str, str]:
    """The options a fragment or a ``.config`` decides; "n" for "is not set"."""
    options = {}
    for line in text.splitlines():
        if match := _SET.match(line):
            options[match[1]] = match[2]
        elif match := _UNSET.match(line):
            options[match[1]] = "n"
    return options


def lost(wanted: dict[str, str], config: dict[str, str]) -> list[str]:
    """The options of ``wanted`` that ``config`` does not hold, as lines of a fragment."""
    return [f"{name}={value}" for name, value in wanted.items() if config.get(name, "n") != value]


def configure(kbuild: Kbuild, fragments: Sequence[Path], absent: frozenset[str]) -> list[str]:
    """Write ``kbuild``'s ``.config``; the options requested but absent by design.

    ``absent`` names options that this kernel is known not to have. Any other
    option that got lost raises ``FalconError``.
    """
    kbuild.run("tinyconfig")
    script = kbuild.tree / "scripts/kconfig/merge_config.sh"
    output(
        [script, "-m", "-O", kbuild.build_dir, kbuild.build_dir / ".config", *fragments],
        "merging the configuration fragments",
        cwd=kbuild.tree,
    )
    kbuild.run("olddefconfig")
    wanted: dict[str, str] = {}
    for path in fragments:
        wanted |= parse(path.read_text(encoding="utf-8"))
    missing = lost(wanted, parse((kbuild.build_dir / ".config").read_text(encoding="utf-8")))
    unexpected = [line for line in missing if line.partition("=")[0] not in absent]
    if unexpected:
        raise FalconError(
            f"the kernel's configuration lost {', '.join(unexpected)}",
            "it does not have them, or what they depend on is off",
            "mend kernel-configs/, or list them as absent in patches/series.toml",
        )
    return missing
