# SPDX-License-Identifier: GPL-2.0-only
"""What a hook costs when off, read from objects compiled here."""

from __future__ import annotations

import subprocess

import pytest

from harness.kernel import cost
from harness.kernel.disassembly import functions, key_sites, sequence

# A static key as x86 has it: a five-byte no-op, and an entry in the jump table.
KEY = """\
struct key { int on; } falcon_key, other_key;
static inline __attribute__((always_inline)) int enabled(struct key *key)
{
    asm goto("1: .byte 0x0f,0x1f,0x44,0x00,0x00\\n"
             ".pushsection __jump_table, \\"aw\\"\\n"
             ".balign 8\\n .long 1b - ., %l[yes] - .\\n .quad %c0 - .\\n"
             ".popsection" : : "i" (key) : : yes);
    return 0;
yes:
    return 1;
}
"""
STOCK = "int stock(int);\nint steer(int);\n"
PLAIN = STOCK + "int rx(int a) { return stock(a) + 1; }\n"
HOOKED = KEY + STOCK + "int rx(int a) { if (enabled(&falcon_key)) return steer(a); "
HOOKED += "return stock(a) + 1; }\n"
OTHER_KEY = HOOKED.replace("enabled(&falcon_key)", "enabled(&other_key)")
ALWAYS = STOCK + "int rx(int a) { if (a & 64) return steer(a); return stock(a) + 1; }\n"


@pytest.fixture
def compiled(tmp_path):
    def compile_(text):
        (tmp_path / "a.c").write_text(text)
        flags = ["-c", "-O2", "-fno-pic", "-fcf-protection=none"]
        subprocess.run(["gcc", *flags, "-o", "a.o", "a.c"], cwd=tmp_path, check=True)
        return tmp_path / "a.o"

    return compile_


def rx(file):
    return sequence(functions(file)["rx"], key_sites(file, "falcon_key"))


def test_a_static_key_that_is_off_costs_its_no_op(compiled):
    plain, hooked = rx(compiled(PLAIN)), rx(compiled(HOOKED))
    assert hooked.lines == plain.lines
    assert (plain.no_ops, hooked.no_ops) == (0, 1)


def test_another_keys_no_op_is_an_instruction(compiled):
    assert rx(compiled(OTHER_KEY)).no_ops == 0
    assert len(rx(compiled(OTHER_KEY)).lines) > len(rx(compiled(PLAIN)).lines)


def test_a_branch_is_seen(compiled):
    assert len(rx(compiled(ALWAYS)).lines) > len(rx(compiled(PLAIN)).lines)


def test_layout_does_not_matter(compiled):
    """The same function, behind another and so at other addresses."""
    moved = rx(compiled("int before(int a) { return a * 3; }\n" + PLAIN))
    assert moved == rx(compiled(PLAIN))


def test_a_loop_ends(compiled):
    loop = rx(compiled("int rx(int a) { while (a > 3) a = a / 2 + (a & 1); return a; }\n"))
    assert any(line.startswith("-> ") for line in loop.lines)


# Calls that need no linker: the callees are in the same section.
LOCAL = """\
__attribute__((noipa)) static int one(int a) { return a * 3; }
__attribute__((noipa)) static int two(int a) { return a * 5; }
int rx(int a) { return %s(a) + 1; }
int other(int a) { return one(a) + two(a); }
"""
LINE = 'void warn(const char *, int);\nint rx(int a) { if (a) warn("f", %d); return a; }\n'


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (PLAIN, PLAIN, True),
        (PLAIN, ALWAYS, False),
        (PLAIN, HOOKED, False),
        (LINE % 5000, LINE % 5026, True),
        (LINE % 5000, LINE % 4000, False),
        (LINE % 5, LINE % 7, False),
        (PLAIN, PLAIN.replace("stock(a)", "steer(a)"), False),
        (LOCAL % "one", LOCAL % "two", False),
    ],
    ids=[
        *("same", "a branch", "a no-op", "a line number", "another number", "a constant"),
        *("another call", "another call in the file"),
    ],
)
def test_same_but_for_line_numbers(compiled, before, after, same):
    first = rx(compiled(before))
    assert cost._same(first, rx(compiled(after))) is same


def test_a_function_that_is_gone_or_new_is_a_change(compiled):
    only = rx(compiled(PLAIN))
    assert not cost._same(only, None)
    assert not cost._same(None, only)
