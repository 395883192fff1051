# SPDX-License-Identifier: GPL-2.0-only
"""Modes compared by instructions: who is told what, and what is made of the counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from harness.errors import FalconError
from harness.lab import guest, instructions, loads, remote
from harness.lab.clients import Ends, Here
from harness.lab.icount import Counts
from harness.lab.instructions import Batch, Config, Rig, Sample
from harness.lab.loads import TcpLoad, UdpLoad
from harness.lab.remote import Drained
from harness.lab.rig import interleaved
from harness.lab.verdicts import capacity
from harness.machine.base import Machine
from harness.overlay.cpus import CpuPlan
from harness.overlay.falcon import Counters, CpuRow
from harness.overlay.plan import Plan
from harness.overlay.softnet import CpuWork, Snapshot
from harness.report import instructions as reports
from harness.workload.iperf import Carried
from harness.workload.udpflow import Received, Sent

CPUS = CpuPlan.of(tuple(range(6)))
NAMES = ("user space", "vxlan_rcv", "do_idle")


def received(count: int, late: int = 0) -> Received:
    return Received(count, count * 16, late, 0, 0, 0, 1, 1.0, 1.0)


# ---- what can be asked for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "values"),
    [
        *(("udp", {"size": 15}), ("udp", {"size": 70_000}), ("udp", {"flows": 0})),
        *(("udp", {"flows": 129}), ("tcp", {"size": 0}), ("tcp", {"size": 2_000_000})),
    ],
)
def test_loads_that_cannot_be(protocol: str, values: dict[str, int]) -> None:
    with pytest.raises(FalconError, match="possible"):
        loads.of(protocol, **values)


@pytest.mark.parametrize(("flows", "heat"), [(1, 2), (4, 0), (4, -1)])
def test_no_flow_is_hotter_than_none(flows: int, heat: int) -> None:
    with pytest.raises(FalconError, match="takes two flows"):
        UdpLoad(flows=flows, heat=heat)


def test_the_first_flow_is_the_hot_one() -> None:
    assert UdpLoad(flows=4).shares(400) == [100, 100, 100, 100]
    assert TcpLoad(4096, flows=4, heat=5).shares(400) == [250, 50, 50, 50]


def test_a_load_by_an_unknown_protocol() -> None:
    with pytest.raises(FalconError, match=r"no load by sctp.*udp, tcp"):
        loads.of("sctp")


@pytest.mark.parametrize("load", [UdpLoad(64, 3, 2), TcpLoad(4096, 2, heat=4)])
def test_a_load_crosses_the_wire(load: loads.Load) -> None:
    assert loads.of(**json.loads(json.dumps(load.to_dict()))) == load


@pytest.mark.parametrize(
    "wrong",
    [
        *({"mode_names": ("con", "fast")}, {"rounds": 0}, {"packets": 0}, {"smp": 5}),
        *({"load": UdpLoad(senders=2)}, {"load": UdpLoad(spread=True)}),
        *({"load": UdpLoad(share=0.5)}, {"load": loads.MemcachedLoad()}),
    ],
)
def test_configurations_that_cannot_be(wrong: dict[str, Any]) -> None:
    good = Config(Path(), UdpLoad(), ("con", "falcon"))
    with pytest.raises(FalconError):
        replace(good, **wrong)


def test_an_image_without_symbols_is_told(tmp_path: Path) -> None:
    with pytest.raises(FalconError, match="no vmlinux"):
        instructions.vmlinux_of(tmp_path / "bzImage")


# ---- a window -----------------------------------------------------------------------------


class FakeServer:
    cpus = CPUS
    busy: ClassVar[list[float]] = [10.0, 10.0, 50.0, 10.0]

    def __init__(self) -> None:
        self.modes: list[str] = []
        self.settings: dict[str, str | int] | None = None

    def mode(
        self, name: str, load: loads.Load, settings: dict[str, str | int] | None = None
    ) -> None:
        self.modes.append(f"{name}, {load.protocol}")
        self.settings = settings

    def loads(self, seconds: float) -> list[float]:
        self.looked_for = seconds
        return self.busy

    def drain(self, packets: int) -> Drained:
        return Drained(received(packets, late=1), 10, 20)


class FakeCounter:
    """Counts 300 instructions of VXLAN on CPU 1 a packet, and much on the harness's own CPU."""

    def __init__(self) -> None:
        self.packets = 0

    def counts(self) -> Counts:
        table = np.zeros((3, 3), dtype=np.int64)
        table[1] = (20 * self.packets, 300 * self.packets, 1000 * self.packets)
        table[2] = 10**9
        return Counts(NAMES, table)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(FakeServer(), None, Plan(), counter=FakeCounter())  # type: ignore[arg-type]


