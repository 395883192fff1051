# SPDX-License-Identifier: GPL-2.0-only
"""The receive path as a discrete-event simulation, in SimPy.

In: `StageCosts` and a `Scenario`. Out: an `Outcome`. `harness.lab.model` feeds it with
measurements and makes predictions of it. ::

    wire -> ring -> NIC -> [ queue -> OUTER -> queue -> BRIDGE -> queue -> INNER ] -> socket -> APP
            NIC's CPU        Falcon CPUs, or those of RPS (no overlay: INNER only)   program's CPU

A NIC that is split has one more queue, with stage GRO behind it, before OUTER or INNER.

As in the kernel: a CPU polls its queues in turns, at most `WEIGHT` packets a poll, and its
programs run when no softirq does, or share the CPU once a round of softirqs used up `BUDGET`.
Queues are bounded. A queue that sleeps is woken when the poll ends that put a packet on it.
In Falcon's modes `falcon_pick.h` itself places (`harness.lab.pick`), a flow moves only when
its last packet is through its queue, a sampler measures loads, and the gate closes.

Stages are sums of instructions: no cache, no memory bus, no frequency, no GRO that merges.
The cell that stands between OUTER and BRIDGE in stock modes is part of OUTER, on its CPU.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

import simpy

from harness.lab.pick import CpuSet, Device, Kind
from harness.lab.scenario import Outcome, Scenario, Stage, StageCosts
from harness.overlay import modes
from harness.overlay.cpus import CpuPlan
from harness.overlay.modes import Mode

# The kernel's: packets a poll (NAPI_POLL_WEIGHT, dev_weight), a round of polls (netdev_budget),
# and a queue (netdev_max_backlog and one more); bits of a flow's stage hash that choose its
# word (net/core/falcon.c); percent (net.core.falcon_load_threshold).
WEIGHT, BUDGET, MAX_BACKLOG = 64, 300, 1001
FLOW_BITS, STAGE_FLOW_BITS = 14, 11
THRESHOLD = 85
# Descriptors of a NIC queue, ixgbe's default; small packets that rmem_default has room for.
RING, SOCKET = 512, 277
# Entries of a NIC's table from hash to receive queue, as most drivers fill it: in turns.
RSS_ENTRIES = 128
NIC_INDEX, VXLAN_INDEX, CONTAINER_INDEX = 2, 4, 2

Process = Generator[simpy.Event, None, None]


# ---- packets and queues ---------------------------------------------------------------


class Packet:
    """``number``: of its flow's packets; ``stage``: the one it is in, or waits for."""

    __slots__ = ("flow", "number", "sent_at", "stage")

    def __init__(self, flow: Flow, number: int, sent_at: float):
        self.flow, self.number, self.sent_at = flow, number, sent_at
        self.stage = Stage.NIC


class Queue:
    """Packets that wait for a CPU. ``tail`` and ``head`` count those that came and are through.

    ``place``: what it is called where drops are counted; ``awake``: its CPU has it on a list.
    What a poll of it finds may wait in a batch for the poll's end, if it ``gathers``.
    """

    gathers = True
    # Whether Falcon hands over what it gathered each time it took packets off.
    hands_over = False

    def __init__(self, cpu: Cpu, place: str, limit: int):
        self.cpu, self.place, self.limit = cpu, place, limit
        self.waiting: deque[Packet] = deque()
        self.tail = self.head = 0
        self.awake = False

    def held(self) -> int:
        """Packets in it."""
        return len(self.waiting)

    def put(self, packet: Packet) -> bool:
        """Whether there was room."""
        if len(self.waiting) >= self.limit:
            return False
        self.waiting.append(packet)
        self.tail += 1
        return True

    def take(self, _most: int) -> list[Packet]:
        """What is worked on before anything else is taken; nothing if it is empty."""
        return [self.waiting.popleft()] if self.waiting else []

    def schedule(self) -> None:
        """It is on its CPU's list from now on."""
        self.cpu.polls.append(self)
        self.cpu.ring()


