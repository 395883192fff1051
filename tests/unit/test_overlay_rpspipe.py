# SPDX-License-Identifier: GPL-2.0-only
"""Disjoint RPS masks for an overlay of real devices, and what was there put back exactly."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dockernet
import pytest

from harness.errors import FalconError
from harness.overlay import rpspipe
from harness.overlay.cpus import online_cpus
from harness.overlay.netns import Namespace
from harness.paths import PROJECT

RPS = "/sys/class/net/{}/queues/rx-0/rps_cpus"
DEVICES = {"nic": "ens3", "vxlan": "vxlan0", "container": "eth0"}


@pytest.fixture(scope="module")
def shared_net() -> Iterator[dockernet.DockerNet]:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    opened = dockernet.built()
    try:
        made = opened.__enter__()
    except FalconError as error:
        pytest.skip(str(error))
    yield made
    opened.__exit__(None, None, None)


@pytest.fixture
def net(shared_net: dockernet.DockerNet) -> dockernet.DockerNet:
    """The overlay, whose devices have masks of their own already."""
    for namespace, device, mask in places(shared_net, ("1", "0", "2")):
        namespace.write(RPS.format(device), mask)
    return shared_net


@pytest.fixture(autouse=True)
def few_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks must be such that this machine's kernel takes them, on two CPUs too."""
    monkeypatch.setattr(rpspipe, "disjoint", lambda _cpus: ((0,), (1,), (0, 1)))
    monkeypatch.setattr(rpspipe, "online_cpus", lambda: (0, 1, 2, 3))
    if len(online_cpus()) < 2:
        pytest.skip("needs two CPUs")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "falcon/state.json"


def places(net: dockernet.DockerNet, masks: tuple[str, ...]) -> list[tuple[Namespace, str, str]]:
    namespaces = (net.host, net.hidden, net.container)
    return list(zip(namespaces, DEVICES.values(), masks, strict=True))


def masks(net: dockernet.DockerNet) -> list[int]:
    """The masks of the overlay's devices now."""
    found = places(net, ("", "", ""))
    return [int(namespace.read(RPS.format(device)), 16) for namespace, device, _ in found]


def test_every_stage_gets_its_own_mask_and_undo_puts_back_what_was_there(
    net: dockernet.DockerNet, state: Path
) -> None:
    untouched = net.container.read(RPS.format("eth1"))
    queues = rpspipe.apply(vni=dockernet.VNI, state=state)
    assert [(q.stage, q.device.name, int(q.mask, 16)) for q in queues] == [
        ("nic", "ens3", 1),
        ("vxlan", "vxlan0", 2),
        ("container", "eth0", 3),
    ]
    assert masks(net) == [1, 2, 3]
    assert net.container.read(RPS.format("eth1")) == untouched
    done = rpspipe.undo(state)
    assert masks(net) == [1, 0, 2]
    assert len(done.restored) == 3 and not done.gone and not done.foreign


def test_undo_twice_changes_nothing(net: dockernet.DockerNet, state: Path) -> None:
    rpspipe.apply(vni=dockernet.VNI, state=state)
    rpspipe.undo(state)
    net.hidden.write(RPS.format("vxlan0"), "3")
    assert rpspipe.undo(state) == rpspipe.Undone((), (), ())
    assert masks(net) == [1, 3, 2]
    assert not state.exists()


def test_applied_twice_the_first_masks_are_put_back(net: dockernet.DockerNet, state: Path) -> None:
    rpspipe.apply(vni=dockernet.VNI, state=state)
    rpspipe.apply(vni=dockernet.VNI, state=state)
    rpspipe.undo(state)
    assert masks(net) == [1, 0, 2]


def test_show_says_what_is_and_what_was(net: dockernet.DockerNet, state: Path) -> None:
    before = rpspipe.show(dockernet.VNI, state)
    assert [(q.ours, q.before) for q in before] == [(None, None)] * 3
    rpspipe.apply(vni=dockernet.VNI, state=state)
    after = rpspipe.show(dockernet.VNI, state)
    assert [int(q.before or "", 16) for q in after] == [1, 0, 2]
    assert masks(net) == [1, 2, 3]  # it only looked
    rpspipe.undo(state)


def test_mask_that_somebody_set_since_stays(net: dockernet.DockerNet, state: Path) -> None:
    rpspipe.apply(vni=dockernet.VNI, state=state)
    net.hidden.write(RPS.format("vxlan0"), "1")
    done = rpspipe.undo(state)
    assert [queue.device.name for queue in done.foreign] == ["vxlan0"]
    assert masks(net) == [1, 1, 2]


def test_device_that_went_and_one_that_came_in_its_place(
    net: dockernet.DockerNet, state: Path
) -> None:
    rpspipe.apply(vni=dockernet.VNI, state=state)
    index = net.container.index("eth0")
    net.container.ip("link", "set", index=index, state="down")
    net.container.ip("link", "set", index=index, address="02:00:00:00:00:01")
    done = rpspipe.undo(state)
    assert [queue.device.name for queue in done.gone] == ["eth0"]
    assert masks(net) == [1, 0, 3]


