# SPDX-License-Identifier: GPL-2.0-only
"""How a device receives: XDP programs and offloads, for kernels old and new.

In: a namespace and a device in it. Out: it is set, or an `OSError` or a
`FalconError` says what the kernel thinks of it.

Offloads go by pyroute2's ioctl: ethtool's netlink is younger than our oldest
kernel. Nothing in the dependencies loads a BPF program, so two instructions of
it are here.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache

from pyroute2.ethtool.ioctl import IoctlEthtool

from harness.errors import FalconError
from harness.overlay.netns import Namespace

# ethtool's short names, and the features they stand for (net/ethtool/common.c).
OFFLOADS = {
    "gro": ("rx-gro",),
    "gso": ("tx-generic-segmentation",),
    "tso": (
        "tx-tcp-segmentation",
        "tx-tcp-ecn-segmentation",
        "tx-tcp-mangleid-segmentation",
        "tx-tcp6-segmentation",
    ),
}
# asm/unistd.h, linux/bpf.h
SYS_BPF = {"x86_64": 321, "aarch64": 280}
BPF_PROG_LOAD, BPF_PROG_TYPE_XDP, XDP_PASS = 5, 6, 2
ATTRIBUTES_BYTES = 128
# r0 = XDP_PASS; exit
INSTRUCTION = "=BBhi"
PASS = struct.pack(INSTRUCTION, 0xB7, 0, 0, XDP_PASS) + struct.pack(INSTRUCTION, 0x95, 0, 0, 0)
# linux/if_link.h
XDP_FLAGS = {"generic": 1 << 1, "native": 1 << 2}
REMOVE = -1


def offload(namespace: Namespace, device: str, name: str) -> bool:
    """Whether one of `OFFLOADS` is on."""
    return namespace.call(_offload, device, name)


def set_offload(namespace: Namespace, device: str, name: str, on: bool) -> None:
    """Switch one of `OFFLOADS`."""
    namespace.call(_set_offload, device, name, on)


def _offload(device: str, name: str) -> bool:
    features = IoctlEthtool(device).get_features()
    return any(features[feature] for feature in OFFLOADS[name])


def _set_offload(device: str, name: str, on: bool) -> None:
    control = IoctlEthtool(device)
    features = control.get_features()
    for feature in OFFLOADS[name]:
        features[feature] = on
    control.set_features(features)


def set_gro_flush_timeout(namespace: Namespace, device: str, ns: int) -> None:
    """Let GRO hold packets of ``device`` so many nanoseconds beyond the poll; 0: not at all."""
    namespace.write(f"/sys/class/net/{device}/gro_flush_timeout", str(ns))


def set_xdp(namespace: Namespace, device: str, mode: str, *, on: bool) -> None:
    """Let a program see what ``device`` receives, which passes all, or remove it.

    ``mode`` is "generic" or "native": a veth gets a NAPI of its own by the latter.
    """
    words = [("IFLA_XDP_FD", pass_all() if on else REMOVE), ("IFLA_XDP_FLAGS", XDP_FLAGS[mode])]
    namespace.ip("link", "set", index=namespace.index(device), xdp={"attrs": words})


@cache
def pass_all() -> int:
    """The descriptor of an XDP program that passes every packet on."""
    program = ctypes.create_string_buffer(PASS, len(PASS))
    licence = ctypes.create_string_buffer(b"GPL")
    count = len(PASS) // struct.calcsize(INSTRUCTION)
    where = ctypes.addressof(program), ctypes.addressof(licence)
    packed = struct.pack("=IIQQ", BPF_PROG_TYPE_XDP, count, *where)
    attributes = ctypes.create_string_buffer(packed, ATTRIBUTES_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYS_BPF[os.uname().machine]
    fd = libc.syscall(number, BPF_PROG_LOAD, attributes, ATTRIBUTES_BYTES)
    if fd < 0:
        raise FalconError("cannot load an XDP program", os.strerror(ctypes.get_errno()))
    return int(fd)
