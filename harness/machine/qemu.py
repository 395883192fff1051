# SPDX-License-Identifier: GPL-2.0-only
"""A kernel in QEMU, without a disk.

In: a bzImage and what the machine shall look like (`QemuConfig`). Out: a
`Machine` whose commands run in the guest on the host's own files, read-only
with a tmpfs on top; or `MachineDied` with the end of the console.

::

    this process                            QEMU
    QemuMachine -- Channel ---socketpair--- virtio-serial -- guest/init.c, PID 1
               |-- Console ------pipe------ ttyS0 --------- printk
               '-- Monitor ---socketpair--- QMP

All three are unnamed, and QEMU is killed by the kernel when the thread that
started it is gone, so nothing is left behind however this process ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harness.console import note
from harness.errors import FalconError
from harness.machine import accel as accelerators
from harness.machine import initramfs
from harness.machine.base import Input, Machine, MachineDied, Process
from harness.machine.channel import CHUNK, Channel, TtyProcess
from harness.machine.console import Console, Splat
from harness.machine.qmp import Monitor
from harness.machine.tap import TapNic

# A guest that has not been heard of for so long is taken for hung.
SILENCE_S = 60.0
# AGENT_PORT_NAME in guest/agent.h, and the tag that guest/init.c mounts.
PORT_NAME = "falcon.agent"
ROOT_TAG = "falcon-root"
# An emulating QEMU may abort while the guest maps its PCI cards: docs/decisions/0015.
ABORTED_BOOTS = 3
# From asking a hung guest for backtraces to killing it.
BACKTRACE_S = 5.0
QUIT_S = 3.0


@dataclass(frozen=True)
class QemuConfig:
    """What the virtual machine looks like. ``accel`` is "kvm" or "tcg", decided.

    ``shares`` are directories of the host that the guest may write, at the
    same path. ``append`` goes at the end of the kernel's command line.
    ``plugins`` are arguments of -plugin, for emulation only.
    """

    kernel: Path
    smp: int
    mem_mib: int
    accel: str
    nics: tuple[TapNic, ...] = ()
    shares: tuple[Path, ...] = ()
    append: tuple[str, ...] = ()
    idle_poll: bool = False
    plugins: tuple[str, ...] = ()


def kernel_arguments(config: QemuConfig) -> list[str]:
    """The kernel's command line."""
    arguments = [
        "console=ttyS0",
        "earlyprintk=ttyS0,115200",  # a kernel that dies before its console says why
        "loglevel=5",  # warnings are splats and must reach the console
        "panic=-1",  # with -no-reboot: a panic ends QEMU at once
        "oops=panic",
        "unknown_nmi_panic",  # how a hung guest is made to tell where it hangs
        "panic_print=0x40",  # all CPUs' backtraces at a panic
        "nokaslr",  # addresses in a splat match vmlinux
        "rdinit=/init",
        "pty.legacy_count=0",  # registering 256 of them takes a third of a second
    ]
    if config.accel == "tcg":
        # TCG's cycle counter is the host's: sound, but calibrating it takes each
        # CPU up to a second on a busy host. Exact short delays matter to nothing
        # that is emulated.
        arguments += ["tsc=reliable", "no_timer_check", "lpj=10000000"]
    if config.idle_poll:
        arguments.append("idle=poll")
    return [*arguments, *config.append]


def nic_arguments(index: int, nic: TapNic) -> list[str]:
    """QEMU's options for one network card."""
    queues = len(nic.fds)
    fds = ":".join(map(str, nic.fds))
    netdev = f"tap,id=nic{index},vhost=off," + (f"fds={fds}" if queues > 1 else f"fd={fds}")
    # romfile= skips iPXE, which costs seconds.
    device = f"virtio-net-pci,netdev=nic{index},mac={nic.mac},romfile="
    if queues > 1:
        device += f",mq=on,vectors={2 * queues + 2}"
    if not nic.host_offloads:
        device += ",guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_ecn=off"
    return ["-netdev", netdev, "-device", device]


