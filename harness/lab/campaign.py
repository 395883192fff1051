# SPDX-License-Identifier: GPL-2.0-only
"""Measures figures, point by point, and keeps every sample as soon as there is one.

In: experiments, a kernel image. Out: a file of JSON lines a figure in
``results/bench/RELEASE/``, and the `Row` objects in it. What is complete is not measured
again, so a run that was cut short goes on where it was; samples of another commit or
another number of CPUs do not count.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.console import note
from harness.lab import instructions
from harness.lab.experiments import Experiment, Point
from harness.lab.instructions import Config, Sample
from harness.paths import PROJECT, RESULTS

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
        """Raise `FalconError` for what could not be measured."""
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
        sample = values["sample"]
        sample["work"] = tuple(sample["work"])
        return cls(**values | {"sample": Sample(**sample)})


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


def run(
    setup: Setup, experiments: Iterable[Experiment], command: str
) -> Iterator[tuple[Experiment, list[Row]]]:
    """Measure what is missing of each experiment, and yield it with all its rows."""
    for experiment in experiments:
        context = context_of(setup, command)
        rows = [row for row in load(setup.release, experiment.figure) if _fits(row, context)]
        for point in experiment.chosen(setup.quick):
            done = [row.sample for row in rows if row.point == point.label]
            if _is_complete(experiment, done, setup.rounds):
                note(f"figure {experiment.figure}, {point.label}: measured before")
                continue
            rows = [row for row in rows if row.point != point.label]
            rows += _measure(setup, experiment, point, context)
        yield experiment, rows


def _fits(row: Row, context: dict[str, Any]) -> bool:
    return all(row.context.get(name) == context[name] for name in CONDITIONS)


def _is_complete(experiment: Experiment, samples: list[Sample], rounds: int) -> bool:
    counted = Counter(sample.mode for sample in samples)
    return all(counted[mode] >= rounds for mode in experiment.modes)


def _measure(
    setup: Setup, experiment: Experiment, point: Point, context: dict[str, Any]
) -> Iterator[Row]:
    config = setup.config(experiment, point)
    path = file_of(setup.release, experiment.figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    total, number = config.rounds * len(config.mode_names), 0
    with path.open("a", encoding="utf-8") as file, instructions.opened(config.boot) as rig:
        for sample in instructions.measure(config, rig):
            row = Row(experiment.figure, point.label, sample, context)
            file.write(row.to_json() + "\n")
            file.flush()
            number += 1
            note(
                f"figure {experiment.figure}, {point.label}: {number}/{total} {sample.mode}:"
                f" {sample.busiest:,.0f} instructions a packet on the busiest CPU"
            )
            yield row


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
