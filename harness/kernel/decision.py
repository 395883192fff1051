# SPDX-License-Identifier: GPL-2.0-only
"""What a decision of Falcon's costs: where does the next stage of a flow run?

In: a series. Out: for the steps of a decision the instructions they take, on the
shortest way through and on the longest, as the compiler of the kernel makes them
of the series' ``net/core/falcon_pick.h``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import tools
from harness.kernel import patches
from harness.kernel.disassembly import functions, sequence
from harness.kernel.process import output
from harness.kernel.series import Series

HEADER = "net/core/falcon_pick.h"
SOURCE = Path(__file__).with_name("decision.c")
COMPILE = ("gcc", "-O2", "-Wall", "-Werror", "-c", "decision.c", "-o", "decision.o")
# The functions of decision.c, and what they are.
HASH, FIRST, ANY = "hash of flow and device", "the first choice", "the first choice, or a second"
STEPS = {"stage_hash": HASH, "first_choice": FIRST, "any_choice": ANY}
# What a decision may cost while no CPU is busy: the hash and the first choice.
MOST = 60


@dataclass(frozen=True)
class Step:
    """A part of a decision: ``least`` to ``most`` instructions."""

    name: str
    least: int
    most: int


def measure(series: Series) -> tuple[Step, ...]:
    """The steps of a decision. A loop counts once: one more turn is for sets of one or two CPUs."""
    header = patches.added_file(patches.load(series), HEADER)
    tools.require("gcc", "objdump")
    with tempfile.TemporaryDirectory(prefix="falcon-decision-") as directory:
        box = Path(directory)
        (box / Path(HEADER).name).write_text(header, encoding="utf-8")
        (box / SOURCE.name).write_bytes(SOURCE.read_bytes())
        output(list(COMPILE), f"compiling {HEADER}", cwd=box)
        compiled = functions(box / "decision.o")
    ways = {name: sequence(compiled[name], {}).ways for name in STEPS}
    return tuple(Step(STEPS[name], min(ways[name]), max(ways[name])) for name in STEPS)


def usual(steps: Sequence[Step]) -> int:
    """The most that a decision takes while no CPU is busy."""
    return sum(step.most for step in steps if step.name in (HASH, FIRST))
