# SPDX-License-Identifier: GPL-2.0-only
"""Which Linux a tree holds.

In: a tree, or the text of its top Makefile. Out: "6.12.117".
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from harness.errors import FalconError


def version_of(tree: Path) -> str:
    """The version in a tree's top Makefile, e.g. "6.12.117" or "6.13.0-rc1"."""
    makefile = tree / "Makefile"
    text = ""
    with contextlib.suppress(OSError):
        text = makefile.read_text(encoding="utf-8", errors="replace")
    return parse_version(text, str(tree))


def parse_version(makefile: str, place: str) -> str:
    """The version that the text of a kernel's ``makefile`` states; ``place`` is for the error."""
    fields = dict(re.findall(r"^(\w+) *= *(\S*) *$", makefile[:2000], re.MULTILINE))
    try:
        numbers = ".".join(fields[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    except KeyError:
        raise FalconError(
            f"{place} is not a Linux source tree",
            "it has no top Makefile that states VERSION, PATCHLEVEL and SUBLEVEL",
        ) from None
    return numbers + fields.get("EXTRAVERSION", "")
