# SPDX-License-Identifier: GPL-2.0-only
"""Every test there is, in one run with one closing line.

In: which suites, and what pytest shall select. Out: pytest's own output, JUnit
XML in ``results/``, and a last line that sums all suites up::

    12 passed, 0 failed, 1 skipped

``unit`` and ``patches`` run here; ``integration`` runs in a virtual machine on
the patched kernel.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.console import err, note, out
from harness.errors import FalconError
from harness.kernel.build import Image
from harness.machine.qemu import QemuMachine
from harness.paths import PROJECT, RESULTS, TESTS

SUITES = ("unit", "patches", "integration")
# pytest's own: tests failed, and no test was selected.
_ALL_PASSED, _NONE_SELECTED = 0, 5


@dataclass(frozen=True)
class Tally:
    """How many tests ended how; an error outside a test counts as a failure."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def run(
    suites: Sequence[str],
    *,
    keyword: str | None,
    patch_options: Sequence[str],
    machine: Callable[[], tuple[Image, QemuMachine]],
) -> int:
    """Run ``suites`` and print the closing line; the exit status, 0 when all is well.

    ``keyword`` is pytest's -k. ``patch_options`` tell the patch checks which
    series and source. ``machine`` builds the image and boots it, and is called
    only when its turn comes. A suite that cannot be run counts as a failure.
    """
    total = Tally()
    for suite in suites:
        note(f"--- {suite} tests")
        try:
            if suite == "integration":
                total += _in_machine(machine, keyword)
            else:
                extra = patch_options if suite == "patches" else ()
                total += _here(suite, keyword, extra)
        except FalconError as error:
            err.print(f"{suite} tests: {error}", style="red", markup=False)
            total += Tally(failed=1)
    if not total.passed and not total.failed:
        note(f"no test was run{f' for -k {keyword}' if keyword else ''}")
        total += Tally(failed=1)
    out.print(str(total), markup=False)
    return 1 if total.failed else 0


def _pytest(suite: str, report: Path, keyword: str | None, extra: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "pytest", str(TESTS / suite), f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", f"--rootdir={PROJECT}", *extra]
    return [*command, "-k", keyword] if keyword else command


def _fresh_report(suite: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    report = RESULTS / f"{suite}.xml"
    report.unlink(missing_ok=True)
    return report


def _here(suite: str, keyword: str | None, extra: Sequence[str]) -> Tally:
    report = _fresh_report(suite)
    done = subprocess.run(_pytest(suite, report, keyword, extra), cwd=PROJECT)
    return _verdict(suite, report, done.returncode, keyword)


def _in_machine(machine: Callable[[], tuple[Image, QemuMachine]], keyword: str | None) -> Tally:
    from harness.workload import udpflow

    report = _fresh_report("integration")
    image, booted = machine()
    udpflow.build()  # here: the guest would compile it under emulation, at every run
    with booted as guest:
        if not guest.is_falcon():
            raise FalconError(
                f"{image.release} runs, but it has no Falcon", "the sysctl is missing"
            )
        command = _pytest("integration", report, keyword, [])
        done = guest.run(command, cwd=str(PROJECT), stream=True)
        splats = guest.splats()
    tally = _verdict("integration", report, done.exit_status, keyword)
    if splats and not tally.failed:
        note(f"integration tests: the guest's kernel complained: {splats[0].line}")
        tally += Tally(failed=1)
    return tally


def _verdict(suite: str, report: Path, status: int, keyword: str | None) -> Tally:
    """The report's tally; never a clean one after pytest itself went wrong."""
    tally = read_report(report) if report.exists() else Tally()
    nothing_selected = status == _NONE_SELECTED and keyword is not None
    if status != _ALL_PASSED and not nothing_selected and not tally.failed:
        note(f"{suite} tests: pytest ended with status {status}")
        tally += Tally(failed=1)
    return tally


def read_report(report: Path) -> Tally:
    """The tally of a JUnit XML file as pytest writes it."""
    tally = Tally()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors")}
        skipped = int(suite.get("skipped", 0))
        failed = count["failures"] + count["errors"]
        tally += Tally(max(count["tests"] - failed - skipped, 0), failed, skipped)
    return tally
