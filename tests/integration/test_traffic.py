# SPDX-License-Identifier: GPL-2.0-only
"""Traffic crosses the overlay intact, in every mode, over IPv4 and IPv6."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import nic
import pytest
from rig import Rig, dropped, protocol_counter, run_intact

from harness.overlay import modes
from harness.overlay.modes import MODES, Mode
from harness.overlay.plan import Plan
from harness.overlay.topology import CONTAINER_DEVICE, NIC
from harness.workload.probes import Ping, TcpTransfer
from harness.workload.udpflow import Endpoint

# IP and UDP or ICMP header
HEADERS = {4: 20 + 8, 6: 40 + 8}
FRAGMENTED_BYTES = 8000
TCP_BYTES = 1 << 20
PLANS = {
    "4in4": Plan(outer=4, inner=4),
    "6in6": Plan(outer=6, inner=6),
    "6in4": Plan(outer=4, inner=6),
    "4in6": Plan(outer=6, inner=4),
}
# Mixed versions add nothing to what a mode does; one is enough for them.
CASES = [(mode, plan) for mode in MODES for plan in ("4in4", "6in6")]
CASES += [("falcon", plan) for plan in ("6in4", "4in6")]


@pytest.fixture(params=CASES, ids="-".join)
def case(
    request: pytest.FixtureRequest, rig_for: Callable[[Plan], Rig]
) -> Iterator[tuple[Rig, Mode]]:
    """A rig working in a mode. Where the NIC is to be split, it has a NAPI to be split."""
    name, plan = request.param
    mode, rig = modes.named(name), rig_for(PLANS[plan])
    with ExitStack() as opened:
        if mode.gro_split:
            opened.enter_context(nic.polled(rig.server.at(), NIC))
        opened.enter_context(modes.applied(mode, rig.server, rig.cpus))
        yield rig, mode


def whole_packet(rig: Rig, mode: Mode) -> int:
    """The largest payload in bytes that needs no fragment."""
    plan = rig.topology.client.plan
    if mode.overlay:
        return plan.container_mtu - HEADERS[plan.inner]
    return plan.mtu - HEADERS[plan.outer]


def test_udp(case: tuple[Rig, Mode]) -> None:
    rig, mode = case
    run_intact(rig.flow(overlay=mode.overlay))


def test_udp_of_mtu_size(case: tuple[Rig, Mode]) -> None:
    rig, mode = case
    run_intact(rig.flow(overlay=mode.overlay, count=200, rate=500, size=whole_packet(rig, mode)))


def test_udp_fragmented(case: tuple[Rig, Mode]) -> None:
    rig, mode = case
    run_intact(rig.flow(overlay=mode.overlay, count=100, rate=100, size=FRAGMENTED_BYTES))


def test_tcp(case: tuple[Rig, Mode]) -> None:
    """TCP would hide a lost packet: none is dropped on the last hop into the container."""
    rig, mode = case
    before = dropped_on_last_hop(rig)
    transfer = TcpTransfer(*rig.ends(mode.overlay), size=TCP_BYTES).run()
    assert transfer.is_intact and transfer.bytes == TCP_BYTES
    assert dropped_on_last_hop(rig) == before


def dropped_on_last_hop(rig: Rig) -> tuple[int, int]:
    """By veth0, told so by netif_rx(); and for eth0, when a batch found its queue full."""
    return dropped(rig.server.at(), "veth0"), dropped(rig.server.at(0), CONTAINER_DEVICE)


def test_ping(case: tuple[Rig, Mode]) -> None:
    rig, mode = case
    whole = whole_packet(rig, mode)
    for ping in (
        Ping(*rig.ends(mode.overlay)),
        Ping(*rig.ends(mode.overlay), size=whole, whole=True),
        Ping(*rig.ends(mode.overlay), size=FRAGMENTED_BYTES),
    ):
        echo = ping.run()
        assert echo.answered == echo.sent
    with pytest.raises(OSError) as refused:
        Ping(*rig.ends(mode.overlay), size=whole + 1, whole=True).run()
    assert refused.value.errno == errno.EMSGSIZE


def test_fragmented_by_the_tunnel(rig_for: Callable[[Plan], Rig]) -> None:
    """Containers whose packets fill the wire's MTU: the VXLAN packets around them do not fit."""
    rig = rig_for(Plan(overlay_mtu=1500))
    client, server = rig.topology.client, rig.topology.server
    # Otherwise the tunnel tells the sender of its MTU instead of fragmenting.
    client.at(0).write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1")
    before = protocol_counter(server.at(), "snmp", "Ip", "ReasmOKs")
    with modes.applied(MODES["falcon"], server, rig.cpus):
        run_intact(rig.flow(count=200, rate=500, size=1500 - HEADERS[4]))
    assert protocol_counter(server.at(), "snmp", "Ip", "ReasmOKs") - before >= 200


def test_every_container(rig_for: Callable[[Plan], Rig]) -> None:
    """Three containers a host: every one reaches every one of the other host."""
    rig = rig_for(Plan(containers=3))
    client, server = rig.topology.client, rig.topology.server
    with modes.applied(MODES["falcon"], rig.server, rig.cpus):
        for number in range(3):
            for other in range(3):
                echo = Ping(Endpoint.of(client, number), Endpoint.of(server, other), count=1).run()
                assert echo.answered == 1
