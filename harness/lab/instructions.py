# SPDX-License-Identifier: GPL-2.0-only
"""Modes compared by the instructions that a packet costs, on emulated CPUs.

In: an emulated, counted machine (`opened`) and a `Load`. Out: `Sample` of each mode and round.
Every window sends messages that make a fixed number of packets, at a rate at which none is lost,
while the plugin (`icount`) counts; modes take turns in one booted kernel, flows and the rate are
the same for all modes of a round. ::

    this machine                                 VM (counted)
    udpflow send - container - vxlan0 - nic0 === nic0 - vxlan0 - container - udpflow recv

What is said of a packet is of a message: of all its fragments, or of a write to TCP. The CPU
with the most work a packet is what a pipeline's throughput is bounded by: the
inverse is the capacity. Idle and waiting instructions are no work (`stages`).

A hotspot is a CPU that one flow makes hotter than the rest, not one without time left: how
much time there is depends on the host. So what counts as busy, net.core.falcon_load_threshold,
is put between the loads that this flow makes with static hashing (`find_threshold`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from harness.console import note
from harness.errors import FalconError
from harness.lab import rig as rigs
from harness.lab import stages
from harness.lab.clients import Ends, Here
from harness.lab.icount import Counter, Counts
from harness.lab.loads import COUNTABLE, Load, TcpLoad
from harness.lab.remote import Drained
from harness.lab.rig import PACER, Boot, Settings, Window
from harness.workload import iperf, udpflow
from harness.workload.udpflow import Sender, Sent

# While one flow is hot (`Load.heat`): how often the kernel looks at the load of its CPUs; the least
# that the hottest must be above the mean of all, as a multiple of it and in points, which a rate
# of few packets makes of noise; and how often that is looked at.
HOT_INTERVAL_MS, HOTTER, HOTTER_PERCENT, LOOKS = 20, 1.1, 1, 3
# Packets a second. What no CPU of a few emulated ones can take, and how often it is halved until
# none is lost.
FIRST_RATE, HALVINGS = 32_000.0, 6
# A sender that needs so much longer than it should is held up, by TCP for one, or by the host: its
# packets came in bursts.
LATE_AT_MOST = 1.2
# Of the rate at which a trial lost nothing: windows are longer, and modes differ.
RATE_SHARE = 0.5
# No window is sent more slowly.
LEAST_RATE = RATE_SHARE * FIRST_RATE / 2 ** (HALVINGS - 1)
WARMING_PACKETS, WARMING_RATE = 200, 2000.0
# A window that lost more than this says nothing; it is done again, so often, and then the whole
# round more slowly, as often.
LOST_AT_MOST, ATTEMPTS = 0.001, 3


@dataclass(frozen=True)
class Config(rigs.Config):
    """What to count: ``packets`` of all flows together a window, several to a large message."""

    packets: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        load = self.load
        if not isinstance(load, COUNTABLE) or load.spread or load.share or load.senders > 1:
            raise FalconError(
                f"instructions of this load cannot be counted: {load}",
                "it takes a number of packets, at a rate that is found, a sender a flow, and a"
                " receiver on a CPU of its own",
            )
        if self.packets < self.load.flows:
            raise FalconError("nothing would be counted", "it takes a packet a flow")

    @property
    def boot(self) -> Boot:
        """The machine it takes: an emulated one."""
        return Boot(self.kernel, self.plan, self.smp, self.mem_mib, "tcg")

    @property
    def compared(self) -> rigs.Compared:
        return compared(self.load)


@dataclass(frozen=True)
class Sample(Window):
    """What a message cost in one window, in instructions; ``sent_per_second``: messages.

    ``work`` by CPU, ``groups`` by group of functions, all CPUs together, ``cpu_groups`` of each
    (none in samples of before); ``softirqs``: NET_RX ones a packet; ``stages``: how often the
    stack received it. All without the last CPU, which runs the harness.
    """

    sent_per_second: float
    softirqs: float
    stages: float
    work: tuple[float, ...]
    groups: dict[str, float]
    cpu_groups: tuple[dict[str, float], ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, from JSON."""
        own = {name: tuple(values.get(name, ())) for name in ("work", "cpu_groups")}
        return cls(**values | own)

    @property
    def total(self) -> float:
        """Work on all CPUs."""
        return sum(self.work)

    @property
    def busiest(self) -> float:
        """Work on the CPU that has most of it."""
        return max(self.work)

    @property
    def busiest_stage(self) -> float:
        """Work on the busiest CPU but the first, the NIC's, and the last, the receiver's."""
        return max(self.work[1:-1])

    @property
    def compared(self) -> float:
        return self.busiest

    @property
    def headline(self) -> str:
        return f"{self.busiest:,.0f} instructions a packet on the busiest CPU"


def compared(load: Load) -> rigs.Compared:
    """What of a `Sample` modes are told apart by: the busiest CPU, or, as placement can cool no
    other, the busiest of the stages' where the load makes a hotspot.
    """
    return attrgetter("busiest_stage" if load.heat > 1 else "busiest")


