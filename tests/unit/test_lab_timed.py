# SPDX-License-Identifier: GPL-2.0-only
"""Modes compared by time: what is asked of clients and servers, and what is made of it; and
short runs over an overlay on this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from harness import tools
from harness.errors import FalconError
from harness.lab import clients, guest, loads, remote, servers, timed
from harness.lab.clients import Done, Ends, Here
from harness.lab.loads import (
    Load,
    MemcachedLoad,
    SockperfTcpLoad,
    SockperfUdpLoad,
    TcpLoad,
    UdpLoad,
    WebLoad,
)
from harness.lab.remote import Counters
from harness.lab.rig import Rig
from harness.lab.timed import Config, Run
from harness.overlay.cpus import CpuPlan
from harness.overlay.plan import Plan
from harness.overlay.softnet import CpuWork, Snapshot
from harness.overlay.topology import one_machine
from harness.workload import memcached, sockperf, web
from harness.workload.latency import Latencies
from harness.workload.udpflow import Sent

CPUS = CpuPlan.of(tuple(range(6)))
LATENCIES = Latencies(mean_us=2, p50_us=1, p90_us=3, p99_us=4, p999_us=5, max_us=6)

# ---- what can be asked for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "values"),
    [
        *(("sockperf-udp", {"size": 13}), ("sockperf-tcp", {"size": 65_508})),
        *(("sockperf-udp", {"latency": True, "flows": 2}), ("sockperf-udp", {"share": 1.1})),
        *(("sockperf-udp", {"latency": True, "senders": 2}), ("sockperf-tcp", {"senders": 2})),
        *(("sockperf-udp", {"flows": 2, "heat": 2}), ("tcp", {"senders": 2})),
        *(("udp", {"flows": 64, "senders": 3}), ("udp", {"senders": 0})),
        *(("memcached", {"flows": 10, "clients": 3}), ("memcached", {"clients": 0})),
        *(("memcached", {"share": 0.5}), ("web", {"share": 0.5}), ("udp", {"share": -1})),
        *(("web", {"flows": 1001}), ("web", {"size": 0})),
    ],
)
def test_loads_that_cannot_be(protocol: str, values: dict[str, Any]) -> None:
    with pytest.raises(FalconError) as error:
        loads.of(protocol, **values)
    assert "\n" not in str(error.value)


LOADS = (
    UdpLoad(64, senders=3, spread=True),
    SockperfUdpLoad(16, latency=True, share=0.5, own=True),
    SockperfTcpLoad(65_507, flows=2),
    MemcachedLoad(550, flows=100, clients=10),
    WebLoad(4096, flows=200, cached=True),
)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.protocol)
def test_a_load_crosses_the_wire(load: Load) -> None:
    assert loads.of(**json.loads(json.dumps(load.to_dict()))) == load


@pytest.mark.parametrize(
    "wrong",
    [
        *({"load": TcpLoad()}, {"seconds": 0}, {"smp": 5}, {"rounds": 0}),
        # Nothing would be hot, without a word.
        *({"load": MemcachedLoad(550, flows=4, heat=2)}, {"load": WebLoad(64, flows=4, heat=2)}),
        {"load": UdpLoad(flows=64, heat=66)},
    ],
)
def test_configurations_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(FalconError):
        replace(Config(Path(), UdpLoad(), ("con",)), **wrong)


def test_only_datagrams_come_by_several_queues() -> None:
    """TCP's flows would move between them, as the answers do."""
    queues = {
        load: Config(Path(), load, ("con",)).boot.queues
        for load in (UdpLoad(), UdpLoad(flows=2), UdpLoad(flows=8), SockperfTcpLoad(64, flows=8))
    }
    assert list(queues.values()) == [1, 2, timed.MAX_QUEUES, 1]


