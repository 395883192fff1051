# SPDX-License-Identifier: GPL-2.0-only
"""Overlays are found by what netlink says of them: recorded, invented, and real ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dockernet
import pytest

from harness.errors import FalconError
from harness.overlay import discover, namespaces
from harness.overlay.discover import Layout, Link, find

DOCKER = Path(__file__).parent / "data/docker-overlay.json"


@pytest.fixture
def docker() -> tuple[Layout, ...]:
    """The recorded layout of a Docker overlay (see its first line for what it is)."""
    recorded = json.loads(DOCKER.read_text())
    return tuple(Layout.from_json(layout) for layout in recorded["layouts"])


def places(overlay: discover.Overlay) -> list[list[str]]:
    return [[f"{d.namespace}:{d.name}" for d in stage] for stage in overlay.stages]


# ---- a recorded one -------------------------------------------------------------------


def test_dockers_overlay_is_found_across_its_namespaces(docker: tuple[Layout, ...]) -> None:
    [overlay] = find(docker)
    assert overlay.vni == 4097
    assert places(overlay) == [
        ["host:ens3"],
        ["docker/1-x1y2z3abcd:vxlan0"],
        ["docker/5d8f1c0be7aa:eth0"],  # and not eth1, which is on docker_gwbridge
    ]
    assert overlay.vxlan.path == "/run/docker/netns/1-x1y2z3abcd"


def test_names_do_not_matter(docker: tuple[Layout, ...]) -> None:
    renamed = [
        replace(layout, links=tuple(replace(k, name=f"x{k.index}") for k in layout.links))
        for layout in docker
    ]
    assert [len(stage) for stage in find(renamed)[0].stages] == [1, 1, 1]


def test_layout_survives_its_file(docker: tuple[Layout, ...]) -> None:
    copied = json.loads(json.dumps([layout.as_json() for layout in docker]))
    assert tuple(Layout.from_json(layout) for layout in copied) == docker


def test_container_that_cannot_be_entered_is_left_out(docker: tuple[Layout, ...]) -> None:
    [overlay] = find([layout for layout in docker if "5d8f" not in layout.name])
    assert overlay.containers == () and overlay.vxlan.name == "vxlan0"


def test_underlay_that_cannot_be_entered_leaves_no_nic(docker: tuple[Layout, ...]) -> None:
    [overlay] = find([layout for layout in docker if layout.name != "host"])
    assert overlay.nics == ()


# ---- other ways to build one ----------------------------------------------------------

CONTAINER = Layout(2, "pod", "/pod", links=(Link(2, "eth0", "veth", link=6, link_nsid=0),))
FLANNEL = Layout(
    1,
    "host",
    "/host",
    links=(
        Link(1, "lo"),
        Link(2, "ens3"),
        Link(3, "docker0", "bridge"),
        Link(4, "flannel.1", "vxlan", vni=1, lower=2),
        Link(5, "cni0", "bridge"),
        Link(6, "veth0", "veth", master=5, link=2, link_nsid=7),
        Link(7, "veth1", "veth", master=3, link=2, link_nsid=8),
    ),
    nsids=((2, 7), (3, 8)),
    addresses=(
        (2, "192.168.9.1/24"),
        (3, "172.17.0.1/16"),
        (4, "10.244.3.0/32"),
        (5, "10.244.3.1/24"),
    ),
    routes=(("10.244.0.0/24", 4), ("10.244.1.0/24", 4), ("172.17.0.0/16", 3)),
)


def test_overlay_that_is_routed_to_its_bridge() -> None:
    other = replace(CONTAINER, inode=3, name="other")
    [overlay] = find([FLANNEL, CONTAINER, other])
    assert places(overlay) == [["host:ens3"], ["host:flannel.1"], ["pod:eth0"]]


def below(*links: Link, lower: int = 2) -> list[str]:
    """The NICs of a VXLAN device over device ``lower`` among ``links``."""
    vxlan = Link(100, "vxlan0", "vxlan", vni=1, lower=lower)
    [overlay] = find([Layout(1, "host", "/host", links=(*links, vxlan))])
    return [device.name for device in overlay.nics]


def test_nics_are_those_under_a_bond() -> None:
    bond = (Link(2, "bond0", "bond"), Link(3, "ens3", master=2), Link(4, "ens4", master=2))
    assert below(*bond) == ["ens3", "ens4"]


def test_nic_is_the_one_under_a_vlan_on_a_bridge_with_guests() -> None:
    links = (
        Link(2, "br0.7", "vlan", link=3),
        Link(3, "br0", "bridge"),
        Link(4, "ens3", master=3),
        Link(5, "tap0", "tun", master=3),
        Link(6, "veth0", "veth", master=3, link=9, link_nsid=1),
    )
    assert below(*links) == ["ens3"]


def test_loopback_is_no_nic_and_a_ring_has_an_end() -> None:
    assert below(Link(2, "lo")) == []
    ring = (Link(2, "a", "vlan", link=3), Link(3, "b", "vlan", link=2))
    assert below(*ring) == []


def test_nic_is_found_by_the_local_address() -> None:
    links = (Link(2, "ens3"), Link(3, "ens4"), Link(4, "vxlan0", "vxlan", vni=1, local="fd00::2"))
    addresses = ((2, "fd00::1/64"), (3, "fd00::2/64"))
    [overlay] = find([Layout(1, "host", "/host", links=links, addresses=addresses)])
    assert places(overlay)[0] == ["host:ens4"]


def test_no_overlay_at_all() -> None:
    assert find([Layout(1, "host", "/host", links=(Link(1, "lo"), Link(2, "ens3")))]) == ()


def test_several_overlays_come_by_their_vni() -> None:
    links = tuple(Link(n, f"vx{n}", "vxlan", vni=vni) for n, vni in ((2, 9), (3, 7)))
    assert [o.vni for o in find([Layout(1, "host", "/host", links=links)])] == [7, 9]


# ---- a real one -----------------------------------------------------------------------


@pytest.fixture
def net() -> Iterator[dockernet.DockerNet]:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    try:
        opened = dockernet.built()
        made = opened.__enter__()
    except FalconError as error:
        pytest.skip(str(error))
    yield made
    opened.__exit__(None, None, None)


def inode(namespace: object) -> int:
    return os.fstat(namespace.fd).st_ino  # type: ignore[attr-defined]


def test_real_overlay_is_found_among_all_namespaces(net: dockernet.DockerNet) -> None:
    [overlay] = [o for o in find(discover.read()) if o.vxlan.inode == inode(net.hidden)]
    assert overlay.vni == dockernet.VNI
    assert [(d.inode, d.name) for stage in overlay.stages for d in stage] == [
        (inode(net.host), "ens3"),
        (inode(net.hidden), "vxlan0"),
        (inode(net.container), "eth0"),
    ]


def test_namespace_without_a_process_is_found_by_dockers_mount(
    net: dockernet.DockerNet, tmp_path: Path
) -> None:
    """Docker's overlay namespaces have no process, only a mount."""
    path = tmp_path / "1-overlay"
    path.touch()
    hidden = inode(net.hidden)
    source = f"/proc/{os.getpid()}/fd/{net.hidden.fd}"
    if subprocess.run(["mount", "--bind", source, path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        net.hidden.close()
        found = namespaces.find(mounts={"docker/": tmp_path})
        [overlay] = [o for o in find(discover.read(found)) if o.vxlan.inode == hidden]
        assert overlay.vxlan.namespace == "docker/1-overlay"
        assert [device.name for device in overlay.containers] == ["eth0"]
        assert [device.name for device in overlay.nics] == ["ens3"]
    finally:
        subprocess.run(["umount", path], check=True)
