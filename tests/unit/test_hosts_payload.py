# SPDX-License-Identifier: GPL-2.0-only
"""The harness runs on a host without being installed, and leaves nothing there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.hosts import payload, suite
from harness.hosts.payload import Payload, archive
from harness.machine import CommandFailed, LocalMachine
from harness.workload import udpflow

PATIENCE_S = 120.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where payloads go on the host, which is this machine."""
    monkeypatch.setattr(payload, "PLACE", str(tmp_path))
    return tmp_path


def test_modules_run_from_the_payload_alone(place: Path) -> None:
    with LocalMachine() as host, Payload(host, ("harness",), ("pyroute2",)) as there:
        script = "import harness, pyroute2; print(harness.__file__, pyroute2.__file__)"
        done = there.python("-S", "-c", script).wait(PATIENCE_S, check=True)
        assert [Path(word).is_relative_to(place) for word in done.stdout.split()] == [True, True]
        assert there.directory.startswith(f"{place}/falcon.")
    assert list(place.iterdir()) == []


def test_what_the_lab_runs_on_hosts_needs_nothing_compiled(place: Path) -> None:
    with LocalMachine() as host, Payload(host, ("harness",), ("pyroute2", "jinja2")) as there:
        script = "import harness.lab.guest, markupsafe; print(markupsafe.escape('<'))"
        done = there.python("-S", "-c", script).wait(PATIENCE_S, check=True)
        assert done.stdout == "&lt;\n"


def test_tool_is_found_instead_of_compiled(place: Path, tmp_path: Path) -> None:
    program = udpflow.build()
    with LocalMachine() as host, Payload(host, ("harness",), ("pyroute2",)) as there:
        there.add_tool(program)
        script = "from harness.workload import udpflow as u; u._compile = None; print(u.build())"
        done = there.python("-S", "-c", script).wait(PATIENCE_S, check=True)
        assert done.stdout == f"{there.directory}/{payload.TOOLS}/{program.name}\n"


def test_killed_harness_leaves_no_payload_behind(place: Path) -> None:
    script = f"""
import sys, time
from harness.hosts import payload
from harness.machine import LocalMachine
payload.PLACE = {str(place)!r}
there = payload.Payload(LocalMachine(), ("harness",), ())
print(there.directory, flush=True)
time.sleep(1000)
"""
    harness = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert harness.stdout
    directory = Path(harness.stdout.readline().strip())
    assert (directory / "harness").is_dir()
    harness.kill()
    harness.wait()
    harness.stdout.close()
    deadline = time.monotonic() + PATIENCE_S
    while directory.exists():
        assert time.monotonic() < deadline, "the payload is still there"
        time.sleep(0.1)


def test_answers_and_their_errors_come_back(place: Path, tmp_path: Path) -> None:
    with LocalMachine() as host, Payload(host, ("harness",), ("pyroute2",)) as there:
        if os.geteuid() == 0:
            with pytest.raises(FalconError, match="VNI 16000000"):
                there.ask("harness.overlay.rpspipe", {"do": "show", "vni": 16_000_000})
        with pytest.raises(CommandFailed):
            there.ask("harness.no_such_module", {})


class OldHost(LocalMachine):
    """A host with an old Python, or none."""

    def __init__(self, version: str):
        super().__init__()
        self.version = version

    def start(self, argv, **options):  # type: ignore[no-untyped-def]
        words = ["echo", self.version] if self.version else ["false"]
        return super().start(words if argv[0] == "python3" else argv, **options)


@pytest.mark.parametrize(("version", "what"), [("3 8", "Python is 3.8"), ("", "has no Python")])
def test_host_without_a_python_that_will_do(place: Path, version: str, what: str) -> None:
    with OldHost(version) as host, pytest.raises(FalconError, match=f"the host('s|) {what}"):
        Payload(host, ("harness",), ())
    assert list(place.iterdir()) == []


def test_archive_has_what_packages_need_and_nothing_compiled() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(("harness",), ("rich",)))) as tar:
        names = tar.getnames()
    assert {"harness/errors.py", "site/rich/__init__.py", "site/pygments/__init__.py"} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".so")) or "__pycache__" in name]


def test_integration_tests_can_be_collected_from_what_a_host_gets(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(suite.FILES, suite.PACKAGES))) as tar:
        tar.extractall(tmp_path, filter="data")
    command = [sys.executable, "-S", "-m", "pytest", "tests/integration", "--collect-only", "-q"]
    path = {"PYTHONPATH": f"{tmp_path}:{tmp_path / payload.SITE}"}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/integration/test_split.py::" in done.stdout


def test_package_that_is_not_pure_python_is_refused() -> None:
    with pytest.raises(FalconError, match="numpy cannot go to a host: it is not pure Python"):
        archive((), ("numpy",))


def test_requests_travel_as_json() -> None:
    from harness.hosts.pipeline import Request

    assert json.loads(json.dumps(Request("apply", "1-3", 7).as_json())) == {
        "do": "apply",
        "cpus": "1-3",
        "vni": 7,
    }
