# SPDX-License-Identifier: GPL-2.0-only
"""Run selftests in virtual machines and compare what they say of three kernels.

In: a suite, tests, and a machine for each configuration: the stock kernel, the
patched one with Falcon off, and with it on. Out: a ``Row`` a test, with the
``Outcome`` in each of them, and a log of every attempt.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.console import note
from harness.errors import FalconError
from harness.kernel import cache
from harness.machine.base import CommandTimeout, MachineDied
from harness.machine.qemu import QemuMachine
from harness.overlay import falcon
from harness.overlay.cpus import format_cpu_list
from harness.selftests.build import Suite
from harness.selftests.catalog import Selftest

VANILLA, OFF, ON = CONFIGURATIONS = ("vanilla", "off", "on")
PASS, FAIL, SKIP, TIMEOUT = "pass", "fail", "skip", "timeout"
SPLAT, DIED, ABSENT = "splat", "died", "-"
# kselftest's own exit codes; any other is a failure.
_BY_STATUS = {0: PASS, 4: SKIP}
# Many scripts wait for fixed times, often too short for an emulated CPU of a busy host. What took
# too long costs up to half an hour, so that is tried again once only.
ATTEMPTS, LATE_ATTEMPTS = 6, 2
# Upstream's own word for such machines: scripts that know it wait longer.
_SLOW = {"KSFT_MACHINE_SLOW": "yes"}
_TIDY_S = 60.0

# Every packet is steered at every stage, by the device's own poll too where that is split.
_SWITCH_ON = """\
set -e
cd /proc/sys/net/core
echo "$0" >falcon_cpus
echo 100 >falcon_load_threshold
[ ! -e falcon_gro_split ] || echo 1 >falcon_gro_split
echo 1 >falcon
"""
# What a killed script's traps would have removed. The devices that stay are the kernel's own.
_TIDY_UP = """\
ip -all netns delete
for device in /sys/class/net/*; do
    ip link delete "${device##*/}"
