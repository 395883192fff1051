# SPDX-License-Identifier: GPL-2.0-only
"""Torture, as seen from here: boots the machine, follows the run, says how it ended.

In: an image of a debug kernel (`TortureConfig`). Out: progress and closing lines
on the screen, every step in ``results/torture-RELEASE.log``; a `FalconError` with the seed
in it when a packet, a byte or an object is missing, or the kernel complained.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from harness.console import note, out
from harness.errors import FalconError
from harness.machine import accel as accelerators
from harness.machine.base import MachineDied, Process
from harness.machine.console import Console, find_splat
from harness.machine.qemu import QemuMachine
from harness.paths import PROJECT, RESULTS
from harness.torture.driver import Totals
from harness.torture.guest import Job
from harness.workload import udpflow

LEAST_CPUS = 3
GREATEST_SEED = 2**32 - 1
# Packets a second in all, at most; a debug kernel on emulated CPUs manages less.
RATE = {"kvm": 20_000.0, "tcg": 800.0}
PROGRESS_S = 30.0
POLL_S = 0.5
# So long may one step or phase take: scanning gigabytes for leaks does, emulated.
STUCK_S = 600.0
# What a complaint goes on saying after its first line.
LAST_WORDS_S = 3.0
BACKTRACE_S = 8.0
STORY_LINES = 120
LAST_STEPS = 12
# An emulated CPU may get no real one for many seconds; and a debug kernel boots for a
# minute or more, in which it shall show that it lives.
PATIENT = ("watchdog_thresh=30", "loglevel=7")


@dataclass(frozen=True)
class TortureConfig:
    """What to run, and on what machine. ``accel`` is "auto", "kvm" or "tcg"."""

    minutes: float
    seed: int
    smp: int = 4
    mem_mib: int = 4096
    accel: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise FalconError(f"{self.minutes:g} minutes are no time", todo="use --minutes 30")
        if self.smp < LEAST_CPUS:
            raise FalconError(
                f"{self.smp} CPUs are too few", "some go off and some stay", f"--smp {LEAST_CPUS}"
            )


def parse_seed(text: str | None) -> int:
    """The user's seed, or a new one."""
    if text is None:
        return random.SystemRandom().randint(0, GREATEST_SEED)
    if not text.isascii() or not text.isdigit() or int(text) > GREATEST_SEED:
        raise FalconError(f"{text} is no seed", f"it is a number from 0 to {GREATEST_SEED}")
    return int(text)


def torture(config: TortureConfig, kernel: Path, release: str) -> Totals:
    """Run it on an image, print how it goes and how it ended, and return the totals."""
    udpflow.build()  # here: the guest would compile it under emulation
    accel = accelerators.choose(config.accel)
    job = Job(config.seed, config.minutes, RATE[accel])
    say(f"Linux {release}, seed {config.seed}, {config.minutes:g} min, {accel}: booting")
    machine = QemuMachine(
        kernel, smp=config.smp, mem_mib=config.mem_mib, accel=accel, append=PATIENT
    )
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"torture-{release}.log").open("w", encoding="utf-8") as log:
        run = Run(config.seed, log)
        try:
            with machine:
                _run(machine, job, run)
        except MachineDied as death:
            raise run.failure(death.what, death.why) from death
    for line in closing_lines(config, release, run):
        out.print(line, markup=False)
    return run.totals


def _run(machine: QemuMachine, job: Job, run: Run) -> None:
    command = [sys.executable, "-m", "harness.torture.guest", job.to_json()]
    guest = machine.start(command, cwd=PROJECT)
    try:
        follow(machine, guest, run)
    finally:
        with suppress(FalconError):  # a dead machine needs no kill
            guest.kill()


def say(text: str) -> None:
    note(f"torture: {text}")


# ---- following the guest -----------------------------------------------------------


@dataclass
class Run:
    """What the guest has told so far."""

    seed: int
    log: TextIO
    totals: Totals = field(default_factory=Totals)
    skipped: tuple[str, ...] = ()
    done: bool = False
    started: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)
    phase: str = "starting"
    steps: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_STEPS))

    def take(self, line: str) -> None:
        """A line of the guest's; raises `FalconError` when it is a failure."""
        self.log.write(line + "\n")
        try:
            event = json.loads(line)
        except ValueError:
            note(line)  # the beginning of kmemleak's report
            return
        kind = event["event"]
        if "totals" in event:
            self.totals = Totals(**event["totals"])
        if kind in ("step", "phase", "epoch"):
            self.moved = time.monotonic()
        if kind == "step":
            self.steps.append(event["text"])
        elif kind == "phase":
            self._enter(event["text"])
        elif kind == "epoch":
            self._tell_epoch(event)
        elif kind == "done":
            self.done, self.skipped = True, tuple(event["skipped"])
        elif kind == "failed":
            raise self.failure(event["why"])

    def _enter(self, phase: str) -> None:
        self.phase = phase
        say(f"{self._elapsed()} {phase}")

    def _tell_epoch(self, event: dict[str, Any]) -> None:
        say(f"{self._elapsed()} epoch {event['number']} ({event['sort']}): {event['small']}")

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02}"

    def tell_progress(self) -> None:
        """A line every `PROGRESS_S`."""
        if time.monotonic() - self.reported < PROGRESS_S:
            return
        self.reported = time.monotonic()
        counted = f"{self.totals.sent:,} packets in {self.totals.epochs} epochs"
        say(f"{self._elapsed()} {actions(self.totals)}; UDP {counted}")

    def failure(self, what: str, why: str = "") -> FalconError:
        """The end of a run, with what repeats it; the last steps go to the screen."""
        if self.steps:
            note("--- the last actions ---\n" + "\n".join(self.steps) + "\n---")
        todo = f"repeat it with --seed {self.seed}; every step is in {self.log.name}"
        return FalconError(f"torture, seed {self.seed}: {what}", why, todo)


