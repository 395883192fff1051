# SPDX-License-Identifier: GPL-2.0-only
"""A pipeline without a patched kernel: disjoint RPS masks for a running overlay's devices.

In: which CPUs, which overlay. Out: the masks set, and what was there before kept on this
machine, so that any later run can put it back. The state is in ``/run``: masks, too, are
gone after a reboot.

``python -m harness.overlay.rpspipe REQUEST`` does it for another machine: a line of
JSON in, one out. See `answer`.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import FalconError
from harness.overlay import discover, namespaces
from harness.overlay.cpus import (
    format_cpu_list,
    format_cpu_mask,
    isolated_cpus,
    online_cpus,
    parse_cpu_list,
)
from harness.overlay.discover import Device, Overlay
from harness.overlay.modes import disjoint
from harness.overlay.netns import Namespace

STATE = Path("/run/falcon/rps-pipeline.json")
STAGES = ("nic", "vxlan", "container")


@dataclass(frozen=True)
class Queue:
    """A receive queue of a device of an overlay.

    ``mask``: its rps_cpus now, as the kernel writes it. ``ours``: what we set it to, and
    ``before``: what it was then; None where we set nothing.
    """

    vni: int
    stage: str
    device: Device
    queue: str
    mask: str
    ours: str | None = None
    before: str | None = None

    @property
    def key(self) -> tuple[int, int, str, str]:
        """Tells it from all others, also from one that came in its place."""
        return self.device.inode, self.device.index, self.device.address, self.queue

    @property
    def file(self) -> str:
        return f"/sys/class/net/{self.device.name}/queues/{self.queue}/rps_cpus"

    def as_json(self) -> dict[str, Any]:
        """``Queue.from_json`` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Queue:
        """The reverse of `as_json`."""
        return cls(**data | {"device": Device(**data["device"])})


@dataclass(frozen=True)
class Undone:
    """What undoing found: queues put back, gone with their device, or set by others since."""

    restored: tuple[Queue, ...]
    gone: tuple[Queue, ...]
    foreign: tuple[Queue, ...]


def show(vni: int | None = None, state: Path = STATE) -> tuple[Queue, ...]:
    """The queues of all overlays, or the one called ``vni``, and what was done to them."""
    kept = {queue.key: queue for queue in _load(state)}
    queues = _queues(discover.find(discover.read()), vni)
    return tuple(
        replace(queue, ours=kept[queue.key].ours, before=kept[queue.key].before)
        if queue.key in kept
        else queue
        for queue in queues
    )


def apply(
    cpus: Sequence[int] = (), vni: int | None = None, state: Path = STATE
) -> tuple[Queue, ...]:
    """Give NIC, VXLAN and container devices disjoint masks out of ``cpus``.

    ``cpus``: at least three that are online; none: all but isolated ones and the first, which
    has the NIC's interrupts by default. Sets all masks or none; done twice, what was there
    first is what `undo` puts back. Returns the queues as they are then.
    """
    masks = dict(zip(STAGES, map(format_cpu_mask, disjoint(_chosen(cpus))), strict=True))
    with _locked(state):
        kept = {queue.key: queue for queue in _load(state)}
        wanted = []
        for queue in show(vni, state):
            before = queue.mask if queue.before is None else queue.before
            wanted.append(replace(queue, ours=masks[queue.stage], before=before))
        # First the note of what was there: it must survive whatever happens now.
        _save(state, [*(kept | {queue.key: queue for queue in wanted}).values()])
        try:
            _write((queue, masks[queue.stage]) for queue in wanted)
        except BaseException:
            _write((queue, queue.mask) for queue in wanted)
            _save(state, list(kept.values()))
            raise
        # Of what it is given a kernel takes the CPUs that are not isolated.
        queues = show(vni, state)
        queues = tuple(replace(q, ours=q.mask) if q.ours is not None else q for q in queues)
        _save(state, [*(kept | {q.key: q for q in queues if q.ours is not None}).values()])
    return queues


def undo(state: Path = STATE) -> Undone:
    """Put back what was there before the first `apply`. Nothing, if that was done.

    A mask that is no longer ours is left as it is. Raises `FalconError` when the kernel does
    not take one back: the others are put back then, and that one is tried again next time.
    """
    with _locked(state):
        restored, gone, foreign = [], [], []
        refused: list[Queue] = []
        why = ""
        # A namespace may be entered another way now than when its masks were set.
        paths = {one.inode: str(one.path) for one in namespaces.find()}
        for queue in _load(state):
            assert queue.ours is not None and queue.before is not None
            if queue.device.inode not in paths:
                gone.append(queue)
                continue
            device = replace(queue.device, path=paths[queue.device.inode])
            queue = replace(queue, device=device)
            try:
                with _entered(queue.device) as namespace:
                    if not _has(namespace, queue):
                        gone.append(queue)
                        continue
                    mask = namespace.read(queue.file).strip()
                    if _number(mask) not in (_number(queue.ours), _number(queue.before)):
                        foreign.append(replace(queue, mask=mask))
                        continue
                    namespace.write(queue.file, queue.before)
            except (FalconError, FileNotFoundError):
                gone.append(queue)  # with its namespace, or alone: a driver may have fewer now
                continue
            except OSError as error:
                refused.append(queue)
                why = os.strerror(error.errno or 0)
                continue
            restored.append(replace(queue, mask=queue.before))
        _save(state, refused)
    if refused:
        names = ", ".join(f"{queue.device.name}/{queue.queue}" for queue in refused)
        raise FalconError(
            f"{names} did not get back what was there",
            why,
            f"{len(restored)} others did; try again with --undo",
        )
    return Undone(tuple(restored), tuple(gone), tuple(foreign))


