# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a machine under torture.

In: a `random.Random` and a `Model` of the machine. Out: the arguments of an
action, drawn without asking the machine anything, so that a seed says them all;
and ``apply``, which does the action to the real `World`.
"""

from __future__ import annotations

import errno
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import FalconError
from harness.overlay.cpus import format_cpu_list
from harness.overlay.plan import Plan
from harness.overlay.topology import NIC
from harness.torture.ports import CORE_SETTINGS, JUMBO, PLANS, SMALL, STANDING, Port, ports

if TYPE_CHECKING:
    from harness.torture.world import World

Arguments = dict[str, Any]

# At least so many CPUs stay online. CPU 0 always does: not every kernel lets it go.
LEAST_ONLINE = 2
OVERLAY_SLOTS, DEVICE_SLOTS = 2, 6
# Flow numbers of a receiver: below these are the epoch's own flows.
FIRST_BURST, LAST_BURST = 200, 255
# What a veth device's NAPI may have in its ring when it is taken away; they are
# freed and, in the stock kernel, counted nowhere.
VETH_RING = 256


@dataclass
class Model:
    """What the machine is like once all actions drawn so far are done.

    ``cpus`` it has, ``offline`` those that are; ``overlays`` and ``devices``
    that have come and not gone, with the overlays' plans; ``native`` ports have
    an XDP program in the driver, ``rings`` are standing veth devices with a NAPI,
    by that or by GRO; ``bursts`` were sent in this epoch.
    """

    cpus: tuple[int, ...]
    offline: set[int] = field(default_factory=set)
    overlays: dict[int, Plan] = field(default_factory=dict)
    devices: dict[int, str] = field(default_factory=dict)
    native: set[Port] = field(default_factory=set)
    rings: set[Port] = field(default_factory=set)
    bursts: int = 0

    def churning_ports(self) -> list[Port]:
        return [port for slot, plan in self.overlays.items() for port in ports(slot, plan)]

    def set_ring(self, port: Port, on: bool) -> None:
        """Note that a port has a NAPI now, or not."""
        (self.rings.add if on else self.rings.discard)(port)

    @property
    def wire_has_ring(self) -> bool:
        """Whether a NAPI, which runs on the CPU of whoever sends, is followed by a tunnel's.

        Then the stock kernel, too, brings a flow out of order: one poll leaves a packet
        in the tunnel's cell of its CPU, the next one, elsewhere, overtakes it.
        """
        return any(port.device == NIC for port in self.rings)


class Action(ABC):
    """Something that is done to the machine.

    ``kind`` is what it is counted as; actions of one ``lane`` never overlap,
    others do; ``weight`` says how often it is drawn.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    lane: ClassVar[str]
    weight: ClassVar[int]

    @abstractmethod
    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        """Arguments for `apply`, and the model as it is afterwards; None if not possible now."""

    @abstractmethod
    def apply(self, world: World, **arguments: Any) -> None:
        """Do it; raises `FalconError` where the kernel does other than it must."""

    def may_lose(self, **_arguments: Any) -> int:
        """Packets that the stock kernel may lose by it, uncounted, in the topology named JUMBO."""
        return 0


# ---- settings ---------------------------------------------------------------------


def _cpu_list(rng: random.Random, cpus: tuple[int, ...]) -> str:
    return format_cpu_list(rng.sample(cpus, rng.randint(1, len(cpus))))


Drawn = Callable[[random.Random, tuple[int, ...]], str]
SETTINGS: dict[str, Drawn] = {
    "falcon": lambda rng, _: rng.choice("0111"),
    "falcon_cpus": _cpu_list,
    "falcon_load_threshold": lambda rng, _: str(rng.choice((1, 30, 60, 85, 99, 100, 100))),
    "falcon_load_interval": lambda rng, _: str(rng.choice((1, 2, 10, 50, 300))),
    "falcon_two_choice": lambda rng, _: rng.choice("01"),
    "falcon_gro_split": lambda rng, _: rng.choice("012"),
}
BAD_NUMBERS = (
    *("", " ", "x", "1x", "1 1", "1.0", "0x1", "--1", "-1", "1" * 100, "0" * 15 + "1"),
    *(str(2**31), str(2**32 + 1), str(2**64 + 1), "10001"),
)
BAD_CPU_LISTS = (
    *("", " ", "x", "1,x", "-1", "1-", "3-1", "1;2", "0x3", "9999", "1-9999"),
    *("4294967297", "1," * 3000, "all", "1-3:1/2"),
)


class SetFalcon(Action):
    """A valid value for one of net.core.falcon*."""

    name, kind, lane, weight = "set", "sysctl", "falcon", 30

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        setting = rng.choice(tuple(SETTINGS))
        return {"setting": setting, "value": SETTINGS[setting](rng, model.cpus)}

    def apply(self, world: World, *, setting: str, value: str) -> None:
        if not world.has_setting(setting):
            return  # of a series that does not have it yet
        world.write_setting(setting, value)
        found = world.settings()[setting]
        if found != value:
            raise FalconError(f"net.core.{setting} was set to {value} and says {found}")


