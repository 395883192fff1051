# SPDX-License-Identifier: GPL-2.0-only
"""What a real host is, as far as measuring on it needs to know; runs there.

In: a request (`answer`). Out: kernel, CPUs, what is missing, and the network cards with an
address; or the ways from here to the other host's addresses. Nothing is changed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from harness import tools
from harness.errors import FalconError
from harness.machine import hardware
from harness.overlay import falcon, running
from harness.overlay.cpus import CPU_DIRECTORY, online_cpus, parse_cpu_list
from harness.overlay.netns import Namespace

NET = Path("/sys/class/net")
# Kinds of devices that packets come to first: a real card has none. Those of a bridge, a bond or
# a VLAN come from a device below it, and what they cost there would be missing.
CARDS = ("", "veth")
GLOBAL, LOCAL = 0, 2  # RT_SCOPE_UNIVERSE, RTN_LOCAL of linux/rtnetlink.h
UNKNOWN_SPEED = -1
# It moves interrupts whenever it likes.
BALANCER = "irqbalance"


def look(programs: Sequence[str]) -> dict[str, Any]:
    """This host; ``missing`` are those of the ``programs`` that it lacks."""
    with closing(Namespace.current()) as here:
        cards = list(_cards(here))
    return {
        "release": platform.release(),
        "build": platform.version(),
        "machine": platform.machine(),
        "hardware": hardware.described(),
        "falcon": falcon.is_present(),
        "missing": [name for name in programs if tools.find(name) is None],
        "balanced": _runs(BALANCER),
        "cards": cards,
    }


def ways(addresses: Sequence[str]) -> dict[str, Any]:
    """By which of its cards this host sends to each of the ``addresses``; ``direct``: the other
    host is in the card's own network. Those that it does not reach by a card are left out.
    """
    with closing(Namespace.current()) as here:
        cards = {card["index"]: card for card in _links(here)}
        found = []
        for address in addresses:
            route = here.route_to(address)
            card = cards.get(route.get("oif")) if route else None
            source = route.get("prefsrc") if route else None
            if card and source and route["type"] != LOCAL:
                direct = not route.get("gateway")
                found.append({"to": address, "source": source, "direct": direct, **card})
    return {"ways": found}


def overlay(vni: int) -> dict[str, Any]:
    """The overlay that runs on this host: by which "device" its packets come, and how many
    "containers" of it run.
    """
    found = running.find(vni)
    return {"device": found.nic.name, "containers": len(found.containers)}


def _links(here: Namespace) -> Iterator[dict[str, Any]]:
    for link in here.ip("link", "dump"):
        if (link.get(("linkinfo", "kind")) or "") in CARDS and link.get("ifname") != "lo":
            name, mtu = link.get("ifname"), link.get("mtu")
            yield {"index": link["index"], "device": name, "mtu": mtu}


def _cards(here: Namespace) -> Iterator[dict[str, Any]]:
    """One for each address that others may know; ``cpus``: see `near_first`."""
    links = {link["index"]: link for link in _links(here)}
    for message in here.ip("addr", "dump"):
        link = links.get(message["index"])
        if link and message["scope"] == GLOBAL:
            yield {
                **link,
                "ip": message.get("local") or message.get("address"),
                "speed": _speed(link["device"]),
                "cpus": near_first(link["device"], online_cpus()),
            }


def _speed(device: str) -> int:
    """Megabits a second."""
    with suppress(OSError, ValueError):  # it may not know, or be down
        return int((NET / device / "speed").read_text("ascii"))
    return UNKNOWN_SPEED


def near_first(
    device: str, cpus: Sequence[int], net: Path = NET, directory: Path = CPU_DIRECTORY
) -> list[int]:
    """The ``cpus`` in the order in which they are to be used.

    First those of the card's NUMA node, and of each core a thread before there are two of any:
    two stages on one core would share what a mode is to give each of them.
    """
    near = set(cpus)
    # A virtio device's node is the PCI device's above it.
    for file in (net / device / "device/local_cpulist", net / device / "device/../local_cpulist"):
        with suppress(OSError):
            near = set(parse_cpu_list(file.read_text("ascii"))) or near
            break

    def is_second(cpu: int) -> bool:
        with suppress(OSError):
            siblings = (directory / f"cpu{cpu}/topology/thread_siblings_list").read_text("ascii")
            return cpu != min(set(parse_cpu_list(siblings)) & set(cpus), default=cpu)
        return False

    return sorted(cpus, key=lambda cpu: (cpu not in near, is_second(cpu), cpu))


def _runs(program: str) -> bool:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it may end meanwhile
                if (process / "comm").read_text().strip() == program:
                    return True
    return False


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """``{"programs": [...]}`` to `look`, ``{"to": [...]}`` for the `ways`, ``{"vni": ...}`` for an
    `overlay`; or "error".
    """
    try:
        if os.geteuid() != 0:
            raise FalconError("measuring takes root")
        if "vni" in request:
            return overlay(request["vni"])
        return ways(request["to"]) if "to" in request else look(request["programs"])
    except FalconError as error:
        return {"error": [error.what, error.why, error.todo]}


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
