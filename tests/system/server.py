# SPDX-License-Identifier: GPL-2.0-only
"""A virtual machine in a server's place: boots from its disk by GRUB, is reached over SSH.

In: a disk, keys. Out: a running server and `SshMachine` objects for its users. Unlike
`QemuMachine` it reboots by itself, as real ones do, and nothing but SSH leads into it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness.closing import Closing
from harness.errors import FalconError
from harness.kernel.process import child
from harness.machine.accel import QEMU, choose
from harness.machine.base import MachineDied
from harness.machine.ssh import Access, SshMachine

BOOT_TIMEOUT_S, POWER_OFF_TIMEOUT_S = 1200.0, 300.0
# How often QEMU is looked at meanwhile: one that does not start leaves nothing to wait for.
LOOK_EVERY_S = 15.0
CPUS, MEMORY_MIB = 6, 1536


class Server(Closing):
    """``console``: the file that keeps what its console shows, in all of its boots.

    ``kernel`` and ``initrd``: for a disk that has no boot loader yet, with ``append``.
    """

    def __init__(
        self,
        disk: Path,
        key: Path,
        host_key: str,
        *,
        console: Path,
        kernel: Path | None = None,
        initrd: Path | None = None,
        append: str = "",
    ):
        self._opened = ExitStack()
        temporary = tempfile.TemporaryDirectory(prefix="falcon-server-")
        self.directory = Path(self._opened.enter_context(temporary))
        self.console = console
        console.parent.mkdir(parents=True, exist_ok=True)
        console.unlink(missing_ok=True)  # of another server's
        self.port = _free_port()
        # As a home directory has it, so that `./inv` can be run with this one.
        (self.directory / ".ssh").mkdir(mode=0o700)
        self.known_hosts = self.directory / ".ssh/known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        self.config = self.directory / ".ssh/config"
        self._key = self.directory / "id"
        shutil.copy(key, self._key)
        self._key.chmod(0o600)
        command = _arguments(disk, self.port, self.console)
        if kernel and initrd:
            command += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
        self.config.write_text("")
        for user in ("admin", "deploy", "root"):
            self.add_user(user)
        started = time.monotonic()
        try:
            self._qemu = self._opened.enter_context(child(command))
            self._wait_until_up()
        except BaseException:
            self.close()
            raise
        self.boot_s = time.monotonic() - started

    def add_user(self, user: str, *lines: str) -> None:
        """A name in the client's configuration for a login of the server's."""
        settings = [
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {user}",
            f"IdentityFile {self._key}",
            f"UserKnownHostsFile {self.known_hosts}",
            "ConnectTimeout 120",
            *lines,
        ]
        with self.config.open("a") as file:
            file.write(f"Host {user}\n" + "".join(f"    {line}\n" for line in settings))

    def access(self, sudo_password: str | None = None) -> Access:
        """The client's way in."""
        return Access(sudo_password=sudo_password, ssh_config=self.config)

    def machine(self, user: str, sudo_password: str | None = None) -> SshMachine:
        """The server as ``user`` gets at it."""
        return SshMachine(user, self.access(sudo_password))

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        with self.machine("deploy") as machine:
            while True:
                try:
                    machine.wait_for_boot("none yet", LOOK_EVERY_S)
                    return
                except MachineDied as error:
                    trouble = f"the server is not up after {BOOT_TIMEOUT_S:g} s: {error.why}"
                status = self._qemu.poll()
                if status is not None:
                    trouble = f"QEMU ended with status {status} before the server was up"
                if status is not None or time.monotonic() > deadline:
                    raise self._failure(trouble)

    def _failure(self, trouble: str) -> FalconError:
        return FalconError(
            f"{trouble}; its console ends with",
            self.console_tail(),
            f"all of it is in {self.console}",
        )

    def console_tail(self, lines: int = 12) -> str:
        """What the server's console showed last."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def power_off(self) -> None:
        """Shut it down, so that its disk is whole."""
        with self.machine("deploy") as machine:
            machine.run(["systemctl", "--no-block", "poweroff"], check=True)
        try:
            self._qemu.wait(POWER_OFF_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            trouble = f"the server is not off after {POWER_OFF_TIMEOUT_S:g} s"
            raise self._failure(trouble) from None

    def close(self) -> None:
        self._opened.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _arguments(disk: Path, port: int, console: Path) -> list[str]:
    # One thread for all emulated CPUs: with several, kernels that patch their own code at
    # run time crash (kernel-configs/tcg.config), and Debian's does.
    emulated = choose("auto") == "tcg"
    command = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"]
    command += ["-accel", "tcg,thread=single" if emulated else "kvm"]
    command += ["-cpu", "max,la57=off" if emulated else "host"]
    command += ["-smp", str(CPUS), "-m", str(MEMORY_MIB)]
    form = "raw" if disk.suffix == ".raw" else "qcow2"
    command += ["-drive", f"file={disk},format={form},if=virtio,cache=unsafe"]
    forward = f"hostfwd=tcp:127.0.0.1:{port}-:22"
    command += ["-netdev", f"user,id=net,restrict=on,{forward}"]
    command += ["-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"]
    return [*command, "-serial", f"file:{console}"]