class SetGarbage(Action):
    """A value that must be refused and change nothing."""

    name, kind, lane, weight = "garbage", "garbage", "falcon", 10

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        setting = rng.choice(tuple(SETTINGS))
        bad = BAD_CPU_LISTS if setting == "falcon_cpus" else BAD_NUMBERS
        return {"setting": setting, "value": rng.choice(bad)}

    def apply(self, world: World, *, setting: str, value: str) -> None:
        if not world.has_setting(setting):
            return
        shown = value if len(value) < 30 else f"{value[:10]}... ({len(value)} characters)"
        before = world.settings()
        try:
            world.write_setting(setting, value)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise FalconError(f"net.core.{setting} = {shown!r}", str(error), "") from None
        else:
            raise FalconError(f"net.core.{setting} took {shown!r}")
        if world.settings() != before:
            raise FalconError(
                f"net.core.{setting} refused {shown!r}, but settings changed",
                f"before: {before}, after: {world.settings()}",
            )


class SetCore(Action):
    """A setting of the stock kernel that the packets' queues go by."""

    name, kind, lane, weight = "core", "core", "devices", 7

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        setting = rng.choice(tuple(CORE_SETTINGS))
        return {"setting": setting, "value": str(rng.choice(CORE_SETTINGS[setting]))}

    def apply(self, world: World, *, setting: str, value: str) -> None:
        world.write_setting(setting, value)


# ---- CPUs -------------------------------------------------------------------------


class CpuOff(Action):
    name, kind, lane, weight = "off", "hotplug", "cpus", 10

    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        online = [cpu for cpu in model.cpus if cpu not in model.offline]
        if len(online) <= LEAST_ONLINE:
            return None
        cpu = rng.choice(online[1:])
        model.offline.add(cpu)
        return {"cpu": cpu}

    def apply(self, world: World, *, cpu: int) -> None:
        world.set_online(cpu, False)


class CpuOn(Action):
    name, kind, lane, weight = "on", "hotplug", "cpus", 10

    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        if not model.offline:
            return None
        cpu = rng.choice(sorted(model.offline))
        model.offline.remove(cpu)
        return {"cpu": cpu}

    def apply(self, world: World, *, cpu: int) -> None:
        world.set_online(cpu, True)


# ---- how devices receive ------------------------------------------------------------


class SetRps(Action):
    """Another set of CPUs for RPS, of a standing device or one that comes and goes."""

    name, kind, lane, weight = "rps", "rps", "devices", 8

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        port = rng.choice([*STANDING, *model.churning_ports()])
        cpus = rng.sample(model.cpus, rng.randint(0, len(model.cpus)))
        return {"port": port, "cpus": tuple(sorted(cpus)), "flows": rng.choice((0, 0, 256))}

    def apply(self, world: World, *, port: Port, cpus: tuple[int, ...], flows: int) -> None:
        world.set_rps(port, cpus, flows)


class SetXdp(Action):
    """An XDP program that passes everything: in the driver, generic, or none.

    Under traffic the small topology only gets and loses generic ones: a veth device
    that starts or ends to work by its NAPI frees what is in its ring, uncounted.
    """

    name, kind, lane, weight = "xdp", "xdp", "devices", 7

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        standing = [port for port in STANDING if port not in model.native]
        port = rng.choice(standing + 2 * model.churning_ports())
        modes = ["none", "generic"]
        if port.is_veth and port.topology not in PLANS:
            modes.append("native")
        return {"port": port, "mode": rng.choice(modes)}

    def apply(self, world: World, *, port: Port, mode: str) -> None:
        world.set_xdp(port, mode)


class SetGro(Action):
    """GRO on or off: of a VXLAN device's cells, or of veth, which gets a NAPI by it."""

    name, kind, lane, weight = "gro", "gro", "devices", 6

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        tunnels = [port for port in STANDING if port.topology == SMALL and not port.is_veth]
        jumbo = [port for port in STANDING if port.topology == JUMBO]
        port = rng.choice(tunnels + jumbo + 2 * model.churning_ports())
        on = rng.random() < 0.5
        if port.topology == JUMBO and port.is_veth:
            model.set_ring(port, on)
        return {"port": port, "on": on}

    def apply(self, world: World, *, port: Port, on: bool) -> None:
        world.set_gro(port, on)

    def may_lose(self, *, port: Port, on: bool) -> int:  # type: ignore[override]
        return VETH_RING if port.topology == JUMBO and port.is_veth and not on else 0


