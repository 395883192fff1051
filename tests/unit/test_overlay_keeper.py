# SPDX-License-Identifier: GPL-2.0-only
"""A host's settings get back what was in them, however who changed them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.overlay import keeper
from harness.overlay.keeper import Keeper

PATIENCE_S = 30.0

# Dies with its children as who loses the SSH connection does.
DOOMED = """
import os, signal, sys, time
from pathlib import Path
from harness.overlay import keeper
keeper.LOCK = sys.argv[1].replace("@", chr(0))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # nohup and & have some ignored
files = [Path(name) for name in sys.argv[2:]]
keeper.Keeper(files)
for file in files:
    file.write_text("ours")
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("mask", "affinity", "untouched")]
    for file in made:
        file.write_text(f"{file.name} of the host\n")
    return made


@pytest.fixture(autouse=True)
def lock(monkeypatch: pytest.MonkeyPatch) -> str:
    """This process's own: others may measure on this machine."""
    name = f"falcon-test-{os.getpid()}"
    monkeypatch.setattr(keeper, "LOCK", f"\0{name}")
    return f"@{name}"


def wait_until(files: list[Path], text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(text not in file.read_text() for file in files if file.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_became_different_is_put_back(files: list[Path]) -> None:
    before = files[2].stat().st_mtime_ns
    with Keeper(files):
        for file in files[:2]:
            file.write_text("ours")
    assert [file.read_text() for file in files] == [f"{file.name} of the host\n" for file in files]
    assert files[2].stat().st_mtime_ns == before, "what is as it was is not written"


def test_what_went_with_its_device_does_not_stop_the_rest(files: list[Path]) -> None:
    with Keeper(files):
        files[0].unlink()
        files[1].write_text("ours")
    assert not files[0].exists() and files[1].read_text() == "affinity of the host\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_outlives_who_is_killed(files: list[Path], lock: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DOOMED, lock, *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    assert files[0].read_text() == "ours"
    os.killpg(process.pid, number)
    process.wait(PATIENCE_S)
    process.stdout.close()
    wait_until(files, "of the host")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(keeper, "FREE_WITHIN_S", 0.2)
    yield


def test_what_cannot_be_read_is_not_changed(files: list[Path]) -> None:
    with pytest.raises(FalconError, match=r"cannot be put back.*nowhere"):
        Keeper([*files, Path("/nowhere")])


def test_there_is_one_at_a_time(files: list[Path], impatient: None) -> None:
    with Keeper(files), pytest.raises(FalconError, match="or test is under way"):
        Keeper(files)
    with Keeper(files):
        pass