def vmlinux_of(kernel: Path) -> Path:
    """The symbols of an image are beside it."""
    found = kernel.with_name("vmlinux")
    if not found.exists():
        raise FalconError(f"there is no vmlinux beside {kernel}", todo="./inv build-kernel")
    return found


@dataclass(frozen=True)
class Rig(rigs.Rig):
    """One whose machine's instructions are counted."""

    counter: Counter = field(kw_only=True)

    def ends(self, load: Load, mode: str, number: int) -> list[Ends]:
        """Those of each flow: its clients are here."""
        assert isinstance(self.client, Here)
        return self.client.ends(self.flows(load, mode, number))


@contextmanager
def opened(boot: Boot) -> Iterator[Rig]:
    """Boot the machine, with the counting plugin in it."""
    udpflow.build()
    with (
        Counter(vmlinux_of(boot.kernel), boot.smp) as counter,
        rigs.opened(boot, [counter.plugin]) as plain,
    ):
        yield Rig(plain.server, plain.client, plain.plan, plain.machine, counter=counter)


def measure(config: Config, rig: Rig) -> Iterator[Sample]:
    """Yield samples, by whole rounds."""
    yield from rigs.interleaved(config, rig, Rounds(rig, config).take)


@dataclass(frozen=True)
class Batch:
    """``messages`` of all flows together, ``rate`` a second; ``turn``: the how manieth of its mode.

    A flow has the same ports, and so the same hash, in every mode of a ``round``.
    """

    mode: str
    round: int
    rate: float
    messages: int
    turn: int = 0


