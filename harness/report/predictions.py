# SPDX-License-Identifier: GPL-2.0-only
"""Shows what the model says, and never as anything but a model's.

In: predictions and checks of `harness.lab.model`. Out: tables for the screen, 80 columns wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from rich.table import Table

from harness.lab.model import FIGURE, Check, Fed, Prediction, Setup
from harness.lab.scenario import Cpus
from harness.report.interleaved import Spread


def title(fed: Fed, setup: Setup) -> str:
    """What was assumed, and where the rest is from."""
    cpus = setup.cpus
    return (
        f"Model, not a measurement: {_count(setup.flows, 'UDP flow')} of {fed.size} B to"
        f" {_count(setup.containers, 'container')}\n{_cpus(cpus)}, of {setup.ips:.3g}"
        f" instructions/s each (assumed)\nStages cost what they did on Linux {fed.release}"
        f" (figure {FIGURE}, {fed.point})"
    )


def _cpus(cpus: Cpus) -> str:
    return (
        f"{_count(len(cpus.all), 'CPU')}: {_count(len(cpus.nics), 'NIC queue')},"
        f" {len(cpus.stages)} for stages, {_count(len(cpus.programs), 'program')}"
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def table(predictions: Sequence[Prediction], heading: str) -> Table:
    """A row a mode: packets a second without loss, what bounds them, and the latency."""
    first = predictions[0]
    base = median(first.capacities)
    shown = Table(title=heading, title_justify="left")
    shown.add_column("model of", no_wrap=True)
    for name in ("packets/s", "least\nto most", f"{first.mode}\n= 1"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("bound\nby", no_wrap=True)
    for name in ("p50\nµs", "p99\nµs"):
        shown.add_column(name, justify="right", no_wrap=True)
    for found in predictions:
        rates = Spread.of(found.capacities)
        shown.add_row(
            found.mode,
            f"{rates.median:,.0f}",
            f"{rates.least / 1e3:,.0f}k to {rates.greatest / 1e3:,.0f}k",
            f"{rates.median / base:.2f}",
            found.bound,
            f"{1e6 * found.p50:,.0f}",
            f"{1e6 * found.p99:,.0f}",
        )
    return shown


def remark(predictions: Sequence[Prediction]) -> str:
    """What the columns are of."""
    first = predictions[0]
    return (
        f"model: median of {len(first.capacities)} draws of flows' hashes; latency from wire to"
        f" program, at {first.rate:,.0f} packets/s in all modes; how far off: --check"
    )


def check_table(checks: Sequence[Check], fed: Fed) -> Table:
    """A row a point and mode: the model's number beside the measured one."""
    heading = (
        f"Model against measurement: instructions a packet on the busiest CPU\nLinux"
        f" {fed.release}, {fed.size} B; fed with figure {FIGURE}, which is none of these"
    )
    shown = Table(title=heading, title_justify="left")
    for name in ("figure", "point", "mode"):
        shown.add_column(name, no_wrap=True)
    for name in ("model", "measured", "least to most", "error"):
        shown.add_column(name, justify="right", no_wrap=True)
    for found in checks:
        measured = Spread.of(found.measured)
        shown.add_row(
            found.figure,
            found.point,
            found.mode,
            f"{median(found.predicted):,.0f}",
            f"{measured.median:,.0f}",
            f"{measured.least:,.0f} to {measured.greatest:,.0f}",
            f"{found.error:+.0%}",
        )
    return shown


def verdict(checks: Sequence[Check]) -> str:
    """How far off the model is, in a line."""
    worst = max(checks, key=lambda found: abs(found.error))
    return (
        f"model: off by {fmean(abs(found.error) for found in checks):.0%} on average of"
        f" {len(checks)}, at most by {worst.error:+.0%} (figure {worst.figure}, {worst.point},"
        f" {worst.mode}); its latencies were compared with no measurement"
    )
