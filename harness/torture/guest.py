# SPDX-License-Identifier: GPL-2.0-only
"""The run inside the machine under torture.

In: a `Job` (as JSON, on the command line). Out: one JSON object a line on stdout,
its "event": "step" before each action, "progress" every few seconds, "epoch" after
each, "phase" for what else takes long, at last "done" or "failed".
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import FalconError
from harness.overlay import falcon
from harness.overlay.cpus import present_cpus
from harness.torture import driver, leaks, traffic
from harness.torture.driver import Totals
from harness.torture.ports import SMALL
from harness.torture.sequence import Step, epochs
from harness.torture.world import World, standing

PROGRESS_S = 5.0
# From here on only warnings and worse go to the console; see PATIENT in ``run``.
PRINTK, WARNINGS = Path("/proc/sys/kernel/printk"), "5"
_printing = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What to do: actions of ``seed`` for ``minutes``, at ``rate`` packets a second at most."""

    seed: int
    minutes: float
    rate: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))


def tell(event: str, **values: Any) -> None:
    """One line; several threads tell."""
    with _printing:
        print(json.dumps({"event": event, **values}), flush=True)


@contextmanager
def _progress(totals: Totals) -> Iterator[None]:
    """Tell how far it is, whatever else is going on."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(PROGRESS_S):
            tell("progress", totals=totals.to_dict())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tell_step(step: Step) -> None:
    tell("step", text=str(step))


def torture(job: Job, totals: Totals) -> None:
    """Run all of it; raises `FalconError` when something is not as it must be."""
    falcon.require()
    PRINTK.write_text(WARNINGS)
    tell("phase", text="looking at the machine before")
    before = leaks.baseline()
    tell("phase", text="setting up")
    with standing() as topologies, World(topologies) as world:
        rate = traffic.find_rate(topologies[SMALL], job.rate)
        tell("phase", text=f"Linux {os.uname().release}, {rate:,.0f} packets/s")
        until = time.monotonic() + 60 * job.minutes
        row = epochs(job.seed, present_cpus())
        for outcome in driver.run(
            world, row, rate=rate, until=until, totals=totals, tell=_tell_step
        ):
            tell(
                "epoch",
                number=outcome.epoch.number,
                sort=outcome.epoch.sort.name,
                small=str(outcome.balances["small"]),
                jumbo=str(outcome.balances["jumbo"]),
                out_of_order=outcome.tally.out_of_order,
                late=outcome.tally.late,
            )
        tell("phase", text="taking everything down")
    tell("phase", text="looking for leaks")
    skipped = leaks.check(before, lambda text: tell("phase", text=text))
    tell("done", totals=totals.to_dict(), skipped=skipped)


def main() -> int:
    """Run the job given as JSON in the first argument."""
    totals = Totals()
    with _progress(totals):
        try:
            torture(Job.from_json(sys.argv[1]), totals)
        except FalconError as error:
            tell("failed", why=str(error), totals=totals.to_dict())
            return error.status
        except Exception as error:  # a bug of ours, told where somebody sees it
            where = traceback.format_exc()
            tell("failed", why=f"{type(error).__name__}: {error}", totals=totals.to_dict())
            print(where, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
