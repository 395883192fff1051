# SPDX-License-Identifier: GPL-2.0-only
"""Packets that no socket sent, put on the wire one by one.

In: a rig. Out: a `Wire` from the client's NIC to the server's. TCP segments, which
GRO may merge: no socket knows them, so the server drops them in TCP; what GRO made
of them was counted by then, in IP. UDP packets in VXLAN, whose outer headers are
all the same: they are for a container, which drops them.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Self

import dpkt
from rig import Rig, protocol_counter

from harness.closing import Closing
from harness.overlay.netns import Namespace
from harness.overlay.plan import VXLAN_PORT
from harness.overlay.topology import CONTAINER_DEVICE, NIC

# GRO merges no segment that is longer than the first, and lets go at a shorter one.
PAYLOAD = bytes(100)
# Discard; nobody listens, and the client drops the answers of the server's TCP likewise.
PORT = 9
# Of the outer UDP header, of the inner Ethernet header, and an address that nobody has.
TUNNEL_PORT, STRANGER, NOBODY = 50_000, bytes.fromhex("02000000f41c"), "203.0.113.1"
VNI_IS_VALID = 0x08000000
# asm-generic/socket.h, linux/if_ether.h
SO_TIMESTAMPNS, ETH_P_IP = 35, 0x0800
FRAME_BYTES, COMES_S = 2048, 10.0


@dataclass
class Stream:
    """The segments of one connection that does not exist, in their order."""

    port: int
    numbers: count[int] = field(default_factory=lambda: count(1, len(PAYLOAD)))

    def segment(self) -> dpkt.tcp.TCP:
        """The next one. Without PSH, by which GRO would let go."""
        return dpkt.tcp.TCP(
            sport=self.port,
            dport=PORT,
            seq=next(self.numbers),
            ack=1,
            flags=dpkt.tcp.TH_ACK,
            win=1000,
            data=PAYLOAD,
        )


class Wire(Closing):
    """Sends to the server as if from its client's NIC."""

    def __init__(self, rig: Rig):
        client, self._server = rig.topology.client, rig.server.at()
        source, sink = rig.ends(overlay=False)
        self._ips = (
            socket.inet_pton(socket.AF_INET, source.ip),
            socket.inet_pton(socket.AF_INET, sink.ip),
        )
        self._macs = _mac(client.at(), NIC), _mac(self._server, NIC)
        self._container, self._vni = _mac(rig.server.at(0), CONTAINER_DEVICE), rig.server.plan.vni
        self._socket = client.at().socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((NIC, 0))

    def send(self, stream: Stream) -> None:
        """Put the stream's next segment on the wire; an `OSError` when there is none any more."""
        data = stream.segment()
        self._send(dpkt.ip.IP_PROTO_TCP, data, data.seq // len(PAYLOAD) % (1 << 16))

    def send_tunnelled(self, port: int) -> None:
        """Put a packet on the wire that comes from ``port`` within the tunnel."""
        data = dpkt.udp.UDP(sport=port, dport=PORT, data=PAYLOAD)
        data.ulen = len(data)
        nobody = socket.inet_pton(socket.AF_INET, NOBODY)
        packet = dpkt.ip.IP(src=nobody, dst=nobody, p=dpkt.ip.IP_PROTO_UDP, data=data)
        packet.len = len(packet)
        frame = dpkt.ethernet.Ethernet(src=STRANGER, dst=self._container, data=packet)
        header = struct.pack("!II", VNI_IS_VALID, self._vni << 8)
        outer = dpkt.udp.UDP(sport=TUNNEL_PORT, dport=VXLAN_PORT, data=header + bytes(frame))
        outer.ulen = len(outer)
        self._send(dpkt.ip.IP_PROTO_UDP, outer, 0)

    def _send(self, protocol: int, data: dpkt.Packet, number: int) -> None:
        packet = dpkt.ip.IP(src=self._ips[0], dst=self._ips[1], p=protocol, data=data)
        packet.id, packet.len = number, len(packet)
        frame = dpkt.ethernet.Ethernet(src=self._macs[0], dst=self._macs[1], data=packet)
        self._socket.send(bytes(frame))

    def arrived(self) -> Arrived:
        """What IP at the server has got so far, other traffic included."""
        segments = protocol_counter(self._server, "netstat", "IpExt", "InNoECTPkts")
        return Arrived(segments, protocol_counter(self._server, "snmp", "Ip", "InReceives"))

    def close(self) -> None:
        """Close the socket; `send` raises from now on."""
        self._socket.close()


def _mac(namespace: Namespace, device: str) -> bytes:
    return bytes.fromhex(namespace.read(f"/sys/class/net/{device}/address").replace(":", ""))


@dataclass(frozen=True)
class Arrived:
    """So many ``segments``, in so many ``packets`` after GRO."""

    segments: int
    packets: int

    def __sub__(self, other: Self) -> Arrived:
        return Arrived(self.segments - other.segments, self.packets - other.packets)


@dataclass(frozen=True)
class Seen:
    """Seconds from sending a segment until the server stamped it, and until it was seen there."""

    stamped: float
    came: float


class Watch(Closing):
    """Sees segments as tcpdump would at the server's NIC, with the kernel's time stamps."""

    def __init__(self, rig: Rig):
        self._socket = rig.server.at().socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((NIC, ETH_P_IP))
        self._socket.settimeout(COMES_S)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def send(self, wire: Wire, stream: Stream) -> Seen:
        """Send the stream's next segment, and see it come."""
        sent = time.time()
        wire.send(stream)
        while True:
            data, notes, _, _ = self._socket.recvmsg(FRAME_BYTES, socket.CMSG_SPACE(16))
            segment = dpkt.ethernet.Ethernet(data).data.data
            if isinstance(segment, dpkt.tcp.TCP) and segment.sport == stream.port:
                break
        came = time.time()
        seconds, nanoseconds = struct.unpack("qq", notes[0][2])
        return Seen(seconds + nanoseconds / 1e9 - sent, came - sent)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