class Backlog(Queue):
    """softnet_data's: a poll takes the whole queue, which can then be filled again."""

    gathers = False

    def __init__(self, cpu: Cpu):
        super().__init__(cpu, "backlog", MAX_BACKLOG)
        self.in_process: deque[Packet] = deque()

    def held(self) -> int:
        return len(self.waiting) + len(self.in_process)

    def take(self, _most: int) -> list[Packet]:
        if not self.in_process:
            self.in_process, self.waiting = self.waiting, self.in_process
        return [self.in_process.popleft()] if self.in_process else []


class FalconQueue(Queue):
    """struct falcon_queue: packets are taken off many at a time."""

    hands_over = True

    def take(self, most: int) -> list[Packet]:
        return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]


class Socket(Queue):
    """Its program is woken at once."""

    def schedule(self) -> None:
        self.cpu.programs.append(self)
        self.cpu.ring()


# ---- flows and where they go ----------------------------------------------------------


@dataclass(slots=True)
class Word:
    """A flow's word: where its last packet is, and how many are about to be queued.

    ``event``: how the last run of packets was placed.
    """

    queue: Queue | None = None
    tail: int = 0
    claims: int = 0
    event: str = ""

    @property
    def drained(self) -> bool:
        """Whether all packets of the flow are through the queue they were put on."""
        return self.queue is None or (self.claims == 0 and self.queue.head >= self.tail)


@dataclass(frozen=True, slots=True)
class Hop:
    """A flow's transition to the stage ``to``, where it enters ``device``.

    ``rps``: the queue that RPS chooses, if it is on. ``queued``: without it the packet waits in
    this CPU's backlog; else the same CPU goes on at once. ``word``: Falcon steers by it.
    """

    to: Stage
    device: Device
    kind: Kind
    rps: Queue | None
    queued: bool
    word: Word | None


class Flow:
    """A flow's hash, its hops by the stage they leave, and where it begins and ends.

    ``newest``: the highest number delivered.
    """

    def __init__(self, index: int, hash_: int, hops: dict[Stage, Hop], ring: Queue, socket: Queue):
        self.index, self.hash, self.hops = index, hash_, hops
        self.ring, self.socket = ring, socket
        self.newest = -1


def rps_slot(flow_hash: int, length: int) -> int:
    """Where in a mask of ``length`` CPUs RPS finds a flow's: reciprocal_scale()."""
    return flow_hash * length >> 32


def rss_slot(flow_hash: int, length: int) -> int:
    """Which of ``length`` receive queues a NIC gives a flow."""
    return flow_hash % RSS_ENTRIES % length


# ---- a CPU ----------------------------------------------------------------------------


