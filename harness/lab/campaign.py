# SPDX-License-Identifier: GPL-2.0-only
"""Measures figures, point by point, and keeps every sample as soon as there is one.

In: experiments, a kernel image or two hosts. Out: a file of JSON lines an experiment in
``results/bench/RELEASE/``, and the `Row` objects in it. What is complete is not measured
again, and of a point that was cut short whole rounds are not: a ratio is of a round, which is of
one boot, so rounds of several boots may stand beside each other. Samples of another commit,
another image or another number of CPUs do not count. A point that fails does not stop the others.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.kernel.progress import Bar
from harness.lab import instructions, rig, timed
from harness.lab.experiments import EXPERIMENTS, INSTRUCTIONS, TIME, Experiment, Point
from harness.lab.pair import Pair
from harness.lab.rig import Rigs, Window
from harness.machine import accel as accelerators
from harness.machine import hardware
from harness.overlay import modes
from harness.paths import PROJECT, RESULTS

# Rounds are that many times more at most while ratios waver, but for a quick run.
MOST_ROUNDS = 2
QUICK_ROUNDS, QUICK_PACKETS, QUICK_SECONDS = 2, 4000, 2.0
# What samples must have in common to stand beside each other.
CONDITIONS = (
    *("measure", "commit", "image", "cpus", "packets", "seconds", "accel", "host_cpus"),
    # Of virtual machines alone: other versions emulate other CPUs and devices.
    "qemu",
    # Of real hosts alone.
    *("server", "client", "wire"),
)
# What takes each measure: `opened`, `measure` and the class `Sample`.
MEASURES: dict[str, ModuleType] = {INSTRUCTIONS: instructions, TIME: timed}

# Which of a `Setup`'s kernels is for which accelerator.
KERNEL_OF = {"tcg": "kernel", "kvm": "kvm_kernel"}


@dataclass(frozen=True)
class Setup:
    """What all figures of a campaign are measured with.

    ``kernel`` is for emulated machines, ``kvm_kernel`` for others; ``accel`` is "auto", "kvm" or
    "tcg" and decides about measures by time, as instructions are counted under "tcg" alone.
    With ``hosts`` there is no virtual machine: time is measured on them. ``again``: what was
    measured before is, too.
    """

    kernel: Path
    release: str
    rounds: int = 5
    packets: int = 10_000
    smp: int = 7
    mem_mib: int = 2048
    quick: bool = False
    seconds: float = 5.0
    accel: str = "auto"
    kvm_kernel: Path = field(default_factory=Path)
    hosts: Pair | None = None
    again: bool = False

    def hurried(self) -> Setup:
        """For a smoke of everything: few points, rounds and packets, and short windows."""
        return replace(
            self,
            rounds=QUICK_ROUNDS,
            packets=QUICK_PACKETS,
            seconds=QUICK_SECONDS,
            quick=True,
        )

    def check(self, experiments: Iterable[Experiment]) -> None:
        """Raise `FalconError` for what could not be measured anywhere."""
        for experiment in experiments:
            for point in experiment.chosen(self.quick):
                self.config(experiment, point)

    def possible(self, experiment: Experiment) -> Experiment:
        """It, without modes that the hosts' kernel does not have."""
        if self.hosts is None or self.hosts.has_falcon:
            return experiment
        names = tuple(name for name in experiment.modes if not modes.named(name).falcon)
        return replace(experiment, modes=names)

    def obstacle(self, experiment: Experiment) -> str:
        """Why an experiment cannot be measured here; "" if it can."""
        # A load of one's own may have one mode; a figure has one where --modes left it no other.
        usual = EXPERIMENTS.get(experiment.key, experiment).modes
        if len(self.possible(replace(experiment, modes=usual)).modes) > len(experiment.modes) == 1:
            return f"it compares none of the modes that were named with {experiment.baseline}"
        if self.hosts is not None:
            return self._obstacle_on(self.hosts, experiment)
        if experiment.measure == TIME and self.accel == "auto":
            if trouble := accelerators.kvm_trouble():
                return f"time takes KVM, and {trouble}; --accel tcg emulates it, without verdicts"
            if crowd := timed.crowd(self.smp, timed.host_cpus()):
                return f"time takes real CPUs, and {crowd}; {self._without_crowd()}"
        try:
            tools.require(*experiment.programs)
        except FalconError as missing:
            return str(missing)
        return ""

    def _without_crowd(self) -> str:
        """What to do about virtual CPUs of which there are more than real ones."""
        anyway = "--accel kvm measures it all the same, without verdicts"
        real = timed.host_cpus()
        return f"--smp {real} has fewer; {anyway}" if real >= rig.LEAST_CPUS else anyway

    def _obstacle_on(self, hosts: Pair, experiment: Experiment) -> str:
        """As `obstacle`, of an experiment that is `possible`."""
        if experiment.measure == INSTRUCTIONS:
            return "instructions are counted on emulated CPUs; on hosts time is measured"
        if experiment.baseline not in experiment.modes:
            return f"{hosts.server.name} has no Falcon, and {experiment.baseline} is the baseline"
        if len(experiment.modes) < 2:
            return f"{hosts.server.name} has no Falcon to compare {experiment.baseline} with"
        most = max((point.load.containers for point in experiment.chosen(self.quick)), default=0)
        return hosts.lack_of_containers(most) or hosts.lack(experiment.programs)

    def config(self, experiment: Experiment, point: Point) -> rig.Config:
        """What is measured of a point."""
        values: dict[str, Any] = {
            "load": point.load,
            "mode_names": experiment.modes,
            "baseline": experiment.baseline,
            "rounds": self.rounds,
            "most_rounds": self.rounds if self.quick else MOST_ROUNDS * self.rounds,
            "smp": self.smp,
            "mem_mib": self.mem_mib,
        }
        if experiment.measure == INSTRUCTIONS:
            return instructions.Config(self.kernel, packets=self.packets, **values)
        accel = timed.REAL if self.hosts else accelerators.choose(self.accel)
        return timed.Config(
            Path() if self.hosts else getattr(self, KERNEL_OF[accel]),
            seconds=self.seconds,
            accel=accel,
            settings=point.settings,
            **values,
        )


