# SPDX-License-Identifier: GPL-2.0-only
"""What Falcon's KUnit tests, which ran when this kernel booted, have found."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

DEBUGFS = Path("/sys/kernel/debug")
RESULTS = DEBUGFS / "kunit/falcon/results"
# "# falcon_test_gate: ...", then "    ok 4 falcon_test_gate"; in 6.1 with a dash.
CASE = re.compile(r"^ *(ok|not ok) \d+ (?:- )?(falcon_test_\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def results() -> Iterator[str]:
    mounted = DEBUGFS.is_dir() and any(DEBUGFS.iterdir())
    if not mounted:
        subprocess.run(["mount", "-t", "debugfs", "debugfs", str(DEBUGFS)], check=True)
    try:
        if not RESULTS.exists():
            pytest.skip("this kernel was built without Falcon's KUnit tests")
        yield RESULTS.read_text(encoding="ascii")
    finally:
        if not mounted:
            subprocess.run(["umount", str(DEBUGFS)], check=True)


def test_all_kunit_tests_passed(results: str) -> None:
    verdicts = {name: verdict for verdict, name in CASE.findall(results)}
    assert len(verdicts) > 10, results
    assert set(verdicts.values()) == {"ok"}, results
