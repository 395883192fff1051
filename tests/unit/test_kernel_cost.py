# SPDX-License-Identifier: GPL-2.0-only
"""What a hook costs when off, read from objects compiled here."""

from __future__ import annotations

import subprocess
from collections import Counter

import pytest

from harness.kernel import cost, decision, patches, series
from harness.kernel.disassembly import Sequence, functions, key_sites, sequence

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


LOOP = "int rx(int a, int b) { if (b) while (a > 3) a = a / 2 + (a & 1); return a; }\n"


def test_the_ways_through_a_function(compiled):
    always = rx(compiled(ALWAYS))
    assert always.ways.total() == 2
    assert max(always.ways) < len(always.lines)
    assert rx(compiled(PLAIN)).ways == {len(rx(compiled(PLAIN)).lines): 1}
    assert rx(compiled(HOOKED)).ways == rx(compiled(PLAIN)).ways


def test_ways_are_counted_past_a_loop(compiled):
    assert 2 <= rx(compiled(LOOP)).ways.total() <= 4


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        ({5: 1, 9: 2}, {5: 1, 9: 2}, 0),
        ({5: 1, 9: 2}, {4: 1, 9: 2}, 0),
        ({5: 1, 9: 2}, {4: 1, 8: 1, 9: 1}, 0),
        ({5: 1, 9: 2}, {5: 1, 9: 1, 10: 1}, 1),
        ({5: 1, 9: 2}, {7: 1, 8: 2}, 2),
        ({5: 1, 9: 2}, {4: 1, 7: 2}, -1),
    ],
)
def test_what_is_added_is_added_on_some_way(before, after, added):
    """12 instructions before and 14 after: some of them for the one way, some for the other."""
    old, new = (Sequence(("",) * n, 0, Counter(w)) for n, w in ((12, before), (14, after)))
    assert cost._added(old, new) == added


def test_the_same_instructions_add_nothing():
    """Where a loop is entered may depend on the layout, and so the ways do."""
    same = ("push", "pop")
    assert cost._added(Sequence(same, 0, Counter({2: 1})), Sequence(same, 0, Counter({3: 1}))) == 0


def test_without_the_same_ways_instructions_count():
    old, new = Sequence(("",) * 12, 0, Counter({9: 2})), Sequence(("",) * 14, 0, Counter({9: 3}))
    assert cost._added(old, new) == 2


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


# ---- a decision ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", series.names())
def test_a_usual_decision_takes_no_more_than_it_may(name):
    steps = decision.measure(series.load(name))
    assert [step.name for step in steps] == list(decision.STEPS.values())
    assert all(0 < step.least <= step.most for step in steps)
    assert decision.usual(steps) <= decision.MOST


def test_a_step_that_became_dearer_is_seen(monkeypatch):
    before = decision.measure(series.load())
    real = patches.added_file

    def dearer(stack, name):
        multiply = "return val * FALCON_GOLDEN_RATIO;"
        text = real(stack, name)
        assert multiply in text
        return text.replace(multiply, "return (val * 7 ^ val >> 3) * FALCON_GOLDEN_RATIO + 5;")

    monkeypatch.setattr(patches, "added_file", dearer)
    after = decision.measure(series.load())
    assert decision.usual(after) > decision.usual(before)
