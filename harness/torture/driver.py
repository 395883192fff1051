# SPDX-License-Identifier: GPL-2.0-only
"""Runs epochs: actions in lanes, each in its order, beside each other under traffic.

In: a `World`, epochs, until when. Out: `Outcome` of each epoch, and `Totals`. What
must not be raises `FalconError`, naming the epoch and the step.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from harness.errors import FalconError
from harness.overlay import falcon
from harness.torture import account, traffic
from harness.torture.account import Balance, Reading
from harness.torture.ports import JUMBO, PLANS, SMALL, STANDING
from harness.torture.sequence import Epoch, Step
from harness.torture.traffic import Tally, Traffic
from harness.torture.world import World

Tell = Callable[[Step], None]


@dataclass
class Totals:
    """A run so far. ``sent``, ``delivered``, ``counted`` are UDP packets of the small topology.

    ``deaths`` are CPUs that went down; ``in_order_epochs`` had no excuse for a late packet;
    ``forced``: waits for queues to drain that Falcon gave up, as the kernel counts them.
    """

    epochs: int = 0
    actions: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    delivered: int = 0
    counted: int = 0
    deaths: int = 0
    jumbo_sent: int = 0
    jumbo_delivered: int = 0
    in_order_epochs: int = 0
    out_of_order: int = 0
    streams: int = 0
    bytes: int = 0
    forced: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, outcome: Outcome) -> None:
        """Count an epoch in; its actions were counted as they were done."""
        small, tally = outcome.balances[SMALL], outcome.tally
        self.epochs += 1
        self.sent += small.sent
        self.delivered += small.delivered
        self.counted += small.counted
        self.deaths += outcome.epoch.deaths
        self.jumbo_sent += outcome.balances[JUMBO].sent
        self.jumbo_delivered += outcome.balances[JUMBO].delivered
        self.in_order_epochs += outcome.keeps_order
        self.forced += outcome.forced
        self.out_of_order += sum(tally.out_of_order.values())
        self.streams += tally.streams
        self.bytes += tally.bytes


@dataclass(frozen=True)
class Outcome:
    """What an epoch did to its packets, by topology.

    ``forced``: how often Falcon waited no longer for queues to drain, and gave up order.
    """

    epoch: Epoch
    tally: Tally
    balances: dict[str, Balance]
    forced: int = 0

    @property
    def keeps_order(self) -> bool:
        """There is no excuse for a late packet."""
        return self.epoch.sort.in_order and not self.forced

    def check(self) -> None:
        """Raise `FalconError` for the first thing that must not be."""
        for name, balance in self.balances.items():
            if not balance.holds:
                raise FalconError(f"{name} packets are unaccounted for", str(balance))
        traffic.check(self.tally, in_order=self.keeps_order)


def run(
    world: World, epochs: Iterator[Epoch], *, rate: float, until: float, totals: Totals, tell: Tell
) -> Iterator[Outcome]:
    """Epoch by epoch, at least one and none that would start after ``until`` (monotonic)."""
    for epoch in epochs:
        try:
            outcome = _run_epoch(world, epoch, rate, totals, tell)
            totals.add(outcome)
            outcome.check()
        except FalconError as error:
            where = f"epoch {epoch.number} ({epoch.sort.name})"
            raise FalconError(f"{where}: {error.what}", error.why, error.todo) from error
        yield outcome
        if time.monotonic() >= until:
            return


def _run_epoch(world: World, epoch: Epoch, rate: float, totals: Totals, tell: Tell) -> Outcome:
    done: Counter[str] = Counter(totals.actions)

    def do(step: Step) -> None:
        tell(step)
        _apply(step, world)
        with lock:
            done[step.action.kind] += 1
            totals.actions = dict(done)

    lock = threading.Lock()
    for step in epoch.before:
        do(step)
    before = {name: account.read(topology) for name, topology in world.topologies.items()}
    forced = falcon.counters().forced
    with Traffic(world.topologies, epoch, rate) as running:
        world.burst = running.burst
        in_lanes(epoch.steps, do)
        tally = running.finish()
    change = {name: account.read(world.topologies[name]) - before[name] for name in before}
    _check_falcon(change)
    forced = falcon.counters().forced - forced
    return Outcome(epoch, tally, _balances(world, epoch, tally, change), forced)


def _apply(step: Step, world: World) -> None:
    try:
        step.action.apply(world, **step.arguments)
    except FalconError as error:
        raise FalconError(f"{step}: {error.what}", error.why, error.todo) from error
    except OSError as error:
        raise FalconError(str(step), str(error)) from error


def in_lanes(steps: Sequence[Step], do: Callable[[Step], None]) -> None:
    """Do the steps, those of one lane in their order; the first failure ends all lanes."""
    failed = threading.Event()

    def lane(own: list[Step]) -> None:
        for step in own:
            if failed.wait(step.pause_s):
                return
            try:
                do(step)
            except BaseException:
                failed.set()
                raise

    lanes: dict[str, list[Step]] = {}
    for step in steps:
        lanes.setdefault(step.action.lane, []).append(step)
    with ThreadPoolExecutor(max_workers=max(len(lanes), 1)) as workers:
        running = [workers.submit(lane, own) for own in lanes.values()]
    for future in running:
        future.result()


def _balances(
    world: World, epoch: Epoch, tally: Tally, change: dict[str, Reading]
) -> dict[str, Balance]:
    """The small topology's packets exactly; the jumbo one's by what may have been lost at most.

    There a packet is several fragments, and TCP's segments are among the drops.
    """
    napi = {
        SMALL: world.with_napi(SMALL),
        JUMBO: {(p.side, p.container, p.device) for p in STANDING if p.topology == JUMBO},
    }
    shared = account.shares_drops(os.uname().release)
    balances = {}
    for name in PLANS:
        drops = change[name].drops(napi[name], shared=shared)
        if name == JUMBO:
            drops = replace(drops, least=0)
        balances[name] = Balance(
            tally.sent[name], tally.delivered[name], drops, epoch.may_lose(name)
        )
    return balances


def _check_falcon(change: dict[str, Reading]) -> None:
    """What Falcon drops is in its device's counters, too."""
    for name, reading in change.items():
        if wrong := reading.falcon_drops_not_in_devices():
            raise FalconError(f"{name}: Falcon's drops are not in the device's", wrong[0])
