# SPDX-License-Identifier: GPL-2.0-only
"""Every network namespace is found once, under the name a user knows, and none is kept alive."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.overlay import namespaces
from harness.overlay.namespaces import find, read_proc_net
from harness.overlay.netns import Namespace

PATIENCE_S = 30.0


class Proc:
    """A directory in place of /proc; one file, linked to, is one namespace."""

    def __init__(self, directory: Path):
        self.directory = directory

    def add(self, pid: int, namespace: Path, comm: str = "daemon", thread: int = 0) -> None:
        place = self.directory / f"{pid}/task/{thread or pid}"
        (place / "ns").mkdir(parents=True)
        (place / "ns/net").hardlink_to(namespace)
        (place / "comm").write_text(f"{comm}\n")
        (self.directory / f"{pid}/ns").mkdir(exist_ok=True)
        if not thread:
            (self.directory / f"{pid}/ns/net").hardlink_to(namespace)


@pytest.fixture
def inodes(tmp_path: Path) -> dict[str, Path]:
    """Some namespaces."""
    made = {name: tmp_path / "nsfs" / name for name in ("host", "red", "blue", "overlay")}
    (tmp_path / "nsfs").mkdir()
    for path in made.values():
        path.touch()
    return made


@pytest.fixture
def proc(tmp_path: Path, inodes: dict[str, Path]) -> Proc:
    """The host's init, and a process whose second thread is elsewhere."""
    made = Proc(tmp_path / "proc")
    made.add(1, inodes["host"], "init")
    made.add(20, inodes["host"])
    made.add(20, inodes["red"], "worker", thread=21)
    made.add(100, inodes["red"])
    made.add(9, inodes["blue"], "nginx: master")
    (made.directory / "cpuinfo").touch()
    return made


def names(found: tuple[namespaces.Found, ...]) -> list[str]:
    return [namespace.name for namespace in found]


def test_host_comes_first_and_others_are_called_by_their_first_thread(proc: Proc) -> None:
    found = find(proc.directory, {})
    assert names(found) == ["host", "nginx: master[9]", "worker[21]"]
    assert found[2].path == proc.directory / "20/task/21/ns/net"
    assert len({namespace.inode for namespace in found}) == 3


def test_names_of_ip_netns_and_docker_come_before_threads(
    proc: Proc, tmp_path: Path, inodes: dict[str, Path]
) -> None:
    mounts = {"": tmp_path / "netns", "docker/": tmp_path / "docker", "none/": tmp_path / "none"}
    for directory in ("netns", "docker"):
        (tmp_path / directory).mkdir()
    (tmp_path / "netns/web").hardlink_to(inodes["blue"])
    (tmp_path / "docker/1-abc").hardlink_to(inodes["overlay"])  # has no thread at all
    (tmp_path / "docker/default").hardlink_to(inodes["host"])
    (tmp_path / "netns/stale").symlink_to("/dev/null")  # its namespace is gone
    (tmp_path / "netns/gone").symlink_to("nowhere")
    assert names(find(proc.directory, mounts)) == ["host", "docker/1-abc", "web", "worker[21]"]


def test_what_vanishes_meanwhile_is_passed_over(proc: Proc) -> None:
    (proc.directory / "9/task/9/ns/net").unlink()
    (proc.directory / "20/task/21/comm").unlink()
    (proc.directory / "300").mkdir()
    assert names(find(proc.directory, {})) == ["host", "?[21]"]


# ---- real ones ----------------------------------------------------------------------


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace with a device of its own."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    try:
        made = Namespace("watched")
    except FalconError as error:
        pytest.skip(str(error))
    with made:
        made.ip("link", "add", ifname="canary", kind="bridge")
        yield made


def test_thread_of_this_process_is_found_and_read(namespace: Namespace) -> None:
    found = {one.inode: one for one in find()}
    inode = os.fstat(namespace.fd).st_ino
    texts = read_proc_net(tuple(found.values()), "dev")
    assert "canary" in texts[inode]
    assert "canary" not in Path("/proc/net/dev").read_text()
    host = next(iter(found.values()))
    assert host.name == "host" and "canary" not in texts[host.inode]


def test_reading_stays_in_no_namespace(namespace: Namespace) -> None:
    """A namespace that was read goes away with its devices when its owner leaves it."""
    with Namespace("witness") as witness:
        peer = {"ifname": "eth0", "net_ns_fd": namespace.fd}
        witness.ip("link", "add", ifname="canary", kind="veth", peer=peer)
        read_proc_net(find(), "dev")
        namespace.close()
        deadline = time.monotonic() + PATIENCE_S
        while witness.has("canary"):
            assert time.monotonic() < deadline, "the namespace is still there"
            time.sleep(0.1)


def test_gone_namespace_and_reused_path_are_left_out(namespace: Namespace) -> None:
    real = next(one for one in find() if one.inode == os.fstat(namespace.fd).st_ino)
    other = namespaces.Found(real.inode + 1, "other", real.path)
    gone = namespaces.Found(7, "gone", Path("/proc/0/ns/net"))
    assert list(read_proc_net((gone, other, real), "dev")) == [real.inode]
    assert read_proc_net((real,), "no-such-file") == {}


def test_namespace_without_a_thread_is_found_by_its_mount(
    namespace: Namespace, tmp_path: Path
) -> None:
    inode = os.fstat(namespace.fd).st_ino
    path = tmp_path / "1-overlay"
    path.touch()
    source = f"/proc/{os.getpid()}/fd/{namespace.fd}"
    if subprocess.run(["mount", "--bind", source, path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        namespace.close()
        found = {one.inode: one for one in find(mounts={"docker/": tmp_path})}
        assert found[inode].name == "docker/1-overlay"
        assert "canary" in read_proc_net(tuple(found.values()), "dev")[inode]
    finally:
        subprocess.run(["umount", path], check=True)


# ---- going into one -------------------------------------------------------------------


def test_existing_namespace_is_entered_with_its_own_sysfs(namespace: Namespace) -> None:
    [one] = [one for one in find() if one.inode == os.fstat(namespace.fd).st_ino]
    with Namespace.existing(one.name, one.path, one.inode) as entered:
        assert "canary" in entered.devices()
        assert entered.exists("/sys/class/net/canary")
    assert namespace.has("canary")  # leaving it removes nothing


def test_namespace_we_are_in_is_entered_too(namespace: Namespace) -> None:
    host = next(iter(find()))
    with Namespace.existing(host.name, host.path, host.inode) as entered:
        assert entered.listdir("/sys/class/net") == sorted(entered.devices())


def test_namespace_that_is_gone_is_not_another_in_its_place(namespace: Namespace) -> None:
    [one] = [one for one in find() if one.inode == os.fstat(namespace.fd).st_ino]
    with pytest.raises(FalconError, match="cannot enter the network namespace"):
        Namespace.existing(one.name, one.path, one.inode + 1)