@pytest.mark.parametrize(
    ("context", "why"),
    [
        ({"accel": "kvm", "cpus": 7, "host_cpus": 7}, ""),
        ({"accel": "kvm", "cpus": 7, "host_cpus": 4}, "7 virtual CPUs share 4 real ones"),
        ({"accel": "tcg", "cpus": 7, "host_cpus": 64}, "emulated time"),
    ],
)
def test_where_time_says_something(context: dict[str, Any], why: str) -> None:
    found = timed.trouble(context)
    assert why in found and bool(why) == bool(found)


# ---- a window -----------------------------------------------------------------------------


class FakeServer:
    """Counts ``rate`` datagrams a second of a clock that each look at it moves by one."""

    cpus = CPUS

    def __init__(self, rate: int = 1000, late: int = 0):
        self.rate, self.late = rate, late
        self.seconds = 0
        self.modes: list[tuple[str, Load, dict[str, str | int]]] = []

    def mode(self, name: str, load: Load, settings: dict[str, str | int]) -> None:
        self.modes.append((name, load, settings))

    def counters(self) -> Counters:
        self.seconds += 1
        came = self.rate * self.seconds
        busy = tuple(25 * self.seconds for _ in CPUS.all)
        idle = tuple(75 * self.seconds for _ in CPUS.all)
        late = self.late if self.seconds > 1 else 0
        softirqs, received = 50 * self.seconds, 3 * came
        return Counters(self.seconds, came, came, late, softirqs, received, busy, idle)


class FakeClients:
    """Clients that are done at once. ``asked``: with what rate and for how long.

    They run long enough if they run longer than ``needed``.
    """

    def __init__(self, done: Done, sent: int, needed: int = 0):
        self.done, self.sent, self.needed = done, sent, needed
        self.asked: list[tuple[float, int]] = []

    def said(self, _ends: Any) -> clients.Sent:
        return clients.Sent(self.sent * len(self.asked), 8 * len(self.asked))

    def running(self, _load: Load, _ends: Any, rate: float, seconds: int) -> Self:
        self.asked.append((rate, seconds))
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def all_run(self) -> bool:
        return self.asked[-1][1] > self.needed

    def wait(self) -> Done:
        return self.done


class FakeHost:
    def at(self, container: int | None) -> str:
        return f"client {container}"


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    if "overlay" not in os.environ.get("PYTEST_CURRENT_TEST", ""):
        monkeypatch.setattr(timed.time, "sleep", lambda _seconds: None)


def faked(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer, done: Done, sent: int = 0
) -> tuple[Rig, FakeClients]:
    fake = FakeClients(done, sent)
    monkeypatch.setattr(clients, "running", fake.running)
    monkeypatch.setattr(clients, "sent", fake.said)
    return Rig(server, Here(FakeHost()), Plan()), fake  # type: ignore[arg-type]


def test_datagrams_are_counted_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(rate=1000, late=3)
    rig, fake = faked(monkeypatch, server, Done(9000, 5.0), sent=4100)
    config = Config(Path(), UdpLoad(), ("con",), seconds=2.0)
    sample = timed._sample(rig, config, Run("con", 4, 500.0))
    assert fake.asked == [(500.0, 4)]
    assert (sample.mode, sample.round, sample.asked, sample.unit) == ("con", 4, 500.0, "messages")
    # The window is a second of the server's clock: from its third look to its fourth.
    assert (sample.rate, sample.softirqs, sample.stages) == (1000.0, 50.0, 3.0)
    assert sample.busy == (25.0,) * 6 and sample.cpus == 150.0
    # The whole is waited for: until nothing more is missing.
    assert (sample.delivered, sample.lost, sample.out_of_order) == (5000, -900, 3)


def test_what_does_not_come_any_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    rig, _ = faked(monkeypatch, server, Done(9000, 5.0), sent=10_000)
    monkeypatch.setattr(timed, "QUIET_S", 0.0)
    sample = timed._sample(rig, Config(Path(), UdpLoad(), ("con",)), Run("con", 0, 0.0))
    assert (sample.delivered, sample.lost) == (4000, 6000)