CONFIG = Config(Path(), UdpLoad(), ("con", "falcon"), packets=1000)


def sending(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, losses: list[int], late: tuple[int, ...] = ()
) -> list[Batch]:
    """Make every window, one after the other, lose so many messages, those whose number is in
    ``late`` take twice as long as they should, and the rest go well; the windows that were sent.
    """
    windows: list[Batch] = []

    def send(_rig: Rig, load: loads.Load, batch: Batch) -> tuple[Sent, Drained]:
        lost, slow = 0, 1
        if batch.messages == CONFIG.packets // load.packets:  # otherwise it warms up
            lost = losses[len(windows)] if len(windows) < len(losses) else 0
            slow = 2 if len(windows) in late else 1
            windows.append(batch)
        came = batch.messages - lost
        rig.counter.packets += came  # type: ignore[attr-defined]
        sent = Sent(batch.messages, slow * batch.messages / batch.rate)
        return sent, Drained(received(came), 2 * came, 3 * came)

    monkeypatch.setattr(instructions, "_send", send)
    return windows


def rates_of(windows: list[Batch]) -> list[float]:
    return [batch.rate for batch in windows]


def test_the_rate_is_halved_until_nothing_is_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = sending(rig, monkeypatch, [500, 1, 0])
    assert instructions.find_rate(rig, CONFIG) == 4000.0
    assert rates_of(windows) == [32_000.0, 16_000.0, 8000.0]


@pytest.mark.parametrize(
    ("modes", "searched"), [(("host", "con", "falcon"), "con"), (("host", "falcon"), "host")]
)
def test_the_rate_is_one_that_the_stock_overlay_takes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, modes: tuple[str, ...], searched: str
) -> None:
    windows = sending(rig, monkeypatch, [])
    instructions.find_rate(rig, replace(CONFIG, mode_names=modes))
    assert [batch.mode for batch in windows] == [searched]


