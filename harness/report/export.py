# SPDX-License-Identifier: GPL-2.0-only
"""All samples as CSV; claims, numbers and samples as JSON.

In: the `Kernel` objects of a report. Out: text. Samples that the report does not show
are there, too, and say so.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from harness.lab.experiments import INSTRUCTIONS, TIME
from harness.report.evidence import Evidence, Kernel

_WINDOW = ("mode", "round", "delivered", "lost", "out_of_order")
_COUNTED = ("sent_per_second", "softirqs", "stages", "busiest", "total")
_TIMED = ("rate", "unit", "asked", "errors", "stages")


def as_csv(kernels: Sequence[Kernel]) -> str:
    """A line a sample: where it belongs, its numbers by measure, its context."""
    lines = [
        {
            **{name: found[name] for name in ("release", "figure", "point")},
            "shown": int(found["shown"]),
            "measure": found["context"]["measure"],
            **{name: found["sample"][name] for name in _WINDOW},
            **_NUMBERS[found["context"]["measure"]](found["sample"]),
            **{f"context: {name}": value for name, value in found["context"].items()},
        }
        for found in _samples(kernels)
    ]
    written = io.StringIO()
    columns = dict.fromkeys(name for line in lines for name in line)
    table = csv.DictWriter(written, list(columns), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    return written.getvalue()


def _counted(sample: dict[str, Any]) -> dict[str, Any]:
    """Instructions a packet, by CPU and by group of functions, too."""
    return {
        **{name: sample[name] for name in _COUNTED},
        **{f"cpu {cpu}": work for cpu, work in enumerate(sample["work"])},
        **sample["groups"],
    }


def _timed(sample: dict[str, Any]) -> dict[str, Any]:
    """Of the latency microseconds, of each CPU how many percent it was busy."""
    return {
        **{name: sample[name] for name in _TIMED},
        "softirqs a second": sample["softirqs"],
        **{f"latency: {name}": value for name, value in (sample["latency"] or {}).items()},
        **{f"cpu {cpu} busy %": percent for cpu, percent in enumerate(sample["busy"])},
    }


_NUMBERS = {INSTRUCTIONS: _counted, TIME: _timed}


def as_json(kernels: Sequence[Kernel]) -> str:
    """``findings`` on claims, ``goals``, ``numbers`` by point and mode, and all ``samples``."""
    return json.dumps(
        {
            "findings": [asdict(finding) for kernel in kernels for finding in kernel.findings],
            "goals": [
                {"release": kernel.release, "figure": evidence.experiment.key, **asdict(outcome)}
                for kernel in kernels
                for evidence in kernel.measured
                for outcome in evidence.goals
            ],
            "numbers": [
                number
                for kernel in kernels
                for evidence in kernel.measured
                for number in _numbers(kernel.release, evidence)
            ],
            "samples": list(_samples(kernels)),
        },
        indent=1,
        ensure_ascii=False,
    )


def _samples(kernels: Sequence[Kernel]) -> Iterator[dict[str, Any]]:
    """Every row there is, as a dictionary, with its release and whether it is shown."""
    for kernel in kernels:
        for evidence in kernel.figures.values():
            shown = {id(row) for row in evidence.shown}
            for row in evidence.rows:
                found = {"release": kernel.release, "shown": id(row) in shown, **asdict(row)}
                if evidence.experiment.measure == INSTRUCTIONS:
                    found["sample"] |= {"busiest": row.sample.busiest, "total": row.sample.total}
                yield found


def _numbers(release: str, evidence: Evidence) -> Iterator[dict[str, Any]]:
    for point in evidence.points:
        for mode in evidence.modes_at(point):
            yield {
                "release": release,
                "figure": evidence.experiment.key,
                "measure": evidence.experiment.measure,
                "point": point,
                "mode": mode,
                "baseline": evidence.experiment.baseline,
                **{
                    measure.name: {
                        "unit": evidence.unit(measure),
                        "counted": asdict(evidence.counted(point, mode, measure)),
                        "ratio": ratio and asdict(ratio),
                    }
                    for measure in evidence.known
                    for ratio in [evidence.ratio(point, mode, measure)]
                },
            }