def test_of_answers_the_client_says_how_many_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(late=3)
    done = Done(700, 2.0, errors=5, latency=LATENCIES)
    rig, _ = faked(monkeypatch, server, done)
    config = Config(Path(), MemcachedLoad(550), ("con",))
    sample = timed._sample(rig, config, Run("con", 0, 0.0))
    assert (sample.rate, sample.delivered, sample.lost, sample.errors) == (350.0, 700, 8, 5)
    assert (sample.unit, sample.latency, sample.out_of_order) == ("operations", LATENCIES, 3)
    assert sample.stages is None, "requests are not what the stack receives"
    assert sample.headline == "350 operations/s, p50 1 µs, p99 4 µs"
    assert timed.Sample.from_dict(json.loads(json.dumps(asdict(sample)))) == sample


@pytest.mark.parametrize(
    ("load", "answers", "out_of_order"),
    [
        (SockperfUdpLoad(16, latency=True), 2, 2),
        # Of few messages, so nothing is said of the others.
        (SockperfUdpLoad(16, latency=True), 0, None),
        (SockperfUdpLoad(16), None, None),
        (SockperfTcpLoad(16, latency=True), 2, 5),
        (SockperfTcpLoad(16), None, 3),
        (UdpLoad(), None, 3),
    ],
)
def test_order_is_told_where_the_load_can(
    monkeypatch: pytest.MonkeyPatch, load: Load, answers: int | None, out_of_order: int | None
) -> None:
    rig, _ = faked(monkeypatch, FakeServer(late=3), Done(10, 1.0, out_of_order=answers))
    sample = timed._sample(rig, Config(Path(), load, ("con",)), Run("con", 0, 0.0))
    assert sample.out_of_order == out_of_order


@pytest.mark.parametrize("load", [UdpLoad(), WebLoad(4096)])
def test_nothing_that_came_is_no_sample(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    done = Done(1000 if isinstance(load, UdpLoad) else 0, 1.0)
    rig, _ = faked(monkeypatch, FakeServer(rate=0), done)
    monkeypatch.setattr(timed, "BEGUN_WITHIN_S", 0.0)
    with pytest.raises(FalconError, match="nothing came through in mode con"):
        timed._sample(rig, Config(Path(), load, ("con",)), Run("con", 0, 0.0))


def test_clients_that_end_before_the_window_does_run_again_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a busy machine would say that nothing comes through."""
    rig, fake = faked(monkeypatch, FakeServer(), Done(10, 1.0))
    fake.needed = 10
    config = Config(Path(), UdpLoad(), ("con",), seconds=2.0)
    sample = timed._sample(rig, config, Run("con", 0, 0.0))
    assert [seconds for _, seconds in fake.asked] == [4, 6, 16]
    assert sample.rate == 1000
    fake.needed = 1000
    with pytest.raises(FalconError, match=r"clients ended before 2 s .*mode con.*too busy"):
        timed._sample(rig, config, Run("con", 0, 0.0))


def test_settings_are_for_modes_of_falcon(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    rig, _ = faked(monkeypatch, server, Done(10, 1.0))
    config = Config(
        Path(), UdpLoad(), ("con", "falcon"), rounds=2, settings={"falcon_load_threshold": 70}
    )
    samples = list(timed.measure(config, rig))
    assert [(s.round, s.mode) for s in samples] == [
        *((0, "con"), (0, "falcon"), (1, "falcon"), (1, "con"))
    ]
    settings = {mode: own for mode, _, own in server.modes}
    assert settings == {"con": {}, "falcon": {"falcon_load_threshold": 70}}


def test_clients_that_do_not_begin_are_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = FakeServer(rate=0)
    clock = iter(range(1000))
    monkeypatch.setattr(timed.time, "monotonic", lambda: next(clock))
    rig, _ = faked(monkeypatch, server, Done(0, 1.0))
    with pytest.raises(FalconError, match="nothing came"):
        timed._sample(rig, Config(Path(), UdpLoad(), ("con",)), Run("con", 0, 0.0))
    assert 5 < server.seconds < timed.BEGUN_WITHIN_S + 10


def test_clients_that_failed_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(rate=0)
    rig, fake = faked(monkeypatch, server, Done(0, 1.0))
    fake.needed = 1000
    with pytest.raises(FalconError, match="nothing came"):
        timed._sample(rig, Config(Path(), UdpLoad(), ("con",)), Run("con", 0, 0.0))
    assert server.seconds == 4, "before, at both ends of the window, and at the end"


# ---- at what rate -----------------------------------------------------------------------------


class Carrying:
    """A machine that carries so many messages a second in each mode, and loses the rest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **capacities: float):
        self.capacities, self.runs = capacities, []  # type: ignore[var-annotated]
        monkeypatch.setattr(timed, "_sample", self.sample)

    def sample(self, _rig: Rig, config: Config, run: Run) -> Any:
        self.runs.append((config.load, run))
        most = self.capacities[run.mode]
        # When all of it is sent, nearly all of it is thrown away: a livelock.
        came = min(run.rate, most) if run.rate else 1.5 * most
        lost = round(run.rate - came) if run.rate else 10**6
        told = {"mode": run.mode, "round": run.round, "compared": came}
        return SimpleNamespace(**told, rate=came, delivered=round(came), lost=lost)


