# SPDX-License-Identifier: GPL-2.0-only
"""Which CPU takes a network card's interrupts.

In: a namespace, a device, a CPU. Out: its interrupts go there. A device without
interrupts (veth) is left alone.
"""

from __future__ import annotations

from pathlib import Path

from harness.overlay.netns import Namespace


def interrupts(namespace: Namespace, device: str) -> tuple[int, ...]:
    """The MSI interrupt numbers of ``device``."""
    link = f"/sys/class/net/{device}/device"
    # A virtio device's interrupts belong to the PCI device above it.
    for directory in (f"{link}/msi_irqs", f"{link}/../msi_irqs"):
        if namespace.exists(directory):
            return tuple(int(name) for name in namespace.listdir(directory))
    return ()


def pin(namespace: Namespace, device: str, cpu: int) -> None:
    """Send the interrupts of ``device`` to ``cpu``."""
    for number in interrupts(namespace, device):
        Path(f"/proc/irq/{number}/smp_affinity_list").write_text(str(cpu), encoding="ascii")