done 2>/dev/null
"""


@dataclass(frozen=True)
class Outcome:
    """How a test ended in one configuration.

    ``why``: its last words, unless it passed. ``steered``: packets for which
    Falcon chose the CPU meanwhile, those of failed attempts included.
    """

    result: str
    why: str = ""
    seconds: float = 0.0
    attempts: int = 0
    steered: int = 0


@dataclass(frozen=True)
class Row:
    """One test and its ``outcomes`` by configuration."""

    name: str
    outcomes: dict[str, Outcome]

    @property
    def results(self) -> tuple[str, ...]:
        return tuple(self.outcomes[name].result for name in CONFIGURATIONS)

    @property
    def is_absent(self) -> bool:
        """This kernel does not have the test."""
        return set(self.results) == {ABSENT}

    @property
    def differs(self) -> bool:
        return len(set(self.results)) > 1

    @property
    def is_regression(self) -> bool:
        """It passes on the stock kernel, and does not always on the patched one."""
        return self.results[0] == PASS and self.differs


def compare(
    suite: Suite,
    tests: Sequence[Selftest],
    machine_for: Callable[[str], QemuMachine],
    logs: Path,
) -> tuple[Row, ...]:
    """Run ``tests`` in every configuration, each in the machine that ``machine_for`` gives.

    What fails is tried again, except where the stock kernel failed already.
    """
    if not any(suite.script(test).exists() for test in tests):
        raise FalconError("this kernel has none of these selftests")
    outcomes: dict[str, dict[str, Outcome]] = {test.name: {} for test in tests}
    for configuration in CONFIGURATIONS:
        with machine_for(configuration) as machine:
            runner = _Runner(suite, configuration, machine, logs / configuration)
            for test in tests:
                own = outcomes[test.name]
                hopeless = VANILLA in own and own[VANILLA].result != PASS
                own[configuration] = runner.run(test, 1 if hopeless else ATTEMPTS)
    return tuple(Row(name, own) for name, own in outcomes.items())


class _Runner:
    """Runs tests in one configuration; after a kernel's death in the machine booted anew."""

    def __init__(self, suite: Suite, configuration: str, machine: QemuMachine, logs: Path):
        self.suite, self.configuration, self.machine = suite, configuration, machine
        self.logs = logs
        # What is too slow on the stock kernel is so every time, and would cost hours.
        self._retried = (FAIL,) if configuration == VANILLA else (FAIL, TIMEOUT)
        path = [str(suite.path), os.environ.get("PATH", os.defpath), "/usr/sbin:/sbin"]
        slow = machine.config.accel == "tcg"
        self.environment = {"PATH": ":".join(path)} | (_SLOW if slow else {})
        self._set_up()

    def _set_up(self) -> None:
        """Make the kernel what the configuration says, or raise ``FalconError``."""
        if self.machine.is_falcon() == (self.configuration == VANILLA):
            release = self.machine.kernel_release()
            raise FalconError(f"Linux {release} is not the kernel for {self.configuration!r}")
        if self.configuration == ON:
            cpus = format_cpu_list(range(1, self.machine.config.smp))
            self.machine.run(["sh", "-c", _SWITCH_ON, cpus], check=True)

    def run(self, test: Selftest, attempts: int) -> Outcome:
        """The last outcome of at most ``attempts``, with the time of them all."""
        if not self.suite.script(test).exists():
            return Outcome(ABSENT)
        if obstacle := self.suite.obstacle(test):
            return Outcome(SKIP, obstacle)
        log = self.logs / (test.name.replace("/", "-").replace(" ", "-") + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        started, before = time.monotonic(), self._steered()
        for attempt in range(1, attempts + 1):
            outcome = replace(self._attempt(test, log), attempts=attempt)
            late = outcome.result == TIMEOUT and attempt == LATE_ATTEMPTS
            if late or outcome.result not in self._retried:
                break
        steered = max(self._steered() - before, 0)  # the counters begin anew with a boot
        seconds = round(time.monotonic() - started, 1)
        note(f"{self.configuration:8}{test.name:40}{outcome.result:8}{seconds:6.0f} s")
        return replace(outcome, seconds=seconds, steered=steered)

    def _attempt(self, test: Selftest, log: Path) -> Outcome:
        script = self.suite.script(test)
        complaints = len(self.machine.splats())
        try:
            outcome, said = self._start(script, test)
            splats = self.machine.splats()[complaints:]
        except MachineDied as death:
            outcome, said, splats = Outcome(DIED, death.what), death.console, ()
            self._reboot()
        if splats:
            outcome = Outcome(SPLAT, splats[0].line)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{said.rstrip()}\n--- {outcome.result} {outcome.why}\n")
        return outcome

    def _start(self, script: Path, test: Selftest) -> tuple[Outcome, str]:
        """Run the script once; its outcome and all it said."""
        command = ["sh", "-c", 'exec "$0" "$@" 2>&1', f"./{script.name}", *test.arguments]
        try:
            done = self.machine.run(
                command, cwd=script.parent, env=self.environment, timeout_s=test.timeout_s
            )
            outcome = Outcome(_BY_STATUS.get(done.exit_status, FAIL))
        except CommandTimeout as late:
            done = late.result
            outcome = Outcome(TIMEOUT, f"took longer than {test.timeout_s:g} s")
        self._tidy_up()
        if outcome.result in (FAIL, SKIP):
            outcome = replace(outcome, why=_last_words(done.stdout, done.exit_status))
        return outcome, done.stdout

    def _tidy_up(self) -> None:
        try:
            self.machine.run(["sh", "-c", _TIDY_UP], env=self.environment, timeout_s=_TIDY_S)
        except CommandTimeout:
            self._reboot()

    def _reboot(self) -> None:
        self.machine.reboot()
        self._set_up()

    def _steered(self) -> int:
        """Packets for which Falcon has chosen a CPU since this boot."""
        if self.configuration == VANILLA:
            return 0
        text = self.machine.run(["cat", "/proc/net/falcon"], check=True).stdout
        return falcon.parse_counters(text).total("steered")


def _last_words(text: str, status: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {status}"


def write(path: Path, rows: Sequence[Row], releases: dict[str, str]) -> None:
    """Keep ``rows`` as JSON, with the kernel of each configuration."""
    tests = [
        {"name": row.name} | {name: asdict(outcome) for name, outcome in row.outcomes.items()}
        for row in rows
    ]
    cache.write_atomically(path, json.dumps({"kernels": releases, "tests": tests}, indent=1) + "\n")