def share_arguments(index: int, path: Path) -> list[str]:
    """QEMU's options for one writable directory."""
    share = f"local,id=share{index},path={_escaped(path)},security_model=none,multidevs=remap"
    return ["-fsdev", share, "-device", f"virtio-9p-pci,fsdev=share{index},mount_tag=share{index}"]


def _escaped(path: Path) -> str:
    """``path`` within a comma-separated option of QEMU."""
    return str(path).replace(",", ",,")


def qemu_arguments(
    config: QemuConfig, initrd: Path, *, agent_fd: int, monitor_fd: int
) -> list[str]:
    """QEMU's whole command line."""
    accelerator = "kvm" if config.accel == "kvm" else "tcg,thread=multi"
    root = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
    command = [accelerators.QEMU, "-nodefaults", "-no-user-config", "-no-reboot"]
    command += ["-display", "none"]
    command += ["-machine", "q35", "-accel", accelerator]
    # Five-level page tables (la57) would only lengthen every emulated page walk.
    command += ["-cpu", "host" if config.accel == "kvm" else "max,la57=off"]
    command += ["-smp", str(config.smp), "-m", str(config.mem_mib)]
    command += ["-kernel", str(config.kernel), "-initrd", str(initrd)]
    command += ["-append", " ".join(kernel_arguments(config))]
    command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    command += ["-chardev", f"socket,id=agent,fd={agent_fd}", "-device", "virtio-serial-pci"]
    command += ["-device", f"virtserialport,chardev=agent,name={PORT_NAME}"]
    command += ["-chardev", f"socket,id=monitor,fd={monitor_fd}"]
    command += ["-mon", "chardev=monitor,mode=control"]
    command += ["-fsdev", root]
    command += ["-device", f"virtio-9p-pci,fsdev=root,mount_tag={ROOT_TAG}"]
    for plugin in config.plugins:
        command += ["-plugin", plugin]
    for index, path in enumerate(config.shares):
        command += share_arguments(index, path)
    for index, nic in enumerate(config.nics):
        command += nic_arguments(index, nic)
    return command


class QemuAborted(MachineDied):
    """QEMU itself aborted before the guest was up; the guest's kernel had not complained."""


class QemuProcess:
    """A running QEMU and the thread that started it, reads its console, and sees it end.

    The kernel's death signal is tied to the thread that called fork, not to
    the process: so that thread must live as long as QEMU.
    """

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int], console: Console):
        self.exit_status: int | None = None
        self._console = console
        self._popen: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        self._started, self._ended = threading.Event(), threading.Event()
        threading.Thread(
            target=self._live, args=(command, pass_fds), name="falcon-qemu", daemon=True
        ).start()
        self._started.wait()
        if self._error:
            raise FalconError(f"cannot start {command[0]}", str(self._error))

    def _live(self, command: Sequence[str], pass_fds: Sequence[int]) -> None:
        try:
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # QEMU's own complaints belong to the story
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except OSError as error:
            self._error = error
            return
        finally:
            self._started.set()
        assert self._popen.stdout
        with self._popen.stdout as pipe:
            while data := os.read(pipe.fileno(), CHUNK):
                self._console.feed(data)
        self.exit_status = self._popen.wait()
        self._ended.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for QEMU's end; True when it has come."""
        return self._ended.wait(timeout_s)

    def stop(self) -> None:
        """End QEMU: politely, then by force."""
        assert self._popen
        for end in (self._popen.terminate, self._popen.kill):
            if self.wait(0):
                return
            end()
            self.wait(QUIT_S)


