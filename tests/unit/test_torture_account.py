# SPDX-License-Identifier: GPL-2.0-only
"""sent = delivered + counted drops, by counters made up and by real ones."""

from __future__ import annotations

import pytest

from harness.overlay.plan import CLIENT, SERVER
from harness.torture import account, leaks
from harness.torture.account import Balance, Device, Drops, HostReading, Place, Reading

NOTHING = Place({})
SNMP = """\
Ip: Forwarding InReceives InHdrErrors InDiscards ReasmFails OutDiscards
Ip: 2 1000 1 2 4 64
Udp: InDatagrams NoPorts InErrors RcvbufErrors SndbufErrors
Udp: 900 8 16 16 128
"""
SNMP6 = """\
Ip6InReceives                   \t50
Ip6InDiscards                   \t32
Ip6OutDiscards                  \t512
Udp6InErrors                    \t256
"""


def reading(
    client: dict[str, Device] | None = None,
    server: dict[str, Device] | None = None,
    source: dict[str, Device] | None = None,
    sink: dict[str, Device] | None = None,
    stacks: tuple[int, int] = (0, 0),
) -> Reading:
    """One container a host; ``stacks`` of the server and of its container."""
    return Reading(
        HostReading(Place(client or {}), (Place(source or {}),)),
        HostReading(Place(server or {}, stacks[0]), (Place(sink or {}, stacks[1]),)),
    )


# ---- the identity ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "delivered", "drops", "allowed", "holds", "unaccounted"),
    [
        (100, 100, Drops(), 0, True, 0),
        (100, 90, Drops.exactly(10), 0, True, 0),
        (100, 90, Drops(), 0, False, 10),
        (100, 90, Drops(), 9, False, 10),
        (100, 90, Drops(), 10, True, 10),
        (100, 90, Drops.exactly(11), 10, False, -1),
        (100, 90, Drops(8, 12), 0, True, 0),
        (100, 90, Drops(11, 20), 0, False, -1),
        (100, 90, Drops(2, 7), 3, True, 3),
        (100, 101, Drops(), 5, False, -1),
    ],
)
def test_balance(
    sent: int, delivered: int, drops: Drops, allowed: int, holds: bool, unaccounted: int
) -> None:
    balance = Balance(sent, delivered, drops, allowed)
    assert balance.holds is holds
    assert balance.unaccounted == unaccounted
    assert balance.sent == balance.delivered + balance.counted + balance.unaccounted


def test_a_balance_is_told_with_its_doubt() -> None:
    assert str(Balance(1000, 990, Drops(8, 12))) == (
        "sent 1,000, delivered 990, 10 counted drops (counters say 8 to 12):"
        " 0 unaccounted, 0 allowed"
    )


# ---- where a drop is counted --------------------------------------------------------------


def test_a_full_queue_behind_veth_is_counted_twice_but_is_one_drop() -> None:
    sender, receiver = Device(tx_dropped=7), Device(rx_dropped=7)
    assert account.link_drops(sender, receiver, napi=False) == Drops.exactly(7)


def test_a_queue_filled_after_the_sender_was_told_all_is_well_counts() -> None:
    assert account.link_drops(Device(), Device(rx_dropped=7), napi=False) == Drops.exactly(7)


def test_a_full_ring_is_counted_by_the_sender_alone() -> None:
    assert account.link_drops(Device(tx_dropped=7), Device(), napi=True) == Drops.exactly(7)


def test_with_a_napi_both_may_be_the_same_packets_or_not() -> None:
    sender, receiver = Device(tx_dropped=7), Device(rx_dropped=5)
    assert account.link_drops(sender, receiver, napi=True) == Drops(7, 12)


def test_packets_that_nobody_wants_are_dropped_too() -> None:
    assert account.link_drops(Device(), Device(rx_nohandler=3), napi=False) == Drops.exactly(3)


def test_old_kernels_add_what_one_end_could_not_send_to_the_others_drops() -> None:
    """Seven were refused by a full queue, which both ends counted."""
    ends = Device(tx_dropped=7), Device(rx_dropped=14)
    assert account.link_drops(*ends, napi=False, shared=True) == Drops.exactly(7)
    # Seven by a full ring, which the sender alone counts, and five behind it.
    ends = Device(tx_dropped=7), Device(rx_dropped=12)
    assert account.link_drops(*ends, napi=True, shared=True) == Drops(7, 12)


@pytest.mark.parametrize(
    ("release", "shares"),
    [("4.19.304-falcon", True), ("5.4.286", True), ("5.7.0", False), ("6.12.117-falcon", False)],
)
def test_which_kernels_share_drops(release: str, shares: bool) -> None:
    assert account.shares_drops(release) is shares


