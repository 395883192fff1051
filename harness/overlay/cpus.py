# SPDX-License-Identifier: GPL-2.0-only
"""CPU lists and masks, and which CPU does what in a measurement.

In: the kernel's text forms ("1-3,8") or a number of CPUs. Out: sorted tuples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import FalconError

CPU_DIRECTORY = Path("/sys/devices/system/cpu")


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs of a list in the kernel's form, ascending."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """CPUs in the kernel's list form, as the kernel itself would print them."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def format_cpu_mask(cpus: Iterable[int]) -> str:
    """CPUs as the mask ``rps_cpus`` takes: hexadecimal, a comma every 32 bits."""
    mask = sum(1 << cpu for cpu in set(cpus))
    words: list[str] = []
    while mask or not words:
        words.append(f"{mask & 0xFFFFFFFF:08x}")
        mask >>= 32
    return ",".join(reversed(words))


def online_cpus() -> tuple[int, ...]:
    """The CPUs that are online on this machine."""
    return parse_cpu_list((CPU_DIRECTORY / "online").read_text(encoding="ascii"))


def present_cpus() -> tuple[int, ...]:
    """The CPUs this machine has, online or not."""
    return parse_cpu_list((CPU_DIRECTORY / "present").read_text(encoding="ascii"))


def isolated_cpus() -> tuple[int, ...]:
    """The CPUs that the kernel keeps work off, by ``isolcpus=`` or ``nohz_full=``."""
    found: set[int] = set()
    for name in ("isolated", "nohz_full"):  # not every kernel has them
        with suppress(FileNotFoundError):
            text = (CPU_DIRECTORY / name).read_text(encoding="ascii").strip()
            found.update(parse_cpu_list(text.removeprefix("(null)")))  # there is no such mask
    return tuple(sorted(found))


def online_files() -> list[Path]:
    """What `set_online` writes; CPUs that cannot be taken off have none."""
    return sorted(CPU_DIRECTORY.glob("cpu[0-9]*/online"))


def set_online(cpu: int, online: bool) -> None:
    """Take a CPU off or bring it back."""
    try:
        (CPU_DIRECTORY / f"cpu{cpu}" / "online").write_text(str(int(online)), encoding="ascii")
    except OSError as error:
        raise FalconError(
            f"cannot take CPU {cpu} {'on' if online else 'off'}line", os.strerror(error.errno or 0)
        ) from None


@dataclass(frozen=True)
class CpuPlan:
    """Which CPU does what, as in the paper's section 6.1.

    ``nic`` takes the NIC's interrupts and its first softirq, ``stages`` take the
    softirqs that RPS or Falcon hand on, ``app`` runs the receiving program.
    """

    nic: int
    stages: tuple[int, ...]
    app: int

    @property
    def all(self) -> tuple[int, ...]:
        return (self.nic, *self.stages, self.app)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CpuPlan:
        """What `dataclasses.asdict` gave, from JSON."""
        return cls(**data | {"stages": tuple(data["stages"])})

    @classmethod
    def of(cls, cpus: tuple[int, ...]) -> CpuPlan:
        """The first CPU for the NIC, the last for the program, the stages between."""
        if len(cpus) < 5:
            raise FalconError(
                f"{len(cpus)} CPUs are online",
                "a pipeline needs one for the NIC, three for its stages and one for the receiver",
                "use at least 5, --smp 5",
            )
        return cls(cpus[0], cpus[1:-1], cpus[-1])
