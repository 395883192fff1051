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

from harness.report.evidence import MEASURES, Evidence, Kernel

_SAMPLE = (
    *("mode", "round", "delivered", "lost", "out_of_order", "sent_per_second"),
    *("softirqs", "stages", "busiest", "total"),
)


def as_csv(kernels: Sequence[Kernel]) -> str:
    """A line a sample: where it belongs, its numbers, work by CPU and by group, its context."""
    lines = [
        {
            **{name: found[name] for name in ("release", "figure", "point")},
            "shown": int(found["shown"]),
            **{name: found["sample"][name] for name in _SAMPLE},
            **{f"cpu {cpu}": work for cpu, work in enumerate(found["sample"]["work"])},
            **found["sample"]["groups"],
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


def as_json(kernels: Sequence[Kernel]) -> str:
    """``findings`` on claims, ``numbers`` by point and mode, and all ``samples``."""
    return json.dumps(
        {
            "findings": [asdict(finding) for kernel in kernels for finding in kernel.findings],
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
                found["sample"] |= {"busiest": row.sample.busiest, "total": row.sample.total}
                yield found


def _numbers(release: str, evidence: Evidence) -> Iterator[dict[str, Any]]:
    for point in evidence.points:
        for mode in evidence.modes:
            yield {
                "release": release,
                "figure": evidence.experiment.figure,
                "point": point,
                "mode": mode,
                "baseline": evidence.experiment.baseline,
                **{
                    name: {
                        "unit": measure.unit,
                        "counted": asdict(evidence.counted(point, mode, measure)),
                        "ratio": asdict(evidence.ratio(point, mode, measure)),
                    }
                    for name, measure in MEASURES.items()
                },
            }
