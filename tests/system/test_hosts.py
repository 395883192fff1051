# SPDX-License-Identifier: GPL-2.0-only
"""A server gets a patched kernel, is tested, gets a bad one, and is as it was in the end."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import broken
import image
import pytest
from conftest import FRAGMENTS, Console
from server import Server

from harness.console import note
from harness.errors import FalconError
from harness.hosts import copying, install, panics
from harness.hosts.fleet import Reporter
from harness.hosts.grub import DROP_IN, STATE, TRIAL
from harness.hosts.host import Host
from harness.kernel.package import Package
from harness.kernel.progress import duration
from harness.machine import ssh
from harness.machine.base import Input

HOST = ("--host", "deploy")
TIMEOUT_S = 1200
OF_OURS = (DROP_IN, TRIAL, STATE, panics.STATE, "/etc/systemd/system/falcon-trial.service")


def said(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.stderr}\n{done.stdout}"


def run(server: Server, script: str) -> str:
    """Run a script on the server, as root."""
    with server.machine("deploy") as machine:
        return machine.run(["sh", "-c", script], check=True).stdout


# ext4 gives these to nobody, not even to root: 4096 clusters, on a disk of more than 800 MB.
KEPT_BACK = 4096 * 4096
FILLER = "/var/tmp/filler"


@contextmanager
def full_disk(server: Server, free: int) -> Iterator[None]:
    """Leave root so many bytes on the server's disk, for a while."""
    size = f'"$(($(stat -f -c "%f * %S" /) - {KEPT_BACK + free}))"'
    try:
        run(server, f"fallocate -l {size} {FILLER}")
        yield
    finally:  # one that did not fit is there, too
        run(server, f"rm -f {FILLER}")


def temporary_files(server: Server) -> list[str]:
    """What there is in /var/tmp; systemd makes a directory there for some of its services."""
    return run(server, "ls -I 'systemd-private-*' /var/tmp").split()


def release(server: Server) -> str:
    return run(server, "uname -r").strip()


# What there is to boot, and what decides which of it does.
BOOT = """
dpkg-query --show
find /boot /etc/default/grub.d /etc/grub.d -type f 2>/dev/null | sort
cat /etc/default/grub /boot/grub/grub.cfg
"""


@pytest.fixture(scope="session", autouse=True)
def debians(server: Server) -> str:
    """`BOOT` as it was before the first test."""
    return run(server, BOOT)


# ---- who is let in ----------------------------------------------------------------------


@pytest.mark.looks
def test_unknown_host_key_ends_it(console: Console) -> None:
    known = console.server.known_hosts
    before = known.read_text()
    known.write_text("")
    try:
        done = console.inv("host-status", *HOST)
        assert known.read_text() == ""
    finally:
        known.write_text(before)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the host key of [127.0.0.1]:")
    assert "is not known: it shows ssh-ed25519 SHA256:" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.looks
@pytest.mark.parametrize(
    ("password", "error"),
    [
        ("", "error: sudo on admin wants a password; give it with --ask-password"),
        ("wrong", "error: sudo on admin does not accept the password"),
    ],
)
def test_sudo_without_the_right_password(console: Console, password: str, error: str) -> None:
    env = {"FALCON_SUDO_PASSWORD": password} if password else {}
    done = console.inv("host-status", "--host", "admin", **env)
    assert done.returncode == 1 and done.stderr.startswith(error)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.looks
def test_status_of_two_logins_one_by_password(console: Console) -> None:
    words = ("host-status", "--host", "admin", *HOST)
    done = console.inv(*words, FALCON_SUDO_PASSWORD=image.PASSWORD)
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if "-amd64" in line]
    assert len(rows) == 2 and all("not in this kernel" in row for row in rows)


@pytest.mark.looks
def test_nothing_to_test_where_there_is_no_falcon(console: Console) -> None:
    done = console.inv("test", *HOST)
    assert done.returncode == 1
    assert "NOT RUN: its kernel 6.1.0-" in done.stdout and "has no Falcon" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed, 1 skipped"


# ---- copying ----------------------------------------------------------------------------


