# SPDX-License-Identifier: GPL-2.0-only
"""The virtual machine around a fake QEMU: its command line, its deaths, its terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fakeqemu
import pytest

from harness.errors import FalconError
from harness.machine import MachineDied, QemuMachine, TapNic, accel, initramfs, qemu
from harness.paths import PROJECT

CONFIG = qemu.QemuConfig(kernel=Path("/k/bzImage"), smp=4, mem_mib=512, accel="tcg")


@pytest.fixture
def kernel(tmp_path, monkeypatch) -> Path:
    """An image to boot in the fake QEMU."""
    monkeypatch.setattr(accel, "QEMU", str(fakeqemu.install(tmp_path)))
    image = tmp_path / "bzImage"
    image.touch()
    return image


def command_line(config: qemu.QemuConfig) -> str:
    return " ".join(qemu.qemu_arguments(config, Path("/i"), agent_fd=5, monitor_fd=6))


def test_an_emulated_machine():
    line = command_line(CONFIG)
    assert (
        "-accel tcg,thread=multi -cpu max,la57=off -smp 4 -m 512 -kernel /k/bzImage -initrd /i"
        in line
    )
    assert "-no-reboot" in line
    assert "socket,id=agent,fd=5" in line
    assert "path=/,security_model=none,readonly=on" in line
    assert "lpj=" in line
    assert "idle=poll" not in line


def test_a_machine_on_kvm_keeps_the_real_clocks():
    line = command_line(replace(CONFIG, accel="kvm"))
    assert "-accel kvm -cpu host" in line
    assert "tsc=reliable" not in line


def test_the_users_kernel_arguments_come_last():
    config = replace(CONFIG, idle_poll=True, append=("panic=0", "x=y"))
    assert qemu.kernel_arguments(config)[-3:] == ["idle=poll", "panic=0", "x=y"]


def test_a_card_with_several_queues_and_wire_size_packets():
    netdev, device = qemu.nic_arguments(1, TapNic(fds=(7, 8, 9), mac="52:54:00:00:00:01"))[1::2]
    assert netdev == "tap,id=nic1,vhost=off,fds=7:8:9"
    assert device.startswith("virtio-net-pci,netdev=nic1,mac=52:54:00:00:00:01,romfile=,")
    assert "mq=on,vectors=8" in device
    assert "guest_tso4=off,guest_tso6=off,guest_ufo=off" in device


def test_a_card_with_one_queue_and_the_hosts_offloads():
    netdev, device = qemu.nic_arguments(0, TapNic((3,), "52:54:00:00:00:02", host_offloads=True))[
        1::2
    ]
    assert netdev.endswith("fd=3")
    assert "mq=" not in device
    assert "tso" not in device


def test_a_comma_in_a_shared_path_is_not_an_option():
    assert "path=/a,,b,security" in " ".join(qemu.share_arguments(0, Path("/a,b")))


def test_names_agree_with_the_guests_sources():
    assert f'AGENT_PORT_NAME\t"{qemu.PORT_NAME}"' in (initramfs.GUEST / "agent.h").read_text()
    assert f'must_mount("{qemu.ROOT_TAG}"' in (initramfs.GUEST / "init.c").read_text()


def test_a_panic_while_booting(kernel, capsys):
    console = "fake.console=[_1.5]_starting|[_1.6]_Kernel_panic_-_not_syncing:_no_init"
    with pytest.raises(
        MachineDied, match=r"panicked: Kernel panic - not syncing: no init$"
    ) as died:
        QemuMachine(kernel, accel="tcg", append=[console, "fake.exit=0"]).boot()
    assert "starting" in died.value.console
    assert capsys.readouterr().err.count("not syncing") == 1


def test_qemu_refusing_its_command_line(kernel):
    arguments = ["fake.console=qemu:_bad_option", "fake.exit=1"]
    with pytest.raises(MachineDied, match="QEMU ended with status 1: qemu: bad option"):
        QemuMachine(kernel, accel="tcg", append=arguments).boot()


@pytest.mark.parametrize("times", [1, 2])
def test_a_qemu_that_aborts_is_started_again(kernel, tmp_path, capsys, times):
    aborts = tmp_path / "aborts"
    aborts.write_text("once\n" * times)
    with QemuMachine(kernel, accel="tcg", append=[f"fake.aborts={aborts}"]) as guest:
        assert guest.run(["true"]).exit_status == 0
    assert capsys.readouterr().err.count("Assertion failed; the guest's kernel") == times


def test_a_qemu_that_always_aborts(kernel, tmp_path):
    aborts = tmp_path / "aborts"
    aborts.write_text("once\n" * 9)
    with pytest.raises(MachineDied, match="QEMU ended with status -6: qemu: Assertion failed"):
        QemuMachine(kernel, accel="tcg", append=[f"fake.aborts={aborts}"]).boot()
    assert len(aborts.read_text().splitlines()) == 9 - qemu.ABORTED_BOOTS


def test_an_abort_after_a_splat_is_not_forgiven(kernel, tmp_path):
    aborts = tmp_path / "aborts"
    aborts.write_text("once\n")
    warning = "fake.console=[_0.5]_WARNING:_CPU:_0_PID:_1_at_net/core/falcon.c:1"
    with pytest.raises(MachineDied, match="QEMU ended with status -6"):
        QemuMachine(kernel, accel="tcg", append=[warning, f"fake.aborts={aborts}"]).boot()
    assert aborts.read_text() == ""


def test_a_boot_that_hangs_silently(kernel, monkeypatch):
    monkeypatch.setattr(qemu, "SILENCE_S", 0.5)
    monkeypatch.setattr(QemuMachine, "_provoke_backtrace", lambda self: None)
    with pytest.raises(MachineDied, match=r"the guest hung: not a sign of life for 0.5 s"):
        QemuMachine(kernel, accel="tcg", append=["fake.silent"]).boot()


def test_a_guest_that_stops_while_a_command_runs(kernel, monkeypatch):
    monkeypatch.setattr(QemuMachine, "_provoke_backtrace", lambda self: None)
    with QemuMachine(kernel, accel="tcg") as guest:
        agent = int(guest.run(["sh", "-c", "echo $PPID"]).stdout)
        monkeypatch.setattr(qemu, "SILENCE_S", 0.5)
        os.kill(agent, 19)  # SIGSTOP
        with pytest.raises(MachineDied, match="the guest hung"):
            guest.run(["true"], timeout_s=20)


def test_a_guest_that_answers_but_does_not_go_on(kernel, monkeypatch):
    asked = []
    monkeypatch.setattr(QemuMachine, "_provoke_backtrace", lambda self: asked.append(self))
    with QemuMachine(kernel, accel="tcg") as guest:
        with pytest.raises(MachineDied, match="the tests do not go on: a word was due"):
            guest.end_hung("the tests do not go on", "a word was due")
        assert asked == [guest]


def test_heartbeats_keep_a_silent_command_alive(kernel, monkeypatch):
    monkeypatch.setattr(qemu, "SILENCE_S", 3.0)  # longer than one heartbeat, shorter than two
    with QemuMachine(kernel, accel="tcg") as guest:
        assert guest.run(["sleep", "5"]).exit_status == 0


def test_a_machine_that_vanishes_while_a_command_runs(kernel):
    with (
        QemuMachine(kernel, accel="tcg") as guest,
        pytest.raises(MachineDied, match=r"by itself|status"),
    ):
        guest.run(["sh", "-c", "kill -9 $PPID; sleep 60"])


def test_a_machine_that_vanished_before_a_command(kernel):
    with QemuMachine(kernel, accel="tcg") as guest:
        os.kill(int(guest.run(["sh", "-c", "echo $PPID"]).stdout), 9)
        with pytest.raises(MachineDied, match="QEMU ended with status"):
            guest.run(["cat"], stdin=b"x" * (1 << 20))


def test_reboot_gives_a_new_guest(kernel):
    with QemuMachine(kernel, accel="tcg") as guest:
        before = guest.run(["sh", "-c", "echo $PPID"]).stdout
        guest.reboot()
        assert guest.run(["sh", "-c", "echo $PPID"]).stdout != before


def test_a_closed_machine_runs_nothing(kernel):
    guest = QemuMachine(kernel, accel="tcg")
    with guest:
        pass
    guest.close()
    with pytest.raises(FalconError, match="not running"):
        guest.run(["true"])


def test_closing_ends_what_still_ran(kernel):
    with QemuMachine(kernel, accel="tcg") as guest:
        process = guest.start(["sleep", "60"])
    with pytest.raises(MachineDied, match="closed"):
        process.wait(timeout_s=5)


def test_no_image(tmp_path):
    with pytest.raises(FalconError, match=r"no kernel image at .*; build one"):
        QemuMachine(tmp_path / "none", accel="tcg").boot()


def test_no_qemu(kernel, monkeypatch):
    monkeypatch.setattr(accel, "QEMU", "qemu-system-none")
    with pytest.raises(FalconError, match="qemu-system-none is not installed"):
        QemuMachine(kernel, accel="tcg").boot()


def test_splats_are_those_of_this_boot(kernel):
    console = "fake.console=[1.0]_WARNING:_CPU:_0_PID:_1_at_net/core/dev.c:1_f"
    with QemuMachine(kernel, accel="tcg", append=[console]) as guest:
        assert [splat.kind for splat in guest.splats()] == ["warning"]
        guest.reboot()
        assert len(guest.splats()) == 1


def test_a_terminal_of_the_users_size(kernel, capfdbinary):
    with QemuMachine(kernel, accel="tcg") as guest:
        shell = guest.start_on_tty(
            ["sh", "-c", "stty size; read x; stty size; exit 3"], rows=33, columns=99
        )
        shell.wait_for("33 99", timeout_s=5)
        shell.resize(44, 120)
        shell.write(b"\n")
        assert shell.wait(timeout_s=5).exit_status == 3
    assert b"44 120" in capfdbinary.readouterr().out


def test_the_terminal_delivers_ctrl_c(kernel):
    with QemuMachine(kernel, accel="tcg") as guest:
        script = "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done"
        shell = guest.start_on_tty(["sh", "-c", script], rows=24, columns=80)
        shell.wait_for("up", timeout_s=5)
        shell.write(b"\x03")
        assert shell.wait(timeout_s=5).exit_status == 9


def test_qemu_dies_with_a_killed_harness(kernel, tmp_path):
    script = (
        "import time; from pathlib import Path; from harness.machine import QemuMachine, accel;"
        f"accel.QEMU = {accel.QEMU!r};"
        f"guest = QemuMachine(Path({str(kernel)!r}), accel='tcg'); guest.boot();"
        "print(guest.run(['sh', '-c', 'echo $PPID']).stdout, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=PROJECT)
    assert child.stdout
    pid = int(child.stdout.readline())
    child.kill()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, f"process {pid} outlived the harness"
        time.sleep(0.02)
