# SPDX-License-Identifier: GPL-2.0-only
"""What the system test is made of, without a server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import processes
import pytest

from harness.errors import FalconError
from harness.kernel.package import Package
from harness.machine import SshMachine
from harness.machine.base import Result
from harness.paths import TESTS

SYSTEM = TESTS / "system"
RELEASE = "6.12.7-falcon.0123abcd"
PATIENCE_S = 60.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module."""
    monkeypatch.syspath_prepend(str(SYSTEM))
    import server

    return server


def test_qemu_that_ends_is_not_waited_for(
    server: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quits(_disk: Path, _port: int, console: Path) -> list[str]:
        return ["sh", "-c", f"echo no bootable device >{console}; exit 3"]

    monkeypatch.setattr(server, "_arguments", quits)
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.1)
    (tmp_path / "id").write_text("")
    log = tmp_path / "results/console.log"
    complaint = rf"QEMU ended with status 3 .*: no bootable device; all of it is in {log}"
    began = time.monotonic()
    with pytest.raises(FalconError, match=complaint):
        server.Server(tmp_path / "disk", tmp_path / "id", "ssh-ed25519 AAAA", console=log)
    assert log.read_text() == "no bootable device\n"
    assert time.monotonic() - began < PATIENCE_S < server.BOOT_TIMEOUT_S


class Powered(SshMachine):
    """A login whose commands all succeed."""

    def run(self, argv: Sequence[str], **_: object) -> Result:  # type: ignore[override]
        return Result(tuple(argv), 0, b"", b"", 0.0)


def test_server_that_does_not_power_off_is_told(
    server: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stays(_disk: Path, _port: int, console: Path) -> list[str]:
        return ["sh", "-c", f"echo a stop job is running >{console}; exec sleep 1000"]

    log = tmp_path / "console.log"
    monkeypatch.setattr(server, "_arguments", stays)
    monkeypatch.setattr(server, "POWER_OFF_TIMEOUT_S", 3.0)
    monkeypatch.setattr(server.Server, "_wait_until_up", lambda _: None)
    monkeypatch.setattr(server, "SshMachine", Powered)
    (tmp_path / "id").write_text("")
    made = server.Server(tmp_path / "disk", tmp_path / "id", "ssh-ed25519 AAAA", console=log)
    complaint = f"is not off after 3 s; its console ends with: a stop job is running; all .* {log}"
    with made, pytest.raises(FalconError, match=complaint):
        made.power_off()


@pytest.mark.parametrize("fault", ["PANICS", "DEAF"])
def test_broken_package_has_no_file_of_the_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.syspath_prepend(str(SYSTEM))
    import broken

    root, file = tmp_path / "good", tmp_path / "good.deb"
    for name in (f"boot/vmlinuz-{RELEASE}", f"usr/share/doc/linux-image-{RELEASE}/copyright"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("")
    (root / "DEBIAN").mkdir()
    fields = {"Package": f"linux-image-{RELEASE}", "Version": "1", "Architecture": "amd64"}
    fields |= {"Maintainer": "nobody", "Description": "a kernel"}
    text = "".join(f"{name}: {value}\n" for name, value in fields.items())
    (root / "DEBIAN/control").write_text(text)
    pack = ["dpkg-deb", "--root-owner-group", "-b", str(root), str(file)]
    subprocess.run(pack, check=True, capture_output=True)
    good = Package(file, RELEASE, f"linux-image-{RELEASE}", "c0ffee", "0" * 64, 1)
    (tmp_path / "made").mkdir()
    bad = broken.make(good, getattr(broken, fault), tmp_path / "made")

    def files(deb: Path) -> set[str]:
        listed = subprocess.run(
            ["dpkg-deb", "--contents", str(deb)], check=True, capture_output=True, text=True
        )
        names = [line.split()[-1] for line in listed.stdout.splitlines()]
        return {name for name in names if not name.endswith("/")}

    assert f"./boot/vmlinuz-{bad.release}" in files(bad.file)
    assert files(good.file) & files(bad.file) == set()
    assert list((tmp_path / "made").iterdir()) == [bad.file]


def test_killed_harness_leaves_no_debootstrap_behind(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are root's")
    played = tmp_path / "debootstrap"
    played.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid\n")
    with played.open("a") as file:
        file.write("exec sleep 1000\n")
    played.chmod(0o755)
    script = (
        f"import sys; sys.path.insert(0, {str(SYSTEM)!r}); from pathlib import Path\n"
        "import image; image._debootstrap(Path('nowhere'))"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    harness = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "pid").exists():
        assert harness.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    harness.kill()
    harness.wait()
    processes.wait_until_gone([int((tmp_path / "pid").read_text())])
