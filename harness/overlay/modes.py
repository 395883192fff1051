# SPDX-License-Identifier: GPL-2.0-only
"""The ways to spread a host's packets over CPUs that are compared.

In: a `Host`, a `CpuPlan`, the name of a mode. Out: a context in which the
host works in that mode; after it everything is as it was. All modes run in
one booted kernel, so they can take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FalconError
from harness.overlay import falcon
from harness.overlay.cpus import CpuPlan, format_cpu_mask
from harness.overlay.netns import Namespace
from harness.overlay.topology import Host

CpuSets = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _one_mask(cpus: CpuPlan) -> CpuSets:
    return cpus.stages, cpus.stages, cpus.stages


def disjoint(stages: tuple[int, ...]) -> CpuSets:
    """CPUs dealt out to NIC, VXLAN and veth: none to two of them."""
    return stages[0::3], stages[1::3], stages[2::3]


def _disjoint_masks(cpus: CpuPlan) -> CpuSets:
    return disjoint(cpus.stages)


def _nic_only(cpus: CpuPlan) -> CpuSets:
    return cpus.stages, (), ()


@dataclass(frozen=True)
class Mode:
    """``rps``: the CPUs RPS may use after NIC, VXLAN and veth, from a `CpuPlan`.

    ``overlay``: traffic goes between containers, not between the hosts.
    ``falcon``: Falcon is on; with ``two_choice`` it may move from its first choice;
    with ``gro_split`` it splits the NIC before GRO. RPS then moves what GRO makes of
    the packets on, to a CPU that Falcon keeps clear of (``net/core/falcon_pick.h``).
    """

    name: str
    about: str
    rps: Callable[[CpuPlan], CpuSets]
    overlay: bool = True
    falcon: bool = False
    two_choice: bool = True
    gro_split: bool = False


MODES = {
    mode.name: mode
    for mode in (
        Mode("host", "no overlay, RPS", _nic_only, overlay=False),
        Mode("con", "vanilla overlay, RPS with one mask", _one_mask),
        Mode("rps-pipe", "vanilla overlay, a disjoint RPS mask a device", _disjoint_masks),
        Mode("falcon-static", "Falcon, static hashing", _nic_only, falcon=True, two_choice=False),
        Mode("falcon", "Falcon", _nic_only, falcon=True),
        Mode("falcon+split", "Falcon, the NIC split", _nic_only, falcon=True, gro_split=True),
        Mode(
            "host+split",
            "no overlay, Falcon, the NIC split",
            _nic_only,
            overlay=False,
            falcon=True,
            gro_split=True,
        ),
    )
}


def named(name: str) -> Mode:
    """The mode called ``name``."""
    if name not in MODES:
        raise FalconError(f"there is no mode {name}", todo=f"take one of {', '.join(MODES)}")
    return MODES[name]


def available() -> tuple[Mode, ...]:
    """The modes the running kernel can do."""
    return tuple(mode for mode in MODES.values() if falcon.is_present() or not mode.falcon)


def own_files(host: Host) -> list[Path]:
    """What `applied` writes that is in the host's own namespace."""
    devices = [host.nic] if host.hidden else [host.nic, host.vxlan]
    masks = [file for device in devices for file in rps_files(host.namespace, device)]
    return [*map(Path, masks), *falcon.files()]


def overlay_files(host: Host) -> list[tuple[Namespace, list[Path]]]:
    """What `applied` writes elsewhere, by namespace: of the overlay."""
    places = [(host.hidden, host.vxlan)] if host.hidden else []
    places += [(space, host.device(number)) for number, space in enumerate(host.containers)]
    return [(space, [*map(Path, rps_files(space, device))]) for space, device in places]


@contextmanager
def applied(mode: Mode, host: Host, cpus: CpuPlan) -> Iterator[None]:
    """Run ``host`` in ``mode``. Falcon's load threshold and interval stay as set."""
    with ExitStack() as undo:
        nic, vxlan, veth = mode.rps(cpus)
        undo.enter_context(rps_cpus(host.namespace, host.nic, nic))
        undo.enter_context(rps_cpus(host.inside, host.vxlan, vxlan))
        for number, container in enumerate(host.containers):
            undo.enter_context(rps_cpus(container, host.device(number), veth))
        if mode.falcon:
            before = undo.enter_context(falcon.preserved())
            falcon.apply(
                falcon.Settings(
                    on=True,
                    cpus=cpus.stages,
                    load_threshold=before.load_threshold,
                    load_interval=before.load_interval,
                    two_choice=mode.two_choice,
                    gro_split=int(mode.gro_split),
                )
            )
        elif falcon.is_present():
            undo.enter_context(falcon.preserved())
            falcon.write_sysctl("falcon", 0)
        yield


def rps_files(namespace: Namespace, device: str) -> list[str]:
    """The files with the RPS masks of ``device``, one a queue."""
    queues = f"/sys/class/net/{device}/queues"
    try:
        names = [name for name in namespace.listdir(queues) if name.startswith("rx-")]
    except FileNotFoundError:
        raise FalconError(
            f"namespace {namespace.label} has no device {device}",
            todo="if it was a container that ended, start one",
        ) from None
    return [f"{queues}/{name}/rps_cpus" for name in names]


@contextmanager
def rps_cpus(namespace: Namespace, device: str, cpus: tuple[int, ...]) -> Iterator[None]:
    """Let RPS spread what ``device`` receives over ``cpus`` (none: RPS is off)."""
    files = rps_files(namespace, device)
    before = [namespace.read(file) for file in files]
    for file in files:
        namespace.write(file, format_cpu_mask(cpus))
    try:
        yield
    finally:
        if namespace.has(device):
            for file, mask in zip(files, before, strict=True):
                namespace.write(file, mask)