RIG: Any = SimpleNamespace(
    check=lambda: None, client=SimpleNamespace(require=lambda *_programs: None)
)


@pytest.mark.parametrize(
    ("load", "rate"),
    [
        (UdpLoad(), timed.EMULATED_RATE),
        (UdpLoad(65_507), timed.EMULATED_RATE / 47),
        (SockperfUdpLoad(16), timed.EMULATED_RATE),
        (SockperfTcpLoad(16), 0.0),
        (WebLoad(4096), 0.0),
    ],
)
def test_emulated_cpus_are_left_some_time(
    monkeypatch: pytest.MonkeyPatch, load: Load, rate: float
) -> None:
    carrying = Carrying(monkeypatch, con=1000.0)
    config = Config(Path(), load, ("con",), rounds=1, accel="tcg")
    assert rates(config, carrying) == [("con", rate)]


def rates(config: Config, carrying: Carrying) -> list[tuple[str, float]]:
    """What the modes' turns were asked for, without the trials before."""
    list(timed.measure(config, RIG))
    return [(run.mode, run.rate) for load, run in carrying.runs if load == config.load]


@pytest.mark.parametrize(
    ("load", "trial"),
    [
        (SockperfUdpLoad(16, latency=True, share=0.5), SockperfUdpLoad(16)),
        (UdpLoad(16, share=0.5), UdpLoad(16)),
    ],
)
def test_what_is_carried_is_searched_from_above(
    monkeypatch: pytest.MonkeyPatch, load: Load, trial: Load
) -> None:
    carrying = Carrying(monkeypatch, con=1000.0)
    config = Config(Path(), load, ("con",))
    assert timed.find_capacity(RIG, config, "con") == 1500 * timed.SLOWER**2
    assert [load for load, _ in carrying.runs] == [trial] * 4


def test_tcp_loses_nothing_and_sets_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    carrying = Carrying(monkeypatch, con=1000.0)
    config = Config(Path(), SockperfTcpLoad(16, latency=True, share=0.5), ("con",))
    assert timed.find_capacity(RIG, config, "con") == 1500
    assert len(carrying.runs) == 1


def test_a_machine_that_always_loses_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    carrying = Carrying(monkeypatch, con=1000.0)
    monkeypatch.setattr(timed, "TRIALS", 2)
    config = Config(Path(), SockperfUdpLoad(16, share=0.5), ("con",))
    with pytest.raises(FalconError, match=r"con loses messages at every rate.*too busy"):
        timed.find_capacity(RIG, config, "con")
    assert len(carrying.runs) == 3


def test_underloaded_all_modes_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    carrying = Carrying(monkeypatch, con=1000.0, falcon=3000.0)
    load = SockperfUdpLoad(16, latency=True, share=0.4)
    found = rates(Config(Path(), load, ("con", "falcon"), rounds=2), carrying)
    one = 0.4 * 1500 * timed.SLOWER**2
    assert found == [("con", one), ("falcon", one), ("falcon", one), ("con", one)]


