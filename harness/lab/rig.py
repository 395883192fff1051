# SPDX-License-Identifier: GPL-2.0-only
"""What every measurement of modes stands on: a booted host under test, wired to clients here.

In: what to boot (`Boot`). Out: a `Rig`, and `Rigs`, which keep one booted while measurements
can share it. What is measured (`instructions`, `timed`) yields a `Window` a mode and round. ::

    this machine                             the machine under test
    clients - container - vxlan0 - nic0 === nic0 - vxlan0 - container - servers (`guest`)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from math import sqrt
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

from harness.closing import Closing
from harness.console import note
from harness.errors import FalconError
from harness.lab.clients import Client, Here
from harness.lab.loads import Flow, Load
from harness.lab.remote import Server, in_guest
from harness.machine.base import Machine
from harness.machine.qemu import QemuMachine
from harness.overlay import modes
from harness.overlay.cpus import CpuPlan
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import tap_client
from harness.workload.interleave import turns

LEAST_CPUS = 6
# The mode whose rate others are measured at: what it can take, all can that are compared with it.
PACER = "con"
# A ratio is good enough when its standard error is no more than this part of it.
CERTAIN = 0.03
FIRST_SOURCE_PORT, SOURCE_PORTS = 20_000, 10_000

# A number of a window that ratios of two modes are made of; the usual one is the window's own.
Compared = Callable[[Any], float]
COMPARED: Compared = attrgetter("compared")
# net.core's, on top of a mode's.
Settings = Mapping[str, str | int]


# ---- what is asked for, and what comes ----------------------------------------------------


@dataclass(frozen=True)
class Boot:
    """A virtual machine to measure on, with the server host of a ``plan``.

    ``accel``: "kvm" or "tcg", decided. ``queues`` of its network card.
    """

    kernel: Path
    plan: Plan
    smp: int
    mem_mib: int
    accel: str
    queues: int = 1


@dataclass(frozen=True)
class Config(ABC):
    """``rounds`` times each mode, on a machine of ``smp`` CPUs; and up to ``most_rounds``, while
    ratios to the ``baseline`` waver (0: no more than ``rounds``). ``before``: samples of whole
    rounds that another boot had of this; they are among the rounds, and are not measured again.
    """

    kernel: Path
    load: Load
    mode_names: tuple[str, ...]
    rounds: int = 5
    smp: int = 7
    mem_mib: int = 2048
    most_rounds: int = 0
    baseline: str = "con"
    before: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name in self.mode_names:
            modes.named(name)
        if self.rounds < 1:
            raise FalconError("nothing would be measured", "it takes a round")
        if self.smp < LEAST_CPUS:
            raise FalconError(
                f"{self.smp} CPUs are too few",
                "the NIC, three stages, the receiver and the harness have one each",
                f"--smp {LEAST_CPUS}",
            )

    @property
    def plan(self) -> Plan:
        """The overlay that the load needs."""
        return Plan(containers=self.load.containers)

    @property
    @abstractmethod
    def boot(self) -> Boot:
        """The machine it takes."""

    @property
    def compared(self) -> Compared:
        """What of a window ratios of modes are made of."""
        return COMPARED


@dataclass(frozen=True)
class Window(ABC):
    """What one mode did in one round; ``delivered`` and ``lost`` messages, and those that came
    ``out_of_order`` (None where the load does not tell).
    """

    mode: str
    round: int
    delivered: int
    lost: int
    out_of_order: int | None

    @property
    @abstractmethod
    def headline(self) -> str:
        """The number that matters most, with its unit."""

    @property
    @abstractmethod
    def compared(self) -> float:
        """What a ratio of two modes is made of, for one that is not 0."""


W = TypeVar("W", bound=Window)


def samples_of(samples: Sequence[W], mode: str) -> list[W]:
    """Those of one mode, by round."""
    return sorted((s for s in samples if s.mode == mode), key=lambda s: s.round)


# ---- rounds -----------------------------------------------------------------------------------


def uncertainty(
    samples: Sequence[Window], mode: str, baseline: str, of: Compared = COMPARED
) -> float:
    """The standard error of the ratio of ``mode`` to ``baseline``, as a part of it, over the
    rounds that have both; 0 for less than two of them.
    """
    base = {sample.round: of(sample) for sample in samples_of(samples, baseline)}
    own = samples_of(samples, mode)
    ratios = [of(s) / base[s.round] for s in own if base.get(s.round)]
    if len(ratios) < 2 or not any(ratios):
        return 0.0
    return stdev(ratios) / fmean(ratios) / sqrt(len(ratios))


def wavering(samples: Sequence[Window], baseline: str, of: Compared = COMPARED) -> dict[str, float]:
    """The uncertainty of each mode's ratio that is too large to tell modes apart."""
    found = {
        mode: uncertainty(samples, mode, baseline, of)
        for mode in dict.fromkeys(sample.mode for sample in samples)
    }
    return {mode: part for mode, part in found.items() if part > CERTAIN}


