# SPDX-License-Identifier: GPL-2.0-only
"""What actions do to devices, on this host's own kernel: traffic goes on, all is cleaned up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.overlay import falcon, receiving
from harness.overlay.netns import Namespace
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import NIC, VXLAN, one_machine
from harness.torture import account
from harness.torture.account import Drops
from harness.torture.actions import DOOMS, Recast
from harness.torture.ports import SMALL, Port, ports
from harness.torture.world import Overlay, World
from harness.workload.udpflow import Endpoint, Sender, UdpFlow

PATIENCE_S = 30.0
COUNT = 200
SETTLE_S = 0.5


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    try:
        Namespace("probe").close()
        receiving.pass_all()
    except FalconError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A small topology stands; this host's settings are not looked at."""
    with one_machine(Plan()) as topology:
        made = World({SMALL: topology})
        end = time.monotonic() + PATIENCE_S
        while not flow(made).run().is_intact:  # bridges take a moment until they forward
            assert time.monotonic() < end, "no packet gets through"
        yield made


def flow(world: World) -> UdpFlow:
    topology = world.topologies[SMALL]
    ends = Endpoint.of(topology.client), Endpoint.of(topology.server)
    return UdpFlow(*ends, count=COUNT, rate=2000, sender_cpu=0)


VETHS = [port for port in ports(SMALL, Plan()) if port.is_veth]


@pytest.mark.parametrize("port", VETHS, ids=str)
def test_packets_pass_a_device_however_it_receives(world: World, port: Port) -> None:
    for mode in [*Recast.MODES, "plain"]:
        Recast().apply(world, port=port, mode=mode)
        if Recast.MODES[mode][0] or mode == "native":
            assert (port.side, port.container, port.device) in world.with_napi(SMALL)
        else:
            assert not world.with_napi(SMALL)
        assert flow(world).run().received.received == COUNT


def test_a_program_is_there_and_then_is_not(world: World) -> None:
    port = Port(SMALL, SERVER, None, VXLAN)
    namespace = world.namespace(port)

    def attached() -> str | None:
        (link,) = namespace.ip("link", "get", index=namespace.index(VXLAN))
        return dict(link.get("xdp")["attrs"])["IFLA_XDP_ATTACHED"]

    world.set_xdp(port, "generic")
    assert attached() == "xdpgeneric"
    # The kernel would refuse one on the device below.
    world.set_xdp(Port(SMALL, SERVER, None, NIC), "generic")
    world.set_xdp(port, "none")
    assert attached() is None


def test_program_below_another_is_taken_away(world: World) -> None:
    nic, vxlan = (Port(SMALL, SERVER, None, device) for device in (NIC, VXLAN))
    world.set_xdp(nic, "native")
    world.set_xdp(vxlan, "generic")
    world.set_xdp(nic, "none")  # refused by the kernel as long as there is one above
    assert {world.xdp[nic], world.xdp[vxlan]} == {"none"}


def test_rps_is_set(world: World) -> None:
    port = Port(SMALL, SERVER, 0, "eth0")
    world.set_rps(port, (0,), 256)
    queue = "/sys/class/net/eth0/queues/rx-0"
    assert int(world.namespace(port).read(f"{queue}/rps_cpus").replace(",", ""), 16) == 1
    assert world.namespace(port).read(f"{queue}/rps_flow_cnt") == "256\n"
    world.set_rps(port, (), 0)


def test_drops_on_the_way_are_found(world: World) -> None:
    topology = world.topologies[SMALL]
    source, sink = Endpoint.of(topology.client), Endpoint.of(topology.server)
    before = account.read(topology)
    assert flow(world).run().is_intact
    assert (account.read(topology) - before).drops() == Drops()
    before = account.read(topology)
    with Sender(source.namespace, sink.ip, count=COUNT, rate=2000) as sender:
        assert sender.wait().sent == COUNT  # and nobody listens
    time.sleep(SETTLE_S)
    assert (account.read(topology) - before).drops() == Drops.exactly(COUNT)


@pytest.mark.parametrize("device", ["veth", "bridge", "vxlan"])
def test_devices_come_and_go(world: World, device: str) -> None:
    namespace = world.topologies[SMALL].server.namespace
    world.add_device(3, SMALL, device)
    assert namespace.has("extra3")
    world.remove_device(3, SMALL)
    assert not namespace.has("extra3")
    assert not world.devices


@pytest.mark.parametrize("doom", DOOMS)
def test_an_overlay_is_torn_down_under_its_flow(doom: str) -> None:
    overlay = Overlay(Plan(), size=64)
    try:
        end = time.monotonic() + PATIENCE_S
        while not overlay._receiver.report().received:
            assert time.monotonic() < end, "nothing arrives"
            time.sleep(0.05)
        overlay.strike(doom)
    finally:
        received = overlay.end()
    assert received.received and not received.corrupted and not received.duplicates


def test_a_slots_ports_are_forgotten_with_it(world: World) -> None:
    world.add_overlay(1, Plan(), 64)
    port = Port(1, SERVER, None, NIC)
    world.set_xdp(port, "native")
    world.set_gro(port, True)
    world.remove_overlay(1, "wire")
    assert not [port for port in (*world.xdp, *world.gro) if port.topology == 1]


def test_leaving_puts_settings_back_and_removes_what_came(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        **{name: "0" for name in ("falcon", "falcon_cpus", "falcon_gro_split")},
        **{name: "64" for name in ("netdev_max_backlog", "netdev_budget", "dev_weight")},
        "rps_sock_flow_entries": "0",
    }
    for name, value in values.items():
        (tmp_path / name).write_text(value + "\n")
    monkeypatch.setattr(falcon, "SYSCTL", tmp_path)
    with World(world.topologies) as inner:
        inner.write_setting("falcon", "1")
        inner.write_setting("netdev_budget", "300")
        inner.add_device(0, SMALL, "veth")
        inner.add_overlay(0, Plan(), 64)
        assert inner.settings()["falcon"] == "1" and not inner.has_setting("falcon_two_choice")
    assert {name: (tmp_path / name).read_text().strip() for name in values} == values
    assert not world.topologies[SMALL].server.namespace.has("extra0")
    assert not inner.overlays
