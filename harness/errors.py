# SPDX-License-Identifier: GPL-2.0-only
"""The one error a user of the harness meets."""

from __future__ import annotations


class FalconError(Exception):
    """Something the user can mend, told in one line.

    ``what`` happened, ``why`` it did, and what ``todo`` about it. ``tasks.py``
    prints ``str(error)`` and exits with ``status``; anything else that is
    raised is a bug of ours and keeps its traceback.
    """

    def __init__(self, what: str, why: str = "", todo: str = "", *, status: int = 1):
        self.what, self.why, self.todo, self.status = what, why, todo, status
        super().__init__(what)

    def __str__(self) -> str:
        line = self.what
        if self.why:
            line += f": {self.why}"
        if self.todo:
            line += f"; {self.todo}"
        return " ".join(line.split())
