# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's placement arithmetic, compiled here from the very file the patches add.

What goes in: ``net/core/falcon_pick.h`` as each series' patches create it.
"""

from __future__ import annotations

import itertools
import math
import random
import subprocess
from collections import Counter
from enum import IntEnum

import cffi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kernel import patches, series

PICK_H = "net/core/falcon_pick.h"

# What the kernel inlines, as functions that can be called from here.
FUNCTIONS = {
    "stage_hash": ("uint32_t", "uint32_t flow, uint32_t ifindex, uint32_t net"),
    "first_slot": ("uint32_t", "uint32_t flow, uint32_t stage, int hop, uint32_t nr"),
    "pick": (
        "uint32_t",
        "const struct falcon_slot *slots, uint32_t nr, uint32_t first, uint32_t hash, "
        "uint32_t from, uint32_t threshold, int two_choice, int *second",
    ),
    "gate_open": ("int", "uint32_t nr, uint32_t load, uint32_t threshold"),
}
SLOT = "struct falcon_slot { uint16_t cpu; uint16_t load; };"

U32 = st.integers(0, 2**32 - 1)
LOAD = st.integers(0, 100)
THRESHOLD = st.integers(1, 100)
CPUS = st.lists(st.integers(0, 8191), min_size=1, max_size=130, unique=True)
NOT_A_CPU = 65535


class Hop(IntEnum):
    """enum falcon_hop, in its order."""

    SPLIT = 0
    TUNNEL = 1
    DEVICE = 2


HOP = st.sampled_from(Hop)


@pytest.fixture(scope="module", params=series.names())
def pick(request, tmp_path_factory):
    """The arithmetic of one series; the compiler takes no warning, undefined behaviour traps."""
    header = patches.added_file(patches.load(series.load(request.param)), PICK_H)
    where = tmp_path_factory.mktemp("pick")
    (where / "falcon_pick.h").write_text(header)
    (where / "pick.c").write_text(
        "\n".join(["#include <stdint.h>", '#include "falcon_pick.h"', *_calls()])
    )
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    subprocess.run([*command, "-o", "pick.so", "pick.c"], cwd=where, check=True)
    return Pick(where / "pick.so")


def _calls():
    """C source: each inline function behind an ordinary one."""
    for name, (result, parameters) in FUNCTIONS.items():
        arguments = ", ".join(p.split()[-1].lstrip("*") for p in parameters.split(", "))
        yield f"{result} {name}({parameters}) {{ return falcon_{name}({arguments}); }}"


class Pick:
    """Python's view of the C functions."""

    def __init__(self, library):
        self.ffi = cffi.FFI()
        self.ffi.cdef(SLOT)
        for name, (result, parameters) in FUNCTIONS.items():
            self.ffi.cdef(f"{result} {name}({parameters});")
        self.lib = self.ffi.dlopen(str(library))

    def hash(self, flow: int, ifindex: int, net: int = 0) -> int:
        return self.lib.stage_hash(flow, ifindex, net)

    def gate_open(self, nr: int, load: int, threshold: int) -> bool:
        return bool(self.lib.gate_open(nr, load, threshold))

    def slots(self, cpus, loads):
        pairs = [list(pair) for pair in zip(cpus, loads, strict=True)]
        return self.ffi.new("struct falcon_slot[]", pairs)

    def first_slot(self, flow: int, stage: int, hop: Hop, nr: int) -> int:
        slot = self.lib.first_slot(flow, stage, hop, nr)
        assert 0 <= slot < nr
        return slot

    def cpu(self, cpus, loads, first, hash_, from_, threshold, two_choice=True) -> tuple[int, bool]:
        """CPU chosen, and whether it is the second choice. ``first`` is a slot, modulo the set."""
        second = self.ffi.new("int *")
        nr = len(cpus)
        slot = self.lib.pick(
            self.slots(cpus, loads), nr, first % nr, hash_, from_, threshold, two_choice, second
        )
        assert 0 <= slot < nr
        return cpus[slot], bool(second[0])


def chi_square_limit(cells: int, z: float = 4.75) -> float:
    """Value a fair spread over ``cells`` passes once in a million (Wilson-Hilferty)."""
    freedom = cells - 1
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