# When so many bytes have arrived. The server looks itself: what was sent is far ahead of it.
CUT = """
until [ "$(stat -c %s "$0" 2>/dev/null || echo 0)" -ge "$1" ]; do sleep 0.1; done
pkill -KILL -u deploy sshd
"""


# Between two chunks: the copy takes some 20 s on any host, longer than it takes to cut it.
CHUNK_EVERY_S = 0.1


def test_connection_cut_in_mid_copy_is_gone_on_with(
    server: Server, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = package.file.stat().st_size
    chunks = ssh.chunks

    def slowly(stdin: Input, size: int) -> Iterator[bytes]:
        for data in chunks(stdin, size):
            yield data
            time.sleep(CHUNK_EVERY_S)

    monkeypatch.setattr(ssh, "chunks", slowly)
    offsets: list[int] = []
    send = copying._send

    def remembered(host: Host, local: Path, part: str, offset: int, on_bytes: Any) -> None:
        offsets.append(offset)
        send(host, local, part, offset, on_bytes)

    monkeypatch.setattr(copying, "_send", remembered)
    with server.machine("admin", image.PASSWORD) as other, server.machine("deploy") as machine:
        machine.connect()
        cut = other.start(["sh", "-c", CUT, "/var/tmp/copy.deb.part", str(size // 4)])
        host = Host(machine)
        try:
            copying.copy(host, package.file, "/var/tmp/copy.deb", package.sha256)
            cut.wait(120, check=True)
            assert host.sha256("/var/tmp/copy.deb") == package.sha256
        finally:
            host.remove("/var/tmp/copy.deb", "/var/tmp/copy.deb.part")
    # From the beginning once, and then from where it was cut.
    assert offsets[0] == 0 and all(0 < offset < size for offset in offsets[1:]) and offsets[1:]


def test_full_disk_is_told_before_the_copy_and_leaves_nothing(
    console: Console, server: Server
) -> None:
    with full_disk(server, 20_000_000):
        done = console.inv("install-kernel", *HOST, "--config", FRAGMENTS)
        assert temporary_files(server) == ["filler"]
    assert done.returncode == 1
    assert "error: the disk is too full:" in done.stderr


def test_disk_that_fills_up_in_mid_copy_leaves_nothing(server: Server, package: Package) -> None:
    with full_disk(server, 1_000_000):
        with (
            server.machine("deploy") as machine,
            pytest.raises(FalconError, match="No space left on device"),
        ):
            copying.copy(Host(machine), package.file, "/var/tmp/copy.deb", package.sha256)
        assert temporary_files(server) == ["filler"]


# ---- a kernel ---------------------------------------------------------------------------


def test_install_reboots_into_falcon_and_makes_it_the_default(
    console: Console, server: Server, package: Package
) -> None:
    words = ("install-kernel", *HOST, "--config", FRAGMENTS, "--timeout", str(TIMEOUT_S))
    done = console.inv(*words)
    assert done.returncode == 0, said(done)
    assert release(server) == package.release
    status = console.inv("host-status", *HOST)
    assert status.stdout.count(package.release) == 3  # runs, by default, and is of ours
    assert run(server, f"ls {TRIAL} 2>/dev/null || true") == ""
    # As Debian's kernel has it, and not as in a boot that is tried.
    assert run(server, "cd /proc/sys/kernel; cat panic panic_on_oops").split() == ["0", "0"]


def test_again_it_only_looks(console: Console, package: Package) -> None:
    done = console.inv("install-kernel", *HOST, "--config", FRAGMENTS)
    assert done.returncode == 0
    assert f"deploy: runs {package.release} already" in done.stderr
    assert "rebooting" not in done.stderr


def test_integration_tests_run_on_it(console: Console, server: Server) -> None:
    state = "sysctl -a --pattern net.core; ip -o link"
    before = (temporary_files(server), run(server, state))
    done = console.inv("test", *HOST)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 0, said(done)
    # The kernel has no KUnit, the server no ping, and too few CPUs for three tests of placement.
    assert last.endswith("passed, 0 failed, 5 skipped")
    for why in ("built without Falcon's KUnit tests", "SKIP: needs ping", "CPUs for stages are"):
        assert why in done.stdout
    for file in ("test_sysctl.py", "test_traffic.py", "test_order.py", "test_hotplug.py"):
        assert f"integration/{file} ." in done.stdout
    assert (temporary_files(server), run(server, state)) == before


# udev gives new devices addresses, late on a slow server; masks go with a device's address.
OVERLAY = """
set -e
ip netns add box
ip link add vx0 type vxlan id 77 dev eth0 dstport 4789
ip link add bridge7 type bridge
ip link set vx0 master bridge7
ip link add port type veth peer name inside netns box
ip link set port master bridge7
udevadm settle
"""
MASKS = """
cat /sys/class/net/eth0/queues/rx-*/rps_cpus /sys/class/net/vx0/queues/rx-0/rps_cpus
ip netns exec box cat /sys/class/net/inside/queues/rx-0/rps_cpus
"""


def test_masks_are_set_over_ssh_and_put_back(console: Console, server: Server) -> None:
    try:
        run(server, OVERLAY)
        before = run(server, "echo 5 >/sys/class/net/vx0/queues/rx-0/rps_cpus;" + MASKS)
        applied = console.inv("rps-pipeline", *HOST, "--apply", "--vni", "77")
        masks = [int(line, 16) for line in run(server, MASKS).split()]
        undone = console.inv("rps-pipeline", *HOST, "--undo")
        after = run(server, MASKS)
    finally:
        run(server, "ip link del bridge7; ip link del vx0; ip link del port; ip netns del box || :")
    assert applied.returncode == 0, said(applied)
    nics, (vxlan, inside) = masks[:-2], masks[-2:]
    assert all(nic and not nic & (vxlan | inside) for nic in nics)
    assert vxlan and inside and not vxlan & inside
    assert undone.returncode == 0 and "masks put back" in undone.stdout
    assert after == before


def fails(server: Server, bad: Package, timeout_s: float) -> str:
    """Install a broken kernel; what is told of it. The server runs the one from before."""
    before = release(server)
    note(f"$ install-kernel of {bad.release}")
    began = time.monotonic()
    with server.machine("deploy") as machine, pytest.raises(FalconError) as caught:
        install.install(machine, Reporter(machine), bad, boot_timeout_s=timeout_s)
    note(f"error: {caught.value}\nafter {duration(time.monotonic() - began)}")
    assert release(server) == before
    assert f"{bad.release} did not come up on deploy: it runs {before}" in str(caught.value)
    return str(caught.value)


def test_kernel_that_panics_leaves_the_server_as_it_was(
    server: Server, package: Package, tmp_path: Path
) -> None:
    fails(server, broken.make(package, broken.PANICS, tmp_path), TIMEOUT_S)
    console_text = server.console.read_text(errors="replace")
    assert "crashing on purpose" in console_text and "Kernel panic" in console_text


# From when it is on its way up a kernel has so long to be verified; a boot takes minutes here.
DEAF_S = 600


def test_kernel_that_cannot_be_reached_gives_way_to_the_old_one(
    server: Server, package: Package, tmp_path: Path
) -> None:
    told = fails(server, broken.make(package, broken.DEAF, tmp_path), DEAF_S)
    assert "the end of its journal is above" in told
    console_text = server.console.read_text(errors="replace")
    assert "no network on purpose" in console_text


def test_uninstalled_the_server_is_debians_again(
    console: Console, server: Server, package: Package, debians: str
) -> None:
    ours = run(server, "cd /boot; ls vmlinuz-*falcon*").split()
    assert f"vmlinuz-{package.release}" in ours
    words = ("uninstall-kernel", *HOST, "--timeout", str(TIMEOUT_S))
    done = console.inv(*words)
    assert done.returncode == 0, said(done)
    removed = re.search(r"removed ([^;]+); runs \S+-amd64", done.stdout)
    assert removed
    assert {f"vmlinuz-{name}" for name in removed[1].split(", ")} == set(ours)
    assert release(server).endswith("-amd64")
    assert run(server, f"ls {' '.join(OF_OURS)} 2>/dev/null || true") == ""
    assert run(server, "ls /boot /lib/modules | grep -c falcon || true").strip() == "0"
    assert run(server, "grub-editenv - list").strip() == ""
    assert run(server, BOOT) == debians