def test_a_flow_gets_hot_on_top_of_what_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is carried is of as many flows, none of them hot."""
    carrying = Carrying(monkeypatch, con=1000.0, falcon=3000.0)
    load = UdpLoad(16, flows=4, heat=4, share=0.5)
    config = Config(Path(), load, ("falcon",), rounds=1, baseline="falcon")
    carried = 1500 * timed.SLOWER**2
    assert rates(config, carrying) == [("falcon", 0.5 * carried * 7 / 4)]
    assert carrying.runs[0][0] == UdpLoad(16, flows=4)
    cool, hot = load.shares(0.5 * carried * 7 / 4)[1], load.shares(0.5 * carried * 7 / 4)[0]
    assert (cool, hot) == (0.5 * carried / 4, 4 * 0.5 * carried / 4)


def test_fixed_rates_are_those_of_the_stock_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the ratios are to, and whether it is compared or not."""
    carrying = Carrying(monkeypatch, con=1000.0, host=9000.0)
    load = SockperfUdpLoad(16, latency=True, share=0.5)
    config = Config(Path(), load, ("host",), rounds=1, baseline="host")
    assert rates(config, carrying) == [("host", 0.5 * 1500 * timed.SLOWER**2)]


@pytest.mark.parametrize(("accel", "trials"), [("kvm", 2), ("tcg", 1)])
def test_emulated_cpus_may_lose_some(
    monkeypatch: pytest.MonkeyPatch, accel: str, trials: int
) -> None:
    carrying = Carrying(monkeypatch, con=980.0)
    monkeypatch.setattr(timed, "_slower", lambda _rate: iter([1000.0, 900.0]))
    config = Config(Path(), SockperfUdpLoad(16, share=0.5), ("con",), accel=accel)
    timed.find_capacity(RIG, config, "con")
    assert len(carrying.runs) == 1 + trials


def test_overloaded_each_mode_gets_what_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    carrying = Carrying(monkeypatch, con=1000.0, falcon=3000.0)
    load = SockperfUdpLoad(16, latency=True, share=1.0, own=True)
    found = dict(rates(Config(Path(), load, ("con", "falcon"), rounds=1), carrying))
    assert found["falcon"] == 3 * found["con"] == 3 * 1500 * timed.SLOWER**2


@pytest.mark.parametrize("load", [UdpLoad(), SockperfUdpLoad(16), MemcachedLoad(550)])
def test_without_a_share_all_is_sent_that_goes(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    carrying = Carrying(monkeypatch, con=1000.0)
    assert rates(Config(Path(), load, ("con",), rounds=1), carrying) == [("con", 0.0)]


# ---- clients and servers ----------------------------------------------------------------------


class FakeProgram:
    """A client or a server, and what it was made with."""

    has_ended = False

    made: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, at: Any, to_ip: str = "", **options: Any):
        self.made.append({"at": at, "to": to_ip, **options})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> Sent:
        return Sent(100, 2.0)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(clients, "Sender", FakeProgram)
    monkeypatch.setattr(servers, "Receiver", FakeProgram)
    for name in ("ThroughputClient", "UnderLoadClient", "Server"):
        monkeypatch.setattr(sockperf, name, type(name, (FakeProgram,), {}))
    for module in (memcached, web):
        for name in ("Server", "Client"):
            monkeypatch.setattr(module, name, type(name, (FakeProgram,), {}))
    FakeProgram.made.clear()
    return FakeProgram.made


def ends_of(load: Load) -> list[Ends]:
    return [Ends(None, f"10.0.0.{n}", 20_000 + n) for n in range(load.flows)]  # type: ignore


