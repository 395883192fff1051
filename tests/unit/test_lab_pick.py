# SPDX-License-Identifier: GPL-2.0-only
"""The model places as the kernel does: against the library that the arithmetic is tested by.

Nothing here knows the rule of placement; `test_falcon_pick` does.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_falcon_pick import CPUS, LOAD, THRESHOLD, U32, Hop, pick  # noqa: F401, a fixture

from harness.errors import FalconError
from harness.kernel import patches, series
from harness.lab import pick as modelled
from harness.lab import pipeline, scenario
from harness.lab.pick import CpuSet, Device, Kind

KINDS = st.sampled_from(Kind)
HOPS = {Kind.PLAIN: Hop.DEVICE, Kind.TUNNEL: Hop.TUNNEL, Kind.NAPI: Hop.SPLIT}
DEVICES = st.builds(Device, st.integers(1, 2**31 - 1), U32)


def added(name: str) -> str:
    return patches.added_file(patches.load(series.load()), name)


@given(st.data(), CPUS, THRESHOLD, st.booleans(), U32, DEVICES, KINDS)
def test_placed_as_by_the_kernels_arithmetic(
    pick,  # noqa: F811
    data,
    cpus,
    threshold,
    two_choice,
    flow,
    device,
    kind,
):
    loads = data.draw(st.lists(LOAD, min_size=len(cpus), max_size=len(cpus)))
    here = data.draw(st.sampled_from(cpus))
    cpu_set = CpuSet(cpus, threshold=threshold, two_choice=two_choice)
    is_open = cpu_set.set_loads(loads)
    hash_ = pick.hash(flow, device.ifindex, device.net)
    first = pick.first_slot(flow, hash_, HOPS[kind], len(cpus))
    expected = pick.cpu(cpus, loads, first, hash_, here, threshold, two_choice)
    assert cpu_set.place(flow, device, kind, here) == expected
    assert is_open == pick.gate_open(len(cpus), sum(loads) // len(cpus), threshold)


def test_hops_are_those_of_the_kernel():
    text = added("net/core/falcon.c")
    body = re.search(r"^static enum falcon_hop falcon_hop_of\(.*?^\}", text, re.M | re.S)[0]
    # Of a virtual device's NAPI it is another one, which is not simulated.
    known = dict(re.findall(r"case FALCON_(\w+):\s+return [^;]*FALCON_HOP_(\w+);", body))
    other = re.search(r"default:\s+return FALCON_HOP_(\w+);", body)[1]
    assert {kind: known.get(kind.name, other) for kind in Kind} == {
        kind: hop.name for kind, hop in HOPS.items()
    }


@given(U32, DEVICES)
def test_words_are_found_by_the_kernels_hash(pick, flow, device):  # noqa: F811
    cpu_set = CpuSet([1], threshold=85, two_choice=True)
    assert cpu_set.stage_hash(flow, device) == pick.hash(flow, device.ifindex, device.net)


def test_all_that_falcon_calls_of_the_arithmetic_is_called_here():
    """Or placement has got a step that the model leaves out."""
    defined = set(re.findall(r"^static inline \w+ (falcon_\w+)\(", added(modelled.HEADER), re.M))
    called = {name for name in defined if re.search(rf"\b{name}\(", added("net/core/falcon.c"))}
    here = {name for name in defined if f"{name}(" in modelled._SOURCE}
    assert {"falcon_pick", "falcon_gate_open"} <= called
    assert called <= here, f"pick.py's place() must follow falcon.c: {called - here}"


def test_numbers_that_the_model_has_from_falcon():
    text = added("net/core/falcon.c")
    kinds = re.search(r"enum falcon_kind \{(.*?)\}", text, re.S)[1]
    assert re.findall(r"FALCON_(\w+),", kinds)[: len(Kind)] == [kind.name for kind in Kind]
    defines = dict(re.findall(r"#define FALCON_(\w+_BITS)\t+(\d+)", text))
    assert int(defines["FLOW_BITS"]) == pipeline.FLOW_BITS
    assert int(defines["STAGE_FLOW_BITS"]) == pipeline.STAGE_FLOW_BITS
    defaults = dict(re.findall(r"\.(threshold|interval_ms)\t*= (\d+)", text))
    assert int(defaults["threshold"]) == pipeline.THRESHOLD
    assert int(defaults["interval_ms"]) == 1000 * scenario.Scenario.interval


@pytest.mark.parametrize("cpus", [[], [70_000], [-1]])
def test_no_set_of_cpus(cpus):
    with pytest.raises(FalconError, match="no set of CPUs"):
        CpuSet(cpus, threshold=85, two_choice=True)


def test_a_library_is_compiled_once(cache_home):
    modelled.build.cache_clear()
    try:
        library = modelled.build(series.DEFAULT)
        assert library.is_relative_to(cache_home)
        modelled.build.cache_clear()
        before = library.stat()
        assert modelled.build(series.DEFAULT).stat() == before
        assert list(library.parent.iterdir()) == [library]
    finally:
        modelled.build.cache_clear()


def test_functions_that_have_changed_are_one_line(cache_home, tmp_path):
    with pytest.raises(FalconError, match=r"does not compile: .*error: .*; if its"):
        modelled._compile("struct falcon_slot;\n", tmp_path / "pick.so")
    assert list(tmp_path.glob("pick*")) == []
