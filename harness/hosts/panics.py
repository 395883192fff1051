# SPDX-License-Identifier: GPL-2.0-only
"""What a panic, an oops and a lock-up do on a host, beyond the boot in which they reboot it.

In: a `Host`. Out: the old kernel's settings, kept on the host over the reboot into a new one,
and set there once that one stays: its first boot has others (`grub.TRIAL_ARGUMENTS`).
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from harness.hosts.grub import TRIAL_WORD
from harness.hosts.host import Host

SYSCTLS = "/proc/sys/kernel"
NAMES = ("panic", "panic_on_oops", "softlockup_panic")
STATE = "/var/lib/falcon/panics.json"
# Of a kernel without the setting, which does not panic there.
WITHOUT = "0"
# Not every kernel has all of them.
SET = 'while [ $# -gt 0 ]; do [ ! -e "$1" ] || echo "$2" >"$1" || exit; shift 2; done'


def remember(host: Host) -> None:
    """Write the running kernel's settings down, for `restore` in another boot."""
    _, text = host.try_run("grep", "-s", "", *(f"{SYSCTLS}/{name}" for name in NAMES))
    found = dict.fromkeys(NAMES, WITHOUT)
    for line in text.splitlines():
        path, _, value = line.partition(":")
        found[PurePosixPath(path).name] = value
    host.write(STATE, json.dumps(found) + "\n")


def restore(host: Host) -> None:
    """Set what was remembered if this is a kernel's first boot, and forget it in any case."""
    found = host.read_json(STATE)
    if found is not None and TRIAL_WORD in host.run("cat", "/proc/cmdline").split():
        pairs = [word for name in NAMES for word in (f"{SYSCTLS}/{name}", found[name])]
        host.run("sh", "-c", SET, "sh", *pairs)
    forget(host)


def forget(host: Host) -> None:
    """Take what was remembered back."""
    host.remove(STATE)
