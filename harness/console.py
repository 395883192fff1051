# SPDX-License-Identifier: GPL-2.0-only
"""What the user sees: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A remark on stderr, printed as it is (no markup is read in ``text``)."""
    err.print(text, markup=False)