def follow(machine: QemuMachine, guest: Process, run: Run) -> None:
    """Until the guest is done; raises `FalconError` for whatever else ends it."""
    taken = 0
    while True:
        ended = guest.exit_status is not None
        lines = guest.stdout.split("\n")[:-1]
        check_console(machine, run)
        for line in lines[taken:]:
            run.take(line)
        taken = len(lines)
        if ended:
            break
        guest.check_health()
        run.tell_progress()
        if time.monotonic() - run.moved > STUCK_S:
            raise stuck(machine, run)
        time.sleep(POLL_S)
    machine.console.settle()
    check_console(machine, run)
    if not run.done or guest.exit_status:
        errors = guest.wait().stderr.strip().splitlines()
        raise run.failure(f"the guest's part ended ({guest.exit_status})", "".join(errors[-1:]))


def check_console(machine: QemuMachine, run: Run) -> None:
    """End the run at the first thing that the kernel complains of."""
    if splats := machine.console.splats:
        time.sleep(LAST_WORDS_S)
        note(f"--- from the guest's console ---\n{story(machine.console)}\n---")
        raise run.failure(f"the kernel complained ({splats[0].kind})", splats[0].line)


def stuck(machine: QemuMachine, run: Run) -> FalconError:
    """Make the kernel say where its CPUs are, and give up."""
    machine.qmp("inject-nmi")
    time.sleep(BACKTRACE_S)
    note(f"--- from the guest's console ---\n{story(machine.console)}\n---")
    return run.failure(f"nothing has moved for {STUCK_S:g} s", f"while {run.phase}")


def story(console: Console) -> str:
    """The console from the first complaint on."""
    lines = console.tail(sys.maxsize).splitlines()
    first = next((at for at, line in enumerate(lines) if find_splat(line)), -STORY_LINES)
    return "\n".join(lines[first:][:STORY_LINES])


# ---- the closing lines -----------------------------------------------------------------


def actions(totals: Totals) -> str:
    """How many, and of which kinds, the most frequent first."""
    kinds = sorted(totals.actions.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
    return f"{sum(totals.actions.values()):,} actions ({listed or 'none yet'})"


def closing_lines(config: TortureConfig, release: str, run: Run) -> Iterator[str]:
    """What a run without a fault says at its end."""
    totals = run.totals
    yield (
        f"torture: Linux {release}, seed {config.seed}, {config.minutes:.1f} min, {actions(totals)}"
    )
    yield f"torture: {udp_line(totals)}"
    yield (
        f"torture: UDP jumbo packets and fragments sent {totals.jumbo_sent:,},"
        f" delivered {totals.jumbo_delivered:,}, no more lost than counted drops;"
        " none damaged, none twice"
    )
    yield (
        f"torture: order kept in {totals.in_order_epochs} of {totals.epochs} epochs where nothing"
        f" excused it; {totals.out_of_order:,} packets late in the others{forced_words(totals)}"
    )
    yield f"torture: TCP {totals.streams} flows, {size(totals.bytes)}, every byte checked"
    yield "torture: no splat, no leak" + "".join(f" ({reason})" for reason in run.skipped)


def udp_line(totals: Totals) -> str:
    """Where the packets of the small topology went; not one may be missing."""
    line = (
        f"UDP sent {totals.sent:,} = delivered {totals.delivered:,}"
        f" + counted drops {totals.counted:,}"
    )
    return line + (f"; {totals.deaths:,} CPUs went down under it" if totals.deaths else "")


def forced_words(totals: Totals) -> str:
    """What Falcon says of waits that were too short; "" if there were none."""
    if not totals.forced:
        return ""
    often = "once" if totals.forced == 1 else f"{totals.forced:,} times"
    return f"; {often} queues did not drain in time for a change, says Falcon"


def size(count: int) -> str:
    """Bytes as people say them."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} bytes"