@pytest.mark.parametrize(
    ("load", "fragments"), [(UdpLoad(1422), 1), (UdpLoad(65_000), 46), (TcpLoad(65_536), 47)]
)
def test_a_large_message_counts_as_its_fragments(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, load: loads.Load, fragments: int
) -> None:
    """Or none would be sent at a rate at which all of them come."""
    windows = sending(rig, monkeypatch, [])
    assert instructions.find_rate(rig, replace(CONFIG, load=load)) == 16_000.0 / fragments
    told = [(batch.rate, batch.messages) for batch in windows]
    assert told == [(32_000.0 / fragments, 1000 // fragments)]


def test_every_flow_has_a_message_and_the_hot_one_more() -> None:
    load = TcpLoad(65_536, flows=8, heat=4)
    batch = instructions._batch(load, "con", 0, 100.0, packets=200)
    assert load.shares(batch.messages) == [4.0, *[1.0] * 7]


def test_a_machine_that_always_loses_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sending(rig, monkeypatch, [1] * instructions.HALVINGS)
    with pytest.raises(FalconError, match="too busy"):
        instructions.find_rate(rig, CONFIG)


WINDOW = Batch("falcon", 3, 4000.0, CONFIG.packets, turn=1)


def test_a_sample_is_of_the_packets_that_came_without_the_harness(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending(rig, monkeypatch, [1])
    sample = instructions._sample(rig, CONFIG.load, WINDOW, {})
    assert sample
    assert (sample.mode, sample.round, sample.delivered, sample.lost) == ("falcon", 3, 999, 1)
    assert sample.work == (0.0, 320.0)
    assert (sample.busiest, sample.total) == (320.0, 320.0)
    assert (sample.softirqs, sample.stages) == (2.0, 3.0)
    assert sample.groups == {"idle": 1000.0, "user space": 20.0, "VXLAN": 300.0}
    assert sample.cpu_groups == ({}, sample.groups)
    assert Sample.from_dict(json.loads(json.dumps(asdict(sample)))) == sample


def test_a_window_that_lost_packets_or_had_a_late_sender_is_done_again_at_its_rate(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = sending(rig, monkeypatch, [900, 0, 1], late=(1,))
    sample = instructions._sample(rig, CONFIG.load, WINDOW, {})
    assert sample and sample.lost == 1
    assert windows == [WINDOW] * 3


def counted(rig: Rig, monkeypatch: pytest.MonkeyPatch, losses: list[int]) -> list[Batch]:
    """The windows of a point's rounds if, after the search for a rate, they lose so many."""
    windows = sending(rig, monkeypatch, [0, *losses])
    samples = list(instructions.measure(replace(CONFIG, rounds=2, most_rounds=3), rig))
    assert len({sample.round for sample in samples}) == 2 and len(samples) == 4
    return windows[1:]


def test_a_mode_that_loses_packets_makes_all_modes_slower_from_then_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [
        (batch.mode, batch.round, batch.rate)
        for batch in counted(rig, monkeypatch, [0, *[900] * instructions.ATTEMPTS])
    ]
    assert told == [
        ("con", 0, 16_000.0),
        *[("falcon", 0, 16_000.0)] * instructions.ATTEMPTS,
        *(("con", 0, 8000.0), ("falcon", 0, 8000.0)),
        *(("falcon", 1, 8000.0), ("con", 1, 8000.0)),
    ]


def test_a_round_that_loses_packets_at_every_rate_is_left_out(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = counted(rig, monkeypatch, [900] * instructions.ATTEMPTS**2)
    assert [batch.round for batch in windows[-4:]] == [1, 1, 2, 2], "another one takes its place"
    told = capsys.readouterr().err
    for rate in ("16,000", "8,000", "4,000"):
        assert f"round 1, at {rate} messages/s: con lost packets" in told
    assert "round 1 is left out" in told and "round 2" not in told


def test_no_window_is_slower_than_any_trial(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    load = UdpLoad(65_000)
    windows = sending(rig, monkeypatch, [0, *[20] * 100])
    with pytest.raises(FalconError, match=r"only 0 of 5 rounds .*too busy"):
        list(instructions.measure(replace(CONFIG, load=load), rig))
    assert min(rates_of(windows)) == 500.0 / 46


def test_what_the_kernel_complains_of_keeps_a_sample_from_being_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending(rig, monkeypatch, [])
    complaints = iter([None, FalconError("the guest's kernel complained")])

    def check(_rig: Rig) -> None:
        if error := next(complaints):
            raise error

    monkeypatch.setattr(Rig, "check", check)
    measured = instructions.measure(CONFIG, rig)
    next(measured)
    with pytest.raises(FalconError, match="complained"):
        next(measured)


HOT = replace(CONFIG, load=UdpLoad(flows=2, heat=3))


def test_a_hotspot_is_between_the_mean_load_and_the_hottest(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Batch] = []

    def send(_rig: Rig, _load: UdpLoad, batch: Batch) -> Sent:
        batches.append(batch)
        return Sent(1000, 0.25)

    monkeypatch.setattr(instructions, "_send_udp", send)
    server: Any = rig.server
    assert instructions.find_threshold(rig, HOT, 7, 4000.0) == (50 + 20) / 2
    assert server.modes == ["falcon-static, udp"]
    assert server.settings["falcon_load_threshold"] == 100, "nothing is busy while loads are seen"
    assert [(batch.round, batch.rate) for batch in batches] == [(7, 4000.0)], "the round's flows"
    assert server.looked_for == 0.5 * 1000 / 4000


@pytest.mark.parametrize(
    ("busy", "found"),
    [
        ([10.0, 11.0, 12.0, 10.0], (12 + 10.75) / 2),
        ([10.0, 10.0, 11.0, 10.0], None),
        ([1.0, 1.0, 1.5, 1.0], None),
    ],
)
def test_what_is_a_hotspot_goes_with_the_load(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, busy: list[float], found: float | None
) -> None:
    monkeypatch.setattr(instructions, "_send_udp", lambda *_: Sent(1000, 0.25))
    monkeypatch.setattr(FakeServer, "busy", busy)
    assert instructions.find_threshold(rig, HOT, 7, 4000.0) == found


def test_a_hotspot_is_looked_for_more_than_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "_send_udp", lambda *_: Sent(1000, 0.25))
    calm = [10.0] * 4
    seen = iter([calm, calm, FakeServer.busy])
    monkeypatch.setattr(FakeServer, "loads", lambda _self, _seconds: next(seen))
    assert instructions.find_threshold(rig, HOT, 7, 4000.0) == 35


def test_a_round_without_a_hotspot_is_left_out(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sending(rig, monkeypatch, [])
    monkeypatch.setattr(instructions, "_send_udp", lambda *_: Sent(1000, 0.25))
    monkeypatch.setattr(FakeServer, "busy", [10.0] * 4)
    assert instructions.Rounds(rig, HOT).take(4, ["con"]) == []
    assert "round 5 is left out: it has no hotspot" in capsys.readouterr().err


def test_at_a_lower_rate_less_is_busy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is busy is a round's first look, scaled: at the lower rate there may be none to see."""
    sending(rig, monkeypatch, [0, *[900] * instructions.ATTEMPTS])
    looks: list[float] = []

    def find(_rig: Rig, _config: Config, _number: int, rate: float) -> float:
        looks.append(rate)
        return 35.0

    monkeypatch.setattr(instructions, "find_threshold", find)
    rounds = instructions.Rounds(rig, HOT)
    assert [sample.mode for sample in rounds.take(0, ["falcon"])] == ["falcon"]
    server: Any = rig.server
    assert server.settings["falcon_load_threshold"] == round(35.0 / 2)
    rounds.take(1, ["falcon"])
    assert server.settings["falcon_load_threshold"] == 35
    assert looks == [16_000.0, 8000.0]


def test_without_a_hot_flow_falcons_settings_are_the_modes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending(rig, monkeypatch, [])
    instructions.Rounds(rig, CONFIG).take(0, ["falcon"])
    assert rig.server.settings == {}  # type: ignore[attr-defined]


def test_a_flow_gets_hot_when_it_has_its_place(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    heats: list[tuple[int, int]] = []

    def send(_rig: Rig, load: UdpLoad, batch: Batch) -> tuple[Sent, Drained]:
        heats.append((batch.turn, load.heat))
        return Sent(1000, 0.25), Drained(received(1000), 10, 10)

    monkeypatch.setattr(instructions, "_send", send)
    instructions._sample(rig, HOT.load, WINDOW, {})
    assert heats == [(0, 1), (1, 3)]


class FakeHost:
    def at(self, container: int | None) -> str:
        return f"client {container}"


def test_a_flow_has_the_same_ports_in_every_mode() -> None:
    plan, load = Plan(containers=2), UdpLoad(flows=4, containers=2)
    client = Here(FakeHost())  # type: ignore[arg-type]
    rig = Rig(FakeServer(), client, plan, counter=FakeCounter())  # type: ignore[arg-type]
    con, falcon, host = (
        rig.ends(load, mode, number) for mode, number in (("con", 3), ("falcon", 3), ("host", 4))
    )
    assert con == falcon
    assert con[1] == Ends("client 1", plan.container(1, 1).ip, 20_013)  # type: ignore
    assert host[1] == Ends("client None", plan.host(1).ip, 20_017)  # type: ignore


class FakeSender:
    """A sender or a client: is done at once."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, _source: str, _ip: str, **options: Any):
        self.made.append(options)
        self.count = options["count"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    class FakeUdp(FakeSender):
        def wait(self) -> Sent:
            return Sent(self.count, 2.0)

    class FakeTcp(FakeSender):
        def wait(self) -> Carried:
            return Carried(self.count, self.count - 5, 2.0, 0)

    monkeypatch.setattr(instructions, "Sender", FakeUdp)
    monkeypatch.setattr(instructions.iperf, "Client", FakeTcp)
    FakeSender.made.clear()
    return FakeSender.made


def test_datagrams_are_numbered_anew_each_turn(senders: list[dict[str, Any]]) -> None:
    client = Here(FakeHost())  # type: ignore[arg-type]
    rig = Rig(FakeServer(), client, Plan(), counter=FakeCounter())  # type: ignore[arg-type]
    batch = Batch("con", 0, 1000.0, 400, turn=1)
    sent, drained = instructions._send(rig, UdpLoad(flows=4), batch)
    assert (sent.sent, drained.came.received) == (400, 400)
    assert [made["flow"] for made in senders] == [4, 5, 6, 7]
    assert {(made["count"], made["rate"]) for made in senders} == {(100, 250.0)}


def test_of_tcp_only_what_was_received_counts(senders: list[dict[str, Any]]) -> None:
    client = Here(FakeHost())  # type: ignore[arg-type]
    rig = Rig(FakeServer(), client, Plan(), counter=FakeCounter())  # type: ignore[arg-type]
    sent, drained = instructions._send(rig, TcpLoad(4096, flows=2), Batch("con", 0, 1000.0, 400))
    assert (sent.sent, drained.came.received, drained.came.bytes) == (390, 390, 390 * 4096)
    assert drained.came.out_of_order == 1, "segments, as the receiving host counts them"
    assert [made["port"] for made in senders] == [5201, 5202]


# ---- the two halves of the dialogue ------------------------------------------------------------


class FakeReceiver:
    """Gets a packet each time it is asked, up to ``most``."""

    def __init__(self, most: int):
        self.came, self.most = 0, most

    def report(self) -> Received:
        self.came = min(self.came + 1, self.most)
        return received(self.came)


def test_the_guest_says_how_busy_falcons_cpus_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of all it saw; a CPU without a load, as when Falcon is off, is idle."""
    rows = [{cpu: CpuRow(load=load) for cpu in CPUS.stages} for load in (10, 30, None)]
    seen = iter(Counters({}, row, {}) for row in rows)
    served = guest.Guest.__new__(guest.Guest)
    served._cpus, served._host = CPUS, SimpleNamespace(namespace=None)  # type: ignore[assignment]
    clock = iter([0.0, 0.1, 0.2, 0.3])
    monkeypatch.setattr(guest.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(guest.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(guest.falcon, "counters", lambda _namespace: next(seen))
    assert served.do({"do": "loads", "seconds": 0.3}) == {"loads": [40 / 3] * len(CPUS.stages)}


def work(softirqs: int) -> Snapshot:
    """Seven CPUs that did the same; the last one is the harness's."""
    return Snapshot({cpu: CpuWork(net_rx=softirqs, processed=2 * softirqs) for cpu in range(7)})


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeping takes no time, but the clock goes on by it: how long it was."""
    times: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(times), sleep=times.append)
    monkeypatch.setattr(guest, "time", clock)
    monkeypatch.setattr(guest.udpflow, "time", clock)
    return times


def draining(monkeypatch: pytest.MonkeyPatch, *most: int) -> guest.Guest:
    """A guest whose receivers get so many packets."""
    served = guest.Guest.__new__(guest.Guest)
    served._receivers = [FakeReceiver(number) for number in most]  # type: ignore[misc]
    monkeypatch.setattr(served, "_late_segments", lambda: 0)
    served._seen, served._cpus = received(0), CPUS
    served._work = work(softirqs=0)
    monkeypatch.setattr(guest.softnet, "snapshot", lambda: work(softirqs=7))
    return served


def test_the_guest_waits_for_packets_wherever_they_come(
    monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    """Packets that are under way to one receiver are no loss of another's."""
    served = draining(monkeypatch, 2, 7, 0)
    first = served.do({"do": "drain", "packets": 9})
    assert (first["came"]["received"], first["softirqs"], first["received"]) == (9, 6 * 7, 6 * 14)
    assert sum(slept) < guest.QUIET_S


def test_what_is_lost_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    """Not once a receiver."""
    served = draining(monkeypatch, *[1] * 20)
    lossy = served.do({"do": "drain", "packets": 100})
    assert (lossy["came"]["received"], lossy["softirqs"]) == (20, 6 * 7)
    assert guest.QUIET_S < sum(slept) < guest.QUIET_S + 1


class FakeProcess:
    """The guest's program: answers commands with what it was made for."""

    def __init__(self, answers: Iterator[str]):
        self._answers = answers
        self.stdout = ""
        self.ended = ""

    def wait_for(self, text: str, _timeout_s: float) -> None:
        self.stdout += next(self._answers) + "\n"
        assert text in self.stdout

    def wait(self, _timeout_s: float, *, check: bool) -> None:
        assert check
        self.ended = "waited for"

    def kill(self) -> None:
        self.ended = "killed"


class FakeMachine(Machine):
    def __init__(self, *answers: dict[str, Any]):
        ready = {"ready": True, "cpus": asdict(CPUS)}
        self.process = FakeProcess(iter([json.dumps(a) for a in (ready, *answers)]))

    def start(self, argv: Any, **_: Any) -> Any:
        return self.process

    reboot = close = lambda self: None


def test_answers_are_told_apart_by_their_numbers() -> None:
    drained = {"came": asdict(received(5)), "softirqs": 3, "received": 15}
    machine = FakeMachine({"number": 0}, {**drained, "number": 1})
    with remote.Server(remote.in_guest(machine, Plan()), "guest") as server:
        assert server.cpus == CPUS
        server.mode("falcon", UdpLoad())
        assert server.drain(5) == Drained(received(5), 3, 15)
    assert machine.process.ended == "waited for"


def test_a_failure_here_ends_the_program_there() -> None:
    machine = FakeMachine()
    with pytest.raises(KeyboardInterrupt), remote.Server(remote.in_guest(machine, Plan()), "guest"):
        raise KeyboardInterrupt
    assert machine.process.ended == "killed"


# ---- what is shown -------------------------------------------------------------------------------


def sample(mode: str, number: int, busiest: float, total: float) -> Sample:
    work = (busiest, *[(total - busiest) / 5] * 5)
    groups = {"VXLAN": total, "bridge": 3.0}
    return Sample(mode, number, 1000, 0, 0, 4000.0, 1.0, 3.0, work, groups)


SAMPLES = [
    *(sample("con", 0, 600, 1000), sample("falcon", 0, 300, 1050)),
    *(sample("con", 1, 800, 1000), sample("falcon", 1, 400, 1030)),
    *(sample("con", 2, 600, 1000), sample("falcon", 2, 200, 1010)),
]


def text_of(table: Any) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_ratios_are_of_the_same_round() -> None:
    gain = reports.ratios(SAMPLES, "falcon", "con", capacity)
    assert (gain.median, gain.least, gain.greatest) == pytest.approx((2.0, 2.0, 3.0))


def test_table() -> None:
    text = text_of(reports.table(SAMPLES, "con", "one UDP flow", UdpLoad()))
    row = next(line for line in text.splitlines() if "falcon" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["falcon", "300", "2.00", "2.00 to 3.00", "1.03", "0", "0"]


def test_a_hotspot_is_told_by_the_stages_cpus() -> None:
    """Here all but the first have as much; in the other table that one is the busiest."""
    text = text_of(reports.table(SAMPLES, "con", "a hotspot", HOT.load))
    row = next(line for line in text.splitlines() if "falcon" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[1:3] == ["150", f"{80 / 162:.2f}"] and "stage" in text


@pytest.mark.parametrize(("load", "rounds"), [(UdpLoad(flows=2), 2), (UdpLoad(flows=2, heat=3), 4)])
def test_rounds_are_added_while_the_hotspots_ratios_waver(
    rig: Rig, load: UdpLoad, rounds: int
) -> None:
    """Not those of the NIC's CPU, which is busier, and agree."""

    def take(number: int, names: Sequence[str]) -> Iterator[Sample]:
        for name in names:
            stage = 100.0 + 200 * (number % 2) if name == "falcon" else 400.0
            yield replace(sample(name, number, 0, 0), work=(900.0, stage, 100.0))

    config = replace(CONFIG, load=load, rounds=2, most_rounds=4)
    assert len(list(interleaved(config, rig, take))) == rounds * len(config.mode_names)


def test_groups_that_cost_nothing_are_left_out() -> None:
    text = text_of(reports.group_table(SAMPLES))
    assert "VXLAN" in text and "bridge" not in text
