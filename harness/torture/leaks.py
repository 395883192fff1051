# SPDX-License-Identifier: GPL-2.0-only
"""What is left behind when everything has been taken down.

In: the machine before, and after. Out: a `FalconError` naming the first leak.
Three witnesses: kmemleak finds memory that nothing points to; slab counts find
packets and namespaces that something still points to; and a namespace that was
just removed proves that those before it are gone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FalconError
from harness.overlay.cpus import present_cpus
from harness.overlay.netns import Namespace

KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
LOCKDEP = Path("/proc/lockdep_stats")
SLABS = Path("/sys/kernel/slab")
SLABINFO = Path("/proc/slabinfo")
# kmemleak takes nothing for leaked that is younger; and pointers may be on their
# way while it looks, so it has to say it twice.
KMEMLEAK_AGE_S = 6.0
SCANS = 2
NAMESPACES, PACKETS = "net_namespace", "skbuff_head_cache"
# Packets kept for the next use: NAPI_SKB_CACHE_SIZE a CPU, and what sockets hold.
KEPT_PACKETS_PER_CPU, KEPT_PACKETS = 128, 64
PATIENCE_S = 120.0
POLL_S = 1.0
MOMENT_POLLS = 5
REPORT_LINES = 24


@dataclass(frozen=True)
class Baseline:
    """The machine before: devices of the first namespace, objects in memory (None: unknown)."""

    devices: tuple[str, ...]
    packets: int | None
    namespaces: int | None


def baseline() -> Baseline:
    """Before anything was set up. kmemleak forgets what booting left."""
    if scan():
        KMEMLEAK.write_text("clear")
    return Baseline(_devices(), active(PACKETS), _namespaces())


def check(before: Baseline, enter: Callable[[str], None]) -> tuple[str, ...]:
    """Look for leaks; what could not be looked at, in words. ``enter`` is told each step."""
    _wait_for_removed_namespaces()
    _check_devices(before)
    skipped = _check_memory(enter)
    enter("counting what is left in memory")
    skipped += _check_counts(before)
    if lockdep_gave_up():
        raise FalconError("lockdep switched itself off", "the end of the run was not checked")
    return tuple(skipped)


def _devices() -> tuple[str, ...]:
    with Namespace.current() as here:
        return tuple(sorted(here.devices()))


def _wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """``what`` says how it is instead, when it has taken too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise FalconError(what(), f"after {PATIENCE_S:g} s")
        time.sleep(POLL_S)


def _wait_for_removed_namespaces() -> None:
    """They are removed one after the other: a device that is held would stop that."""
    with Namespace("witness") as witness:
        with Namespace("doomed") as doomed:
            peer = {"ifname": "eth0", "net_ns_fd": doomed.fd}
            witness.ip("link", "add", ifname="canary", kind="veth", peer=peer)
        _wait_until(lambda: not witness.has("canary"), lambda: "a removed namespace is still there")


def _namespaces() -> int | None:
    """Namespaces in memory, without those that were removed just now.

    Newer kernels free one when the next has been removed; so two are made for
    that, which are themselves in memory for a moment.
    """
    _wait_for_removed_namespaces()
    counts = []
    for _ in range(MOMENT_POLLS):
        counts.append(active(NAMESPACES))
        time.sleep(POLL_S)
    return min((count for count in counts if count is not None), default=None)


def _check_devices(before: Baseline) -> None:
    _wait_until(
        lambda: _devices() == before.devices,
        lambda: f"devices are left over: {', '.join(set(_devices()) - set(before.devices))}",
    )


# ---- kmemleak -----------------------------------------------------------------------------


def scan() -> bool:
    """One scan; False where there is no kmemleak, or it ran out of memory and gave up."""
    with suppress(OSError):
        KMEMLEAK.write_text("scan")
        return True
    return False


def _check_memory(enter: Callable[[str], None]) -> list[str]:
    for number in range(1, SCANS + 1):
        enter(f"looking for leaked memory, {number} of {SCANS}")
        time.sleep(KMEMLEAK_AGE_S)
        if not scan():
            return ["kmemleak is missing or switched itself off"]
    found = KMEMLEAK.read_text(errors="replace")
    if found.strip():
        count = len(re.findall(r"^unreferenced object", found, re.MULTILINE))
        head = "\n".join(found.splitlines()[:REPORT_LINES])
        print(head, flush=True)
        raise FalconError(f"kmemleak found {count} leaked objects", head.splitlines()[0])
    return []


# ---- counts -------------------------------------------------------------------------------


def can_shrink(release: str) -> bool:
    """Whether slab caches can be shrunk by sysfs, without which counts mean nothing.

    In 4.19 lockdep takes that for a deadlock of its own (slab_mutex against
    cpu_hotplug_lock), with or without Falcon.
    """
    return int(release.split(".")[0]) >= 5


def active(cache: str) -> int | None:
    """Objects in use of a slab cache, without those that KASAN and CPUs keep; None: unknown."""
    if not can_shrink(os.uname().release):
        return None
    with suppress(OSError):
        (SLABS / cache / "shrink").write_text("1")
    return count(SLABINFO.read_text(), cache)


def count(slabinfo: str, cache: str) -> int | None:
    """The objects in use that /proc/slabinfo tells of."""
    found = re.search(rf"^{cache} +(\d+)", slabinfo, re.MULTILINE)
    return int(found[1]) if found else None


def _check_counts(before: Baseline) -> list[str]:
    if before.packets is None:
        return ["objects in slab caches cannot be counted in this kernel"]
    kept = before.packets + KEPT_PACKETS_PER_CPU * len(present_cpus()) + KEPT_PACKETS
    _wait_until(
        lambda: (active(PACKETS) or 0) <= kept,
        lambda: f"{active(PACKETS)} packets are in memory, {before.packets} were before",
    )
    _wait_until(
        lambda: (_namespaces() or 0) <= (before.namespaces or 0),
        lambda: (
            f"{_namespaces()} network namespaces are in memory, {before.namespaces} were before"
        ),
    )
    return []


def lockdep_gave_up() -> bool:
    """Whether lockdep was there and stopped checking; it does so after any complaint."""
    with suppress(FileNotFoundError):
        return bool(re.search(r"debug_locks: +0", LOCKDEP.read_text()))
    return False
