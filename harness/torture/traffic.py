# SPDX-License-Identifier: GPL-2.0-only
"""What crosses the standing topologies in an epoch: UDP flows, many small ones, TCP.

In: an `Epoch`. Out: `Tally`: what was sent, what came, and whether it was what
had been sent. All of it starts and ends with the epoch.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from harness.errors import FalconError
from harness.overlay.topology import Topology
from harness.torture.ports import JUMBO, SMALL
from harness.torture.sequence import MICE_CPU, Epoch, Flow
from harness.workload.udpflow import PORT, Endpoint, Received, Receiver, Sender, UdpFlow

# How long nothing may come for everything to have come. Emulated CPUs stand still.
QUIET_S, POLL_S = 10.0, 0.5
# Floods show what the machine can carry, the first of them little: code that has not
# run yet is slow on emulated CPUs. It gets a fifth, as actions take their time, too.
FLOODS, FLOOD_PACKETS, FLOOD_SHARE, LEAST_RATE = 3, 500, 0.2, 20.0
# Numbers of the small flows; the epoch's own are below, bursts above.
FIRST_MOUSE, MICE, VOLLEY = 16, 128, 64
MICE_SHARE = 0.1
TCP_PORT = 7100
TCP_CHUNK_BYTES = 1 << 15
# A stream's bytes for each UDP packet that is sent in all.
TCP_BYTES_PER_PACKET = 320
TCP_PATIENCE_S = 180.0


def find_rate(topology: Topology, most: float) -> float:
    """Packets a second that leave the machine time for the actions; at most ``most``."""
    source, sink = Endpoint.of(topology.client), Endpoint.of(topology.server)
    flood = UdpFlow(source, sink, FLOOD_PACKETS, rate=0, sender_cpu=0)
    best = max(flood.run().received.packets_per_second for _ in range(FLOODS))
    return max(LEAST_RATE, min(most, FLOOD_SHARE * best))


# ---- the payload of udpflow and of TCP ------------------------------------------------


def mouse_packet(flow: int, number: int) -> bytes:
    """A packet of udpflow's (see fill_packet() there) that is all header."""
    mask = (1 << 64) - 1
    x = ((number ^ flow << 40) + 0x9E3779B97F4A7C15) & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return struct.pack("!IIQ", x >> 32, flow, number)


# Its length is a prime, so that no run of packets of one size looks like another.
PATTERN = random.Random(0).randbytes(65_521)
_TWICE = PATTERN + PATTERN


def stream_bytes(offset: int, size: int) -> bytes:
    """What a TCP stream carries from ``offset`` on; at most a pattern's length."""
    start = offset % len(PATTERN)
    return _TWICE[start : start + size]


def first_difference(offset: int, data: bytes) -> int | None:
    """The offset of the first byte that is not what the stream carries there."""
    wanted = stream_bytes(offset, len(data))
    if data == wanted:
        return None
    return offset + next(at for at, (a, b) in enumerate(zip(data, wanted, strict=True)) if a != b)


# ---- small flows ---------------------------------------------------------------------------


