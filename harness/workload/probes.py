# SPDX-License-Identifier: GPL-2.0-only
"""Small checks that a path carries TCP and ICMP intact.

In: two endpoints. Out: `Transfer` and `Echo`. Written with plain sockets:
a guest needs no program for them, and starting none is what is slow there.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address

from harness.workload.udpflow import Endpoint

TCP_PORT = 7001
CHUNK_BYTES = 1 << 16
ICMP_ECHO = {4: 8, 6: 128}
ICMP_ECHO_REPLY = {4: 0, 6: 129}
# linux/in.h, linux/in6.h: what "never fragment" is called
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(ip).version == 4 else socket.AF_INET6


@dataclass(frozen=True)
class Transfer:
    """A TCP transfer: what arrived, and whether it is what was sent."""

    bytes: int
    is_intact: bool
    seconds: float


@dataclass(frozen=True)
class TcpTransfer:
    """``size`` bytes from ``source`` to ``sink`` over one TCP connection.

    ``buffer``: about so many bytes are on their way at most (SO_SNDBUF); 0: what the kernel
    thinks fit.
    """

    source: Endpoint
    sink: Endpoint
    size: int
    timeout_s: float = 60.0
    buffer: int = 0

    def run(self) -> Transfer:
        """Send all of it and compare."""
        family = _family(self.sink.ip)
        payload = os.urandom(CHUNK_BYTES) * (self.size // CHUNK_BYTES + 1)
        payload = payload[: self.size]
        begin = time.monotonic()
        with (
            self.sink.namespace.socket(family, socket.SOCK_STREAM) as listener,
            self.source.namespace.socket(family, socket.SOCK_STREAM) as sender,
            ThreadPoolExecutor(max_workers=1) as receiving,
        ):
            for end in (listener, sender):
                end.settimeout(self.timeout_s)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.sink.ip, TCP_PORT))
            listener.listen(1)
            if self.buffer:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer)
            received = receiving.submit(self._receive, listener)
            sender.connect((self.sink.ip, TCP_PORT))
            sender.sendall(payload)
            sender.shutdown(socket.SHUT_WR)
            size, digest = received.result()
        intact = digest == hashlib.sha256(payload).digest()
        return Transfer(size, intact, time.monotonic() - begin)

    def _receive(self, listener: socket.socket) -> tuple[int, bytes]:
        connection, _ = listener.accept()
        connection.settimeout(self.timeout_s)
        digest, size = hashlib.sha256(), 0
        with connection:
            while chunk := connection.recv(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        return size, digest.digest()


@dataclass(frozen=True)
class Echo:
    """How many of the echo requests were answered with the very same data."""

    sent: int
    answered: int


@dataclass(frozen=True)
class Ping:
    """``count`` ICMP echo requests carrying ``size`` bytes.

    With ``whole`` a request that does not fit into the MTU is an `OSError`
    (EMSGSIZE) instead of being fragmented.
    """

    source: Endpoint
    sink: Endpoint
    count: int = 3
    size: int = 56
    whole: bool = False
    timeout_s: float = 10.0

    def run(self) -> Echo:
        """Ask one after the other."""
        version = ip_address(self.sink.ip).version
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        with self.source.namespace.socket(_family(self.sink.ip), socket.SOCK_RAW, protocol) as sock:
            if self.whole:
                _never_fragment(sock, version)
            answered = sum(self._ask(sock, version, number) for number in range(self.count))
        return Echo(self.count, answered)

    def _ask(self, sock: socket.socket, version: int, number: int) -> bool:
        data = os.urandom(self.size)
        asked = struct.pack("!HH", os.getpid() & 0xFFFF, number) + data
        sock.sendto(_echo_request(version, asked), (self.sink.ip, 0))
        deadline = time.monotonic() + self.timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            sock.settimeout(left_s)
            try:
                packet = sock.recv(1 << 16)
            except TimeoutError:
                return False
            # A raw IPv4 socket hands out the IP header, too.
            message = packet[(packet[0] & 15) * 4 :] if version == 4 else packet
            if message[0] == ICMP_ECHO_REPLY[version] and message[4:] == asked:
                return True
        return False


def _never_fragment(sock: socket.socket, version: int) -> None:
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)


def _echo_request(version: int, body: bytes) -> bytes:
    """An echo request; the kernel fills in ICMPv6's checksum, not ICMP's."""
    head = struct.pack("!BBH", ICMP_ECHO[version], 0, 0)
    if version == 6:
        return head + body
    return struct.pack("!BBH", ICMP_ECHO[version], 0, internet_checksum(head + body)) + body


def internet_checksum(data: bytes) -> int:
    """RFC 1071: the complement of the ones' complement sum of 16-bit words."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
