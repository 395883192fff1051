# SPDX-License-Identifier: GPL-2.0-only
"""TAP devices: the wire between this host's network namespaces and a VM.

In: an interface name, a number of queues. Out: open descriptors, one a queue,
to be given to QEMU. The device lives as long as somebody holds one of them.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

from harness.errors import FalconError

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x0100, 0x1000, 0x4000


@dataclass(frozen=True)
class TapNic:
    """A network card of the guest: the host ends are TAP queues.

    ``fds``: one descriptor a queue (see `open_tap`; the caller keeps and
    closes them). ``host_offloads``: False makes the guest see packets as a
    wire carries them, at most one MTU long, so that its GRO has work to do.
    """

    fds: tuple[int, ...]
    mac: str
    host_offloads: bool = False


def open_tap(name: str, queues: int) -> tuple[int, ...]:
    """Open ``queues`` queues of TAP ``name`` in this thread's network namespace.

    Makes the device if there is none; it is gone when the last descriptor is
    closed. Raises `FalconError` without the right to do so.
    """
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
    request = struct.pack("16sH22x", name.encode(), flags)
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
            fcntl.ioctl(fds[-1], TUNSETIFF, request)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise FalconError(
            f"cannot open the TAP device {name}", error.strerror or "", "run as root"
        ) from None
    return tuple(fds)
