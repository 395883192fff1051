# SPDX-License-Identifier: GPL-2.0-only
"""Measures figures, point by point, and keeps every sample as soon as there is one.

In: experiments, a kernel image. Out: a file of JSON lines an experiment in
``results/bench/RELEASE/``, and the `Row` objects in it. What is complete is not measured
again, so a run that was cut short goes on where it was; samples of another commit or
another number of CPUs do not count. A point that fails does not stop the others.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.console import note
from harness.errors import FalconError
from harness.kernel.progress import Bar
from harness.lab import instructions
from harness.lab.experiments import Experiment, Point
from harness.lab.instructions import Config, Sample
from harness.lab.rig import Rigs
from harness.paths import PROJECT, RESULTS

# Rounds are that many times more at most while ratios waver, but for a quick run.
MOST_ROUNDS = 2
QUICK_ROUNDS, QUICK_PACKETS = 2, 4000
# What samples must have in common to stand beside each other.
CONDITIONS = ("commit", "cpus", "packets")


@dataclass(frozen=True)
class Setup:
    """What all figures of a campaign are measured with."""

    kernel: Path
    release: str
    rounds: int = 5
    packets: int = 10_000
    smp: int = 7
    mem_mib: int = 2048
    quick: bool = False

    def hurried(self) -> Setup:
        """For a smoke of everything: few points, rounds and packets."""
        return replace(self, rounds=QUICK_ROUNDS, packets=QUICK_PACKETS, quick=True)

    def check(self, experiments: Iterable[Experiment]) -> None:
        """Raise `FalconError` for what could not be measured anywhere."""
        for experiment in experiments:
            for point in experiment.chosen(self.quick):
                self.config(experiment, point)

    def config(self, experiment: Experiment, point: Point) -> Config:
        """What is measured of a point."""
        return Config(
            kernel=self.kernel,
            load=point.load,
            mode_names=experiment.modes,
            baseline=experiment.baseline,
            rounds=self.rounds,
            most_rounds=self.rounds if self.quick else MOST_ROUNDS * self.rounds,
            packets=self.packets,
            smp=self.smp,
            mem_mib=self.mem_mib,
        )


@dataclass(frozen=True)
class Row:
    """A sample of a figure's ``point``; ``context`` is what makes it repeatable."""

    figure: str
    point: str
    sample: Sample
    context: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Row:
        values = json.loads(text)
        return cls(**values | {"sample": Sample.from_dict(values["sample"])})


def file_of(release: str, figure: str) -> Path:
    """Where a figure's samples are."""
    return RESULTS / "bench" / release / f"figure-{figure}.jsonl"


def releases(line: str | None = None) -> list[str]:
    """The kernel releases of which there are samples, of a line, e.g. "6.12"; the newest first."""
    found = {path.parent.name for path in (RESULTS / "bench").glob("*/figure-*.jsonl")}
    wanted = [name for name in found if line is None or name.startswith(f"{line}.")]
    return sorted(wanted, key=_version, reverse=True)


def _version(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def load(release: str, figure: str) -> list[Row]:
    """The samples there are of a figure. A line that was cut short is left out."""
    path = file_of(release, figure)
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


def run(
    setup: Setup, experiments: Sequence[Experiment], command: str
) -> Iterator[tuple[Experiment, list[Row]]]:
    """Measure what is missing of each experiment, and yield it with all its rows.

    Raises `FalconError` at the end if a point failed; what came of it before is among the rows.
    """
    bar = Bar(
        "all windows", sum(_windows(setup, experiment, command) for experiment in experiments)
    )
    failed: list[str] = []
    with Rigs() as rigs:
        for experiment in experiments:
            context = context_of(setup, command)
            rows = _kept(setup, experiment, context)
            for point in experiment.chosen(setup.quick):
                if _is_complete(experiment, rows, point, setup.rounds):
                    note(f"figure {experiment.figure}, {point.label}: measured before")
                    continue
                rows = [row for row in rows if row.point != point.label]
                try:
                    for row in _measure(setup, experiment, point, context, rigs):
                        rows.append(row)
                        bar.done += 1
                        bar.total = max(bar.total or 0, bar.done)
                        note(f"{_told(row, experiment)}; {bar.line()}")
                except FalconError as error:
                    rigs.abandon(error)
                    failed.append(f"figure {experiment.figure}, {point.label}: {error}")
                    note(f"{failed[-1]}; what came before is kept, and marked as cut short")
            yield experiment, rows
    if failed:
        raise FalconError(
            f"{len(failed)} points could not be measured", "; ".join(failed), "start it again"
        )


def _windows(setup: Setup, experiment: Experiment, command: str) -> int:
    """How many samples are missing."""
    rows = _kept(setup, experiment, context_of(setup, command))
    missing = [
        point
        for point in experiment.chosen(setup.quick)
        if not _is_complete(experiment, rows, point, setup.rounds)
    ]
    return len(missing) * setup.rounds * len(experiment.modes)


def _kept(setup: Setup, experiment: Experiment, context: dict[str, Any]) -> list[Row]:
    """The rows that were measured before under the same conditions."""
    return [row for row in load(setup.release, experiment.figure) if _fits(row, context)]


def _fits(row: Row, context: dict[str, Any]) -> bool:
    return all(row.context.get(name) == context.get(name) for name in CONDITIONS)


def _is_complete(experiment: Experiment, rows: Sequence[Row], point: Point, rounds: int) -> bool:
    counted = Counter(row.sample.mode for row in rows if row.point == point.label)
    return all(counted[mode] >= rounds for mode in experiment.modes)


def _measure(
    setup: Setup, experiment: Experiment, point: Point, context: dict[str, Any], rigs: Rigs
) -> Iterator[Row]:
    config = setup.config(experiment, point)
    path = file_of(setup.release, experiment.figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    booted = rigs.get(config.boot, instructions.opened)
    with path.open("a", encoding="utf-8") as file:
        for sample in instructions.measure(config, booted):
            row = Row(experiment.figure, point.label, sample, context)
            file.write(row.to_json() + "\n")
            file.flush()
            yield row


def _told(row: Row, experiment: Experiment) -> str:
    sample = row.sample
    where = f"figure {experiment.figure}, {row.point}, round {sample.round + 1}"
    return f"{where}, {sample.mode}: {sample.headline}"


def context_of(setup: Setup, command: str) -> dict[str, Any]:
    """What makes a number repeatable: kernel, machine, commit, command, time."""
    return {
        "measure": "instructions",
        "kernel": setup.release,
        "packets": setup.packets,
        "cpus": setup.smp,
        "host": f"{platform.machine()}, Linux {platform.release()}",
        "commit": commit(),
        "command": command,
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