def test_a_tunnel_counts_what_its_wire_refuses_only_once() -> None:
    assert account.tunnel_drops(Device(tx_dropped=9), Device(tx_dropped=7)) == Drops.exactly(2)
    assert account.tunnel_drops(Device(), Device(tx_dropped=7)) == Drops()


EVERYWHERE = reading(
    client={
        "veth0": Device(rx_dropped=1),
        "vxlan0": Device(tx_dropped=4, tx_errors=2),
        "nic0": Device(tx_dropped=4),
    },
    server={
        "nic0": Device(rx_dropped=8),
        "vxlan0": Device(rx_dropped=16),
        "veth0": Device(tx_dropped=64),
    },
    source={"eth0": Device(tx_dropped=1)},
    sink={"eth0": Device(rx_dropped=64)},
    stacks=(128, 256),
)


def test_all_places_on_the_way_are_added_up() -> None:
    assert EVERYWHERE.drops() == Drops.exactly(1 + 2 + 8 + 16 + 64 + 128 + 256)


def test_a_napi_on_the_way_makes_its_link_a_range() -> None:
    drops = EVERYWHERE.drops(napi={(SERVER, 0, "eth0")})
    exact = EVERYWHERE.drops().least
    assert drops == Drops(exact, exact + 64)
    # The other way round, nothing on the way has one.
    assert EVERYWHERE.drops(napi={(CLIENT, 0, "eth0"), (CLIENT, None, "nic0")}) == (
        EVERYWHERE.drops()
    )


def test_readings_are_subtracted_counter_by_counter() -> None:
    assert (EVERYWHERE - EVERYWHERE).drops() == Drops()
    assert EVERYWHERE - reading() == EVERYWHERE
    later = reading(sink={"eth0": Device(rx_dropped=70)})
    assert (later - EVERYWHERE).server.containers[0].device("eth0") == Device(rx_dropped=6)


def test_falcons_drops_must_be_in_the_devices() -> None:
    fine = reading(server={"vxlan0": Device(rx_dropped=5, falcon=5)})
    assert fine.falcon_drops_not_in_devices() == []
    wrong = reading(sink={"eth0": Device(rx_dropped=5, falcon=6)})
    assert wrong.falcon_drops_not_in_devices() == ["server eth0: Falcon dropped 6, rx_dropped 5"]


def test_what_the_stack_throws_away_comes_from_both_versions() -> None:
    assert account.stack_drops({"snmp": SNMP}) == 1 + 2 + 4 + 8 + 16
    assert account.stack_drops({"snmp6": SNMP6}) == 32 + 256
    assert account.stack_drops({"snmp": SNMP, "snmp6": SNMP6}) == 31 + 288
    assert account.stack_drops({}) == 0


# ---- what is left behind ---------------------------------------------------------------------


def test_objects_are_counted_by_the_caches_whole_name() -> None:
    text = "skbuff_head_cache_x 9 9\nskbuff_head_cache   123   200  256 16 1\nnet_namespace 0 7\n"
    assert leaks.count(text, "skbuff_head_cache") == 123
    assert leaks.count(text, "net_namespace") == 0
    assert leaks.count(text, "net") is None


@pytest.mark.parametrize(
    ("release", "can"), [("4.19.304-falcon", False), ("5.4.286", True), ("6.12.117", True)]
)
def test_caches_are_not_shrunk_where_lockdep_takes_it_amiss(release: str, can: bool) -> None:
    assert leaks.can_shrink(release) is can


@pytest.mark.parametrize(
    ("text", "gave_up"), [(" debug_locks:   1\n", False), (" debug_locks:          0\n", True)]
)
def test_lockdep_that_stopped_is_seen(tmp_path, monkeypatch, text, gave_up) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(leaks, "LOCKDEP", tmp_path / "lockdep_stats")
    assert leaks.lockdep_gave_up() is False  # a kernel without it
    (tmp_path / "lockdep_stats").write_text(text)
    assert leaks.lockdep_gave_up() is gave_up


def test_each_scan_is_a_step(monkeypatch):
    """Under emulation one takes minutes; whoever watches must see that it goes on."""
    told: list[str] = []
    scans = iter([True, False])
    monkeypatch.setattr(leaks, "KMEMLEAK_AGE_S", 0.0)
    monkeypatch.setattr(leaks, "scan", lambda: told.append("scan") or next(scans))
    for step in ("_wait_for_removed_namespaces", "_check_devices", "lockdep_gave_up"):
        monkeypatch.setattr(leaks, step, lambda *_: False)
    skipped = leaks.check(leaks.Baseline((), None, None), told.append)
    assert told == [
        "looking for leaked memory, 1 of 2",
        "scan",
        "looking for leaked memory, 2 of 2",
        "scan",
        "counting what is left in memory",
    ]
    assert "kmemleak is missing or switched itself off" in skipped