class SetHold(Action):
    """How long GRO may hold what a device received: for nanoseconds beyond the poll, or not."""

    name, kind, lane, weight = "hold", "gro", "devices", 6
    TIMES_NS = 0, 20_000, 1_000_000, 20_000_000

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        port = rng.choice([*STANDING, *2 * model.churning_ports()])
        return {"port": port, "ns": rng.choice(self.TIMES_NS)}

    def apply(self, world: World, *, port: Port, ns: int) -> None:
        world.set_hold(port, ns)


class Recast(Action):
    """How a veth device of the small topology receives: while nothing is under way in it.

    Never drawn with the others; a few come before each epoch.
    """

    name, kind, lane, weight = "recast", "gro", "devices", 0
    MODES: ClassVar[dict[str, tuple[bool, str]]] = {
        "plain": (False, "none"),
        "gro": (True, "none"),
        "gro and generic": (True, "generic"),
        "native": (False, "native"),
    }

    def draw(self, rng: random.Random, model: Model) -> Arguments:
        port = rng.choice([p for p in STANDING if p.topology == SMALL and p.is_veth])
        mode = rng.choice(tuple(self.MODES))
        (model.native.add if mode == "native" else model.native.discard)(port)
        model.set_ring(port, mode != "plain")
        return {"port": port, "mode": mode}

    def apply(self, world: World, *, port: Port, mode: str) -> None:
        gro, xdp = self.MODES[mode]
        world.set_xdp(port, "none")
        world.set_gro(port, gro)
        world.set_xdp(port, xdp)


# ---- what comes and goes ---------------------------------------------------------------


class OverlayComes(Action):
    """A whole overlay with a flow through it."""

    name, kind, lane, weight = "overlay comes", "overlay", "devices", 5

    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        free = [slot for slot in range(OVERLAY_SLOTS) if slot not in model.overlays]
        if not free:
            return None
        plan = Plan(
            outer=rng.choice((4, 6)), inner=rng.choice((4, 6)), overlay_mtu=rng.choice((0, 0, 1500))
        )
        model.overlays[free[0]] = plan
        return {"slot": free[0], "plan": plan, "size": rng.choice((16, 200, 1400, 4000))}

    def apply(self, world: World, *, slot: int, plan: Plan, size: int) -> None:
        world.add_overlay(slot, plan, size)


DOOMS = ("vxlan", "veth", "wire", "bridge", "container device", "server", "client", "all")


class OverlayGoes(Action):
    """Part of an overlay is removed under its flow, then the rest."""

    name, kind, lane, weight = "overlay goes", "overlay", "devices", 4

    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        if not model.overlays:
            return None
        slot = rng.choice(sorted(model.overlays))
        del model.overlays[slot]
        return {"slot": slot, "doom": rng.choice(DOOMS)}

    def apply(self, world: World, *, slot: int, doom: str) -> None:
        world.remove_overlay(slot, doom)


class DeviceComes(Action):
    """A device beside those that carry the standing topologies' packets."""

    name, kind, lane, weight = "device comes", "device", "devices", 7

    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        free = [slot for slot in range(DEVICE_SLOTS) if slot not in model.devices]
        if not free:
            return None
        model.devices[free[0]] = rng.choice(tuple(PLANS))
        return {
            "slot": free[0],
            "topology": model.devices[free[0]],
            "device": rng.choice(("dummy", "veth", "bridge", "vxlan")),
        }

    def apply(self, world: World, *, slot: int, topology: str, device: str) -> None:
        world.add_device(slot, topology, device)


class DeviceGoes(Action):
    name, kind, lane, weight = "device goes", "device", "devices", 6

    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        if not model.devices:
            return None
        slot = rng.choice(sorted(model.devices))
        return {"slot": slot, "topology": model.devices.pop(slot)}

    def apply(self, world: World, *, slot: int, topology: str) -> None:
        world.remove_device(slot, topology)


class Burst(Action):
    """More packets at once than queues may hold, through the small topology."""

    name, kind, lane, weight = "burst", "burst", "traffic", 5

    def draw(self, rng: random.Random, model: Model) -> Arguments | None:
        flow = FIRST_BURST + model.bursts
        if flow > LAST_BURST:
            return None
        model.bursts += 1
        return {
            "flow": flow,
            "container": rng.randrange(PLANS[SMALL].containers),
            "size": rng.choice((16, 64, 1400)),
            "count": rng.choice((200, 500, 1500)),
        }

    def apply(self, world: World, *, flow: int, container: int, size: int, count: int) -> None:
        world.burst(flow, container, size, count)


ACTIONS: tuple[Action, ...] = (
    *(SetFalcon(), SetGarbage(), SetCore(), CpuOff(), CpuOn()),
    *(SetRps(), SetXdp(), SetGro(), SetHold()),
    *(OverlayComes(), OverlayGoes(), DeviceComes(), DeviceGoes(), Burst()),
)
KINDS = tuple(dict.fromkeys(action.kind for action in ACTIONS))
