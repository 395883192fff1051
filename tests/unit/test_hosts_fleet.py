# SPDX-License-Identifier: GPL-2.0-only
"""Several hosts at once: each on its own, all told, all cleaned up."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from rich.console import Console

from harness.errors import FalconError
from harness.hosts import fleet
from harness.hosts.fleet import Outcome, on_each
from harness.machine.ssh import Access, Cancelled, SshMachine

PATIENCE_S = 20.0


def test_host_that_fails_does_not_stop_the_rest(capfd: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(3, timeout=PATIENCE_S)  # they run at the same time

    def work(machine: SshMachine, report: fleet.Reporter) -> str:
        report("works")
        together.wait()
        if machine.name == "b":
            raise FalconError("no disk", "it is full", status=3)
        return machine.name.upper()

    outcomes = on_each(["a", "b", "c"], Access(), work)
    assert [(o.host, o.value) for o in outcomes] == [("a", "A"), ("b", None), ("c", "C")]
    assert fleet.status(outcomes) == 3
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == ["a: works", "b: error: no disk: it is full", "b: works", "c: works"]


def test_bug_is_not_swallowed() -> None:
    def work(_machine: SshMachine, _report: fleet.Reporter) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on_each(["a"], Access(), work)


def test_interrupt_lets_every_host_clean_up_and_stops_it_at_its_next_step() -> None:
    cleaned: list[str] = []
    working = threading.Barrier(3, timeout=PATIENCE_S)

    def work(machine: SshMachine, report: fleet.Reporter) -> None:
        try:
            working.wait()
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                report.remark("waiting")
                machine.check_cancelled()
                time.sleep(0.05)
            raise AssertionError("was not interrupted")
        except Cancelled:
            cleaned.append(machine.name)
            raise

    def interrupt() -> None:
        working.wait()
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            on_each(["a", "b"], Access(), work)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(cleaned) == ["a", "b"]


@pytest.mark.parametrize("where", ["a thread is started", "futures are waited for"])
def test_interrupt_takes_effect_where_nothing_is_half_done(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    inside: list[str] = []
    ended: list[str] = []

    def interrupted(what: str) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT) if what == where else None
            time.sleep(0)  # where Python would raise it
        except KeyboardInterrupt:
            inside.append(what)
            raise

    class Threads(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(*args, **kwargs)
            interrupted("a thread is started")
            return future

    def waiting(*args: Any, **kwargs: Any) -> Any:
        interrupted("futures are waited for")
        return wait(*args, **kwargs)

    def work(machine: SshMachine, _report: fleet.Reporter) -> None:
        try:
            while True:
                machine.check_cancelled()
                time.sleep(0.05)
        finally:
            ended.append(machine.name)

    monkeypatch.setattr(fleet, "ThreadPoolExecutor", Threads)
    monkeypatch.setattr(fleet, "wait", waiting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            on_each(["a", "b"], Access(), work)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not inside and sorted(ended) == ["a", "b"]


@pytest.mark.parametrize(
    ("hosts", "what"), [([], "no host is named"), (["a", "b", "a"], "a is named twice")]
)
def test_hosts_must_be_told_apart(hosts: list[str], what: str) -> None:
    with pytest.raises(FalconError, match=what):
        on_each(hosts, Access(), lambda *_: None)


def test_summary_has_a_row_a_host() -> None:
    outcomes = [Outcome("a", value=3), Outcome[int]("b", error=FalconError("no disk"))]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(fleet.summary(outcomes, "installed", lambda number: f"{number} files"))
    text = captured.get()
    assert "3 files" in text and "FAILED" in text and "no disk" in text


def test_only_error_of_one_host_is_the_tasks_own() -> None:
    with pytest.raises(FalconError, match="no disk"):
        fleet.only_error([Outcome[int]("a", error=FalconError("no disk"))])
    fleet.only_error([Outcome("a", value=1)])
    fleet.only_error([Outcome[int]("a", error=FalconError("x")), Outcome("b", value=1)])