class Mice:
    """Many flows of tiny packets, each from a port of its own, sent by one thread.

    They are sent in volleys, so that a poll finds packets of many flows, one each.
    The thread stays on one CPU: see udpflow on senders that the scheduler moves.
    """

    def __init__(self, source: Endpoint, to_ip: str, rate: float):
        self._to, self._rate = (to_ip, PORT), rate
        self._sockets: list[socket.socket] = []
        for _ in range(MICE):
            self._sockets.append(source.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mice", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        os.sched_setaffinity(0, {MICE_CPU})
        stopped = False
        while not stopped:
            for _ in range(VOLLEY):
                self._send()
            stopped = self._stop.wait(VOLLEY / self._rate)

    def _send(self) -> None:
        number, mouse = divmod(self.sent, MICE)
        packet = mouse_packet(FIRST_MOUSE + mouse, number)
        # A full queue refuses it: then it was not sent.
        with suppress(OSError):
            self._sockets[mouse].sendto(packet, self._to)
            self.sent += 1

    def stop(self) -> int:
        """How many packets were sent."""
        self._stop.set()
        self._thread.join()
        return self.sent

    def close(self) -> None:
        self.stop()
        for sock in self._sockets:
            sock.close()


# ---- TCP -------------------------------------------------------------------------------------


@dataclass
class Stream:
    """A TCP connection that carries the pattern until it is stopped."""

    source: Endpoint
    sink: Endpoint
    port: int
    bytes_per_s: float
    sent: int = 0
    received: int = 0
    wrong_at: int | None = None
    trouble: str = ""
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        family = socket.AF_INET6 if ":" in self.sink.ip else socket.AF_INET
        self._listener = self.sink.namespace.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.sink.ip, self.port))
        self._listener.listen(1)
        self._sender = self.source.namespace.socket(family, socket.SOCK_STREAM)
        for sock in (self._listener, self._sender):
            sock.settimeout(TCP_PATIENCE_S)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._receive, self._send)
        ]
        for thread in self._threads:
            thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self.trouble = self.trouble or f"TCP to {self.sink.ip}:{self.port}: {error}"

    def _send(self) -> None:
        self._sender.connect((self.sink.ip, self.port))
        pause_s = TCP_CHUNK_BYTES / self.bytes_per_s
        while not self._stopping.wait(pause_s):
            chunk = stream_bytes(self.sent, TCP_CHUNK_BYTES)
            self._sender.sendall(chunk)
            self.sent += len(chunk)
        self._sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(TCP_PATIENCE_S)
        with connection:
            while data := connection.recv(TCP_CHUNK_BYTES):
                if self.wrong_at is None:
                    self.wrong_at = first_difference(self.received, data)
                self.received += len(data)

    def stop(self) -> None:
        """Send no more and wait for what was sent."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        self._stopping.set()
        for sock in (self._sender, self._listener):
            sock.close()

    @property
    def fault(self) -> str:
        """What is wrong with it, if anything."""
        where = f"TCP to {self.sink.ip}:{self.port}"
        if self.wrong_at is not None:
            return f"{where}: byte {self.wrong_at:,} is not what was sent"
        if not self.trouble and self.received != self.sent:
            return f"{where}: {self.sent:,} bytes sent, {self.received:,} came"
        return self.trouble


# ---- an epoch's traffic ---------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """An epoch's traffic: UDP packets by topology, TCP's bytes, what was wrong.

    ``out_of_order`` packets are of the small topology and of the jumbo one; ``late``
    names the first of them.
    """

    sent: dict[str, int]
    delivered: dict[str, int]
    out_of_order: dict[str, int]
    streams: int
    bytes: int
    faults: tuple[str, ...]
    late: tuple[str, ...] = ()


class Traffic:
    """Runs from entering the context to `finish`."""

    def __init__(self, topologies: dict[str, Topology], epoch: Epoch, rate: float):
        self._topologies, self._epoch, self._rate = topologies, epoch, rate
        self._receivers: dict[str, dict[int | None, Receiver]] = {SMALL: {}, JUMBO: {}}
        self._senders: dict[str, list[Sender]] = {SMALL: [], JUMBO: []}
        self._streams: list[Stream] = []
        self._bursts: list[Sender] = []
        self._mice: Mice | None = None
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    def _start(self) -> None:
        for name, topology in self._topologies.items():
            sinks = {flow.sink for flow in self._epoch.flows if flow.topology == name}
            if name == SMALL:  # bursts go to any container
                sinks |= set(range(topology.server.plan.containers))
            for sink in sorted(sinks, key=str):
                receiver = Receiver(Endpoint.of(topology.server, sink))
                self._receivers[name][sink] = self._opened.enter_context(receiver)
        for number, flow in enumerate(self._epoch.flows):
            self._senders[flow.topology].append(self._sender(number, flow))
        small = self._topologies[SMALL]
        source, sink_ip = Endpoint.of(small.client), small.server.address(0).ip
        self._mice = Mice(source, sink_ip, self._rate * MICE_SHARE)
        self._opened.callback(self._mice.close)
        for number, container in enumerate(self._epoch.streams):
            jumbo = self._topologies[JUMBO]
            ends = Endpoint.of(jumbo.client, container), Endpoint.of(jumbo.server, container)
            bytes_per_s = self._rate * TCP_BYTES_PER_PACKET
            self._streams.append(Stream(*ends, TCP_PORT + number, bytes_per_s))
            self._streams[-1].start()
            self._opened.callback(self._streams[-1].close)

    def _sender(self, number: int, flow: Flow) -> Sender:
        topology = self._topologies[flow.topology]
        sender = Sender(
            topology.client.at(flow.source),
            topology.server.address(flow.sink).ip,
            size=flow.size,
            rate=flow.share * self._rate,
            flow=number,
            cpu=flow.cpu,
        )
        return self._opened.enter_context(sender)

    def burst(self, flow: int, container: int, size: int, count: int) -> None:
        """Send ``count`` packets as fast as it goes, through the small topology."""
        small = self._topologies[SMALL]
        to_ip = small.server.address(container).ip
        sender = Sender(small.client.at(container), to_ip, size=size, count=count, flow=flow)
        self._bursts.append(self._opened.enter_context(sender))

    def finish(self) -> Tally:
        """Stop sending, wait for what is under way, and tell what came."""
        assert self._mice
        sent = {name: sum(s.stop().sent for s in group) for name, group in self._senders.items()}
        sent[SMALL] += self._mice.stop() + sum(burst.wait().sent for burst in self._bursts)
        for stream in self._streams:
            stream.stop()
        came = {name: self._drain(name, sent[name]) for name in sent}
        faults = [stream.fault for stream in self._streams if stream.fault]
        for name, reports in came.items():
            faults += _udp_faults(name, reports)
        return Tally(
            sent=sent,
            delivered={name: sum(r.received for r in reports) for name, reports in came.items()},
            out_of_order={
                name: sum(r.out_of_order for r in reports) for name, reports in came.items()
            },
            streams=len(self._streams),
            bytes=sum(stream.received for stream in self._streams),
            faults=tuple(faults),
            late=tuple(f"{name}, {late}" for name in came for r in came[name] for late in r.late),
        )

    def _drain(self, name: str, sent: int) -> list[Received]:
        """Wait until all have come, or nothing more does; then end the receivers."""
        receivers = list(self._receivers[name].values())
        last, since = -1, time.monotonic()
        while True:
            came = sum(receiver.report().received for receiver in receivers)
            if came != last:
                last, since = came, time.monotonic()
            if came >= sent or time.monotonic() - since > QUIET_S:
                return [receiver.stop() for receiver in receivers]
            time.sleep(POLL_S)


def _udp_faults(name: str, reports: list[Received]) -> list[str]:
    corrupted = sum(report.corrupted for report in reports)
    duplicates = sum(report.duplicates for report in reports)
    if not corrupted and not duplicates:
        return []
    return [f"UDP, {name} packets: {corrupted:,} damaged, {duplicates:,} came twice"]


def check(tally: Tally, *, in_order: bool) -> None:
    """Raise `FalconError` for what no epoch may do to its traffic, and for packets out of order
    if all must be ``in_order``.
    """
    if tally.faults:
        raise FalconError(tally.faults[0], *tally.faults[1:2])
    late = sum(tally.out_of_order.values())
    if in_order and late:
        raise FalconError(
            f"{late:,} packets came out of order, though only Falcon's own settings were changed",
            "; ".join(tally.late),
        )
