# SPDX-License-Identifier: GPL-2.0-only
"""The integration suite on patched hosts, over SSH.

In: hosts. Out: pytest's output as it comes, JUnit XML in ``results/``, a line for each host
and one that sums up, as `harness.suite` prints them. A host without Falcon is skipped, with
the reason; nothing is left on any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harness.console import note, out
from harness.errors import FalconError
from harness.hosts import fleet
from harness.hosts.payload import PYTHON, Payload
from harness.machine.ssh import Access, SshMachine
from harness.paths import RESULTS
from harness.suite import SILENCE_S, Tally, read_report
from harness.workload import udpflow

FILES = ("harness", "tests/integration", "patches", "pyproject.toml")
PACKAGES = ("dpkt", "pytest", "pytest-timeout", "pyroute2", "rich", "unidiff")
ALL_PASSED, NONE_SELECTED = 0, 5


class NoFalcon(FalconError):
    """The host's kernel is not patched: nothing to test there."""


def run(hosts: Sequence[str], access: Access, *, keyword: str | None = None) -> int:
    """Run it on all ``hosts``; the exit status, 0 when tests ran and all passed.

    ``keyword`` is pytest's -k.
    """
    udpflow.build()
    stream = len(hosts) == 1  # several would be read as one

    def work(machine: SshMachine, report: Callable[[str], None]) -> Tally:
        return _on_host(machine, report, keyword, stream)

    outcomes = fleet.on_each(hosts, access, work)
    total = Tally()
    for outcome in outcomes:
        if isinstance(outcome.error, NoFalcon):
            total += Tally(skipped=1)
            out.print(f"{outcome.host:14}NOT RUN: {outcome.error}", markup=False)
        elif outcome.value is None:
            total += Tally(failed=1)
            out.print(f"{outcome.host:14}FAILED: {outcome.error}", markup=False)
        else:
            total += outcome.value
            out.print(f"{outcome.host:14}{outcome.value}", markup=False)
    out.print(str(total), markup=False)
    return 1 if total.failed or not total.passed else 0


def _on_host(
    machine: SshMachine, report: Callable[[str], None], keyword: str | None, stream: bool
) -> Tally:
    release = machine.kernel_release()
    if not machine.is_falcon():
        raise NoFalcon(
            f"its kernel {release} has no Falcon", todo="install one with ./inv install-kernel"
        )
    report(f"copying the tests; Linux {release}")
    local = RESULTS / f"integration-{re.sub('[^A-Za-z0-9.-]', '_', machine.name)}.xml"
    local.parent.mkdir(exist_ok=True)
    local.unlink(missing_ok=True)
    with Payload(machine, FILES, PACKAGES) as payload:
        payload.add_tool(udpflow.build())
        command = ["-m", "pytest", "tests/integration", "-p", "no:cacheprovider"]
        command += ["--junitxml=report.xml", *(["-k", keyword] if keyword else [])]
        report("running the tests")
        # Python keeps its output to itself where that is no terminal. Files that tests make
        # for themselves go with the payload.
        env = {"PYTHONUNBUFFERED": "1", "TMPDIR": payload.directory}
        process = payload.python(*command, env=env, stream=stream)
        status = process.wait(silence_s=SILENCE_S).exit_status
        if machine.run(["test", "-e", f"{payload.directory}/report.xml"]).exit_status == 0:
            machine.get(f"{payload.directory}/report.xml", local)
    tally = read_report(local) if local.exists() else Tally()
    nothing_selected = status == NONE_SELECTED and keyword is not None
    if status != ALL_PASSED and not nothing_selected and not tally.failed:
        note(f"{machine.name}: {PYTHON} -m pytest ended with status {status}")
        tally += Tally(failed=1)
    return tally
