# SPDX-License-Identifier: GPL-2.0-only
"""What a compiled function does, told apart from where the compiler put it.

In: an object file. Out: for each function the sequence of its instructions in
an order that does not depend on the layout: from the entry on, what comes next
before what is jumped to. Two functions with the same sequence do the same.

The no-op of a static key is not in the sequence, nor is what can be reached only
when the key is on; how many there are is counted (x86: ``__jump_table``,
arch/x86/include/asm/jump_label.h).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from harness.kernel.process import output

_FUNCTION = re.compile(r"^[0-9a-f]+ <(\S+)>:$")
_INSTRUCTION = re.compile(r"^ +([0-9a-f]+):\t(.*)$")
_RELOCATION = re.compile(r"^\t+[0-9a-f]+: R_\w+\t(.*)$")
_SECTION = re.compile(r"^Disassembly of section (\S+):$")
_TARGET = re.compile(r"^(j\w+|call|loop\w*) +([0-9a-f]+) <([^>]*)>$")
_TABLE_ROW = re.compile(r"^[0-9a-f]+ \S+ +([^+\s]+)(?:\+0x([0-9a-f]+))?$")
# An address that the linker will fill in, and objdump's remark on what it would be now.
_UNLINKED = re.compile(r"\s+# [0-9a-f]+ <.*$")
_ENDS = ("ret", "jmp", "ud2")


@dataclass
class Instruction:
    """``text`` without addresses; ``target`` of a jump inside the function, else None."""

    address: int
    text: str
    target: int | None = None

    @property
    def mnemonic(self) -> str:
        return self.text.split(maxsplit=1)[0]


@dataclass(frozen=True)
class Function:
    """A function: its section, and its instructions by address."""

    name: str
    section: str
    code: dict[int, Instruction] = field(default_factory=dict)


@dataclass(frozen=True)
class Sequence:
    """What a function does while a static key is off; ``no_ops`` are the key's.

    ``ways``: how many ways there are through it, loops left out, by how many
    instructions they take.
    """

    lines: tuple[str, ...]
    no_ops: int
    ways: Counter[int] = field(default_factory=Counter)


def functions(object_file: Path) -> dict[str, Function]:
    """All functions of an object file, by name."""
    text = output(
        ["objdump", "-dr", "--no-show-raw-insn", object_file], f"disassembling {object_file}"
    )
    return {function.name: function for function in _parse(text.splitlines())}


def _parse(lines: Iterable[str]) -> Iterator[Function]:
    section, function, last = "", None, None
    for line in lines:
        if match := _SECTION.match(line):
            section = match[1]
        elif match := _FUNCTION.match(line):
            if function:
                yield function
            function = Function(match[1], section)
        elif function and (match := _INSTRUCTION.match(line)):
            last = _instruction(int(match[1], 16), match[2].strip())
            function.code[last.address] = last
        elif last and (match := _RELOCATION.match(line)):
            # The linker's to fill in: what objdump took for a target is none.
            text = last.text if last.target is None else last.mnemonic
            last.text, last.target = f"{text} [{match[1]}]", None
    if function:
        yield function


def _instruction(address: int, text: str) -> Instruction:
    text = _UNLINKED.sub("", text)
    if match := _TARGET.match(text):
        callee = f" {match[3]}" if match[1] == "call" else ""
        return Instruction(address, match[1] + callee, int(match[2], 16))
    return Instruction(address, " ".join(text.split()))


def key_sites(object_file: Path, key: str) -> dict[str, set[int]]:
    """Where the static key ``key`` has its no-ops: addresses by section.

    An entry of the table is three relocations: the no-op's place, the place it
    jumps to when the key is on, and the key.
    """
    text = output(["objdump", "-r", object_file], f"reading the relocations of {object_file}")
    _, _, table = text.partition("RELOCATION RECORDS FOR [__jump_table]:\n")
    table = table.partition("RELOCATION RECORDS FOR")[0]
    rows = [match for line in table.splitlines() if (match := _TABLE_ROW.match(line))]
    sites: dict[str, set[int]] = {}
    for place, _, of in zip(*[iter(rows)] * 3, strict=True):
        if of[1] == key:
            sites.setdefault(place[1], set()).add(int(place[2] or "0", 16))
    return sites


def sequence(function: Function, sites: dict[str, set[int]]) -> Sequence:
    """The function's instructions in an order that its layout does not change."""
    no_ops = sites.get(function.section, set())
    addresses = sorted(function.code)
    following = dict(pairwise(addresses))
    seen: dict[int, int] = {}
    lines: list[str] = []
    passed = 0
    to_visit = addresses[:1]
    while to_visit:
        at: int | None = to_visit.pop()
        while at is not None:
            if at in seen:
                lines.append(f"-> {seen[at]}")
                break
            instruction = function.code[at]
            seen[at] = len(lines)
            target = instruction.target if instruction.target in function.code else None
            if at in no_ops:
                passed += 1
                at = following.get(at)
            elif instruction.mnemonic == "jmp" and target is not None:
                at = target
            else:
                lines.append(instruction.text)
                if target is not None and instruction.mnemonic != "call":
                    to_visit.append(target)
                at = None if instruction.mnemonic in _ENDS else following.get(at)
    return Sequence(tuple(lines), passed, _ways(function, no_ops))


def _ways(function: Function, no_ops: set[int]) -> Counter[int]:
    """See `Sequence`. What only says where code was put does not count: no-ops and jumps.

    From the last instruction reached back to the entry, so each is looked at once.
    """
    addresses = sorted(function.code)
    following = dict(pairwise(addresses))
    graph = {at: _next_of(function, at, following.get(at), at in no_ops) for at in addresses}
    ways: dict[int, Counter[int]] = {}
    for at in _from_the_ends(graph, addresses[0]):
        own = sum((ways[to] for to in graph[at] if to in ways), Counter()) or Counter({0: 1})
        counts = at not in no_ops and not _is_inner_jump(function, at)
        ways[at] = Counter({length + counts: number for length, number in own.items()})
    return ways[addresses[0]]


def _is_inner_jump(function: Function, at: int) -> bool:
    instruction = function.code[at]
    return instruction.mnemonic == "jmp" and instruction.target in function.code


def _next_of(function: Function, at: int, following: int | None, is_no_op: bool) -> list[int]:
    """Where a function may go on after an instruction."""
    instruction = function.code[at]
    found = [] if instruction.mnemonic in _ENDS else [following]
    if not is_no_op and instruction.mnemonic != "call":
        found.append(instruction.target)
    return [to for to in found if to in function.code]


def _from_the_ends(graph: dict[int, list[int]], entry: int) -> Iterator[int]:
    """What can be reached from ``entry``, each after all it leads to, but for loops."""
    seen, stack = {entry}, [(entry, iter(graph[entry]))]
    while stack:
        at, rest = stack[-1]
        for to in rest:
            if to not in seen:
                seen.add(to)
                stack.append((to, iter(graph[to])))
                break
        else:
            stack.pop()
            yield at
