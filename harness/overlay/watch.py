# SPDX-License-Identifier: GPL-2.0-only
"""What Falcon does on this machine, by the second.

In: /proc/net/falcon of every network namespace, /proc/stat. Out: `Reading`;
and from two of them a `Measurement`: rates of every CPU and every stage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields

from harness.errors import FalconError
from harness.overlay import falcon, namespaces, softnet
from harness.overlay.namespaces import Found

# Looking through all threads for namespaces costs more than reading what they say.
SEARCH_S = 5.0


@dataclass(frozen=True)
class Rates:
    """Packets a second, by what was decided on them; see `falcon.CpuRow`."""

    steered: float = 0.0
    first: float = 0.0
    second: float = 0.0
    gated: float = 0.0
    held: float = 0.0
    split: float = 0.0
    dropped: float = 0.0

    @classmethod
    def of(cls, row: falcon.CpuRow | falcon.StageRow, seconds: float) -> Rates:
        """``row`` counts what happened in ``seconds``."""
        return cls(**{f.name: getattr(row, f.name) / seconds for f in fields(cls)})

    @property
    def decisions(self) -> float:
        """All packets that were decided on."""
        return self.steered + self.gated + self.held

    def share(self, choice: float) -> float:
        """The part of the steered packets that ``choice`` (first, second) is."""
        return choice / self.steered if self.steered else 0.0


@dataclass(frozen=True)
class CpuRates:
    """A CPU. ``load`` in percent (None: no Falcon CPU) is the latest; ``received``
    packets a second came to its queue; ``softirq_share`` is its part of all softirq time.
    """

    cpu: int
    load: int | None
    received: float
    rates: Rates
    softirq_share: float


@dataclass(frozen=True)
class StageRates:
    """A device, and the network namespace it is in."""

    namespace: str
    device: str
    ifindex: int
    gro: str
    rates: Rates


@dataclass(frozen=True)
class Measurement:
    """What happened in ``seconds``; ``state``: see `falcon.Counters`.

    ``namespaces`` were looked into, ``hidden`` more could not be.
    """

    kernel: str
    seconds: float
    state: dict[str, str]
    cpus: tuple[CpuRates, ...]
    stages: tuple[StageRates, ...]
    namespaces: int
    hidden: int


@dataclass(frozen=True)
class Reading:
    """All counters at ``at_s`` of the monotonic clock.

    ``counters`` are by namespace; ``hidden`` namespaces could not be read.
    """

    at_s: float
    counters: dict[Found, falcon.Counters]
    work: softnet.Snapshot
    hidden: int

    def since(self, earlier: Reading) -> Measurement:
        """What happened since ``earlier``."""
        seconds = self.at_s - earlier.at_s
        # CPUs, settings and load are the whole machine's: every namespace shows the same.
        whole = next(iter(self.counters.values()))
        return Measurement(
            kernel=os.uname().release,
            seconds=seconds,
            state=whole.state,
            cpus=tuple(self._cpus(whole, earlier, seconds)),
            stages=tuple(self._stages(earlier, seconds)),
            namespaces=len(self.counters),
            hidden=self.hidden,
        )

    def _cpus(self, whole: falcon.Counters, earlier: Reading, seconds: float) -> Iterator[CpuRates]:
        before = next(iter(earlier.counters.values())).cpus
        # A CPU that was offline has counters from times that we did not see.
        work = {cpu: self.work.cpus[cpu] for cpu in self.work.cpus.keys() & earlier.work.cpus}
        shares = (softnet.Snapshot(work) - earlier.work).softirq_share()
        for cpu, row in whole.cpus.items():
            change = row - before.get(cpu, row)
            yield CpuRates(
                cpu,
                row.load,
                change.received / seconds,
                Rates.of(change, seconds),
                shares.get(cpu, 0.0),
            )

    def _stages(self, earlier: Reading, seconds: float) -> Iterator[StageRates]:
        before = {namespace.inode: counters for namespace, counters in earlier.counters.items()}
        for namespace, counters in self.counters.items():
            rows = before.get(namespace.inode, counters).stages.values()
            known = {row.ifindex: row for row in rows}
            for device, row in counters.stages.items():
                rates = Rates.of(_change(row, known.get(row.ifindex)), seconds)
                yield StageRates(namespace.name, device, row.ifindex, row.gro, rates)


def _change(now: falcon.StageRow, before: falcon.StageRow | None) -> falcon.StageRow:
    """What happened at a device, which may be new, or counts from 0 as it was away."""
    if before is None or before.steered > now.steered or before.gated > now.gated:
        return now
    return now - before


class Watch:
    """Takes readings of this machine; raises `FalconError` where it has no Falcon."""

    def __init__(self) -> None:
        falcon.require()
        self._found: tuple[Found, ...] = ()
        self._texts: dict[int, str] = {}
        self._searched_s = 0.0

    def read(self) -> Reading:
        """Read all counters now."""
        before = self._texts.keys()
        if not before or time.monotonic() - self._searched_s > SEARCH_S:
            self._search()
        self._texts = namespaces.read_proc_net(self._found, "falcon")
        if before - self._texts.keys():
            # A namespace is gone; or only the thread by which we knew it.
            self._search()
            self._texts = namespaces.read_proc_net(self._found, "falcon")
        return self._reading()

    def _search(self) -> None:
        self._found, self._searched_s = namespaces.find(), time.monotonic()

    def _reading(self) -> Reading:
        counters = {
            namespace: falcon.parse_counters(self._texts[namespace.inode])
            for namespace in self._found
            if namespace.inode in self._texts
        }
        if not counters:
            raise FalconError("no network namespace can be looked into", todo="run as root")
        hidden = len(self._found) - len(counters)
        return Reading(time.monotonic(), counters, softnet.snapshot(), hidden)
