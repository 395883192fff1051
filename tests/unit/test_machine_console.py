# SPDX-License-Identifier: GPL-2.0-only
"""Which console lines are complaints of the kernel, and what is shown of a death."""

from __future__ import annotations

import pytest

from harness.machine.console import LEAD_LINES, Console, Splat, find_splat

COMPLAINTS = {
    "Kernel panic - not syncing: Fatal exception in interrupt": "panic",
    "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [ksoftirqd/3:31]": "soft lockup",
    "BUG: KASAN: slab-use-after-free in falcon_steer+0x1d/0x40": "KASAN",
    "BUG: kernel NULL pointer dereference, address: 0000000000000010": "bug",
    "kernel BUG at net/core/dev.c:6012!": "bug",
    "BUG: sleeping function called from invalid context at mm/slab.h:1": "bug",
    "Oops: 0002 [#1] SMP": "oops",
    "Oops: int3: 0000 [#1] SMP": "oops",
    "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]": "oops",
    "invalid opcode: 0000 [#1] SMP": "oops",
    "WARNING: CPU: 1 PID: 23 at net/core/skbuff.c:5 skb_release+0x1/0x2": "warning",
    "WARNING: possible circular locking dependency detected": "warning",
    "refcount_t: underflow; use-after-free.": "warning",
    "rcu: INFO: rcu_sched self-detected stall on CPU": "RCU stall",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:": "RCU stall",
    "rcu: rcu_sched kthread starved for 5250 jiffies!": "RCU stall",
    "INFO: task kworker/u16:1:45 blocked for more than 120 seconds.": "hung task",
    "INFO: trying to register non-static key.": "lockdep",
    "unregister_netdevice: waiting for veth1 to become free. Usage count = 2": "device leak",
    "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)": "leak",
    "UBSAN: array-index-out-of-bounds in net/core/falcon.c:9:3": "UBSAN",
    "ODEBUG: free active (active state 0) object: 00 object type: timer_list": "debug objects",
    "list_del corruption. prev->next should be 1, but was 2": "list corruption",
    "ksoftirqd/1: page allocation failure: order:0, mode:0x40a20": "allocation failure",
    "Out of memory: Killed process 12 (python3)": "out of memory",
    "NETDEV WATCHDOG: CPU: 0: transmit queue 1 timed out 5000 ms": "transmit timeout",
}

HARMLESS = [
    "Command line: console=ttyS0 panic=-1 oops=panic unknown_nmi_panic",
    "Warning: unable to open an initial console.",
    "rcu: Hierarchical RCU implementation.",
    "debug: unmapping init memory",
    "kmemleak: 0 new suspected memory leaks",
    "traps: sh[12] general protection fault ip:1 sp:2 error:0 in dash[3]",
    "traps: a.out[5] trap invalid opcode ip:1 sp:2 error:0 in a.out[6]",
    "sh[12]: segfault at 0 ip 1 sp 2 error 4 in dash",
    "DEBUG: nothing",
]


@pytest.mark.parametrize(("line", "kind"), COMPLAINTS.items())
def test_complaints(line, kind):
    assert find_splat(f"[   12.345678] {line}") == Splat(kind, line)


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_lines(line):
    assert find_splat(f"[   12.345678] {line}") is None


def test_a_line_cut_anywhere_is_one_line():
    text = b"one\r\n[ 1.0] Oops: 0000\r\nrest"
    for cut in range(len(text)):
        console = Console()
        console.feed(text[:cut])
        console.feed(text[cut:])
        assert console.splats == (Splat("oops", "Oops: 0000"),)
        assert console.tail(2) == "[ 1.0] Oops: 0000\nrest"


def test_the_story_of_a_death_begins_where_it_began():
    console = Console()
    lines = [f"line {number}" for number in range(100)]
    lines += ["BUG: it broke", *(f"trace {number}" for number in range(500))]
    console.feed("\n".join([*lines, ""]).encode())
    story = console.story().splitlines()
    assert story[LEAD_LINES] == "BUG: it broke"
    assert story[0] == f"line {100 - LEAD_LINES}"
    assert "trace 499" not in story


def test_the_story_survives_the_ring_running_over():
    console = Console()
    console.feed(b"BUG: it broke\n" + b"noise\n" * 6000)
    assert console.story().startswith("noise")


def test_without_a_death_the_story_is_the_tail():
    console = Console()
    console.feed(b"\n".join(b"line %d" % number for number in range(100)))
    assert console.story() == console.tail()
    assert console.tail(1) == "line 99"