def test_senders_of_a_flow_share_its_port_and_its_rate(
    monkeypatch: pytest.MonkeyPatch, programs: list[dict[str, Any]]
) -> None:
    load = UdpLoad(64, flows=2, senders=3)
    with clients.running(load, ends_of(load), 600.0, 4) as running:
        assert running.all_run
        monkeypatch.setattr(FakeProgram, "has_ended", True)
        assert not running.all_run
        assert running.wait() == Done(600, 2.0)
    assert [made["source_port"] for made in programs] == [20_000] * 3 + [20_001] * 3
    assert [made["flow"] for made in programs] == list(range(6)), "each has numbers of its own"
    assert {made["rate"] for made in programs} == {100.0}
    assert {made["seconds"] for made in programs} == {4}


@pytest.mark.parametrize(("rate", "each"), [(0.0, 0.0), (500.0, 50.0)])
def test_a_hot_flow_has_more_senders(
    programs: list[dict[str, Any]], rate: float, each: float
) -> None:
    """So it is hot as fast as it goes, too."""
    load = UdpLoad(64, flows=3, senders=2, heat=3)
    with clients.running(load, ends_of(load), rate, 4):
        pass
    ports = [20_000, 20_000, 20_001, 20_001, 20_002, 20_002]
    assert [made["source_port"] for made in programs] == [*ports, *[20_000] * 4]
    assert [made["flow"] for made in programs] == list(range(10))
    assert {made["rate"] for made in programs} == {each}
    # On the fly: it is hot when all flows have their places, and before it is looked at.
    assert [made["after_s"] for made in programs] == [*[0] * 6, *[clients.HOT_AFTER_S] * 4]
    assert clients.HOT_AFTER_S < timed.SETTLE_S
    assert sum(made["rate"] for made in programs) == rate


def test_each_flow_of_sockperf_has_a_server(programs: list[dict[str, Any]]) -> None:
    load = SockperfUdpLoad(16, flows=2, senders=2)
    with clients.running(load, ends_of(load), 0.0, 4):
        pass
    assert [(made["to"], made["port"]) for made in programs] == [
        *(("10.0.0.0", 11_111), ("10.0.0.0", 11_111), ("10.0.0.1", 11_112), ("10.0.0.1", 11_112))
    ]


@pytest.mark.parametrize(("rate", "every"), [(0.0, 100), (100.0, 1), (10_000.0, 50), (1e6, 100)])
def test_as_many_answers_as_percentiles_need(
    programs: list[dict[str, Any]], rate: float, every: int
) -> None:
    load = SockperfTcpLoad(16, latency=True)
    with clients.running(load, ends_of(load), rate, 5):
        pass
    assert programs[0]["reply_every"] == every


def test_connections_are_dealt_to_clients(programs: list[dict[str, Any]]) -> None:
    load = MemcachedLoad(550, flows=100, clients=10)
    with clients.running(load, ends_of(load), 0.0, 5):
        pass
    (made,) = programs
    assert (made["processes"], made["connections"], made["value_bytes"]) == (10, 10, 550)


def test_what_clients_say_is_made_one() -> None:
    latency = {name: 1.0 for name in asdict(LATENCIES)}
    counted = {"sent": 10, "received": 9, "seconds": 2.0, "dropped": 1, "duplicated": 3}
    answered = sockperf.Latency(**counted, out_of_order=4, **latency)
    assert clients._of_sockperf([answered]) == Done(10, 2.0, 3, 4, Latencies(**latency))
    sent = [sockperf.Throughput(10, 2.0, 16), sockperf.Throughput(20, 3.0, 16)]
    assert clients._of_sockperf(sent) == Done(30, 3.0)
    operations = memcached.Operations(gets=5, sets=4, misses=1, errors=2, seconds=3.0, **latency)
    assert clients._of_memcached([operations]) == Done(9, 3.0, 2, None, Latencies(**latency))
    served = web.Served(
        **{"requests": 7, "seconds": 2.0, "bytes": 1, "connect_errors": 1, "read_errors": 1},
        **{"write_errors": 1, "timeouts": 1, "bad_statuses": 1},
        **latency,
    )
    assert clients._of_web([served]) == Done(7, 2.0, 5, None, Latencies(**latency))


