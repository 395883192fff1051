# SPDX-License-Identifier: GPL-2.0-only
"""Counting instructions: the plugin, its files, and what is made of the numbers."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.errors import FalconError
from harness.lab import icount, stages
from harness.lab.icount import USER, Counter, Counts, Functions

NM = """\
0000000000000000 A __per_cpu_start
0000000000001000 D irq_stack
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000100 t ip_rcv
ffffffff81000200 W weak_one
ffffffff82000000 D some_data
ffffffff82100000 T late_text
""".splitlines()


def test_functions_are_the_kernels_text_one_an_address() -> None:
    functions = Functions.parse(NM)
    assert functions.names == ("_text", "ip_rcv", "weak_one", "late_text")
    assert functions.starts[1] == 0xFFFFFFFF_81000100


def test_a_stripped_kernel_is_refused() -> None:
    with pytest.raises(FalconError, match="no symbols"):
        Functions.parse(NM[:2])


class FakeQemu:
    """What the plugin calls: keeps its callbacks, so that blocks can be translated and run."""

    SOURCE = """
#include <stddef.h>
#include <stdint.h>
typedef void (*cb)();
static cb trans, exec;
static uint64_t address, count;
static void *data;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, cb f) { (void)id; trans = f; }
void qemu_plugin_register_vcpu_tb_exec_cb(void *tb, cb f, int flags, void *d)
{ (void)tb; (void)flags; exec = f; data = d; }
size_t qemu_plugin_tb_n_insns(const void *tb) { (void)tb; return count; }
uint64_t qemu_plugin_tb_vaddr(const void *tb) { (void)tb; return address; }
void block(uint64_t a, uint64_t n, unsigned vcpu, unsigned times)
{
	address = a;
	count = n;
	((void (*)(uint64_t, void *))trans)(0, NULL);
	while (times--)
		((void (*)(unsigned, void *))exec)(vcpu, data);
}
"""

    def __init__(self, home: Path):
        (home / "fake.c").write_text(self.SOURCE)
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", home / "fake.so", home / "fake.c"]
        subprocess.run(command, check=True)
        self.so = ctypes.CDLL(str(home / "fake.so"), mode=ctypes.RTLD_GLOBAL)

    def install(self, plugin: Path, option: str) -> int:
        loaded = ctypes.CDLL(str(plugin))
        words = [word.encode() for word in option.split(",")[1:]]
        arguments = (ctypes.c_char_p * len(words))(*words)
        return int(loaded.qemu_plugin_install(ctypes.c_uint64(1), None, len(words), arguments))

    def block(self, address: int, instructions: int, vcpu: int, times: int = 1) -> None:
        self.so.block(
            ctypes.c_uint64(address), ctypes.c_uint64(instructions), vcpu, ctypes.c_uint(times)
        )


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    plugin = tmp_path / "icount.so"
    icount._compile(plugin, 1)
    monkeypatch.setattr(icount, "build", lambda: plugin)
    monkeypatch.setattr(icount.Functions, "of", lambda _: Functions.parse(NM))
    return Counter(tmp_path / "vmlinux", cpus=2)


def test_blocks_are_counted_by_cpu_and_function(tmp_path: Path, counter: Counter) -> None:
    qemu = FakeQemu(tmp_path)
    with counter:
        plugin = Path(counter.plugin.split(",")[0])
        assert qemu.install(plugin, counter.plugin) == 0
        before = counter.counts()
        qemu.block(0xFFFFFFFF_81000100, 7, vcpu=0, times=3)
        qemu.block(0xFFFFFFFF_810001FF, 2, vcpu=1)
        qemu.block(0x401000, 5, vcpu=1, times=2)
        qemu.block(0xFFFFFFFF_81000200, 1, vcpu=9)  # a CPU that nobody asked for
        change = counter.counts() - before
    assert change.by_cpu() == (21, 12)
    assert change.by_name() == {"ip_rcv": 23, USER: 10}
    assert change.by_name(1) == {USER: 10, "ip_rcv": 2}


def test_the_plugin_refuses_to_run_without_its_files(tmp_path: Path, counter: Counter) -> None:
    qemu = FakeQemu(tmp_path)
    with counter:
        plugin = Path(counter.plugin.split(",")[0])
        assert qemu.install(plugin, "icount.so") != 0
        assert qemu.install(plugin, f"icount.so,functions={tmp_path}/no,counters={plugin}") != 0


def test_its_files_go_with_the_counter(counter: Counter) -> None:
    home = Path(counter.plugin.split("functions=")[1].split(",")[0]).parent
    assert home.exists()
    counter.close()
    assert not home.exists()


def test_counts_add_up() -> None:
    one = Counts(("a", "b"), np.array([[1, 2], [3, 4]]))
    assert (one + one - one).by_cpu() == (3, 7)
    assert list(one.by_name()) == ["b", "a"]


# ---- groups -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "group"),
    [
        ("vxlan_rcv", "VXLAN"),
        ("vxlan_gro_receive", "GRO"),
        ("napi_gro_receive", "GRO"),
        ("napi_complete_done", "RPS and backlog"),
        ("gro_cells_receive_falcon", "falcon"),
        ("ip_rcv_finish_core.constprop.0", "IP"),
        ("__udp4_lib_rcv", "socket"),
        ("native_queued_spin_lock_slowpath", "waiting"),
        ("default_idle_call", "idle"),
        (USER, "user space"),
        ("no_such_function", "other"),
    ],
)
def test_the_longest_beginning_decides(function: str, group: str) -> None:
    assert stages.group(function) == group


def test_groups_add_up_and_waiting_is_no_work() -> None:
    counts = {"vxlan_rcv": 10, "vxlan_vs_find_vni": 5, "do_idle": 100, "osq_lock": 7, "xyz": 1}
    assert stages.by_group(counts) == {"waiting": 7, "idle": 100, "VXLAN": 15, "other": 1}
    assert stages.work(counts) == 16


def test_no_beginning_is_listed_twice() -> None:
    text = stages._LIST.read_text()
    listed = [word for word in text.split('"')[1::2] if word not in stages.names()]
    assert len(listed) == len(set(listed))
