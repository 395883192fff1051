# SPDX-License-Identifier: GPL-2.0-only
"""What Falcon's tracepoints tell.

In: a device. Out: the hashes by which its packets were steered, one each, in the
order of the CPUs' buffers.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
STEER = TRACEFS / "events/falcon/falcon_steer/enable"


@contextmanager
def steered() -> Iterator[Callable[[str, int], list[str]]]:
    """Trace falcon_steer; what is yielded takes a device's name and ifindex."""
    if not STEER.exists():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACEFS)], check=True)
    trace = TRACEFS / "trace"

    def hashes(device: str, ifindex: int) -> list[str]:
        event = rf"dev={re.escape(device)} ifindex={ifindex} hash=(0x[0-9a-f]+) "
        return re.findall(event, trace.read_text())

    trace.write_text("")
    STEER.write_text("1")
    try:
        yield hashes
    finally:
        STEER.write_text("0")
