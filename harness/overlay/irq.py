# SPDX-License-Identifier: GPL-2.0-only
"""Which CPU takes a network card's interrupts.

In: a namespace, a device, a CPU. Out: its interrupts go there. A device without
interrupts (veth) is left alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import FalconError
from harness.overlay.netns import Namespace


def interrupts(namespace: Namespace, device: str) -> tuple[int, ...]:
    """The MSI interrupt numbers of ``device``."""
    link = f"/sys/class/net/{device}/device"
    # A virtio device's interrupts belong to the PCI device above it.
    for directory in (f"{link}/msi_irqs", f"{link}/../msi_irqs"):
        if namespace.exists(directory):
            return tuple(int(name) for name in namespace.listdir(directory))
    return ()


def affinities(namespace: Namespace, device: str) -> list[Path]:
    """The files with the CPUs of its interrupts; one that is not in use has none."""
    numbers = interrupts(namespace, device)
    files = [Path(f"/proc/irq/{number}/smp_affinity_list") for number in numbers]
    return [file for file in files if file.exists()]


def pin(namespace: Namespace, device: str, cpu: int) -> None:
    """Send the interrupts of ``device`` to ``cpu``."""
    for file in affinities(namespace, device):
        try:
            file.write_text(str(cpu), encoding="ascii")
        except OSError as error:
            raise FalconError(
                f"interrupt {file.parent.name} of {device} does not go to CPU {cpu}",
                os.strerror(error.errno or 0),
            ) from None
