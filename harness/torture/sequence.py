# SPDX-License-Identifier: GPL-2.0-only
"""Which actions are done, in which order, under which traffic: a function of the seed.

In: a seed and the number of CPUs. Out: an endless row of `Epoch`. A run does as
many as its time allows; the same seed always gives the same ones::

    epoch 0           epoch 1                    every epoch: traffic starts, actions, it
    settings          hotplug                    ends, queues drain, packets are counted
    |set|set|garbage| |off|set|on|...
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.torture.actions import (
    ACTIONS,
    KINDS,
    Action,
    Arguments,
    CpuOn,
    Model,
    Recast,
    SetRps,
)
from harness.torture.ports import JUMBO, PLANS, SENDING, SMALL

ACTIONS_LEAST, ACTIONS_MOST = 30, 50
PAUSE_S = 0.6
# The CPU that the many small flows are sent from.
MICE_CPU = 0
RECASTS = 3


@dataclass(frozen=True)
class Sort:
    """What may happen in an epoch: the ``kinds`` of its actions.

    ``in_order``: nothing in it excuses a packet that is out of order. A CPU that
    goes down, a device that is removed and a mask that changes do.
    """

    name: str
    kinds: frozenset[str]
    in_order: bool = False


SORTS = (
    Sort("settings", frozenset({"sysctl", "garbage"}), in_order=True),
    Sort("spread", frozenset({"sysctl", "garbage", "core", "rps", "xdp", "gro", "burst"})),
    Sort("churn", frozenset({"sysctl", "garbage", "overlay", "device", "xdp", "gro", "burst"})),
    Sort("hotplug", frozenset({"sysctl", "garbage", "hotplug", "rps"})),
    Sort("storm", frozenset(KINDS)),
)


@dataclass(frozen=True)
class Step:
    """An action with its arguments; ``pause_s`` comes before it."""

    action: Action
    arguments: Arguments
    pause_s: float

    def __str__(self) -> str:
        words = (f"{name} {_short(value)}" for name, value in self.arguments.items())
        return f"{self.action.name}: {', '.join(words)}"

    def may_lose(self) -> int:
        return self.action.may_lose(**self.arguments)


@dataclass(frozen=True)
class Flow:
    """A UDP flow from client to server, by containers (None: the hosts themselves).

    ``share`` of the machine's packet rate; ``cpu`` it is sent from, None: any.
    """

    topology: str
    source: int | None
    sink: int | None
    size: int
    share: float
    cpu: int | None


@dataclass(frozen=True)
class Epoch:
    """A stretch of traffic with a beginning and an end, and what is done meanwhile.

    ``before`` is done while nothing is under way; ``streams`` are TCP
    connections, by container.
    """

    number: int
    sort: Sort
    flows: tuple[Flow, ...]
    streams: tuple[int | None, ...]
    before: tuple[Step, ...]
    steps: tuple[Step, ...]

    @property
    def deaths(self) -> int:
        """How many CPUs go down in it."""
        return sum(step.action.name == "off" for step in self.steps)

    def may_lose(self, topology: str) -> int:
        """Packets that may be lost uncounted: what was in veth rings. A dead CPU's are not."""
        return sum(step.may_lose() for step in self.steps) if topology == JUMBO else 0


def epochs(seed: int, cpus: tuple[int, ...]) -> Iterator[Epoch]:
    """All epochs of a seed on a machine with ``cpus``, the first of each sort in turn."""
    rng = random.Random(seed)
    model = Model(cpus)
    number = 0
    while True:
        # "settings" comes first, when all is as it was set up.
        for sort in [*SORTS[:1], *rng.sample(SORTS[1:], len(SORTS) - 1)]:
            yield _epoch(number, sort, rng, model)
            number += 1


def _epoch(number: int, sort: Sort, rng: random.Random, model: Model) -> Epoch:
    model.bursts = 0
    before = [_step(Recast(), rng, model) for _ in range(rng.randint(0, RECASTS))]
    streams = tuple(rng.choice((0, 1, None)) for _ in range(rng.randint(1, 3)))
    if sort.in_order and model.wire_has_ring:
        before += [Step(SetRps(), {"port": port, "cpus": (), "flows": 0}, 0.0) for port in SENDING]
        streams = ()
    steps = list(_steps(sort, rng, model))
    while model.offline:  # the next epoch starts with all of them
        steps.append(_step(CpuOn(), rng, model))
    return Epoch(
        number=number,
        sort=sort,
        flows=tuple(_flows(sort, rng, model)),
        streams=streams,
        before=tuple(before),
        steps=tuple(steps),
    )


def _steps(sort: Sort, rng: random.Random, model: Model) -> Iterator[Step]:
    allowed = [action for action in ACTIONS if action.kind in sort.kinds]
    weights = [action.weight for action in allowed]
    wanted = rng.randint(ACTIONS_LEAST, ACTIONS_MOST)
    while wanted:
        (action,) = rng.choices(allowed, weights)
        arguments = action.draw(rng, model)
        if arguments is not None:
            yield Step(action, arguments, rng.uniform(0, PAUSE_S))
            wanted -= 1


def _step(action: Action, rng: random.Random, model: Model) -> Step:
    arguments = action.draw(rng, model)
    assert arguments is not None
    return Step(action, arguments, 0.0)


def _flows(sort: Sort, rng: random.Random, model: Model) -> Iterator[Flow]:
    """Tiny and full packets in the small topology, jumbo ones and fragments in the other.

    A sender that the scheduler moves brings its flow out of order by itself, and so
    do senders on several CPUs that share a NAPI before a tunnel. RPS on the way to it
    makes several of one, and TCP sends wherever an acknowledgement comes in: `_epoch`.
    """
    cpus = (MICE_CPU,) if model.wire_has_ring else model.cpus

    def flow(topology: str, source: int | None, sink: int | None, size: int, share: float) -> Flow:
        cpu = rng.choice(cpus)
        return Flow(topology, source, sink, size, share, cpu if sort.in_order else None)

    containers = range(PLANS[SMALL].containers)
    for share in (0.4, 0.3, 0.2):
        size = rng.choice((16, 64, 64, 512, 1400))
        yield flow(SMALL, rng.choice(containers), rng.choice(containers), size, share)
    yield flow(JUMBO, 0, 0, rng.choice((4000, 8800)), 0.03)
    yield flow(JUMBO, 1, 1, rng.choice((20_000, 60_000)), 0.01)
    yield flow(JUMBO, None, None, rng.choice((16, 1400, 8800)), 0.03)


def _short(value: Any) -> str:
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
