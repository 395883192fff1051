# SPDX-License-Identifier: GPL-2.0-only
"""Makes a veth behave as a network card does.

In: a device of a namespace. Out: the device with a NAPI of its own, which polls
its packets and gives them to GRO; or without an offload.

From the start a veth has no NAPI: its packets go through netif_rx(). It gets
one, on all kernels, with an XDP program, here one that lets everything pass.
Its peer then sends no segment larger than the wire's, as XDP could not take it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness.overlay.netns import Namespace

# linux/sockios.h, linux/ethtool.h: how to read an offload and to set it
SIOCETHTOOL = 0x8946
OFFLOADS = {"tso": (0x1E, 0x1F), "gso": (0x23, 0x24), "gro": (0x2B, 0x2C)}

# asm/unistd.h, linux/bpf.h
SYS_BPF = {"x86_64": 321, "aarch64": 280}
BPF_PROG_LOAD, BPF_PROG_TYPE_XDP = 5, 6
XDP_PASS = 2
INSTRUCTION = "=BBhi"
# r0 = XDP_PASS; exit
PASS_ALL = struct.pack(INSTRUCTION, 0xB7, 0, 0, XDP_PASS) + struct.pack(INSTRUCTION, 0x95, 0, 0, 0)
NO_PROGRAM = -1

_libc = ctypes.CDLL(None, use_errno=True)


def give_napi(namespace: Namespace, device: str) -> None:
    """From now on ``device``, a veth, polls its packets, with GRO. For devices that will go."""
    program = _load(PASS_ALL)
    try:
        namespace.ip("link", "set", index=namespace.index(device), xdp_fd=program)
    finally:
        os.close(program)
    namespace.call(_set_offload, device, "gro", True)


@contextmanager
def polled(namespace: Namespace, device: str) -> Iterator[None]:
    """`give_napi`, and take it away afterwards."""
    gro = namespace.call(_offload, device, "gro")
    try:
        give_napi(namespace, device)
        yield
    finally:
        namespace.call(_set_offload, device, "gro", gro)
        namespace.ip("link", "set", index=namespace.index(device), xdp_fd=NO_PROGRAM)


@contextmanager
def without(namespace: Namespace, device: str, *names: str) -> Iterator[None]:
    """Switch offloads of ``device`` off, and back afterwards."""
    with ExitStack() as undo:
        for name in names:
            before = namespace.call(_offload, device, name)
            undo.callback(namespace.call, _set_offload, device, name, before)
            namespace.call(_set_offload, device, name, False)
        yield


# ---- offloads ------------------------------------------------------------------------


def _offload(device: str, name: str) -> bool:
    return bool(_ethtool(device, OFFLOADS[name][0], 0))


def _set_offload(device: str, name: str, on: bool) -> None:
    _ethtool(device, OFFLOADS[name][1], int(on))


def _ethtool(device: str, command: int, value: int) -> int:
    """One request about ``device`` in this thread's namespace (struct ethtool_value)."""
    data = ctypes.create_string_buffer(struct.pack("II", command, value))
    request = struct.pack("16sP", device.encode(), ctypes.addressof(data))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request.ljust(40, b"\0"))
    return struct.unpack_from("II", data.raw)[1]


# ---- XDP -----------------------------------------------------------------------------


def _load(instructions: bytes) -> int:
    """A descriptor of the XDP program."""
    code = ctypes.create_string_buffer(instructions)
    licence = ctypes.create_string_buffer(b"GPL")
    count = len(instructions) // struct.calcsize(INSTRUCTION)
    addresses = ctypes.addressof(code), ctypes.addressof(licence)
    # union bpf_attr: no log, any kernel version, no flags
    packed = struct.pack("IIQQIIQII", BPF_PROG_TYPE_XDP, count, *addresses, 0, 0, 0, 0, 0)
    attributes = ctypes.create_string_buffer(packed, len(packed))
    number = SYS_BPF[os.uname().machine]
    fd = _libc.syscall(number, BPF_PROG_LOAD, attributes, len(packed))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "cannot load an XDP program")
    return int(fd)
