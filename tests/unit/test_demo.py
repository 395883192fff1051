# SPDX-License-Identifier: GPL-2.0-only
"""The demo's forms, and how it follows the guest. No machine is booted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import demo
from harness.errors import FalconError
from harness.lab.instructions import Sample
from harness.lab.rig import Boot
from harness.machine import accel as accelerators
from harness.machine.tap import TapNic
from harness.overlay.cpus import CpuPlan
from harness.overlay.plan import Plan
from harness.workload.interleave import READY, Job, Window
from harness.workload.udpflow import Sent

CONFIG = demo.DemoConfig(Path("bzImage"), accel="tcg", rounds=2, mode_names=("con", "rps-pipe"))
JOB = Job(Plan(), CONFIG.mode_names, CONFIG.rounds, 1.0, 0.0, sender_here=True)
NIC = TapNic((), "02:00:00:00:00:01")


@dataclass
class FakeGuest:
    """A command in the guest that has already said everything."""

    stdout: str
    killed: bool = False

    def wait_for(self, text: str, timeout_s: float) -> None:
        assert text in self.stdout, f"waited for {text}"

    def wait(self, timeout_s: float, *, check: bool) -> None:
        assert check

    def kill(self) -> None:
        self.killed = True


@dataclass
class FakeMachine:
    options: dict[str, Any]
    guest: FakeGuest | None = None
    argv: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeMachine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, argv: list[str], cwd: Path) -> FakeGuest:
        assert self.guest
        self.argv = argv
        return self.guest


@pytest.fixture(autouse=True)
def no_real_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "QemuMachine", lambda _kernel, **options: FakeMachine(options))


@contextmanager
def tap(_plan: Plan) -> Iterator[tuple[str, TapNic]]:
    yield "client", NIC


@contextmanager
def no_tap(_plan: Plan) -> Iterator[tuple[str, TapNic]]:
    raise FalconError("cannot make the network namespace", "not permitted", "run as root")
    yield


def test_client_is_wired_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "tap_client", tap)
    with demo._booted(CONFIG, Plan(), True) as (machine, client):
        assert client == "client"  # type: ignore[comparison-overlap]
        assert machine.options["nics"] == (NIC,)  # type: ignore[attr-defined]


def test_both_ends_in_the_guest_take_no_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "tap_client", no_tap)
    with demo._booted(CONFIG, Plan(), False) as (machine, client):
        assert client is None
        assert machine.options["nics"] == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("accel", "client", "way"),
    [
        ("tcg", tap, "instructions of 6 CPUs and one"),
        ("kvm", tap, "packets, wired"),
        ("tcg", no_tap, "packets, not wired"),
        ("kvm", no_tap, "packets, not wired"),
    ],
)
def test_emulated_cpus_are_measured_by_instructions_where_the_sender_is_apart(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    accel: str,
    client: Any,
    way: str,
) -> None:
    taken = []
    monkeypatch.setattr(demo, "tap_client", client)
    monkeypatch.setattr(accelerators, "choose", lambda wanted: wanted)

    def count_packets(_config: object, wired: bool) -> None:
        taken.append(f"packets, {'wired' if wired else 'not wired'}")

    def count_instructions(config: demo.DemoConfig) -> None:
        taken.append(f"instructions of {config.smp} CPUs and one")

    monkeypatch.setattr(demo, "_count_packets", count_packets)
    monkeypatch.setattr(demo, "_count_instructions", count_instructions)
    demo.demo(replace(CONFIG, accel=accel))
    assert taken == [way]
    told = "run as root; so both ends of the flow go into the virtual machine"
    assert (told in capsys.readouterr().err) is (client is no_tap)


@pytest.mark.parametrize(("accel", "spins"), [("tcg", True), ("kvm", False)])
def test_only_emulated_cpus_spin(accel: str, spins: bool) -> None:
    config = demo.DemoConfig(Path("bzImage"), accel=accel)
    options = demo._machine(config).options  # type: ignore[attr-defined]
    assert options["idle_poll"] is spins
    assert bool(options["append"]) is spins


def test_windows_are_read_as_the_guest_prints_them() -> None:
    windows = [
        Window(number, mode, number // 2, 1.0, 100, 0, 0, 0, {0: 1.0})
        for number, mode in enumerate(("con", "rps-pipe", "rps-pipe", "con"))
    ]
    guest = FakeGuest("\n".join([READY, *(window.to_json() for window in windows)]))
    machine = FakeMachine({}, guest)
    assert demo._measure(machine, None, JOB) == (windows, None)  # type: ignore[arg-type]
    assert Job.from_json(machine.argv[-1]) == JOB
    assert guest.killed


class FakeSender:
    """Sends nothing, at no rate it is told; remembers where, and whether it was stopped."""

    def __init__(self, at: str, _to: str, *, size: int):
        self.at, self.size, self.stopped = at, size, False

    def __enter__(self) -> FakeSender:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stop(self) -> FakeSender:
        self.stopped = True
        return self


class FakeClient:
    def at(self, container: int) -> str:
        return f"container {container}"


def test_a_sender_outside_is_as_fast_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "Sender", FakeSender)
    lines = [
        Window(number, "con", number, 1.0, 100, 0, 0, 0, {0: 1.0}).to_json() for number in range(4)
    ]
    machine = FakeMachine({}, FakeGuest("\n".join([READY, *lines])))
    job = replace(JOB, sender_here=False)
    _windows, sent = demo._measure(machine, FakeClient(), job)  # type: ignore[arg-type]
    assert isinstance(sent, FakeSender) and sent.stopped
    assert (sent.at, sent.size) == ("container 0", 64)


@pytest.mark.parametrize("sent", [None, Sent(600, 3.0)])
def test_who_limited_what_is_shown(capsys: pytest.CaptureFixture[str], sent: Sent | None) -> None:
    windows = [
        Window(number, mode, 0, 1.0, 100 + 90 * number, 0, 0, 0, {0: 1.0})
        for number, mode in enumerate(("con", "falcon"))
    ]
    demo._show_windows(windows, 6, sent)
    shown = capsys.readouterr().out
    assert "Falcon delivered 1.90 times as many packets as con" in shown
    assert ("falcon: limited by the sender" in shown) is (sent is not None)
    assert ("may be what limits every mode; not so as root" in shown) is (sent is None)


def test_instructions_are_shown_by_mode_and_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = {
        "con": (1000.0, 5000.0, 0, 0, 0, 2000.0),
        "falcon": (1000.0, 2000.0, 2500.0, 0, 0, 2500.0),
    }
    samples = [
        Sample(mode, turn, 10_000, 0, 0, 16_000, 1, 1, (*cpus[turn:], *cpus[:turn]), {})
        for turn in range(2)
        for mode, cpus in work.items()
    ]

    @contextmanager
    def opened(boot: Boot) -> Iterator[Any]:
        assert (boot.smp, boot.accel) == (7, "tcg")
        yield SimpleNamespace(cpus=CpuPlan.of(tuple(range(6))))

    monkeypatch.setattr(demo.instructions, "opened", opened)
    monkeypatch.setattr(demo.instructions, "measure", lambda _config, _rig: iter(samples))
    demo._count_instructions(replace(CONFIG, mode_names=("con", "falcon")))
    shown = capsys.readouterr().out
    assert "One UDP flow of 64 bytes a packet, 16,000 packets/s" in shown
    assert "│ falcon │   2,500 │     2.00 │" in shown
    assert "con    │  12%   │  62%   │   0%   │" in shown
    assert (
        "By its busiest CPU, which bounds a pipeline: Falcon can carry 2.00 times as many packets"
        " as con (2.00 to 2.00 by round); no packet came out of order in any mode."
    ) in shown
