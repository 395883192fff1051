# SPDX-License-Identifier: GPL-2.0-only
"""Runs a measurement and keeps every sample as soon as there is one.

In: a `Config` and what the kernel is called. Out: the samples, and a file of JSON lines
in ``results/``: first what was measured and where, then a line a sample. A run that is
cut short leaves what it had.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.console import note
from harness.lab import instructions
from harness.lab.instructions import Config, Sample
from harness.paths import PROJECT, RESULTS


def run(config: Config, release: str) -> tuple[list[Sample], Path]:
    """Measure; the samples, and the file they are in."""
    RESULTS.mkdir(exist_ok=True)
    started = datetime.now(UTC)
    path = RESULTS / f"bench-{release}-{started:%Y%m%d-%H%M%S}.jsonl"
    samples = []
    total = config.rounds * len(config.mode_names)
    with path.open("w", encoding="utf-8") as file:
        _append(file, context(config, release, started))
        for sample in instructions.measure(config):
            _append(file, asdict(sample))
            samples.append(sample)
            note(
                f"{len(samples)}/{total} {sample.mode}, round {sample.round}:"
                f" {sample.busiest:,.0f} instructions a packet on the busiest CPU"
            )
    return samples, path


def _append(file: Any, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


def context(config: Config, release: str, started: datetime) -> dict[str, Any]:
    """What makes a number repeatable: kernel, load, machine, commit, command."""
    return {
        "measure": "instructions",
        "kernel": release,
        "load": asdict(config.load),
        "packets": config.packets,
        "cpus": config.smp,
        "host": f"{platform.machine()}, Linux {platform.release()}",
        "commit": commit(),
        "command": " ".join(["./inv", *sys.argv[1:]]),
        "started": started.isoformat(timespec="seconds"),
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