def interleaved(
    config: Config, rig: Rig, take: Callable[[int, Sequence[str]], Iterable[W]]
) -> Iterator[W]:
    """Round by round what ``take`` gives for its number and its modes, in the order of their turns;
    nothing for a round that is to be left out.

    There are more rounds while ratios waver, and if they do at the end, that is said. Rounds that
    there were before count, and their numbers are not given again. Raises `FalconError` if the
    kernel of ``rig`` complained, before that window is yielded; and if too many rounds were left
    out.
    """
    samples: list[W] = list(config.before)
    first = 1 + max((sample.round for sample in samples), default=-1)
    missing = max(config.rounds, config.most_rounds) - len(samples) // len(config.mode_names)
    order = turns(config.mode_names, first + missing)
    for number, of_round in groupby(order, itemgetter(0)):
        if number < first:
            continue
        enough = len(samples) >= config.rounds * len(config.mode_names)
        if enough and not wavering(samples, config.baseline, config.compared):
            break
        for sample in take(number, [mode for _, mode in of_round]):
            rig.check()
            samples.append(sample)
            yield sample
    rig.check()
    for mode, part in wavering(samples, config.baseline, config.compared).items():
        note(
            f"{mode} : {config.baseline} is uncertain by {part:.0%}, after"
            f" {len(samples_of(samples, mode))} rounds"
        )
    if (had := len(samples) // len(config.mode_names)) < config.rounds:
        raise FalconError(
            f"only {had} of {config.rounds} rounds could be measured", "this machine is too busy"
        )


# ---- the rig --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rig:
    """A `Server` on the machine under test, and the ``client`` host, here or elsewhere."""

    server: Server
    client: Client
    plan: Plan
    machine: Machine | None = None

    @property
    def cpus(self) -> CpuPlan:
        return self.server.cpus

    def flows(self, load: Load, mode: str, number: int) -> list[Flow]:
        """Those of a load in a mode. In a round flows have the same ports, and so the same
        hash, in every mode; in another round they have others.
        """
        found = []
        for flow in range(load.flows):
            container = flow % load.containers if modes.named(mode).overlay else None
            sink = (
                self.plan.host(SERVER)
                if container is None
                else self.plan.container(SERVER, container)
            )
            port = (number * load.flows + flow) % SOURCE_PORTS
            found.append(Flow(container, sink.ip, FIRST_SOURCE_PORT + port))
        return found

    def check(self) -> None:
        """Raise `FalconError` if the kernel under test complained."""
        if isinstance(self.machine, QemuMachine) and (splats := self.machine.splats()):
            raise FalconError("the guest's kernel complained", splats[0].line)


@contextmanager
def opened(boot: Boot, plugins: Sequence[str] = ()) -> Iterator[Rig]:
    """Boot the machine, with QEMU ``plugins``, and set up both hosts."""
    with ExitStack() as stack:
        client, nic = stack.enter_context(tap_client(boot.plan, boot.queues))
        machine = stack.enter_context(
            QemuMachine(
                boot.kernel,
                smp=boot.smp,
                mem_mib=boot.mem_mib,
                accel=boot.accel,
                nics=[nic],
                plugins=plugins,
            )
        )
        server = stack.enter_context(Server(in_guest(machine, boot.plan), "the guest"))
        yield Rig(server, Here(client), boot.plan, machine)


R = TypeVar("R", bound=Rig)
Opener = Callable[[Boot], AbstractContextManager[R]]


class Rigs(Closing):
    """One rig at most, kept for as long as the same one is asked for: booting takes longer than
    many a measurement.
    """

    def __init__(self) -> None:
        self._kept: tuple[Boot, Opener[Any]] | None = None
        self._opened = ExitStack()
        self._rig: Any = None

    def get(self, boot: Boot, opener: Opener[R]) -> R:
        """The rig that there is, if it is this one, or else this one in its place."""
        if self._kept != (boot, opener):
            self.close()
            self._rig = self._opened.enter_context(opener(boot))
            self._kept = boot, opener
        rig: R = self._rig
        return rig

    def close(self) -> None:
        """Give up the rig that there is, in good order. What was measured on it is complete, so
        what goes wrong now is said, and is no failure of that or of what comes next.
        """
        self._kept = self._rig = None
        try:
            self._opened.close()
        except FalconError as error:
            note(f"giving up a machine that is no longer needed: {error}")

    def abandon(self, error: BaseException) -> None:
        """Give it up because of ``error``: nothing is waited for."""
        self._kept = self._rig = None
        with suppress(FalconError):  # a consequence; the cause is known
            self._opened.__exit__(type(error), error, error.__traceback__)

    def __exit__(self, *error: Any) -> None:
        if error[1] is None:
            self.close()
        else:
            self.abandon(error[1])