def test_namespace_that_went(state: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    with dockernet.built(dockernet.VNI ^ 0x800000):
        assert len(rpspipe.apply(vni=dockernet.VNI ^ 0x800000, state=state)) == 3
    done = rpspipe.undo(state)
    assert [queue.device.name for queue in done.gone] == list(DEVICES.values())


def test_queue_that_its_device_has_no_more(net: dockernet.DockerNet, state: Path) -> None:
    rpspipe.apply(vni=dockernet.VNI, state=state)
    state.write_text(state.read_text().replace("rx-0", "rx-7", 1))
    done = rpspipe.undo(state)
    assert [(queue.device.name, queue.queue) for queue in done.gone] == [("ens3", "rx-7")]
    assert masks(net) == [1, 0, 2]
    assert not state.exists()


def test_mask_that_is_not_taken_back_is_told_and_tried_again(
    net: dockernet.DockerNet, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpspipe.apply(vni=dockernet.VNI, state=state)
    write = Namespace.write

    def busy(self: Namespace, path: str, text: str) -> None:
        if "vxlan0" in path:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        write(self, path, text)

    with monkeypatch.context() as patch:
        patch.setattr(Namespace, "write", busy)
        with pytest.raises(FalconError, match=r"vxlan0/rx-0 did not .* busy; 2 others did"):
            rpspipe.undo(state)
    assert masks(net) == [1, 2, 2]
    assert len(rpspipe.undo(state).restored) == 1
    assert masks(net) == [1, 0, 2]


def test_mask_of_which_the_kernel_takes_a_part_is_ours(
    net: dockernet.DockerNet, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does since 5.9 where CPUs are isolated."""
    monkeypatch.setattr(rpspipe, "disjoint", lambda _cpus: ((0,), (0, 1), (0, 1)))
    write = Namespace.write

    def without_cpu_1(self: Namespace, path: str, text: str) -> None:
        write(self, path, f"{int(text, 16) & 1:x}")

    with monkeypatch.context() as patch:
        patch.setattr(Namespace, "write", without_cpu_1)
        queues = rpspipe.apply(vni=dockernet.VNI, state=state)
    assert masks(net) == [1, 1, 1] == [int(queue.ours or "", 16) for queue in queues]
    done = rpspipe.undo(state)
    assert masks(net) == [1, 0, 2]
    assert len(done.restored) == 3 and not done.foreign


def test_mask_that_is_refused_leaves_all_as_it_was(
    net: dockernet.DockerNet, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = (0, 1, 100_000)  # the last stage's: the first two are set by then
    monkeypatch.setattr(rpspipe, "disjoint", lambda _cpus: ((1,), (0,), impossible))
    with pytest.raises(FalconError, match=r"eth0/rx-0 in .* does not take the RPS mask"):
        rpspipe.apply(vni=dockernet.VNI, state=state)
    assert masks(net) == [1, 0, 2]
    assert not state.exists()


def test_killed_in_mid_apply_it_can_be_undone(net: dockernet.DockerNet, state: Path) -> None:
    script = f"""
import os
from pathlib import Path
from harness.overlay import netns, rpspipe
rpspipe.disjoint = lambda _: ((0,), (1,), (0, 1))
rpspipe.online_cpus = lambda: (0, 1, 2, 3)
write = netns.Namespace.write
def dying(self, path, text):
    if "eth0" in path:
        os.kill(os.getpid(), 9)
    write(self, path, text)
netns.Namespace.write = dying
rpspipe.apply(vni={dockernet.VNI}, state=Path({str(state)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT)
    assert done.returncode == -9
    assert masks(net) == [1, 2, 2]
    rpspipe.undo(state)
    assert masks(net) == [1, 0, 2]


# ---- what it is told -----------------------------------------------------------------


def test_overlay_that_is_not_there(net: dockernet.DockerNet, state: Path) -> None:
    with pytest.raises(
        FalconError, match=rf"no VXLAN overlay with the VNI 7: there is .*{dockernet.VNI}"
    ):
        rpspipe.apply(vni=7, state=state)
    assert not state.exists()


@pytest.mark.parametrize(
    ("cpus", "complaint"),
    [((1, 9), "CPU 9 is not online: 0-3 are"), ((1, 2), "2 CPUs are too few: .* from 0-3")],
)
def test_cpus_that_do_not_do(state: Path, cpus: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(FalconError, match=complaint):
        rpspipe.apply(cpus, state=state)


def test_first_cpu_is_spared_where_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rpspipe._chosen(()) == (1, 2, 3)
    monkeypatch.setattr(rpspipe, "online_cpus", lambda: (0, 2, 5))
    assert rpspipe._chosen(()) == (0, 2, 5)


def test_isolated_cpus_are_taken_only_if_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpspipe, "online_cpus", lambda: tuple(range(8)))
    monkeypatch.setattr(rpspipe, "isolated_cpus", lambda: (2, 6, 7))
    assert rpspipe._chosen(()) == (1, 3, 4, 5)
    assert rpspipe._chosen((5, 6, 7)) == (5, 6, 7)


def test_state_of_somebody_elses(state: Path) -> None:
    state.parent.mkdir()
    state.write_text("nonsense")
    with pytest.raises(FalconError, match="cannot be read"):
        rpspipe.undo(state)
    assert state.read_text() == "nonsense"


def test_answers_are_what_another_machine_can_read(net: dockernet.DockerNet, state: Path) -> None:
    def ask(**request: object) -> dict[str, list[dict[str, object]]]:
        return json.loads(json.dumps(rpspipe.answer(request, state)))  # type: ignore[no-any-return]

    shown = ask(do="apply", vni=dockernet.VNI, cpus="1-3")["queues"]
    assert [rpspipe.Queue.from_json(queue).stage for queue in shown] == list(DEVICES)
    assert ask(do="show", vni=7)["error"][0] == "there is no VXLAN overlay with the VNI 7"
    assert len(ask(do="undo")["restored"]) == 3
    assert masks(net) == [1, 0, 2]
