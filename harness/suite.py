# SPDX-License-Identifier: GPL-2.0-only
"""Every test there is, in one run with one closing line.

In: which suites, which kernels, and what pytest shall select. Out: pytest's own
output, JUnit XML in ``results/``, and at the end a line for the unit tests, one
for each kernel, and one that sums all up::

    unit tests    430 passed, 0 failed, 0 skipped
    server tests  5 passed, 0 failed, 0 skipped
    Linux 6.12    140 passed, 0 failed, 0 skipped (6.12.117)
    Linux 5.4     NOT RUN: no source of Linux 5.4: ...
    575 passed, 0 failed, 1 skipped

``unit`` and ``patches`` run here; ``server`` is what the system test does before it
installs a kernel, on a Debian server in a virtual machine; ``integration`` runs in
one on the patched kernel, and ``torture``, counted as one test, in one on a debug kernel.
A kernel whose source is nowhere to be had counts as skipped.
"""

from __future__ import annotations

import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.console import err, note, out
from harness.errors import FalconError
from harness.kernel.build import Image
from harness.kernel.process import child
from harness.kernel.source import Source
from harness.machine.base import CommandSilent
from harness.machine.qemu import QemuMachine
from harness.paths import PROJECT, RESULTS, TESTS

# Those of `run`; the system test as a whole is asked for by itself.
SUITES = ("unit", "server", "patches", "integration", "torture")
# Of these the ones that need no kernel of ours.
_WITHOUT_KERNEL = ("unit", "server")
# The system test is one story and takes an hour: it is shown as it comes, and after a failure
# what follows would be told of another server.
_STORY = ("--capture=no", "--exitfirst")
# How long one of its tests may take: an install and two boots, emulated and on a busy host.
# Not the building before it, of the server and the kernel, which tells how far it is.
SYSTEM_TEST_S = 5400
# No unit test takes a tenth of it. One that hangs is told by its name.
UNIT_TEST_S = 600
# pytest's own: tests failed, and no test was selected.
_ALL_PASSED, _NONE_SELECTED = 0, 5
# No integration test takes as long, emulated and on a busy host, without a word of pytest's.
SILENCE_S = 900.0
# How long fixtures may take to clean up after Ctrl-C before pytest is killed.
FIXTURES_S = 60.0


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


@dataclass(frozen=True)
class Kernel:
    """A kernel line to test.

    ``source`` finds its source, ``machine`` builds the image and boots it; both
    are called only when their turn comes, and so is ``torture``, which raises
    `FalconError` when the kernel does not stand it. ``patch_options`` tell the
    patch checks which series and source. ``whole`` compiles every prefix of the
    series and tortures, too. ``required``: without a source the run fails.
    """

    name: str
    source: Callable[[], Source]
    machine: Callable[[], tuple[Image, QemuMachine]]
    torture: Callable[[], object]
    patch_options: tuple[str, ...] = ()
    whole: bool = True
    required: bool = True


def run(suites: Sequence[str], kernels: Sequence[Kernel], *, keyword: str | None = None) -> int:
    """Run ``suites`` and print the closing lines; the exit status, 0 when all is well.

    ``keyword`` is pytest's -k. A suite that cannot be run counts as a failure.
    """
    lines: list[tuple[str, str]] = []
    total = Tally()
    for name, title, tests in (
        ("unit", "unit tests", lambda: _here("unit", "unit", keyword, _limit(UNIT_TEST_S))),
        ("server", "server tests", lambda: _story("server", keyword, "-m", "looks")),
    ):
        if name in suites:
            tally = _guarded(title, tests)
            lines.append((title, str(tally)))
            total += tally
    in_kernel = [suite for suite in suites if suite not in _WITHOUT_KERNEL]
    for kernel in kernels if in_kernel else ():
        tally, remark = _kernel(kernel, in_kernel, keyword)
        lines.append((f"Linux {kernel.name}", remark))
        total += tally
    if not total.passed and not total.failed:
        note(f"no test was run{f' for -k {keyword}' if keyword else ''}")
        total += Tally(failed=1)
    for name, remark in lines:
        out.print(f"{name:14}{remark}", markup=False)
    out.print(str(total), markup=False)
    return 1 if total.failed else 0