class Cpu:
    """Polls its queues, and runs its programs. ``hand``: packets taken off a queue;
    ``batch``: packets that wait, with their words, to be handed over.
    """

    def __init__(self, world: Simulation, number: int):
        self.number, self._world, self._env = number, world, world.env
        self.backlog: Queue = Backlog(self)
        self.falcon_queue: Queue = FalconQueue(self, "Falcon's queue", MAX_BACKLOG)
        self.polls: deque[Queue] = deque()
        self.programs: deque[Queue] = deque()
        self.hand: deque[Packet] = deque()
        self.batch: list[tuple[Packet, Word]] = []
        self._kicks: list[Queue] = []
        self._gathers = False
        self._bell: simpy.Event | None = None
        self._idle, self._idle_since = 0.0, 0.0

    def ring(self) -> None:
        """There is work."""
        if self._bell is not None:
            self._bell.succeed()
            self._bell = None
            self._idle += self._env.now - self._idle_since

    def busy(self) -> float:
        """Seconds it has not been idle, ever."""
        now = self._env.now
        return now - self._idle - (now - self._idle_since if self._bell is not None else 0.0)

    def held(self) -> int:
        """Packets it has taken off a queue and not passed on yet."""
        return len(self.hand) + len(self.batch)

    def run(self) -> Process:
        """For ever."""
        while True:
            if not self.polls and not self.programs:
                self._idle_since, self._bell = self._env.now, self._env.event()
                yield self._bell
            began = self._env.now
            yield from self._softirq()
            # Softirqs that used up their budget are a thread, which shares the CPU fairly.
            turn = self._env.now - began if self.polls else 0.0
            yield from self._receive(self._env.now + turn)

    def _softirq(self) -> Process:
        budget = BUDGET
        while self.polls and budget > 0:
            budget -= yield from self._poll(self.polls.popleft())

    def _poll(self, queue: Queue) -> Generator[simpy.Event, None, int]:
        """Take at most `WEIGHT` packets through their stage; how many it were."""
        self._gathers, work = queue.gathers, 0
        while work < WEIGHT and (taken := queue.take(WEIGHT - work)):
            self.hand.extend(taken)
            while self.hand:
                yield from self._through(self.hand[0])
                self.hand.popleft()
            if queue.hands_over:
                self._hand_over_all()
                self._kick_all()
            queue.head += len(taken)
            work += len(taken)
        self._hand_over_all()
        if work < WEIGHT:
            queue.awake = False
        else:
            self.polls.append(queue)
        self._kick_all()
        return work

    def _through(self, packet: Packet) -> Process:
        """Run a packet's stage, and what follows it without a queue."""
        seconds = self._world.seconds
        while True:
            if cost := seconds[packet.stage]:
                yield self._env.timeout(cost)
            if self._pass_on(packet):
                return

    def _pass_on(self, packet: Packet) -> bool:
        """A stage is done: put the packet on the next queue. False: this CPU goes on with it."""
        flow = packet.flow
        hop = flow.hops.get(packet.stage)
        if hop is None:
            packet.stage = Stage.APP
            self._put(flow.socket, packet)
            return True
        packet.stage = hop.to
        if hop.word is not None and self._steer(packet, hop, hop.word):
            return True
        if hop.rps is None and not hop.queued:
            return False
        self._put(self.backlog if hop.rps is None else hop.rps, packet)
        return True

    def _steer(self, packet: Packet, hop: Hop, word: Word) -> bool:
        """falcon_steer(): whether Falcon took the packet."""
        gather = self._gathers and hop.kind is not Kind.PLAIN
        if gather and self.batch and self.batch[-1][1] is word:
            word.claims += 1
            self._world.out.events[word.event] += 1
        elif not self._world.falcon.claim(packet.flow, hop, word, self):
            return False
        if gather:
            self.batch.append((packet, word))
        else:
            self._hand_over(packet, word)
        return True

    def _hand_over_all(self) -> None:
        for packet, word in self.batch:
            self._hand_over(packet, word)
        self.batch.clear()

    def _hand_over(self, packet: Packet, word: Word) -> None:
        """Put a claimed packet on its flow's queue: falcon_commit()."""
        queue = word.queue
        assert queue is not None
        if self._put(queue, packet):
            word.tail = queue.tail
        word.claims -= 1

    def _put(self, queue: Queue, packet: Packet) -> bool:
        """Queue or drop; a queue of another CPU is woken when the poll ends."""
        if not queue.put(packet):
            self._world.out.dropped[queue.place] += 1
            return False
        if not queue.awake:
            queue.awake = True
            if queue.cpu is self or isinstance(queue, Socket):
                queue.schedule()
            else:
                self._kicks.append(queue)
        return True

    def _kick_all(self) -> None:
        for queue in self._kicks:
            queue.schedule()
        self._kicks.clear()

    def _receive(self, until: float) -> Process:
        """Run programs until there are softirqs; until the time ``until`` even if there are."""
        cost = self._world.seconds[Stage.APP]
        while self.programs and (not self.polls or self._env.now < until):
            socket = self.programs.popleft()
            if cost:
                yield self._env.timeout(cost)
            self._world.deliver(socket.waiting.popleft())
            if socket.waiting:
                self.programs.append(socket)
            else:
                socket.awake = False


# ---- Falcon ---------------------------------------------------------------------------