class QemuMachine(Machine):
    """Boots on entering the context (or by `boot`), and is gone on leaving it.

    ``kernel``: a bzImage. ``smp``: CPUs. ``accel``: "auto", "kvm" or "tcg".
    ``nics``: cards on TAP devices. ``shares``: writable directories, same
    path in the guest. ``append``: more kernel arguments. ``idle_poll``: idle
    CPUs spin, so that under TCG every CPU claims its share of the host.
    ``plugins``: QEMU plugins with their arguments, under TCG only.
    """

    def __init__(
        self,
        kernel: Path,
        *,
        smp: int = 8,
        mem_mib: int = 2048,
        accel: str = "auto",
        nics: Sequence[TapNic] = (),
        shares: Sequence[Path] = (),
        append: Sequence[str] = (),
        idle_poll: bool = False,
        plugins: Sequence[str] = (),
    ):
        self.config = QemuConfig(
            kernel=Path(kernel),
            smp=smp,
            mem_mib=mem_mib,
            accel=accelerators.choose(accel),
            nics=tuple(nics),
            shares=tuple(Path(share).resolve() for share in shares),
            append=tuple(append),
            idle_poll=idle_poll,
            plugins=tuple(plugins),
        )
        self.boot_s = 0.0  # from QEMU's start to the agent's first word
        self.console = Console()
        self._qemu: QemuProcess | None = None
        self._channel: Channel | None = None
        self._monitor: Monitor | None = None
        self._monitor_socket: socket.socket | None = None
        self._told = False

    def __enter__(self) -> QemuMachine:
        self.boot()
        return self

    def boot(self) -> None:
        """Start QEMU and wait until commands run; `MachineDied` when they never do.

        Started again, `ABORTED_BOOTS` times in all, when it is QEMU that aborts.
        """
        _check_installed(self.config.kernel)
        for attempt in range(1, ABORTED_BOOTS + 1):
            try:
                return self._boot_once()
            except QemuAborted as aborted:
                if attempt == ABORTED_BOOTS:
                    raise
                note(f"{aborted}; the guest's kernel said nothing of it: booting again")

    def _boot_once(self) -> None:
        self.console = Console()
        self._told = False
        started = time.monotonic()
        try:
            self._start_qemu(initramfs.build())
            assert self._channel
            while not self._channel.greeted.wait(0.2):
                self._check_health()
            self.boot_s = time.monotonic() - started
            for index, path in enumerate(self.config.shares):
                self._mount_share(f"share{index}", path)
        except BaseException:
            self.close()
            raise

    def _start_qemu(self, initrd: Path) -> None:
        ours, agents = socket.socketpair()
        self._monitor_socket, monitors = socket.socketpair()
        with agents, monitors:
            command = qemu_arguments(
                self.config, initrd, agent_fd=agents.fileno(), monitor_fd=monitors.fileno()
            )
            tap_fds = [fd for nic in self.config.nics for fd in nic.fds]
            self._channel = Channel(ours, self._check_health)
            self._qemu = QemuProcess(
                command, [agents.fileno(), monitors.fileno(), *tap_fds], self.console
            )

    def _mount_share(self, tag: str, path: Path) -> None:
        options = "trans=virtio,version=9p2000.L,msize=512000,cache=none"
        script = 'mkdir -p "$2" && mount -t 9p -o "$0" "$1" "$2"'
        self.run(["sh", "-c", script, options, tag, str(path)], cwd="/", check=True)

    # -- the interface of Machine -------------------------------------------------

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
    ) -> Process:
        # Its programs are the host's, so they are found where the host finds them.
        env = {"PATH": os.environ.get("PATH", os.defpath), **(env or {})}
        return self._running().start(argv, cwd=cwd, env=env, stdin=stdin, stream=stream)

    def start_on_tty(self, argv: Sequence[str], *, rows: int, columns: int) -> TtyProcess:
        """Start a command on a terminal of its own; its output goes to our stdout."""
        term = os.environ.get("TERM", "linux")
        return self._running().start_on_tty(argv, rows=rows, columns=columns, env={"TERM": term})

    def reboot(self) -> None:
        self.close()
        self.boot()

    def close(self) -> None:
        if self._monitor:
            self._monitor.close()
        elif self._monitor_socket:
            self._monitor_socket.close()
        if self._qemu:
            self._qemu.stop()
        if self._channel:
            self._channel.close()
        self._monitor = self._monitor_socket = self._qemu = self._channel = None

    # -- what only a virtual machine can ------------------------------------------

    def splats(self) -> tuple[Splat, ...]:
        """The kernel's complaints on the console since this boot."""
        self.console.settle()
        return self.console.splats

    def end_hung(self, what: str, why: str) -> NoReturn:
        """Raise `MachineDied` with where the CPUs are: of a guest that answers but is stuck."""
        self._running()
        self._provoke_backtrace()
        self._die(what, why)

    def qmp(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Run a QMP command, e.g. "query-cpus-fast"; returns its answer."""
        self._running()
        if self._monitor is None:
            assert self._monitor_socket
            self._monitor = Monitor(self._monitor_socket)
        return self._monitor.execute(command, arguments)

    def _running(self) -> Channel:
        if self._channel is None:
            raise FalconError("the virtual machine is not running", todo="call boot() first")
        return self._channel

    # -- how the guest is --------------------------------------------------------

    def _check_health(self) -> None:
        """Raise `MachineDied` when the guest is gone, panicked, or silent for too long."""
        if self._qemu is None or self._channel is None:
            raise MachineDied("the virtual machine was closed while a command ran")
        if self._channel.ended.is_set():
            self._qemu.wait(QUIT_S)  # QEMU closes it a little before it is gone
        if self._qemu.exit_status is not None:
            self._die(*self._cause_of_end())
        if self._silence_s() > SILENCE_S:
            self._provoke_backtrace()
            self._die("the guest hung", f"not a sign of life for {SILENCE_S:g} s")

    def _silence_s(self) -> float:
        assert self._channel
        last_heard = self._channel.last_heard
        if not self._channel.greeted.is_set():
            last_heard = max(last_heard, self.console.last_heard)  # still booting
        return time.monotonic() - last_heard

    def _cause_of_end(self) -> tuple[str, str]:
        assert self._qemu
        for splat in self.console.splats:
            if splat.kind == "panic":
                return "the guest kernel panicked", splat.line
        tail = self.console.tail(1)
        if self._qemu.exit_status:
            return f"QEMU ended with status {self._qemu.exit_status}", tail
        return "the guest powered off or rebooted by itself", tail

    def _provoke_backtrace(self) -> None:
        """Make a hung kernel say on the console where its CPUs are."""
        try:
            self.qmp("inject-nmi")
        except FalconError:
            return  # QEMU is as hung as the guest: the tail must do
        deadline = time.monotonic() + BACKTRACE_S
        while self._qemu and self._qemu.exit_status is None and time.monotonic() < deadline:
            time.sleep(0.1)

    def _aborted_at_boot(self) -> bool:
        """Whether QEMU's emulator failed an assertion, and not the guest's kernel anything."""
        return (
            self.config.accel == "tcg"
            and self._qemu is not None
            and self._qemu.exit_status == -signal.SIGABRT
            and self._channel is not None
            and not self._channel.greeted.is_set()
            and not self.console.splats
        )

    def _die(self, what: str, why: str) -> NoReturn:
        story = self.console.story()
        if not self._told:
            self._told = True
            note(f"--- from the guest's console ---\n{story}\n---")
        died = QemuAborted if self._aborted_at_boot() else MachineDied
        raise died(what, why, console=story)


def _check_installed(kernel: Path) -> None:
    if not kernel.is_file():
        raise FalconError(f"no kernel image at {kernel}", todo="build one with ./inv build-kernel")
    for program, package in ((accelerators.QEMU, "qemu-system-x86"), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            raise FalconError(f"{program} is not installed", todo=f"install the package {package}")