def assert_even(counts: Counter, cells: int) -> None:
    expected = counts.total() / cells
    assert expected >= 5
    seen = sum((n - expected) ** 2 / expected for n in counts.values())
    seen += (cells - len(counts)) * expected
    assert seen < chi_square_limit(cells), counts


# ---- the choice -------------------------------------------------------------------------

FIRST = st.integers(0, 129)


@given(CPUS, FIRST, U32, U32, st.randoms(use_true_random=False), THRESHOLD, st.booleans())
def test_the_cpu_is_always_one_of_the_set(
    pick, cpus, first, hash_, from_, rng, threshold, two_choice
):
    loads = [rng.randint(0, 100) for _ in cpus]
    pick.cpu(cpus, loads, first, hash_, from_, threshold, two_choice)


@given(CPUS, FIRST, U32)
def test_the_first_choice_is_the_slot_asked_for(pick, cpus, first, hash_):
    idle = [0] * len(cpus)
    assert pick.cpu(cpus, idle, first, hash_, NOT_A_CPU, 85) == (cpus[first % len(cpus)], False)


@given(CPUS, FIRST, U32, st.integers(0, 129))
def test_a_stage_never_stays_on_the_cpu_of_the_stage_before(pick, cpus, first, hash_, index):
    idle = [0] * len(cpus)
    here = cpus[index % len(cpus)]
    cpu, _ = pick.cpu(cpus, idle, first, hash_, here, 85)
    assert (cpu != here) == (len(cpus) > 1)


@given(CPUS, FIRST, U32, st.integers(0, 129))
def test_where_the_packet_comes_from_matters_only_on_collision(pick, cpus, first, hash_, index):
    idle = [0] * len(cpus)
    here = cpus[index % len(cpus)]
    anywhere, _ = pick.cpu(cpus, idle, first, hash_, NOT_A_CPU, 85)
    if anywhere != here:
        assert pick.cpu(cpus, idle, first, hash_, here, 85) == (anywhere, False)


@given(CPUS, FIRST, U32, U32, THRESHOLD)
def test_a_busy_first_choice_gives_another_cpu_if_there_is_one(
    pick, cpus, first, hash_, from_, threshold
):
    """Busy or not: the second choice is taken as it is (Algorithm 1, line 25)."""
    busy = [100] * len(cpus)
    chosen, _ = pick.cpu(cpus, busy, first, hash_, from_, threshold, two_choice=False)
    cpu, second = pick.cpu(cpus, busy, first, hash_, from_, threshold)
    others = set(cpus) - {chosen, from_}
    assert second == (cpu != chosen) == bool(others)
    if others:
        assert cpu in others


@given(CPUS, FIRST, U32, U32, LOAD, THRESHOLD)
def test_busy_means_at_or_above_the_threshold(pick, cpus, first, hash_, from_, load, threshold):
    chosen, _ = pick.cpu(cpus, [0] * len(cpus), first, hash_, from_, threshold)
    loads = [load if cpu == chosen else 0 for cpu in cpus]
    _, second = pick.cpu(cpus, loads, first, hash_, from_, threshold)
    if load < threshold:
        assert not second
    elif set(cpus) - {chosen, from_}:
        assert second


@given(CPUS, FIRST, U32, U32, st.randoms(use_true_random=False))
def test_static_hashing_does_not_look_at_the_load(pick, cpus, first, hash_, from_, rng):
    loads = [rng.randint(0, 100) for _ in cpus]
    idle = [0] * len(cpus)
    assert pick.cpu(cpus, loads, first, hash_, from_, 1, two_choice=False) == pick.cpu(
        cpus, idle, first, hash_, from_, 1
    )


@given(CPUS, FIRST, U32, THRESHOLD, st.randoms(use_true_random=False))
def test_the_first_choice_stays_while_no_cpu_is_busy(pick, cpus, first, hash_, threshold, rng):
    chosen = set()
    for _ in range(5):
        loads = [rng.randint(0, threshold - 1) for _ in cpus]
        chosen.add(pick.cpu(cpus, loads, first, hash_, NOT_A_CPU, threshold))
    assert chosen == {(cpus[first % len(cpus)], False)}


# ---- the first choice ------------------------------------------------------------------


