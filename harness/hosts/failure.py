# SPDX-License-Identifier: GPL-2.0-only
"""What a host can still tell of a boot that failed.

In: a `Host` that runs again, the boot it was in before. Out: `Story`: the last lines of the
failed boot's journal, or of what its kernel left in the firmware (pstore), where there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.hosts.host import Host

LINES = 15
# Where a kernel that dies leaves its last words, and where systemd puts them at the next boot.
PSTORE = ("/var/lib/systemd/pstore", "/sys/fs/pstore")
_BOOT = re.compile(r"^\s*-?\d+\s+([0-9a-f]{32})\s", re.MULTILINE)


@dataclass(frozen=True)
class Story:
    """``lines`` for a person, oldest first; ``summary`` in a few words."""

    summary: str
    lines: tuple[str, ...] = ()


def story(host: Host, before: str) -> Story:
    """Of the boots after ``before`` (a boot ID) and ahead of the running one, the first."""
    known = [before.replace("-", ""), host.boot_id().replace("-", "")]
    status, text = host.try_run("journalctl", "--list-boots", "--no-pager", "--quiet")
    boots = _BOOT.findall(text) if status == 0 else []
    later = boots[boots.index(known[0]) + 1 :] if known[0] in boots else []
    failed = [boot for boot in later if boot not in known]
    if failed:
        count = f"--lines={LINES}"
        status, text = host.try_run(
            *("journalctl", f"--boot={failed[0]}", count, "--no-pager", "--output=short-monotonic")
        )
        if status == 0 and text.strip():
            return Story("the end of its journal is above", tuple(text.strip().splitlines()))
    left = _pstore(host)
    if left:
        return Story("what its kernel left in the firmware is above", left)
    return Story("it left no journal: it ended before there was one")


def _pstore(host: Host) -> tuple[str, ...]:
    """The end of the newest dump of this very host's last minutes; none where there is none."""
    script = (
        'f=$(find "$@" -type f -name "dmesg*" -mmin -60 -printf "%T@ %p\\n" 2>/dev/null'
        ' | sort -n | tail -n 1 | cut -d\' \' -f2-); [ -z "$f" ] || tail -n "$0" "$f"'
    )
    _, text = host.try_run("sh", "-c", script, str(LINES), *PSTORE)
    return tuple(text.strip().splitlines())