class FakeServerHost:
    """Endpoints by name."""

    def at(self, container: int | None) -> str:
        return f"container {container}"

    def address(self, container: int | None) -> Any:
        return SimpleNamespace(ip=f"ip {container}")


def started(load: Load, programs: list[dict[str, Any]], overlay: bool = True) -> list[Any]:
    with ExitStack() as opened:
        servers.start(load, FakeServerHost(), CPUS, overlay, opened)  # type: ignore[arg-type]
    return programs


def test_receivers_have_a_cpu_of_their_own_or_share_those_of_the_stages(
    programs: list[dict[str, Any]],
) -> None:
    own = started(UdpLoad(flows=6, containers=6), programs)
    assert {made["cpu"] for made in own} == {CPUS.app}
    programs.clear()
    spread = started(UdpLoad(flows=6, containers=6, spread=True), programs)
    assert [made["cpu"] for made in spread] == [CPUS.app, *CPUS.stages, CPUS.app]
    programs.clear()
    assert len(started(UdpLoad(flows=6, containers=6), programs, overlay=False)) == 1


def test_servers_for_every_load(programs: list[dict[str, Any]]) -> None:
    flows = started(SockperfTcpLoad(16, flows=3, containers=2), programs)
    assert [(made["at"].ip, made["port"], made["tcp"]) for made in flows] == [
        *(("ip 0", 11_111, True), ("ip 1", 11_112, True), ("ip 0", 11_113, True))
    ]
    programs.clear()
    (one,) = started(MemcachedLoad(550, spread=True), programs)
    assert one["cpus"] == (CPUS.app, *CPUS.stages)
    programs.clear()
    cache, page = started(WebLoad(4096, flows=200, cached=True, spread=True), programs)
    assert page["cache"] is not None and page["connections"] > 200 and page["workers"] == 5
    assert cache["cpus"] == page["cpus"]
    programs.clear()
    (page,) = started(WebLoad(4096), programs)
    assert page["cache"] is None


# ---- what the host under test counts ------------------------------------------------------------


SNMP = "Tcp: InSegs\nTcp: {}\nUdp: InDatagrams\nUdp: {}\n"


class FakePlace:
    def __init__(self, datagrams: int, segments: int, late: int):
        texts = {
            "snmp": SNMP.format(segments, datagrams),
            "netstat": f"TcpExt: TCPOFOQueue\nTcpExt: {late}\n",
        }
        self.read_proc_net = texts.__getitem__


@pytest.mark.parametrize(("overlay", "datagrams", "segments"), [(True, 5, 11), (False, 100, 200)])
def test_the_guest_counts_where_the_load_ends(
    monkeypatch: pytest.MonkeyPatch, overlay: bool, datagrams: int, segments: int
) -> None:
    served = guest.Guest.__new__(guest.Guest)
    places = (FakePlace(2, 5, 1), FakePlace(3, 6, 1))
    host: Any = SimpleNamespace(namespace=FakePlace(100, 200, 4), containers=places)
    served._host, served._cpus, served._overlay = host, CPUS, overlay
    receiver: Any = SimpleNamespace(report=lambda: SimpleNamespace(out_of_order=10))
    served._receivers = [receiver]
    work = {cpu: CpuWork(5, net_rx=7, busy_ticks=cpu, idle_ticks=10) for cpu in range(7)}
    monkeypatch.setattr(guest.softnet, "snapshot", lambda: Snapshot(work))
    answer = json.loads(json.dumps(served.do({"do": "counters"})))
    assert answer["seconds"] > 0
    assert (answer["datagrams"], answer["packets"]) == (datagrams, datagrams + segments)
    assert (answer["late"], answer["softirqs"], answer["received"]) == (10 + 6, 6 * 7, 6 * 5)
    assert answer["busy"] == [0, 1, 2, 3, 4, 5], "without the harness's CPU"
    process: Any = SimpleNamespace(ask=lambda command: answer)
    counters = remote.Server.counters(process)
    assert counters.busy == (0, 1, 2, 3, 4, 5) and (counters - counters).packets == 0


