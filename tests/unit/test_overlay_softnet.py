# SPDX-License-Identifier: GPL-2.0-only
"""Per-CPU accounting, on files that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

from harness.overlay import softnet

STAT = """\
cpu  60 0 30 900 10 0 100 0 0 0
cpu0 50 0 20 450 5 0 75 0 40 0
cpu2 10 0 10 450 5 0 25 0 0 0
intr 12345
"""
SOFTIRQS = """\
                    CPU0       CPU1       CPU2
          HI:          1          0          0
      NET_RX:        300          0        100
"""
NEW_ROW = "{:08x} {:08x} 00000003 0 0 0 0 0 0 {:08x} 0 0 {:08x} 0 0\n"
OLD_ROW = "{:08x} {:08x} 00000003 0 0 0 0 0 0 {:08x} 0\n"


def proc(directory: Path, rows: str) -> Path:
    (directory / "net").mkdir()
    (directory / "net/softnet_stat").write_text(rows)
    (directory / "stat").write_text(STAT)
    (directory / "softirqs").write_text(SOFTIRQS)
    return directory


def test_snapshot_with_named_cpus(tmp_path: Path) -> None:
    rows = NEW_ROW.format(1000, 7, 40, 0) + NEW_ROW.format(500, 0, 0, 2)
    seen = softnet.snapshot(proc(tmp_path, rows), online=(0, 2))
    assert set(seen.cpus) == {0, 2}
    assert seen.cpus[0] == softnet.CpuWork(1000, 7, 3, 40, 300, 75, 145, 455)
    assert seen.cpus[2].net_rx == 100
    assert seen.dropped == 7
    assert seen.softirq_share() == {0: 0.75, 2: 0.25}


def test_old_kernels_name_no_cpu(tmp_path: Path) -> None:
    """Before Linux 5.10 the lines are those of the online CPUs, in order."""
    rows = OLD_ROW.format(1000, 0, 0) + OLD_ROW.format(500, 0, 0)
    seen = softnet.snapshot(proc(tmp_path, rows), online=(0, 2))
    assert (seen.cpus[0].processed, seen.cpus[2].processed) == (1000, 500)


def test_difference_of_a_cpu_that_came_back() -> None:
    before = softnet.Snapshot({0: softnet.CpuWork(processed=10)})
    after = softnet.Snapshot({0: softnet.CpuWork(processed=15), 1: softnet.CpuWork(processed=4)})
    change = after - before
    assert (change.cpus[0].processed, change.cpus[1].processed) == (5, 4)


def test_received_on_leaves_out_the_odd_packet() -> None:
    work = {0: 1000, 1: 990, 2: 12, 3: 0}
    seen = softnet.Snapshot({cpu: softnet.CpuWork(processed=n) for cpu, n in work.items()})
    assert seen.received_on() == {0, 1}
    idle = softnet.Snapshot({0: softnet.CpuWork()})
    assert idle.received_on() == frozenset() and idle.softirq_share() == {0: 0.0}


def test_load_counts_everything_but_idle() -> None:
    assert softnet.CpuWork(busy_ticks=25, idle_ticks=75).load_percent == 25
    assert softnet.CpuWork().load_percent == 0