@given(U32, U32, HOP, st.integers(1, 8191))
def test_the_first_slot_is_one_of_the_set(pick, flow, stage, hop, nr):
    pick.first_slot(flow, stage, hop, nr)


def rps_slot(flow: int, nr: int) -> int:
    """reciprocal_scale(), by which get_rps_cpu() takes a CPU of its mask."""
    return flow * nr >> 32


@given(U32, U32, st.integers(1, 8191))
def test_the_stages_of_a_flow_are_on_different_cpus(pick, flow, stage, nr):
    """That of RPS among them; with fewer than four CPUs, as many as there are."""
    slots = {rps_slot(flow, nr), *(pick.first_slot(flow, stage, hop, nr) for hop in Hop)}
    assert len(slots) == min(nr, 4)


@given(U32, U32, st.integers(2, 8191))
def test_stages_that_follow_each_other_are_never_on_one_cpu(pick, flow, stage, nr):
    way = (pick.first_slot(flow, stage, Hop.SPLIT, nr), rps_slot(flow, nr))
    way += tuple(pick.first_slot(flow, stage, hop, nr) for hop in (Hop.TUNNEL, Hop.DEVICE))
    assert all(a != b for a, b in itertools.pairwise(way))


@pytest.mark.parametrize("hop", Hop)
@pytest.mark.parametrize("nr", [2, 3, 4, 6, 8, 17, 64, 128])
def test_flows_spread_evenly_over_the_cpus(pick, hop, nr):
    rng = random.Random(1)
    flows = (rng.getrandbits(32) for _ in range(100 * nr))
    counts = Counter(pick.first_slot(flow, pick.hash(flow, 7), hop, nr) for flow in flows)
    assert_even(counts, nr)


@pytest.mark.parametrize("nr", [5, 6, 8, 17])
def test_devices_of_one_flow_spread_evenly_over_what_other_stages_leave(pick, nr):
    """So do containers that one flow's packets go to, and devices of one container's way."""
    for flow in (0x1, 0xDEADBEEF, 0x80000000):
        counts = Counter(
            pick.first_slot(flow, pick.hash(flow, ifindex), Hop.DEVICE, nr)
            for ifindex in range(1, 100 * nr)
        )
        assert_even(counts, nr - 3)


@pytest.mark.parametrize("nr", [3, 4, 8])
@pytest.mark.parametrize("devices", [(2, 3), (2, 10), (5, 1029)])
def test_second_choices_at_two_stages_have_nothing_to_do_with_each_other(pick, nr, devices):
    """Joint spread of the hashes they are made of: with a linear one most pairs never occur."""
    rng = random.Random(2)
    counts = Counter()
    for _ in range(100 * nr * nr):
        flow = rng.getrandbits(32)
        counts[tuple(pick.hash(flow, device) * nr >> 32 for device in devices)] += 1
    assert_even(counts, nr * nr)


@pytest.mark.parametrize("nr", [3, 4, 8])
def test_what_one_cpu_may_not_have_is_spread_over_all_others(pick, nr):
    rng = random.Random(3)
    cpus, idle = list(range(nr)), [0] * nr
    counts = Counter(
        pick.cpu(cpus, idle, 1, rng.getrandbits(32), 1, 85)[0] for _ in range(200 * nr)
    )
    assert set(counts) == set(cpus) - {1}
    assert_even(counts, nr - 1)


@pytest.mark.parametrize("nr", [4, 8])
def test_second_choices_spread_over_the_others(pick, nr):
    rng = random.Random(4)
    cpus = list(range(nr))
    busy = [100] * nr
    counts = Counter()
    for i in range(200 * nr):
        cpu, second = pick.cpu(cpus, busy, i, rng.getrandbits(32), NOT_A_CPU, 85)
        assert second
        counts[cpu] += 1
    assert_even(counts, nr)


def test_network_namespaces_with_equal_ifindexes_get_different_hashes(pick):
    assert len({pick.hash(0x1234, 2, net) for net in range(1000)}) == 1000


@given(st.integers(0, 8192), LOAD, THRESHOLD)
def test_gate(pick, nr, load, threshold):
    open_ = nr > 0 and (threshold == 100 or load < threshold)
    assert pick.gate_open(nr, load, threshold) == open_
