# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own test of Falcon, tools/testing/selftests/net/falcon.sh of the series."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from rig import is_ours

from harness.kernel import patches, series

SCRIPT = "tools/testing/selftests/net/falcon.sh"
# Twelve tests, some of which ping for ten seconds; emulated CPUs are slow.
TIMEOUT_S = 600
SKIPPED = 4  # kselftest's exit code
# Veth devices have had GRO, and so a NAPI for it, since 5.13.
VETH_GRO, VETH_GRO_SINCE = "GRO of a veth device is split, and joined again", (5, 13)
# Of `ip netns`: a name keeps its namespace when all processes in it are killed.
NAMES = Path("/run/netns")
LINE = re.compile(r"^TEST: (.*\S) +\[ *(OK|FAIL|SKIP) *\]$", re.MULTILINE)


def running() -> tuple[int, ...]:
    """The running kernel's line, e.g. (6, 12)."""
    return tuple(map(int, os.uname().release.split(".")[:2]))


def running_series() -> series.Series:
    """That of the running kernel; skips where there is none."""
    line = ".".join(map(str, running()))
    if line not in series.names():
        pytest.skip(f"there is no series for Linux {line}")
    return series.load(line)


def command(script: Path) -> list[str]:
    """Runs it with names of network namespaces that it has for itself, and that go with it."""
    alone = 'mkdir -p "$0" && mount -t tmpfs falcon "$0"; exec bash "$1"'
    return ["unshare", "--mount", "sh", "-c", alone, str(NAMES), str(script)]


@pytest.mark.timeout(TIMEOUT_S)
def test_falcon_sh(tmp_path: Path) -> None:
    script = tmp_path / "falcon.sh"
    script.write_text(patches.added_file(patches.load(running_series()), SCRIPT))
    done = subprocess.run(command(script), capture_output=True, text=True)
    # A host has the programs that its administrator wants there.
    if done.returncode == SKIPPED and not is_ours():
        pytest.skip(done.stdout.strip())
    verdicts = dict(LINE.findall(done.stdout))
    assert len(verdicts) >= 12, done.stdout + done.stderr
    if running() < VETH_GRO_SINCE:
        assert verdicts.pop(VETH_GRO) == "SKIP"
    assert set(verdicts.values()) <= ({"OK"} if is_ours() else {"OK", "SKIP"}), (
        done.stdout + done.stderr
    )
    assert done.returncode == 0
