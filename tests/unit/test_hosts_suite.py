# SPDX-License-Identifier: GPL-2.0-only
"""The integration suite on hosts: each one's tests counted, nothing of them left there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.hosts import fleet, payload, suite
from harness.machine import LocalMachine
from harness.machine.ssh import Access

TESTS = """
import os, tempfile

def test_passes():
    assert os.environ["PYTHONUNBUFFERED"]

def test_own_files_go_with_the_payload(tmp_path):
    assert str(tmp_path).startswith(os.getcwd()) and tempfile.gettempdir() == os.getcwd()

def test_fails():
    assert False
"""


class Server(LocalMachine):
    """This machine, as a host with Falcon in its kernel unless it is called "stock"."""

    def __init__(self, name: str, _access: Access):
        super().__init__()
        self.name = name

    def is_falcon(self) -> bool:
        return self.name != "stock"

    def check_cancelled(self) -> None:
        pass

    def cancel(self) -> None:
        pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where payloads go; what is in them is a suite of three tests."""
    made = tmp_path / "project/tests/integration/test_x.py"
    made.parent.mkdir(parents=True)
    made.write_text(TESTS)
    (tmp_path / "udpflow").write_text("")
    (tmp_path / "place").mkdir()
    monkeypatch.setattr(payload, "PROJECT", tmp_path / "project")
    monkeypatch.setattr(payload, "PLACE", str(tmp_path / "place"))
    monkeypatch.setattr(suite, "FILES", ("tests",))
    monkeypatch.setattr(suite, "PACKAGES", ("pytest",))
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(suite.udpflow, "build", lambda: tmp_path / "udpflow")
    monkeypatch.setattr(fleet, "SshMachine", Server)
    return tmp_path / "place"


@pytest.mark.parametrize(
    ("hosts", "keyword", "status", "told"),
    [
        (["a"], "passes or payload", 0, ["a 2 passed, 0 failed, 0 skipped"]),
        (
            ["a", "stock"],
            "passes",
            0,
            ["a 1 passed, 0 failed, 0 skipped", "1 passed, 0 failed, 1 skipped"],
        ),
        (["a"], None, 1, ["2 passed, 1 failed, 0 skipped"]),
        (["a"], "nothing", 1, ["0 passed, 0 failed, 0 skipped"]),
        (["stock"], None, 1, ["stock NOT RUN: its kernel", "has no Falcon; install one with"]),
    ],
)
def test_what_is_told_of_hosts(
    place: Path,
    capfd: pytest.CaptureFixture[str],
    hosts: list[str],
    keyword: str | None,
    status: int,
    told: list[str],
) -> None:
    assert suite.run(hosts, Access(), keyword=keyword) == status
    out = " ".join(capfd.readouterr().out.split())
    assert [words for words in told if words not in out] == []
    assert list(place.iterdir()) == []


def test_pytest_that_cannot_run_is_a_failure(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place.parent / "project/tests/integration/test_x.py").write_text("import nothing_of_the_kind")
    assert suite.run(["a"], Access(), keyword="passes") == 1
    assert (place.parent / "results/integration-a.xml").exists()
    assert list(place.iterdir()) == []
