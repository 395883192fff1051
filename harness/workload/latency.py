# SPDX-License-Identifier: GPL-2.0-only
"""What all loads say of latency, so that their results compare."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """The mean, percentiles and the most of many latencies, in microseconds."""

    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
