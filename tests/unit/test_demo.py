# SPDX-License-Identifier: GPL-2.0-only
"""The demo's two forms, and how it follows the guest. No machine is booted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness import demo
from harness.errors import FalconError
from harness.machine.tap import TapNic
from harness.overlay.plan import Plan
from harness.workload.interleave import READY, Job, Window

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


def test_client_is_wired_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def tap(_plan: Plan) -> Iterator[tuple[str, TapNic]]:
        yield "client", NIC

    monkeypatch.setattr(demo, "tap_client", tap)
    with demo._booted(CONFIG, Plan()) as (machine, client):
        assert client == "client"  # type: ignore[comparison-overlap]
        assert machine.options["nics"] == (NIC,)  # type: ignore[attr-defined]


def test_without_root_both_ends_are_in_the_guest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_plan: Plan) -> None:
        raise FalconError("cannot make the network namespace", "not permitted", "run as root")

    monkeypatch.setattr(demo, "tap_client", refuse)
    with demo._booted(CONFIG, Plan()) as (machine, client):
        assert client is None
        assert machine.options["nics"] == ()  # type: ignore[attr-defined]
    told = capsys.readouterr().err
    assert "run as root; so both ends of the flow go into the virtual machine" in told


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
    """Sends nothing; remembers its rate and whether it was stopped."""

    made: list[FakeSender]

    def __init__(self, _at: object, _to: str, *, size: int, rate: float, flow: int):
        self.rate, self.flow, self.stopped = rate, flow, False
        self.made.append(self)

    def __enter__(self) -> FakeSender:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stop(self) -> str:
        self.stopped = True
        return f"sent at {self.rate:.0f}"


class FakeClient:
    def at(self, container: int) -> str:
        return f"container {container}"


@pytest.mark.parametrize(
    ("capacity", "rates"),
    [
        (10_000, [30_000]),
        (23_000, [30_000]),
        (25_000, [30_000, 60_000]),
        (90_000, [30_000, 60_000, 120_000]),
        (10**9, [30_000, 60_000, 120_000, 240_000, 480_000]),
    ],
)
def test_the_sender_doubles_its_rate_until_con_cannot_follow(
    monkeypatch: pytest.MonkeyPatch, capacity: int, rates: list[int]
) -> None:
    made: list[FakeSender] = []
    FakeSender.made = made
    monkeypatch.setattr(demo, "Sender", FakeSender)
    lines = []
    for number in range(8):
        # What a machine of that capacity would have delivered at the rate of the trial.
        rate = rates[min(number, len(rates) - 1)]
        delivered = min(rate, capacity)
        turn = -1 if number < demo.TRIALS else (number - demo.TRIALS) // 2
        mode = "con" if number < demo.TRIALS or number % 2 else "rps-pipe"
        lines.append(Window(number, mode, turn, 1.0, delivered, 0, 0, 0, {0: 1.0}).to_json())
    machine = FakeMachine({}, FakeGuest("\n".join([READY, *lines])))
    job = replace(JOB, rate=rates[0], trials=demo.TRIALS)
    windows, sent = demo._measure(machine, FakeClient(), job)  # type: ignore[arg-type]
    assert [sender.rate for sender in made] == rates
    assert [sender.flow for sender in made] == sorted({sender.flow for sender in made})
    assert all(sender.stopped for sender in made)
    assert sent == f"sent at {rates[-1]}"
    assert [window.number for window in windows] == [4, 5, 6, 7], "trials are not results"
