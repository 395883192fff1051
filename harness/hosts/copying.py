# SPDX-License-Identifier: GPL-2.0-only
"""A large file to a host, over connections that may be cut.

In: a file here, its SHA-256, a place there. Out: the file there, whole, or a `FalconError`;
what was copied before a cut stays and is gone on from, in this run or the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from harness.errors import FalconError
from harness.hosts.host import MIB, Host
from harness.machine.base import CommandFailed, MachineDied
from harness.machine.ssh import HostUnreachable

ATTEMPTS, RETRY_S = 4, 5.0
POLL_S = 0.2


def copy(
    host: Host,
    local: Path,
    remote: str,
    sha256: str,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Copy ``local`` to ``remote``; ``on_bytes`` is told how many bytes were sent so far."""
    size = local.stat().st_size
    if host.size(remote) == size and host.sha256(remote) == sha256:
        on_bytes(size)
        return
    part = f"{remote}.part"
    for fresh in (False, True):
        if fresh:
            host.remove(part)  # what was there from before was of something else
        _append(host, local, part, size, on_bytes)
        if host.sha256(part) == sha256:
            host.run("mv", part, remote)
            return
    host.remove(part)
    raise FalconError(f"{local.name} arrives damaged on the host", "its checksum is another")


def _append(host: Host, local: Path, part: str, size: int, on_bytes: Callable[[int], None]) -> None:
    """Send what is missing of ``local`` in ``part``, over several connections if need be."""
    done = 0
    trouble: FalconError | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(RETRY_S)
        try:
            done = host.size(part)
            if done > size:
                host.remove(part)
                done = 0
            _send(host, local, part, done, on_bytes)
            return
        except (MachineDied, HostUnreachable) as error:
            trouble = error
        except CommandFailed as error:
            host.remove(part)
            raise FalconError(f"cannot copy {local.name} to the host", error.why) from None
    assert trouble is not None
    raise FalconError(
        f"copying {local.name} was cut off at {done // MIB} of {size // MIB} MiB",
        trouble.what,
        "run it again: it goes on from there",
    )


def _send(host: Host, local: Path, part: str, offset: int, on_bytes: Callable[[int], None]) -> None:
    with local.open("rb", buffering=0) as file:
        file.seek(offset)
        sink = host.machine.start(["sh", "-c", 'cat >>"$0"', part], cwd="/", stdin=file.fileno())
        while sink.exit_status is None:
            sink.check_health()
            on_bytes(os.lseek(file.fileno(), 0, os.SEEK_CUR))
            time.sleep(POLL_S)
        sink.wait(check=True)
        on_bytes(os.lseek(file.fileno(), 0, os.SEEK_CUR))
