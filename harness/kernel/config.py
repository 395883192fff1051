# SPDX-License-Identifier: GPL-2.0-only
"""A kernel configuration out of fragments.

In: names of files in ``kernel-configs/``. Out: ``.config`` in the build
directory: ``make tinyconfig``, or a configuration that is there (`Base`), the
fragments merged over it by the kernel's own script, the rest decided by
``olddefconfig``. That last step silently drops what a kernel does not have or
whose dependencies are missing; here that is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FalconError
from harness.kernel.kbuild import Kbuild
from harness.kernel.process import output
from harness.paths import KERNEL_CONFIGS

_SET = re.compile(r"^(CONFIG_\w+)=(.*)$")
_UNSET = re.compile(r"^# (CONFIG_\w+) is not set$")


@dataclass(frozen=True)
class Base:
    """A ``.config`` to start from in place of ``make tinyconfig``.

    ``modules``: what ``lsmod`` printed where the kernel is to run; all modules that
    are not loaded there are left out then (``make localmodconfig``).
    """

    text: str
    modules: str | None = None

    def write(self, kbuild: Kbuild) -> None:
        """Make it ``kbuild``'s ``.config``, brought up to that kernel's options."""
        kbuild.build_dir.mkdir(parents=True, exist_ok=True)
        (kbuild.build_dir / ".config").write_text(self.text, encoding="utf-8")
        # First: what is new is decided, so localmodconfig has nothing to ask.
        kbuild.run("olddefconfig")
        if self.modules is not None:
            loaded = kbuild.build_dir / "lsmod.txt"
            loaded.write_text(self.modules, encoding="utf-8")
            kbuild.run(f"LSMOD={loaded}", "localmodconfig")


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


def configure(
    kbuild: Kbuild,
    fragments: Sequence[Path],
    absent: frozenset[str],
    base: Base | None = None,
    wishes: Sequence[Path] = (),
) -> list[str]:
    """Write ``kbuild``'s ``.config``; the options requested but absent by design.

    ``absent`` names options that this kernel is known not to have. Any other
    option of ``fragments`` that got lost raises ``FalconError``; those of ``wishes``,
    merged first, may get lost.
    """
    if base is None:
        kbuild.run("tinyconfig")
    else:
        base.write(kbuild)
    script = kbuild.tree / "scripts/kconfig/merge_config.sh"
    output(
        [script, "-m", "-O", kbuild.build_dir, kbuild.build_dir / ".config", *wishes, *fragments],
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
