# SPDX-License-Identifier: GPL-2.0-only
"""Which CPU did how much of the network's softirq work.

In: /proc/net/softnet_stat, /proc/stat, /proc/softirqs. Out: `Snapshot`, whose
difference to an earlier one tells what happened between them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from harness.overlay.cpus import online_cpus

# Columns of /proc/net/softnet_stat (net/core/net-procfs.c: softnet_seq_show).
PROCESSED, DROPPED, TIME_SQUEEZE, RECEIVED_RPS = 0, 1, 2, 9
CPU_INDEX = 12  # since Linux 5.10; before, lines of online CPUs come in order
# Columns of a "cpuN" line of /proc/stat.
USER, NICE, SYSTEM, IDLE, IOWAIT, IRQ, SOFTIRQ = range(7)


@dataclass(frozen=True)
class CpuWork:
    """One CPU's counters. The ``_ticks`` are of USER_HZ, sampled at timer interrupts."""

    processed: int = 0
    dropped: int = 0
    time_squeeze: int = 0
    received_rps: int = 0
    net_rx: int = 0
    softirq_ticks: int = 0
    busy_ticks: int = 0
    idle_ticks: int = 0

    def __sub__(self, earlier: CpuWork) -> CpuWork:
        return CpuWork(
            **{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)}
        )

    @property
    def load_percent(self) -> float:
        """Share of the time the CPU was not idle."""
        return 100 * self.busy_ticks / max(1, self.busy_ticks + self.idle_ticks)


@dataclass(frozen=True)
class Snapshot:
    """The counters of every online CPU."""

    cpus: dict[int, CpuWork]

    def __sub__(self, earlier: Snapshot) -> Snapshot:
        nothing = CpuWork()
        return Snapshot(
            {cpu: work - earlier.cpus.get(cpu, nothing) for cpu, work in self.cpus.items()}
        )

    @property
    def dropped(self) -> int:
        """Packets thrown away by full backlogs, all CPUs together.

        Falcon's own queues are not among them; see `falcon.Counters`.
        """
        return sum(work.dropped for work in self.cpus.values())

    def softirq_share(self) -> dict[int, float]:
        """Each CPU's part of all softirq time; the parts add up to 1 (or are all 0)."""
        total = sum(work.softirq_ticks for work in self.cpus.values()) or 1
        return {cpu: work.softirq_ticks / total for cpu, work in self.cpus.items()}

    def received_on(self) -> frozenset[int]:
        """The CPUs that handled at least a tenth as many packets as the busiest."""
        most = max(work.processed for work in self.cpus.values())
        return frozenset(
            cpu for cpu, work in self.cpus.items() if most and work.processed * 10 >= most
        )


def snapshot(proc: Path = Path("/proc"), online: tuple[int, ...] | None = None) -> Snapshot:
    """Read the counters now."""
    cpus = online_cpus() if online is None else online
    softnet = parse_softnet_stat((proc / "net/softnet_stat").read_text(encoding="ascii"), cpus)
    stat = parse_stat((proc / "stat").read_text(encoding="ascii"))
    net_rx = parse_net_rx((proc / "softirqs").read_text(encoding="ascii"))
    return Snapshot(
        {
            cpu: CpuWork(
                processed=row[PROCESSED],
                dropped=row[DROPPED],
                time_squeeze=row[TIME_SQUEEZE],
                received_rps=row[RECEIVED_RPS],
                net_rx=net_rx.get(cpu, 0),
                softirq_ticks=stat[cpu][SOFTIRQ],
                busy_ticks=sum(stat[cpu]) - stat[cpu][IDLE] - stat[cpu][IOWAIT],
                idle_ticks=stat[cpu][IDLE] + stat[cpu][IOWAIT],
            )
            for cpu, row in softnet.items()
            if cpu in stat
        }
    )


def parse_softnet_stat(text: str, online: tuple[int, ...]) -> dict[int, list[int]]:
    """Rows of softnet_stat by CPU; ``online`` names the CPUs where the kernel doesn't."""
    rows = [[int(word, 16) for word in line.split()] for line in text.splitlines()]
    if rows and len(rows[0]) > CPU_INDEX:
        return {row[CPU_INDEX]: row for row in rows}
    return dict(zip(online, rows, strict=False))


def parse_stat(text: str) -> dict[int, list[int]]:
    """USER_HZ ticks by CPU: user to steal (guest time is part of user time already)."""
    rows = (line.split() for line in text.splitlines())
    return {
        int(row[0][3:]): [int(word) for word in row[1:9]]
        for row in rows
        if row and row[0].startswith("cpu") and row[0] != "cpu"
    }


def parse_net_rx(text: str) -> dict[int, int]:
    """NET_RX softirqs by CPU."""
    header, *rows = text.splitlines()
    cpus = [int(word[3:]) for word in header.split()]
    for row in rows:
        name, *counts = row.split()
        if name == "NET_RX:":
            return dict(zip(cpus, map(int, counts), strict=True))
    return {}