def _batch(load: Load, mode: str, number: int, rate: float, packets: int, turn: int = 0) -> Batch:
    """One of about so many packets, a message a flow at least; ``rate``: messages a second."""
    least = load.heat + load.flows - 1  # what the hot flow sends, and one of each other
    return Batch(mode, number, rate, max(least, packets // load.packets), turn)


def find_rate(rig: Rig, config: Config) -> float:
    """Messages a second, of all flows together, at which the dearest mode loses none."""
    load = config.load
    mode = PACER if PACER in config.mode_names else config.mode_names[0]
    rate = FIRST_RATE / load.packets
    for _ in range(HALVINGS):
        rig.server.mode(mode, load)
        batch = _batch(load, mode, 0, rate, config.packets)
        sent, drained = _send(rig, load, batch)
        if drained.came.received >= sent.sent and _is_in_time(sent, batch):
            return rate * RATE_SHARE
        rate /= 2
    raise FalconError(
        f"messages are lost even at {2 * rate:,.0f} a second", "this machine is too busy"
    )


def _is_in_time(sent: Sent, batch: Batch) -> bool:
    return sent.seconds * batch.rate < LATE_AT_MOST * batch.messages


def find_threshold(rig: Rig, config: Config, number: int, rate: float) -> float | None:
    """Percent, halfway between the mean load of the Falcon CPUs and that of the hottest, while the
    flows of round ``number`` come, with static hashing; None if they make no hotspot.
    """
    settings: Settings = {"falcon_load_threshold": 100, "falcon_load_interval": HOT_INTERVAL_MS}
    rig.server.mode("falcon-static", config.load, settings)
    batch = _batch(config.load, "falcon-static", number, rate, config.packets, turn=1)
    for _ in range(LOOKS):
        with ThreadPoolExecutor(max_workers=1) as sending:
            sent = sending.submit(_senders_of(config.load), rig, config.load, batch)
            seen = rig.server.loads(0.5 * batch.messages / batch.rate)
            sent.result()
        hottest, mean = max(seen), sum(seen) / len(seen)
        if hottest >= max(HOTTER * mean, mean + HOTTER_PERCENT):
            return (hottest + mean) / 2
    note(
        f"round {number + 1} is left out: it has no hotspot, the hottest CPU is {hottest:.0f} %"
        f" busy, all of them {mean:.0f} %"
    )
    return None


class Rounds:
    """Counts the rounds of a point, all modes of a round at one rate.

    A packet costs more where fewer of them are polled at once, so at a lower rate. So once a mode
    loses packets, all are measured at a lower one, for the rest of the point.
    """

    def __init__(self, rig: Rig, config: Config):
        self._rig, self._config = rig, config
        self._rate = find_rate(rig, config)

    def take(self, number: int, names: Sequence[str]) -> list[Sample]:
        """A sample of each mode; none at all where that was tried in vain, which is said."""
        first, threshold = self._rate, None
        if self._config.load.heat > 1:
            threshold = find_threshold(self._rig, self._config, number, first)
            if threshold is None:
                return []
        for attempt in range(ATTEMPTS):
            self._rate = max(first / 2**attempt, LEAST_RATE / self._config.load.packets)
            # How busy a CPU is goes with the rate.
            settings = _hot_settings(threshold and threshold * self._rate / first)
            samples = self._samples(number, names, settings)
            if len(samples) == len(names):
                return samples
            note(
                f"round {number + 1}, at {self._rate:,.0f} messages/s: {names[len(samples)]} lost"
                " packets, or its sender was held up"
            )
        note(f"round {number + 1} is left out")
        return []

    def _samples(self, number: int, names: Sequence[str], settings: Settings) -> list[Sample]:
        """Those of the modes up to the first one of which there is none."""
        found: list[Sample] = []
        load, packets = self._config.load, self._config.packets
        for mode in names:
            batch = _batch(load, mode, number, self._rate, packets, turn=1)
            sample = _sample(self._rig, load, batch, settings)
            if sample is None:
                break
            found.append(sample)
        return found


def _hot_settings(threshold: float | None) -> Settings:
    """Those of Falcon on top of a mode's; ``threshold``: from what load on a CPU is busy."""
    if threshold is None:
        return {}
    percent = max(1, round(threshold))
    return {"falcon_load_threshold": percent, "falcon_load_interval": HOT_INTERVAL_MS}


def _sample(rig: Rig, load: Load, counted: Batch, settings: Settings) -> Sample | None:
    """Count a window; None if every attempt lost packets, or had a sender that was held up."""
    for _ in range(ATTEMPTS):
        rig.server.mode(counted.mode, load, settings)
        _warm(rig, load, counted)
        before = rig.counter.counts()
        sent, drained = _send(rig, load, counted)
        counts = rig.counter.counts() - before
        sample = _account(counted.mode, counted.round, sent, drained, counts)
        if sample.lost <= LOST_AT_MOST * sent.sent and _is_in_time(sent, counted):
            return sample
    return None


def _warm(rig: Rig, load: Load, counted: Batch) -> None:
    """Let the flows have their places, before one of them gets hot."""
    rate = WARMING_RATE / load.packets
    cool = replace(load, heat=1)
    _send(rig, cool, _batch(cool, counted.mode, counted.round, rate, WARMING_PACKETS))


def _account(name: str, number: int, sent: Sent, drained: Drained, counts: Counts) -> Sample:
    came = drained.came
    if not came.received:
        raise FalconError(f"not one packet came in mode {name}")
    measured = replace(counts, table=counts.table[:-1])
    functions = [measured.by_name(cpu) for cpu in range(len(measured.table))]

    def groups(counts: Mapping[str, int]) -> dict[str, float]:
        return {name: n / came.received for name, n in stages.by_group(counts).items()}

    return Sample(
        mode=name,
        round=number,
        delivered=came.received,
        lost=sent.sent - came.received,
        out_of_order=came.out_of_order,
        sent_per_second=sent.packets_per_second,
        softirqs=drained.softirqs / came.received,
        stages=drained.received / came.received,
        work=tuple(stages.work(counts) / came.received for counts in functions),
        groups=groups(measured.by_name()),
        cpu_groups=tuple(map(groups, functions)),
    )


def _send(rig: Rig, load: Load, batch: Batch) -> tuple[Sent, Drained]:
    """Send a batch, by every flow its share, and see what comes."""
    sent = _senders_of(load)(rig, load, batch)
    if not isinstance(load, TcpLoad):
        return sent, rig.server.drain(sent.sent)
    drained = rig.server.drain(0)
    came = replace(drained.came, received=sent.sent, bytes=sent.sent * load.size)
    return sent, replace(drained, came=came)


def _senders_of(load: Load) -> Callable[[Rig, Load, Batch], Sent]:
    return _send_tcp if isinstance(load, TcpLoad) else _send_udp


def _send_udp(rig: Rig, load: Load, batch: Batch) -> Sent:
    rates, counts = load.shares(batch.rate), load.shares(batch.messages)
    with ExitStack() as opened:
        senders = [
            opened.enter_context(
                Sender(
                    end.source,
                    end.to_ip,
                    size=load.size,
                    rate=rates[flow],
                    count=int(counts[flow]),
                    flow=batch.turn * load.flows + flow,
                    source_port=end.source_port,
                )
            )
            for flow, end in enumerate(rig.ends(load, batch.mode, batch.round))
        ]
        done = [sender.wait() for sender in senders]
    return Sent(sum(one.sent for one in done), max(one.seconds for one in done))


def _send_tcp(rig: Rig, load: Load, batch: Batch) -> Sent:
    """What a client had under way at its end is not read; so it counts as not sent, either."""
    rates, counts = load.shares(batch.rate), load.shares(batch.messages)
    with ExitStack() as opened:
        clients = [
            opened.enter_context(
                iperf.Client(
                    end.source,
                    end.to_ip,
                    size=load.size,
                    rate=rates[flow],
                    count=int(counts[flow]),
                    port=iperf.FIRST_PORT + flow,
                    source_port=end.source_port,
                )
            )
            for flow, end in enumerate(rig.ends(load, batch.mode, batch.round))
        ]
        done = [client.wait() for client in clients]
    return Sent(sum(one.received for one in done), max(one.seconds for one in done))