class Falcon:
    """What of ``net/core/falcon.c`` decides where packets go."""

    FIRST, SECOND, HELD, GATED = "first choice", "second choice", "held for order", "gated"

    def __init__(self, world: Simulation, mode: Mode):
        stages = world.scenario.cpus.stages
        self._world, self._interval = world, world.scenario.interval
        self._cpus = [world.cpus[number] for number in stages]
        self._set = CpuSet(stages, threshold=THRESHOLD, two_choice=mode.two_choice)
        self._words: dict[tuple[Device | None, int], Word] = {}
        self._open = self._set.set_loads([0] * len(self._cpus))

    def word(self, flow_hash: int, kind: Kind, device: Device) -> Word:
        """The word of a flow at a stage; other flows may have the same one."""
        hash_ = self._set.stage_hash(flow_hash, device)
        own, bits = (device, STAGE_FLOW_BITS) if kind is Kind.NAPI else (None, FLOW_BITS)
        return self._words.setdefault((own, hash_ >> (32 - bits)), Word())

    def claim(self, flow: Flow, hop: Hop, word: Word, here: Cpu) -> bool:
        """falcon_want() and falcon_claim(): say in the word where the flow's next packet goes.

        False: Falcon has nothing to do with this packet.
        """
        want, word.event = self._want(flow, hop, here)
        events = self._world.out.events
        if word.drained:
            if want is None:
                events[word.event] += 1
                return False
            if word.queue is not want:
                word.queue, word.tail = want, want.head
        if word.queue is not want:
            word.event = self.HELD
        word.claims += 1
        events[word.event] += 1
        return True

    def _want(self, flow: Flow, hop: Hop, here: Cpu) -> tuple[Queue | None, str]:
        """The queue, were there no earlier packet of the flow; None: the poll goes on with it."""
        if self._open:
            number, second = self._set.place(flow.hash, hop.device, hop.kind, here.number)
            event = self.SECOND if second else self.FIRST
            return self._world.cpus[number].falcon_queue, event
        if hop.kind is Kind.NAPI:
            return None, self.GATED
        if hop.kind is Kind.TUNNEL:
            return here.falcon_queue, self.GATED
        return here.backlog if hop.rps is None else hop.rps, self.GATED

    def sample(self) -> Process:
        """falcon_sample_set(), every interval."""
        before = [0.0] * len(self._cpus)
        while True:
            yield self._world.env.timeout(self._interval)
            now = [cpu.busy() for cpu in self._cpus]
            shares = [(b - a) / self._interval for a, b in zip(before, now, strict=True)]
            self._open = self._set.set_loads([min(100, int(100 * s + 0.5)) for s in shares])
            before = now


# ---- all of it ------------------------------------------------------------------------


