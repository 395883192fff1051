# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's placement arithmetic, to be called from here.

In: ``net/core/falcon_pick.h`` as a patch series adds it. Out: a `CpuSet`, which places as
the kernel does, by calling what the kernel calls. Nothing of the arithmetic is written down
again; how the kernel calls it is in ``place()`` below, and nowhere else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import cffi  # type: ignore[import-untyped]

from harness import tools
from harness.errors import FalconError
from harness.kernel import patches, series
from harness.kernel.cache import digest
from harness.kernel.process import capture
from harness.paths import cache_dir

HEADER = "net/core/falcon_pick.h"
COMPILE = ("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
# CPU ids are 16 bits wide in struct falcon_slot.
MAX_CPU = 0xFFFF

# What the kernel inlines, as functions that can be called.
_DECLARED = """
struct falcon_slot { uint16_t cpu; uint16_t load; };
uint32_t stage_hash(uint32_t flow, uint32_t ifindex, uint32_t net);
uint32_t place(const struct falcon_slot *slots, uint32_t nr, uint32_t flow, uint32_t ifindex,
               uint32_t net, int kind, uint32_t from, uint32_t threshold, int two_choice,
               int *second);
int gate_open(uint32_t nr, uint32_t load, uint32_t threshold);
"""
# place() is what falcon_want() of falcon.c does while the gate is open.
_SOURCE = """
#include <stdint.h>
#include "falcon_pick.h"

_Static_assert(sizeof(struct falcon_slot) == 4, "as declared in pick.py");

uint32_t stage_hash(uint32_t flow, uint32_t ifindex, uint32_t net)
{ return falcon_stage_hash(flow, ifindex, net); }

/* By `Kind` */
static const enum falcon_hop hops[] = {
    FALCON_HOP_DEVICE, FALCON_HOP_TUNNEL, FALCON_HOP_SPLIT,
};

uint32_t place(const struct falcon_slot *slots, uint32_t nr, uint32_t flow, uint32_t ifindex,
               uint32_t net, int kind, uint32_t from, uint32_t threshold, int two_choice,
               int *second)
{
    uint32_t hash = falcon_stage_hash(flow, ifindex, net);
    uint32_t first = falcon_first_slot(flow, hash, hops[kind], nr);

    return falcon_pick(slots, nr, first, hash, from, threshold, two_choice, second);
}

int gate_open(uint32_t nr, uint32_t load, uint32_t threshold)
{ return falcon_gate_open(nr, load, threshold); }
"""


class Kind(IntEnum):
    """How a packet comes to its next stage: enum falcon_kind of ``net/core/falcon.c``."""

    PLAIN = 0  # netif_rx()
    TUNNEL = 1  # gro_cells_receive()
    NAPI = 2  # napi_gro_receive(), of a split device


@dataclass(frozen=True)
class Device:
    """A network device: its index, and what tells its network namespace from others."""

    ifindex: int
    net: int = 0


class CpuSet:
    """The Falcon CPUs, idle at first: what of struct falcon_set the arithmetic reads.

    ``threshold`` is net.core.falcon_load_threshold, ``kernel`` the name of a series.
    """

    def __init__(
        self,
        cpus: Sequence[int],
        *,
        threshold: int,
        two_choice: bool,
        kernel: str = series.DEFAULT,
    ):
        if not cpus or not all(0 <= cpu < MAX_CPU for cpu in cpus):
            raise FalconError(f"{list(cpus)} is no set of CPUs", f"ids are 0 to {MAX_CPU - 1}")
        ffi = cffi.FFI()
        ffi.cdef(_DECLARED)
        self._lib = ffi.dlopen(str(build(kernel)))
        self._slots = ffi.new("struct falcon_slot[]", [(cpu, 0) for cpu in cpus])
        self._second = ffi.new("int *")
        self._cpus, self._threshold, self._two_choice = tuple(cpus), threshold, two_choice

    def stage_hash(self, flow: int, device: Device) -> int:
        """The hash of a flow at a stage, 32 bits; its high bits choose the flow's word."""
        return int(self._lib.stage_hash(flow, device.ifindex, device.net))

    def place(self, flow: int, device: Device, kind: Kind, here: int) -> tuple[int, bool]:
        """The CPU for a packet that enters ``device``, and whether it is the second choice.

        ``flow``: the packet's 32-bit hash; ``here``: the CPU it comes from.
        """
        slot = self._lib.place(
            self._slots,
            len(self._cpus),
            flow,
            device.ifindex,
            device.net,
            kind,
            here,
            self._threshold,
            self._two_choice,
            self._second,
        )
        return self._cpus[slot], bool(self._second[0])

    def set_loads(self, loads: Sequence[int]) -> bool:
        """Take the loads, in percent, in the order of the CPUs; whether the gate is open."""
        for slot, load in zip(self._slots, loads, strict=True):
            slot.load = load
        average = sum(loads) // len(loads)
        return bool(self._lib.gate_open(len(loads), average, self._threshold))


@cache
def build(kernel: str) -> Path:
    """The arithmetic of a series as a library, compiled if this very text was not yet."""
    header = patches.added_file(patches.load(series.load(kernel)), HEADER)
    key = digest([header, _SOURCE, " ".join(COMPILE)])
    library = cache_dir() / "tools" / f"pick-{key}.so"
    if not library.exists():
        tools.require("gcc")
        library.parent.mkdir(parents=True, exist_ok=True)
        _compile(header, library)
    return library


def _compile(header: str, library: Path) -> None:
    """Compile to ``library``, which is there whole or not at all."""
    with tempfile.TemporaryDirectory(dir=library.parent) as directory:
        box = Path(directory)
        (box / Path(HEADER).name).write_text(header, encoding="utf-8")
        (box / "pick.c").write_text(_SOURCE, encoding="utf-8")
        done = capture([*COMPILE, "-o", "pick.so", "pick.c"], cwd=box)
        if done.returncode:
            raise FalconError(
                f"{HEADER} does not compile",
                next((line for line in done.stderr.splitlines() if "error" in line), "gcc failed"),
                f"if its functions have changed, {Path(__file__).name} must follow",
            )
        (box / "pick.so").replace(library)
