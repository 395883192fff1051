# SPDX-License-Identifier: GPL-2.0-only
"""What a series costs where it is not used, read from the object code.

In: a series and a source. Out: for the functions of the fast path the number of
instructions in the unpatched kernel and in the patched one with Falcon built in
and off, and whether the patched one without CONFIG_NET_FALCON is the same.
Compiled with jump labels, as a real kernel is.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from harness.kernel import cache
from harness.kernel.check import Prefix, PrefixBuilder
from harness.kernel.disassembly import Sequence, functions, key_sites, sequence
from harness.kernel.series import Series
from harness.kernel.source import Source

KEY = "falcon_key"
# A packet's way through the hooks, and what runs beside it in the same files.
# Before Linux 5.19 GRO is in dev.c.
FAST_PATH = {
    "net/core/dev.o": (
        "netif_rx_internal",
        "netif_rx",
        "net_rx_action",
        "napi_complete_done",
        "process_backlog",
        "net_rps_send_ipi",
        "napi_gro_receive",
        "napi_gro_frags",
    ),
    "net/core/gro.o": ("napi_gro_receive", "napi_gro_frags", "dev_gro_receive"),
    "net/core/gro_cells.o": ("gro_cells_receive", "gro_cell_poll"),
}
# Only dev.c has warnings with line numbers, all far below this one.
SHORT_FILE = 200
_IMMEDIATE = re.compile(r"\$0x([0-9a-f]+)")


@dataclass(frozen=True)
class Cost:
    """One function, in instructions.

    ``vanilla`` unpatched; ``off`` with Falcon built in and switched off, without
    the ``no_ops`` of its static key; ``added``: how many more a packet executes,
    besides the no-ops; ``same_without`` if CONFIG_NET_FALCON=n leaves it as it was.
    """

    function: str
    vanilla: int
    off: int
    no_ops: int
    added: int
    same_without: bool


@dataclass(frozen=True)
class Report:
    """``costs`` of the fast path; ``changed`` functions, of ``compared``, with Falcon left out.

    What may change there is the line number that a warning carries.
    """

    costs: tuple[Cost, ...]
    compared: int
    changed: tuple[str, ...]

    @property
    def dearer(self) -> tuple[Cost, ...]:
        """Functions that pay more than no-ops while Falcon is built in and off."""
        return tuple(cost for cost in self.costs if cost.added > 0)


def measure(series: Series, source: Source) -> Report:
    """Compile the fast path's files three times, and compare."""
    with tempfile.TemporaryDirectory(prefix="falcon-cost-") as directory:
        box = Path(directory)
        builder = PrefixBuilder(series, source)
        whole = tuple(builder.stack)
        builds = {"vanilla": Prefix((), False), "n": Prefix(whole, False), "y": Prefix(whole, True)}
        for name, prefix in builds.items():
            with cache.lock(builder.tree.lock):
                made = builder.compile(prefix)
                for file in filter(lambda file: (made / file).exists(), FAST_PATH):
                    (box / name / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(made / file, box / name / file)
        return _compare(box)


def _compare(box: Path) -> Report:
    costs: list[Cost] = []
    changed: list[str] = []
    compared = 0
    for file, names in FAST_PATH.items():
        if not (box / "vanilla" / file).exists():
            continue
        vanilla, without = _sequences(box / "vanilla" / file), _sequences(box / "n" / file)
        on = _sequences(box / "y" / file)
        names_of_both = vanilla.keys() | without.keys()
        same = {n: _same(vanilla.get(n), without.get(n)) for n in sorted(names_of_both)}
        compared += len(same)
        changed += [f"{file}: {name}" for name, is_same in same.items() if not is_same]
        # A function may be inlined into its only caller, in this version or by this compiler.
        costs += [
            _cost(name, vanilla, on, same) for name in names if name in vanilla and name in on
        ]
    return Report(tuple(costs), compared, tuple(changed))


def _cost(
    name: str, vanilla: dict[str, Sequence], on: dict[str, Sequence], same: dict[str, bool]
) -> Cost:
    before, after = vanilla[name], on[name]
    counts = len(before.lines), len(after.lines)
    return Cost(name, *counts, after.no_ops, _added(before, after), same[name])


def _added(before: Sequence, after: Sequence) -> int:
    """By how much the ways through a function are longer at most, the nth longest each.

    A compiler that uses registers in another way moves instructions from a way
    common to all into some of them: more of them in all, and none more on any way.
    If there are not as many ways as before, what counts is how many instructions.
    """
    if before.lines == after.lines:
        return 0
    if before.ways.total() != after.ways.total():
        return len(after.lines) - len(before.lines)
    most, old, new = None, sorted(before.ways.items()), sorted(after.ways.items())
    while old:
        (length, left), (other, others) = old.pop(), new.pop()
        most = other - length if most is None else max(most, other - length)
        if left > others:
            old.append((length, left - others))
        elif others > left:
            new.append((other, others - left))
    return most or 0


def _sequences(file: Path) -> dict[str, Sequence]:
    sites = key_sites(file, KEY)
    return {name: sequence(function, sites) for name, function in functions(file).items()}


def _same(before: Sequence | None, after: Sequence | None) -> bool:
    """Whether two functions do the same, but for the line numbers in their warnings."""
    if before is None or after is None or before.no_ops != after.no_ops:
        return False
    pairs = zip_longest(before.lines, after.lines)
    return all(old == new or _line_number_moved(old, new) for old, new in pairs)


def _line_number_moved(old: str | None, new: str | None) -> bool:
    if old is None or new is None or _IMMEDIATE.sub("$", old) != _IMMEDIATE.sub("$", new):
        return False
    return all(a == b or _is_line_moved(int(a, 16), int(b, 16)) for a, b in _immediates(old, new))


def _is_line_moved(old: int, new: int) -> bool:
    """Down by a few lines, in a long file; no small number, which may be any constant."""
    return old > SHORT_FILE and 0 < new - old < 100


def _immediates(old: str, new: str) -> Iterator[tuple[str, str]]:
    return zip(_IMMEDIATE.findall(old), _IMMEDIATE.findall(new), strict=True)