# ---- over an overlay on this machine ------------------------------------------------------------

needs_programs = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(tools.find, ("sockperf", "memcached", "nginx", "wrk"))),
    reason="needs sockperf, memcached, nginx and wrk, and root for namespaces",
)


class HereToo:
    """The server host on this machine, spoken to without a machine between."""

    def __init__(self, served: guest.Guest, cpus: CpuPlan):
        self._served, self.cpus = served, cpus

    def mode(self, name: str, load: Load, settings: dict[str, str | int]) -> None:
        command = {"do": "mode", "name": name, "load": load.to_dict(), "settings": settings}
        self._served.do(json.loads(json.dumps(command)))

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(json.dumps(self._served.do(command)))
        return answer

    counters = remote.Server.counters


@pytest.fixture(scope="module")
def overlay() -> Iterator[Rig]:
    """Two containers a host; few CPUs, that everything shares."""
    last = max(os.sched_getaffinity(0))
    cpus = CpuPlan(0, (0, last), last)
    plan = Plan(containers=2)
    with one_machine(plan) as topology, ExitStack() as opened:
        served = HereToo(guest.Guest(topology.server, cpus, opened), cpus)
        yield Rig(served, Here(topology.client), plan)  # type: ignore[arg-type]


@needs_programs
@pytest.mark.parametrize(
    "load",
    [
        UdpLoad(64, flows=2, containers=2, senders=2, spread=True),
        UdpLoad(64, flows=2, heat=3),
        SockperfUdpLoad(16),
        SockperfTcpLoad(65_507, flows=2, containers=2),
        MemcachedLoad(550, flows=4, clients=2, spread=True),
        WebLoad(4096, flows=4, spread=True, cached=True),
    ],
    ids=str,
)
def test_a_load_over_an_overlay(overlay: Rig, load: Load) -> None:
    config = Config(Path(), load, ("host", "con"), rounds=1, seconds=0.5)
    samples = list(timed.measure(config, overlay))
    assert [sample.mode for sample in samples] == ["host", "con"]
    answers = isinstance(load, MemcachedLoad | WebLoad)
    for sample in samples:
        assert sample.rate > 0 and sample.delivered > 0 and sample.errors == 0
        assert sample.lost >= 0 and all(0 <= busy <= 100 for busy in sample.busy)
        assert (sample.latency is not None) == answers
        if sample.latency:
            assert 0 < sample.latency.p50_us <= sample.latency.p99_us <= sample.latency.max_us


@needs_programs
@pytest.mark.parametrize("kind", [SockperfUdpLoad, SockperfTcpLoad])
def test_latency_at_a_rate_over_an_overlay(
    monkeypatch: pytest.MonkeyPatch, overlay: Rig, kind: type[loads.SockperfLoad]
) -> None:
    """What is carried is not searched here: a busy machine loses at any rate."""
    monkeypatch.setattr(timed, "find_capacity", lambda rig, config, mode: 1000.0)
    load = kind(16, latency=True, share=0.5)
    (sample,) = timed.measure(Config(Path(), load, ("con",), rounds=1, seconds=0.5), overlay)
    assert sample.asked == 500 and 0 < sample.rate < 1000
    assert sample.latency and sample.latency.mean_us > 0
    assert sample.out_of_order is not None or not load.is_tcp


@needs_programs
def test_senders_of_one_flow_over_an_overlay_are_told_apart(overlay: Rig) -> None:
    """udpflow counts what is lost and late by sender, though they share a port."""
    load = UdpLoad(64, senders=3)
    flows = overlay.flows(load, "con", 0)
    overlay.server.mode("con", load, {})
    before = overlay.server.counters()
    with overlay.client.running(load, flows, 300.0, 1) as running:
        done = running.wait()
    came = timed._settled(overlay, before, done.operations) - before
    # A machine that stands still for a while sends less: what was due then is not made up for.
    assert came.datagrams == done.operations > load.senders
    assert came.late == 0
