# SPDX-License-Identifier: GPL-2.0-only
"""A real sshd for one test, on a loopback port, that touches nothing of the system's.

In: an empty directory. Out: a server that lets the current user in by one key, and an
``ssh_config`` by which `SshMachine` finds it, its key and its known hosts.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import processes

from harness import tools
from harness.machine.ssh import Access, SshMachine

PATIENCE_S = 20.0


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SshServer:
    """``name`` is what the configuration calls it; more hosts may be added to that.

    ``passwords``: whether it asks for one, which is the user's own.
    """

    name = "server"

    def __init__(self, directory: Path):
        self.directory, self.port = directory, free_port()
        self.config = directory / "ssh_config"
        self.known_hosts = directory / "known_hosts"
        for key in ("host_key", "user_key", "other_key"):
            self.make_key(key)
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        self.know(self.port)
        self.config.write_text("")
        self.add_host(self.name, self.port)
        self.programs = directory / "programs"
        self.programs.mkdir()
        self.passwords = False
        self.process: subprocess.Popen[bytes] | None = None

    def add_program(self, name: str, text: str) -> None:
        """A program that the server's commands find before the system's."""
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def make_key(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)]
        subprocess.run(command, check=True)

    def know(self, port: int, key: str = "host_key") -> None:
        """Write the server's key, or another, into the known hosts."""
        text = (self.directory / f"{key}.pub").read_text()
        with self.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {text}")

    def add_host(self, name: str, port: int, *lines: str) -> None:
        """A name for the client's configuration."""
        settings = [
            "HostName 127.0.0.1",
            f"Port {port}",
            f"User {getpass.getuser()}",
            f"IdentityFile {self.directory}/user_key",
            f"UserKnownHostsFile {self.known_hosts}",
            *lines,
        ]
        with self.config.open("a") as file:
            file.write(f"Host {name}\n" + "".join(f"    {line}\n" for line in settings))

    def start(self) -> None:
        """Start it; returns when it answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it as root
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.directory / "host_key",
            "AuthorizedKeysFile": self.directory / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "yes" if self.passwords else "no",
            "PermitRootLogin": "yes",
            "SetEnv": f"PATH={self.programs}:{os.environ['PATH']}",
        }
        words = [f"-o{name}={value}" for name, value in settings.items()]
        sshd = tools.find("sshd")
        assert sshd
        log = self.directory / "sshd.log"
        self.process = subprocess.Popen(
            [sshd, "-D", "-f", "/dev/null", "-E", str(log), *words], start_new_session=True
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def machine(self, name: str = "", **access: str) -> SshMachine:
        """A client's view of it."""
        return SshMachine(name or self.name, Access(ssh_config=self.config, **access))

    def drop_connections(self) -> None:
        """Kill the processes that serve connections, and no other."""
        assert self.process
        for pid in processes.descendants(self.process.pid):
            comm = Path(f"/proc/{pid}/comm")
            with suppress(OSError):
                if comm.read_text().startswith("sshd"):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End it and its connections."""
        if self.process and self.process.poll() is None:
            self.drop_connections()
            self.process.kill()
            self.process.wait()
        self.process = None
