# SPDX-License-Identifier: GPL-2.0-only
"""What the integration tests do to the host they run on, without Falcon in its kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.machine import qemu
from harness.machine.qemu import QemuConfig
from harness.overlay import cpus, falcon, keeper
from harness.overlay.keeper import Keeper
from harness.paths import PROJECT, TESTS

PATIENCE_S = 240.0
SYSCTLS = {
    "falcon": "1",
    "falcon_cpus": "1-7",
    "falcon_gro_split": "0",
    "falcon_load_interval": "50",
    "falcon_load_threshold": "85",
    "falcon_two_choice": "1",
    "netdev_max_backlog": "1000",
}
OURS = QemuConfig(Path("bzImage"), smp=6, mem_mib=1024, accel="kvm")
# Loaded before the tests' conftest.py; files of a directory are the kernel's.
PLUGIN = """
import os
from pathlib import Path
import rig, tracing
from harness.overlay import cpus, falcon, keeper

class Silent:
    def splats(self): return []
    def close(self): pass

os.geteuid = lambda: 0
rig.KernelLog = Silent
falcon.SYSCTL, cpus.CPU_DIRECTORY = Path({root!r}, "core"), Path({root!r}, "cpu")
tracing.STEER, rig.COMMAND_LINE = Path({root!r}, "enable"), Path({root!r}, "cmdline")
keeper.LOCK, keeper.FREE_WITHIN_S = "\\0" + {lock!r}, 0.2
"""
# Ends as it does whose SSH connection is lost.
DOOMED = """
import os, signal
import tracing
from harness.overlay import falcon
from harness.overlay.cpus import set_online

def test_doomed():
    falcon.apply(falcon.Settings(False, (2, 3), 77, 123, False, 2))
    set_online(3, False)
    tracing.STEER.write_text("1")
    assert falcon.read_sysctl("netdev_max_backlog") == "10000"
    os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True)
class PlayedHost:
    """``root``: what tests may write; ``tests``: those there are, of which it runs any."""

    root: Path
    tests: Path

    def state(self) -> dict[str, str]:
        """All that is set, by file."""
        files = [file for file in self.root.rglob("*") if file.is_file()]
        return {str(file.relative_to(self.root)): file.read_text() for file in files}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run pytest with ``words``."""
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "played", "-p", "no:cacheprovider", *words],
            cwd=self.tests,
            env={**os.environ, "PYTHONPATH": f"{self.tests}:{PROJECT}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedHost:
    made = PlayedHost(tmp_path / "host", tmp_path / "integration")
    shutil.copytree(TESTS / "integration", made.tests)
    lock = f"falcon-test-{os.getpid()}"
    monkeypatch.setattr(keeper, "LOCK", f"\0{lock}")  # others may measure on this machine
    (made.tests / "played.py").write_text(PLUGIN.format(root=str(made.root), lock=lock))
    files = {f"core/{name}": value for name, value in SYSCTLS.items()}
    files |= {f"cpu/cpu{cpu}/online": "1" for cpu in range(1, 8)}
    files |= {"cpu/online": "0-7", "enable": "0", "cmdline": "quiet"}
    for name, text in files.items():
        (made.root / name).parent.mkdir(parents=True, exist_ok=True)
        (made.root / name).write_text(text + "\n")
    return made


def test_killed_tests_leave_the_host_as_it_was(host: PlayedHost) -> None:
    (host.tests / "test_doomed.py").write_text(DOOMED)
    before = host.state()
    done = host.run("test_doomed.py")
    assert done.returncode == -signal.SIGKILL, done.stdout
    deadline = time.monotonic() + PATIENCE_S
    while host.state() != before:
        assert time.monotonic() < deadline, host.state()
        time.sleep(0.05)


def test_cpus_are_back_before_falcon_gets_them(
    host: PlayedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "integration"))
    import rig
    import tracing

    monkeypatch.setattr(falcon, "SYSCTL", host.root / "core")
    monkeypatch.setattr(cpus, "CPU_DIRECTORY", host.root / "cpu")
    monkeypatch.setattr(tracing, "STEER", host.root / "enable")
    names = [str(file.relative_to(host.root)) for file in rig.own_files()]
    assert names[:7] == [f"cpu/cpu{cpu}/online" for cpu in range(1, 8)]
    assert names[-1] == "core/falcon"
    assert sorted(names[7:]) == ["core/" + name for name in sorted(SYSCTLS)] + ["enable"]


def test_second_run_is_told_in_a_line_that_there_is_one(host: PlayedHost) -> None:
    with Keeper([]):
        done = host.run("test_sysctl.py")
    assert done.returncode == 1
    assert "another measurement or test is under way here; wait for it to end" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("value", "command_line", "came"),
    [
        ("85", "quiet", "1 passed"),
        ("70", "quiet", "others: Settings(on=False, cpus=(1, 2, 3, 4, 5, 6, 7), load_threshold=70"),
        ("70", " ".join(qemu.kernel_arguments(OURS)), "1 failed"),
    ],
    ids=["untouched", "tuned", "ours"],
)
def test_settings_of_an_administrator_are_no_wrong_defaults(
    host: PlayedHost, value: str, command_line: str, came: str
) -> None:
    (host.root / "core/falcon_load_threshold").write_text(value)
    (host.root / "cmdline").write_text(command_line)
    assert came in host.run("test_sysctl.py", "-k", "test_defaults", "-rs").stdout


def test_killed_selftest_leaves_no_network_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root, and ip")
    monkeypatch.syspath_prepend(str(TESTS / "integration"))
    import test_kselftest

    name = f"falcon-test-{os.getpid()}"
    script = tmp_path / "selftest.sh"
    script.write_text(
        f"ip netns add {name} && ip netns exec {name} readlink /proc/self/ns/net; sleep 600"
    )
    process = subprocess.Popen(
        test_kselftest.command(script), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    made = process.stdout.readline().strip()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    process.stdout.close()
    assert made.startswith("net:[") and made != str(Path("/proc/self/ns/net").readlink())
    assert not (test_kselftest.NAMES / name).exists()
