# SPDX-License-Identifier: GPL-2.0-only
"""What Falcon's tracepoints tell.

In: a device. Out: the hashes by which its packets were steered, one each, in their
order.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
STEER = TRACEFS / "events/falcon/falcon_steer/enable"
PIPE_BYTES = 1 << 16


@contextmanager
def steered() -> Iterator[Callable[[str, int], list[str]]]:
    """Trace falcon_steer; what is yielded takes a device's name and ifindex.

    By trace_pipe: up to 5.7, reading ``trace`` stops tracing meanwhile, and events get lost.
    """
    if not STEER.exists():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACEFS)], check=True)
    (TRACEFS / "trace").write_text("")
    pipe = os.open(TRACEFS / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
    seen = bytearray()

    def hashes(device: str, ifindex: int) -> list[str]:
        with suppress(BlockingIOError):
            while data := os.read(pipe, PIPE_BYTES):
                seen.extend(data)
        event = rf"dev={re.escape(device)} ifindex={ifindex} hash=(0x[0-9a-f]+) "
        return re.findall(event, seen.decode())

    STEER.write_text("1")
    try:
        yield hashes
    finally:
        STEER.write_text("0")
        os.close(pipe)
