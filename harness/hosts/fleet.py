# SPDX-License-Identifier: GPL-2.0-only
"""The same work on several hosts at once; one that fails does not stop the others.

In: names of hosts, what to do on each. Out: an `Outcome` each, in the hosts' order.
Ctrl-C lets every host's work end by its own clean-up before anything is closed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Generic, TypeVar

from rich.table import Table

from harness.console import note
from harness.errors import FalconError
from harness.machine.ssh import Access, SshMachine

T = TypeVar("T")

SIGNALS_EVERY_S = 0.5
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one host's work: a ``value``, or the ``error`` it ended with."""

    host: str
    value: T | None = None
    error: FalconError | None = None


class Reporter:
    """Tells of one host's progress, in lines that begin with its name."""

    def __init__(self, machine: SshMachine):
        self._machine = machine

    def __call__(self, text: str) -> None:
        """Say what is done next; raises `Cancelled` when nothing more shall be."""
        self._machine.check_cancelled()
        self.remark(text)

    def remark(self, text: str) -> None:
        """Say something, in any case."""
        note(f"{self._machine.name}: {text}")


def on_each(
    hosts: Sequence[str], access: Access, work: Callable[[SshMachine, Reporter], T]
) -> list[Outcome[T]]:
    """Do ``work`` on all hosts, each in a thread with a connection of its own."""
    _check(hosts)
    with ExitStack() as opened:
        machines = [opened.enter_context(SshMachine(host, access)) for host in hosts]

        def one(machine: SshMachine) -> Outcome[T]:
            reporter = Reporter(machine)
            try:
                return Outcome(machine.name, value=work(machine, reporter))
            except FalconError as error:
                if len(hosts) > 1:
                    reporter.remark(f"error: {error}")
                return Outcome(machine.name, error=error)

        with ThreadPoolExecutor(len(hosts), "falcon-host") as threads, _signals_noted() as heed:
            try:
                futures = [threads.submit(one, machine) for machine in machines]
                while wait(futures, timeout=SIGNALS_EVERY_S).not_done:
                    heed()
                return [future.result() for future in futures]
            except BaseException:
                for machine in machines:
                    machine.cancel()
                raise  # when the threads have ended, which `with` waits for


@contextmanager
def _signals_noted() -> Iterator[Callable[[], None]]:
    """What ends us does so where the yielded function is called, and nowhere else.

    Raised while a thread is started, or while `wait` has the futures' locks, a Ctrl-C would leave
    a thread that nobody waits for, or locks that threads wait for and nobody gives back.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    came: list[int] = []

    def heed() -> None:
        while came:
            number = came.pop(0)
            handlers[number](number, None)

    try:
        for number in ENDING if current_thread() is main_thread() else ():
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, lambda number, _frame: came.append(number))
        yield heed
    finally:
        for noted, before in handlers.items():
            signal.signal(noted, before)
    heed()


def _check(hosts: Sequence[str]) -> None:
    if not hosts:
        raise FalconError("no host is named", todo="use --host user@server, once a host")
    twice = sorted({host for host in hosts if list(hosts).count(host) > 1})
    if twice:
        raise FalconError(f"{', '.join(twice)} is named twice")


def summary(outcomes: Sequence[Outcome[T]], title: str, words: Callable[[T], str]) -> Table:
    """A row a host: what came of it, ``words`` of its value or the error."""
    table = Table("host", "", "outcome", title=title, title_justify="left")
    for outcome in outcomes:
        if outcome.error is not None:
            table.add_row(outcome.host, "FAILED", str(outcome.error), style="red")
        else:
            assert outcome.value is not None
            table.add_row(outcome.host, "ok", words(outcome.value))
    return table


def status(outcomes: Sequence[Outcome[T]]) -> int:
    """The exit status: the first failed host's, 0 when none failed."""
    return next((outcome.error.status for outcome in outcomes if outcome.error), 0)


def only_error(outcomes: Sequence[Outcome[T]]) -> None:
    """Raise the error of the only host there is, if it failed."""
    if len(outcomes) == 1 and outcomes[0].error is not None:
        raise outcomes[0].error
