# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own network selftests, on the stock kernel and on the patched one.

``catalog``: which are run. ``build``: their scripts and programs, out of a kernel's
source. ``comparison``: what they say of each kernel in a virtual machine. ``run`` below
does it all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.kernel import build as kernels
from harness.kernel.series import Series
from harness.kernel.source import Source
from harness.machine.qemu import QemuMachine
from harness.paths import RESULTS
from harness.selftests.build import prepare
from harness.selftests.catalog import select
from harness.selftests.comparison import CONFIGURATIONS, VANILLA, Row, compare, write


@dataclass(frozen=True)
class Config:
    """Which kernels, built how, and the machines for them (`QemuMachine`)."""

    series: Series
    source: Source
    fragments: tuple[str, ...]
    smp: int
    mem_mib: int
    accel: str


def run(config: Config, names: Iterable[str] = ()) -> tuple[Row, ...]:
    """Run the tests of these names, or all; keep the rows in ``results/``, and return them."""
    tests = select(names)
    suite = prepare(config.source, tests)
    images = {
        name: kernels.build(
            config.series,
            source=config.source,
            fragments=config.fragments,
            patched=name != VANILLA,
        )
        for name in CONFIGURATIONS
    }

    def machine(name: str) -> QemuMachine:
        kernel = images[name].bzimage
        return QemuMachine(kernel, smp=config.smp, mem_mib=config.mem_mib, accel=config.accel)

    results = RESULTS / f"selftests-{config.series.name}"
    rows = compare(suite, tests, machine, results)
    releases = {name: image.release for name, image in images.items()}
    write(results.with_name(f"{results.name}.json"), rows, releases)
    return rows