@dataclass(frozen=True)
class Row:
    """A sample of a ``point`` of an experiment, whose key is ``figure``; ``context`` is what makes
    it repeatable.
    """

    figure: str
    point: str
    sample: Any
    context: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Row:
        values = json.loads(text)
        kind = MEASURES[values["context"]["measure"]].Sample
        return cls(**values | {"sample": kind.from_dict(values["sample"])})


def attempt_of(row: Row) -> str:
    """When the attempt at its point began that it is of: this run, or an earlier one that this one
    goes on with.
    """
    return str(row.context.get("goes_on_with") or row.context["started"])


def file_of(release: str, key: str) -> Path:
    """Where an experiment's samples are; ``key`` is `Experiment.key`."""
    return RESULTS / "bench" / release / f"figure-{key}.jsonl"


def releases(line: str | None = None) -> list[str]:
    """The kernel releases of which there are samples, of a line, e.g. "6.12"; the newest first."""
    found = {path.parent.name for path in (RESULTS / "bench").glob("*/figure-*.jsonl")}
    wanted = [name for name in found if line is None or name.startswith(f"{line}.")]
    return sorted(wanted, key=_version, reverse=True)


def _version(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def load(release: str, key: str) -> list[Row]:
    """The samples there are of an experiment. A line that was cut short is left out."""
    path = file_of(release, key)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(Row.from_json(line))
        except (ValueError, TypeError, KeyError):
            note(f"{path}: a line that is no sample is left out")
    return rows


# ---- measuring --------------------------------------------------------------------------------


def measurable(
    setup: Setup, experiments: Sequence[Experiment]
) -> tuple[list[Experiment], list[str]]:
    """Those that can be measured here; and a line for each reason why others cannot."""
    refused: dict[tuple[str, str], list[str]] = defaultdict(list)
    found = []
    for experiment in map(setup.possible, experiments):
        if why := setup.obstacle(experiment):
            refused[why, experiment.measure].append(experiment.figure)
        else:
            found.append(experiment)
    lines = [
        ("figures {} are" if len(figures) > 1 else "figure {} is").format(
            ", ".join(figures) + (", by time," if measure == TIME else "")
        )
        + f" not measurable here: {why}"
        for (why, measure), figures in refused.items()
    ]
    if setup.hosts and any(experiment not in experiments for experiment in found):
        lines.append(
            f"{setup.hosts.server.name}: its kernel {setup.hosts.release} has no Falcon;"
            " measured are the patch-free modes"
        )
    return found, lines


def run(
    setup: Setup, experiments: Sequence[Experiment], command: str
) -> Iterator[tuple[Experiment, list[Row]]]:
    """Measure what is missing of each experiment, and yield it with all its rows.

    Raises `FalconError` at the end if a point failed; what came of it before is among the rows.
    """
    total = sum(_windows(setup, experiment, command) for experiment in experiments)
    bar = Bar("all windows", total)
    failed: list[str] = []
    with Rigs() as rigs:
        for experiment in experiments:
            context = context_of(setup, experiment, command)
            rows = _kept(setup, experiment, context)
            for point in experiment.chosen(setup.quick):
                if _is_complete(setup, experiment, rows, point):
                    note(f"{experiment.name}, {point.label}: measured before")
                    continue
                before = _begun(setup, experiment, rows, point)
                rows = [row for row in rows if row.point != point.label] + before
                expected, came = setup.rounds * len(experiment.modes) - len(before), 0
                try:
                    for row in _measure(setup, experiment, point, context, rigs, before):
                        rows.append(row)
                        came += 1
                        if came > expected:  # a round was added
                            expected += len(experiment.modes)
                            total += len(experiment.modes)
                        bar.done, bar.total = bar.done + 1, total
                        note(f"{_told(row, experiment)}; {bar.line()}")
                except FalconError as error:
                    rigs.abandon(error)
                    failed.append(f"{experiment.name}, {point.label}: {error}")
                    note(f"{failed[-1]}; what came before is kept, and marked as cut short")
                    total -= expected - came
            yield experiment, rows
    if failed:
        raise FalconError(
            f"points that could not be measured: {len(failed)}",
            "; ".join(failed),
            "the same command measures what is missing",
        )


def _windows(setup: Setup, experiment: Experiment, command: str) -> int:
    """How many samples are missing."""
    rows = _kept(setup, experiment, context_of(setup, experiment, command))
    return sum(
        setup.rounds * len(experiment.modes) - len(_begun(setup, experiment, rows, point))
        for point in experiment.chosen(setup.quick)
        if not _is_complete(setup, experiment, rows, point)
    )


def _kept(setup: Setup, experiment: Experiment, context: dict[str, Any]) -> list[Row]:
    """The rows that were measured before under the same conditions; if all is to be again, those
    that were measured for that.
    """
    rows = [row for row in load(setup.release, experiment.key) if _fits(row, context)]
    return [row for row in rows if row.context.get("again")] if setup.again else rows


def _fits(row: Row, context: dict[str, Any]) -> bool:
    return all(row.context.get(name) == context.get(name) for name in CONDITIONS)


def _is_complete(setup: Setup, experiment: Experiment, rows: Sequence[Row], point: Point) -> bool:
    """Were enough rounds measured in one attempt? Never, where all is to be measured again."""
    enough = setup.rounds * len(experiment.modes)
    found = _whole_rounds(experiment, rows, point)
    return not setup.again and any(len(own) >= enough for own in found)


def _begun(setup: Setup, experiment: Experiment, rows: Sequence[Row], point: Point) -> list[Row]:
    """The whole rounds of an attempt in the same modes that was cut short, of several the one with
    most; none if there is no such attempt, and a new one begins.
    """
    enough, modes = setup.rounds * len(experiment.modes), list(experiment.modes)
    own = [
        row
        for row in rows
        if row.context.get("modes") == modes and bool(row.context.get("again")) == setup.again
    ]
    short = [one for one in _whole_rounds(experiment, own, point) if len(one) < enough]
    return max(short, key=len, default=[])


def _whole_rounds(experiment: Experiment, rows: Sequence[Row], point: Point) -> list[list[Row]]:
    """By attempt at a point the rows of rounds that have all modes, of one run each: the round in
    which a run ended is not made whole by another.
    """
    rounds: dict[tuple[str, str, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.point == point.label and row.sample.mode in experiment.modes:
            of_round = attempt_of(row), row.context["started"], row.sample.round
            rounds[of_round][row.sample.mode] = row
    found: dict[str, list[Row]] = defaultdict(list)
    for (attempt, *_), by_mode in rounds.items():
        if len(by_mode) == len(experiment.modes):
            found[attempt] += by_mode.values()
    return list(found.values())


def _measure(
    setup: Setup,
    experiment: Experiment,
    point: Point,
    context: dict[str, Any],
    rigs: Rigs,
    before: Sequence[Row],
) -> Iterator[Row]:
    """The rows that are missing after those ``before``, each as soon as it is safe on the disk."""
    config = setup.config(experiment, point)
    if before:
        context = context | {"goes_on_with": attempt_of(before[0])}
        config = replace(config, before=tuple(row.sample for row in before))
        rounds = len(before) // len(experiment.modes)
        note(f"{experiment.name}, {point.label}: whole rounds measured before: {rounds}")
    measure = MEASURES[experiment.measure]
    path = file_of(setup.release, experiment.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    booted = rigs.get(config.boot, setup.hosts.opened if setup.hosts else measure.opened)
    with path.open("a+", encoding="utf-8") as file:
        _end_the_line(file)
        for sample in measure.measure(config, booted):
            row = Row(experiment.key, point.label, sample, context)
            file.write(row.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
            yield row


def _end_the_line(file: TextIO) -> None:
    """If it was cut short, by a kill or a full disk; or the next row would be lost, too."""
    file.seek(0)
    text = file.read()
    if text and not text.endswith("\n"):
        file.write("\n")


def _told(row: Row, experiment: Experiment) -> str:
    sample: Window = row.sample
    where = f"{experiment.name}, {row.point}, round {sample.round + 1}"
    return f"{where}, {sample.mode}: {sample.headline}"


def context_of(setup: Setup, experiment: Experiment, command: str) -> dict[str, Any]:
    """What makes a number repeatable: kernel, machine and QEMU, commit, command, time."""
    by_measure: dict[str, Any] = {"packets": setup.packets, "qemu": accelerators.qemu_version()}
    kernel = setup.kernel
    if setup.hosts:
        by_measure = {"seconds": setup.seconds, **setup.hosts.context()}
    elif experiment.measure == TIME:
        accel = accelerators.choose(setup.accel)
        kernel = getattr(setup, KERNEL_OF[accel])
        by_measure = {
            "seconds": setup.seconds,
            "accel": accel,
            "host_cpus": timed.host_cpus(),
            "qemu": accelerators.qemu_version(),
        }
    return {
        "measure": experiment.measure,
        "kernel": setup.release,
        # An image's directory is named by all that went into it. The commit does not tell images
        # apart while files differ from it.
        "image": kernel.parent.name,
        "cpus": setup.smp,
        "host": f"{platform.machine()}, Linux {platform.release()}",
        "hardware": hardware.described(),
        "modes": list(experiment.modes),
        # Of hosts it says these, too.
        **by_measure,
        "commit": commit(),
        "command": command,
        **({"again": True} if setup.again else {}),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """The commit of this checkout, with a mark if files differ from it; "" outside of git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