class Simulation:
    """One run. ``seconds`` by `Stage`: the costs as time."""

    def __init__(self, costs: StageCosts, scenario: Scenario):
        self.scenario, self.env, self.out = scenario, simpy.Environment(), Outcome()
        self.seconds = tuple(cost / scenario.ips for cost in costs.stages)
        self._mode = modes.named(scenario.mode)
        self.cpus = {number: Cpu(self, number) for number in scenario.cpus.all}
        if self._mode.falcon:  # only then do hops have words, which lead there
            self.falcon = Falcon(self, self._mode)
        self._rings = [
            Queue(self.cpus[number], "NIC's ring", RING) for number in scenario.cpus.nics
        ]
        programs = scenario.cpus.programs
        self._sockets = [
            Socket(self.cpus[programs[i % len(programs)]], "socket", SOCKET)
            for i in range(scenario.containers)
        ]
        self._flows = self._make_flows()

    def run(self) -> Outcome:
        """Simulate it, once."""
        scenario, out = self.scenario, self.out
        for cpu in self.cpus.values():
            self.env.process(cpu.run())
        if self._mode.falcon:
            self.env.process(self.falcon.sample())
        for flow in self._flows:
            self.env.process(self._arrivals(flow))
        self.env.run(until=scenario.warm_up)
        before = {number: cpu.busy() for number, cpu in self.cpus.items()}
        sent = out.sent
        self.env.run(until=scenario.warm_up + scenario.seconds)
        # Of a CPU that was idle all the time, the difference of two sums may be below zero.
        busy = {number: cpu.busy() - before[number] for number, cpu in self.cpus.items()}
        out.busy = {number: max(0.0, seconds) for number, seconds in busy.items()}
        out.sent_then = out.sent - sent
        out.in_flight = self._count()
        return out

    def deliver(self, packet: Packet) -> None:
        """A program has got a packet."""
        out, flow = self.out, packet.flow
        out.delivered += 1
        if packet.number < flow.newest:
            out.out_of_order += 1
        else:
            flow.newest = packet.number
        if self.env.now >= self.scenario.warm_up:
            out.latencies.append(self.env.now - packet.sent_at)

    def _count(self) -> int:
        """Packets that are somewhere."""
        count = sum(queue.held() for queue in (*self._rings, *self._sockets))
        for cpu in self.cpus.values():
            count += cpu.backlog.held() + cpu.falcon_queue.held() + cpu.held()
        return count

    def _arrivals(self, flow: Flow) -> Process:
        draw = random.Random(f"{self.scenario.seed}: arrivals of {flow.index}")
        gap, number = self.scenario.flows / self.scenario.rate, 0
        yield self.env.timeout(gap * draw.random())
        while True:
            self._arrive(flow.ring, Packet(flow, number, self.env.now))
            number += 1
            yield self.env.timeout(gap if self.scenario.steady else draw.expovariate(1 / gap))

    def _arrive(self, ring: Queue, packet: Packet) -> None:
        self.out.sent += 1
        if not ring.put(packet):
            self.out.dropped[ring.place] += 1
        elif not ring.awake:
            ring.awake = True
            ring.schedule()

    def _make_flows(self) -> list[Flow]:
        """Flows and namespaces, whose hashes are others with another seed."""
        draw = random.Random(f"{self.scenario.seed}: hashes")
        nets = [draw.getrandbits(32) for _ in range(1 + self.scenario.containers)]
        flows = []
        for index in range(self.scenario.flows):
            # The kernel takes 0 for "no hash".
            hash_ = draw.randrange(1, 2**32)
            container = index % self.scenario.containers
            hops = self._hops(hash_, nets[0], nets[1 + container])
            ring = self._rings[rss_slot(hash_, len(self._rings))]
            flows.append(Flow(index, hash_, hops, ring, self._sockets[container]))
        return flows

    def _hops(self, hash_: int, host: int, container: int) -> dict[Stage, Hop]:
        """A flow's way: paper, figures 3 and 8; without an overlay the NIC's hop only."""
        cpus = self.scenario.cpus
        plan = CpuPlan(cpus.nics[0], cpus.stages, cpus.programs[0])
        nic, vxlan, veth = self._mode.rps(plan)
        into_nic, into_vxlan = Device(NIC_INDEX, host), Device(VXLAN_INDEX, host)
        into_veth = Device(CONTAINER_INDEX, container)
        first = Stage.OUTER if self._mode.overlay else Stage.INNER
        by_rps = Hop(first, into_nic, Kind.NAPI, self._rps(nic, hash_), False, None)
        hops = {Stage.NIC: by_rps}
        if self._mode.gro_split:
            split = self._hop(Stage.GRO, into_nic, Kind.NAPI, (), hash_)
            hops = {Stage.NIC: split, Stage.GRO: by_rps}
        if self._mode.overlay:
            hops |= {
                Stage.OUTER: self._hop(Stage.BRIDGE, into_vxlan, Kind.TUNNEL, vxlan, hash_),
                Stage.BRIDGE: self._hop(Stage.INNER, into_veth, Kind.PLAIN, veth, hash_),
            }
        return hops

    def _rps(self, mask: tuple[int, ...], hash_: int) -> Queue | None:
        return self.cpus[mask[rps_slot(hash_, len(mask))]].backlog if mask else None

    def _hop(self, to: Stage, device: Device, kind: Kind, mask: tuple[int, ...], hash_: int) -> Hop:
        """One that Falcon takes if it is on."""
        word = self.falcon.word(hash_, kind, device) if self._mode.falcon else None
        return Hop(to, device, kind, self._rps(mask, hash_), kind is Kind.PLAIN, word)