def run_system(*, keyword: str | None = None) -> int:
    """Run tests/system: real installs on a server played by a virtual machine; the status.

    Its closing lines are as those of `run`.
    """
    tally = _guarded("system tests", lambda: _story("system", keyword))
    if not tally.passed and not tally.failed:
        note("no test was run")
        tally += Tally(failed=1)
    out.print(str(tally), markup=False)
    return 1 if tally.failed else 0


def _story(name: str, keyword: str | None, *chosen: str) -> Tally:
    """The system test, or what is ``chosen`` of it; ``name`` is its report's."""
    options = (*_STORY, *_limit(SYSTEM_TEST_S), "--override-ini=timeout_func_only=true")
    return _here("system", name, keyword, (*options, *chosen))


def _limit(seconds: int) -> tuple[str, ...]:
    """Pytest's options: a test that takes longer ends, by a signal, so its fixtures clean up."""
    return f"--timeout={seconds}", "--timeout-method=signal"


def _kernel(kernel: Kernel, suites: Sequence[str], keyword: str | None) -> tuple[Tally, str]:
    """Run the suites of one kernel; their tally, and what the closing lines say of it."""
    try:
        version = kernel.source().version
    except FalconError as error:
        err.print(f"Linux {kernel.name}: {error}", style="red", markup=False)
        return Tally(failed=1) if kernel.required else Tally(skipped=1), f"NOT RUN: {error}"
    tally = Tally()
    if "patches" in suites:
        options = (*kernel.patch_options, *(() if kernel.whole else ("-m", "not compiles")))
        tally += _guarded(
            f"patch tests, Linux {kernel.name}",
            lambda: _here("patches", f"patches-{kernel.name}", keyword, options),
        )
    if "integration" in suites:
        tally += _guarded(
            f"integration tests, Linux {kernel.name}",
            lambda: _in_machine(kernel, f"integration-{kernel.name}", keyword),
        )
    if "torture" in suites and kernel.whole and keyword is None:
        tally += _guarded(f"torture, Linux {kernel.name}", lambda: _torture(kernel))
    return tally, f"{tally} ({version})"


def _torture(kernel: Kernel) -> Tally:
    kernel.torture()
    return Tally(passed=1)


def _guarded(title: str, suite: Callable[[], Tally]) -> Tally:
    note(f"--- {title}")
    try:
        return suite()
    except FalconError as error:
        err.print(f"{title}: {error}", style="red", markup=False)
        return Tally(failed=1)


def _pytest(suite: str, report: Path, keyword: str | None, extra: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "pytest", str(TESTS / suite), f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", f"--rootdir={PROJECT}", *extra]
    return [*command, "-k", keyword] if keyword else command


def _fresh_report(name: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    report = RESULTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    return report


def _here(suite: str, name: str, keyword: str | None, extra: Sequence[str]) -> Tally:
    report = _fresh_report(name)
    command = _pytest(suite, report, keyword, extra)
    with child(command, end_by=signal.SIGINT, grace_s=FIXTURES_S, cwd=PROJECT) as process:
        status = process.wait()
    return _verdict(name, report, status, keyword)


def _in_machine(kernel: Kernel, name: str, keyword: str | None) -> Tally:
    from harness.workload import udpflow

    report = _fresh_report(name)
    image, booted = kernel.machine()
    udpflow.build()  # here: the guest would compile it under emulation, at every run
    with booted as guest:
        if not guest.is_falcon():
            raise FalconError(
                f"{image.release} runs, but it has no Falcon", "the sysctl is missing"
            )
        command = _pytest("integration", report, keyword, [])
        try:
            done = guest.run(command, cwd=str(PROJECT), stream=True, silence_s=SILENCE_S)
        except CommandSilent as error:
            guest.end_hung("the tests do not go on", str(error))
        splats = guest.splats()
    tally = _verdict(name, report, done.exit_status, keyword)
    if splats and not tally.failed:
        note(f"{name}: the guest's kernel complained: {splats[0].line}")
        tally += Tally(failed=1)
    return tally


def _verdict(name: str, report: Path, status: int, keyword: str | None) -> Tally:
    """The report's tally; never a clean one after pytest itself went wrong."""
    tally = read_report(report) if report.exists() else Tally()
    nothing_selected = status == _NONE_SELECTED and keyword is not None
    if status != _ALL_PASSED and not nothing_selected and not tally.failed:
        note(f"{name}: pytest ended with status {status}")
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
