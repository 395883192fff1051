# SPDX-License-Identifier: GPL-2.0-only
"""A host of an overlay that runs already, Docker's for one, in place of one that we build.

In: its VNI. Out: what this very machine has of it (`find`), and a `Host` to run workloads on
(`host`). Nothing is made or changed: its namespaces are entered, and left. ::

      the host's own namespace      hidden                    containers that run
    +---------------------------+ +-----------------------+  +--------------------+
    |  the card .... (UDP) .....|.|. VXLAN device         |  | our programs       |
    |                           | |    bridge -- veth ... |--|- its device, as is |
    +---------------------------+ +-----------------------+  +--------------------+
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from itertools import cycle, islice
from pathlib import Path

from harness.errors import FalconError
from harness.overlay import discover, namespaces
from harness.overlay.discover import Device, Layout
from harness.overlay.netns import Namespace
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import Host, real_host


@dataclass(frozen=True)
class Running:
    """An overlay on this machine: the network card that it comes by, its VXLAN device, and the
    devices of its containers that run, with their addresses.
    """

    nic: Device
    vxlan: Device
    containers: tuple[tuple[Device, str], ...]


def find(vni: int) -> Running:
    """The overlay with this VNI; raises `FalconError` if nothing can be measured of it."""
    with closing(Namespace.current()) as here:
        own = os.fstat(here.fd).st_ino
    # Docker's balancer for a service has a namespace on the overlay, and nobody is in it.
    alive = namespaces.inhabited()  # looked at first: reading is done by threads that enter all
    layouts = discover.read()
    overlays = [o for o in discover.find(layouts) if all(nic.inode == own for nic in o.nics)]
    overlay = max(discover.of_vni(overlays, vni), key=lambda found: len(found.nics))
    found: dict[int, tuple[Device, str]] = {}
    for device in overlay.containers:
        if device.inode in alive and (address := _address(device, layouts)):
            found.setdefault(device.inode, (device, address))
    if not found:
        raise FalconError(f"no container runs in the overlay {vni}", todo="start one in it")
    if len(overlay.nics) != 1:
        by = ", ".join(nic.name for nic in overlay.nics)
        raise FalconError(
            f"the overlay {vni} comes by {by}" if by else f"no card is known for the overlay {vni}",
            "one network card is measured" if by else "it sends to no other host yet",
            "" if by else "start a container of it on the other host",
        )
    return Running(overlay.nics[0], overlay.vxlan, tuple(found.values()))


def _address(device: Device, layouts: Sequence[Layout]) -> str:
    """The first that others may know; "" without one."""
    nets = [
        ip_interface(net)
        for layout in layouts
        for index, net in layout.addresses
        if (layout.inode, index) == (device.inode, device.index)
    ]
    return next((str(net.ip) for net in nets if not net.is_link_local), "")


@contextmanager
def host(plan: Plan, side: int) -> Iterator[Host]:
    """This very machine as a host of the overlay ``plan.running``, as it is now.

    The host's plan knows the server's containers. The client's serve in turn where they are fewer.
    """
    running = find(plan.running)
    if side == SERVER and len(running.containers) < plan.containers:
        raise FalconError(
            f"{len(running.containers)} containers run in the overlay {plan.running}",
            f"the load goes to {plan.containers}",
        )
    chosen = tuple(islice(cycle(running.containers), plan.containers))
    with ExitStack() as opened:
        own = opened.enter_context(closing(Namespace.current()))
        spaces = {os.fstat(own.fd).st_ino: own}
        for device in (running.vxlan, *(device for device, _ in chosen)):
            if device.inode not in spaces:
                entered = Namespace.existing(device.namespace, Path(device.path), device.inode)
                spaces[device.inode] = opened.enter_context(entered)
        hidden = spaces[running.vxlan.inode]
        sinks = tuple(address for _, address in chosen) if side == SERVER else ()
        yield Host(
            replace(plan, sinks=sinks),
            side,
            own,
            tuple(spaces[device.inode] for device, _ in chosen),
            running.nic.name,
            None if hidden is own else hidden,
            running.vxlan.name,
            tuple(device.name for device, _ in chosen),
        )


def on_this_machine(plan: Plan, side: int, nic: str) -> AbstractContextManager[Host]:
    """A `host` of the overlay that runs, if ``plan`` says so; else one of ours, over ``nic``."""
    return host(plan, side) if plan.running else real_host(plan, side, nic)
