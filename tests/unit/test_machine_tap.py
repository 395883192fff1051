# SPDX-License-Identifier: GPL-2.0-only
"""TAP devices: asked for with the right flags, and nothing left open on failure."""

from __future__ import annotations

import os
import struct

import pytest

from harness.errors import FalconError
from harness.machine import tap


@pytest.fixture
def ioctls(monkeypatch):
    """The requests made of a /dev/net/tun that is really /dev/null."""
    made = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: real_open("/dev/null", flags))
    monkeypatch.setattr(tap.fcntl, "ioctl", lambda fd, number, data: made.append((number, data)))
    return made


@pytest.mark.parametrize(("queues", "flags"), [(1, 0x5002), (4, 0x5102)])
def test_flags(ioctls, queues, flags):
    fds = tap.open_tap("fal0", queues)
    for fd in fds:
        os.close(fd)
    assert len(set(fds)) == queues
    number, request = ioctls[0]
    name, asked = struct.unpack("16sH22x", request)
    assert (number, name.rstrip(b"\0"), asked) == (0x400454CA, b"fal0", flags)


def test_a_refusal_leaves_nothing_open(monkeypatch, ioctls):
    def refuse_the_third(fd, number, data):
        ioctls.append(fd)
        if len(ioctls) == 3:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(tap.fcntl, "ioctl", refuse_the_third)
    with pytest.raises(FalconError, match="TAP device fal0: Operation not permitted; run as root"):
        tap.open_tap("fal0", 4)
    for fd in ioctls:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
