# SPDX-License-Identifier: GPL-2.0-only
"""How a device receives: XDP programs and GRO, for kernels old and new.

In: a namespace and a device in it. Out: it is set, or an `OSError` or a
`FalconError` says what the kernel thinks of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from functools import cache

from harness.errors import FalconError
from harness.overlay.netns import Namespace

# asm/unistd_64.h, linux/bpf.h
SYS_BPF, BPF_PROG_LOAD, BPF_PROG_TYPE_XDP, XDP_PASS = 321, 5, 6, 2
ATTRIBUTES_BYTES = 128
# r0 = XDP_PASS; exit
PASS = struct.pack("<BBhi", 0xB7, 0, 0, XDP_PASS) + struct.pack("<BBhi", 0x95, 0, 0, 0)
# linux/if_link.h
XDP_FLAGS = {"generic": 1 << 1, "native": 1 << 2}
REMOVE = -1
# linux/ethtool.h, linux/sockios.h
ETHTOOL_STSO, ETHTOOL_SGRO, SIOCETHTOOL = 0x1F, 0x2C, 0x8946


@cache
def pass_all() -> int:
    """The descriptor of an XDP program that passes every packet on."""
    program = ctypes.create_string_buffer(PASS, len(PASS))
    licence = ctypes.create_string_buffer(b"GPL")
    where = ctypes.addressof(program), ctypes.addressof(licence)
    packed = struct.pack("<IIQQ", BPF_PROG_TYPE_XDP, len(PASS) // 8, *where)
    attributes = ctypes.create_string_buffer(packed, ATTRIBUTES_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_BPF, BPF_PROG_LOAD, attributes, ATTRIBUTES_BYTES)
    if fd < 0:
        raise FalconError("cannot load an XDP program", os.strerror(ctypes.get_errno()))
    return int(fd)


def set_xdp(namespace: Namespace, device: str, mode: str, *, on: bool) -> None:
    """Attach the program in ``mode``, "generic" or "native", or remove it."""
    words = [("IFLA_XDP_FD", pass_all() if on else REMOVE), ("IFLA_XDP_FLAGS", XDP_FLAGS[mode])]
    namespace.ip("link", "set", index=namespace.index(device), xdp={"attrs": words})


def set_gro(namespace: Namespace, device: str, on: bool) -> None:
    """Switch a device's GRO."""
    namespace.call(_ethtool, device, ETHTOOL_SGRO, on)


def set_tso(namespace: Namespace, device: str, on: bool) -> None:
    """Switch a device's TSO."""
    namespace.call(_ethtool, device, ETHTOOL_STSO, on)


def _ethtool(device: str, command: int, value: bool) -> None:
    request = ctypes.create_string_buffer(struct.pack("II", command, value), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        pointer = struct.pack("16sQ16x", device.encode(), ctypes.addressof(request))
        fcntl.ioctl(any_socket, SIOCETHTOOL, pointer)
