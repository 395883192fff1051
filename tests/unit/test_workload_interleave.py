# SPDX-License-Identifier: GPL-2.0-only
"""The order of interleaved windows, and their way between machines."""

from __future__ import annotations

from collections import Counter

from harness.overlay.plan import Plan
from harness.workload.interleave import Job, Window, turns

MODES = ("con", "rps-pipe", "falcon")


def test_each_round_has_every_mode_and_starts_with_another() -> None:
    order = list(turns(MODES, 4))
    assert Counter(order) == {(turn, name): 1 for turn in range(4) for name in MODES}
    assert [name for _, name in order[::3]] == ["con", "rps-pipe", "falcon", "con"]


def test_job_survives_the_way_into_the_guest() -> None:
    job = Job(Plan(containers=2, outer=6), MODES, 3, 2.5, 0.5, sender_here=True, size=100)
    assert Job.from_json(job.to_json()) == job


def test_window_survives_the_way_back() -> None:
    window = Window(3, "con", 1, 2.0, 5000, 1, 2, 3, {0: 0.25, 5: 0.75})
    assert Window.from_json(window.to_json()) == window
    assert window.packets_per_second == 2500