def answer(request: dict[str, Any], state: Path = STATE) -> dict[str, Any]:
    """Do what ``request`` says, for whoever asks from another machine.

    ``{"do": "show"|"apply"|"undo", "cpus": "1-3"|"", "vni": 42|null}``; the answer has
    "queues", or "restored", "gone" and "foreign", or "error" (what, why, todo).
    """
    try:
        vni = request.get("vni")
        if request["do"] == "undo":
            done = undo(state)
            return {
                name: [queue.as_json() for queue in getattr(done, name)]
                for name in ("restored", "gone", "foreign")
            }
        if request["do"] == "apply":
            queues = apply(parse_cpu_list(request.get("cpus") or ""), vni, state)
        else:
            queues = show(vni, state)
        return {"queues": [queue.as_json() for queue in queues]}
    except FalconError as error:
        return {"error": [error.what, error.why, error.todo]}


# ---- CPUs ---------------------------------------------------------------------------


def _chosen(cpus: Sequence[int]) -> tuple[int, ...]:
    online = online_cpus()
    free = tuple(cpu for cpu in online if cpu not in isolated_cpus())
    chosen = tuple(sorted(set(cpus))) or (free[1:] if len(free) > len(STAGES) else free)
    offline = sorted(set(chosen) - set(online))
    if offline:
        raise FalconError(
            f"CPU {format_cpu_list(offline)} is not online", f"{format_cpu_list(online)} are"
        )
    if len(chosen) < len(STAGES):
        raise FalconError(
            f"{len(chosen)} CPUs are too few",
            "NIC, VXLAN and container devices need one each",
            f"choose with --cpus from {format_cpu_list(online)}",
        )
    return chosen


# ---- queues -------------------------------------------------------------------------


def _queues(overlays: Sequence[Overlay], vni: int | None) -> tuple[Queue, ...]:
    found: dict[tuple[int, int, str, str], Queue] = {}
    for overlay in discover.of_vni(overlays, vni):
        for stage, devices in zip(STAGES, overlay.stages, strict=True):
            for device in devices:
                for queue in _of_device(overlay.vni, stage, device):
                    found.setdefault(queue.key, queue)  # a NIC serves several overlays
    return tuple(found.values())


def _of_device(vni: int, stage: str, device: Device) -> list[Queue]:
    queues = []
    with suppress(FalconError, FileNotFoundError), _entered(device) as namespace:  # it may go
        directory = f"/sys/class/net/{device.name}/queues"
        names = [name for name in namespace.listdir(directory) if name.startswith("rx-")]
        for name in sorted(names, key=lambda name: int(name.removeprefix("rx-"))):
            queue = Queue(vni, stage, device, name, "")
            queues.append(replace(queue, mask=namespace.read(queue.file).strip()))
    return queues


def _entered(device: Device) -> Namespace:
    return Namespace.existing(device.namespace, Path(device.path), device.inode)


def _has(namespace: Namespace, queue: Queue) -> bool:
    """Whether the very device is still there."""
    for message in namespace.ip("link", "dump"):
        if message["index"] == queue.device.index:
            same = (message.get("ifname"), message.get("address") or "")
            return same == (queue.device.name, queue.device.address)
    return False


def _write(masks: Iterator[tuple[Queue, str]]) -> None:
    for queue, mask in masks:
        try:
            with _entered(queue.device) as namespace:
                namespace.write(queue.file, mask)
        except FileNotFoundError:
            continue  # it went meanwhile
        except OSError as error:
            raise FalconError(
                f"{queue.device.name}/{queue.queue} in {queue.device.namespace} does not take"
                f" the RPS mask {mask}",
                os.strerror(error.errno or 0),
            ) from None


def _number(mask: str) -> int:
    return int(mask.replace(",", ""), 16)


# ---- the state ------------------------------------------------------------------------


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One run at a time; the lock goes with the process."""
    try:
        state.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with state.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise FalconError(f"cannot write {error.filename}", todo="run as root") from None


def _load(state: Path) -> tuple[Queue, ...]:
    try:
        data = json.loads(state.read_text(encoding="utf-8"))
        return tuple(Queue.from_json(queue) for queue in data["queues"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as error:
        raise FalconError(
            f"{state} cannot be read", str(error), "look at it, and remove it if it is not ours"
        ) from None


def _save(state: Path, queues: Sequence[Queue]) -> None:
    """Replace the state, or remove it when there is none: never half a file."""
    if not queues:
        state.unlink(missing_ok=True)
        return
    new = state.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump({"queues": [queue.as_json() for queue in queues]}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(state)


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
