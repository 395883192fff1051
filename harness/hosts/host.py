# SPDX-License-Identifier: GPL-2.0-only
"""What a host is, as far as installing a kernel needs to know it.

In: a `Machine`. Out: `Facts`, and `Host`, which reads and writes its files and runs its
programs with errors that name them. All of it goes through `Machine.run`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import FalconError
from harness.machine.base import FALCON_SYSCTL, Machine

TIMEOUT_S = 120.0
# Making an initramfs and reading all kernels, on a slow host.
SLOW_TIMEOUT_S = 1800.0
NOTES = "/sys/kernel/notes"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
MIB = 1 << 20


@dataclass(frozen=True)
class Facts:
    """A host at one time. ``free``: bytes by directory; ``installs``: what its packages are."""

    release: str
    architecture: str
    boot_id: str
    installs: str
    secure_boot: bool
    falcon: str


class Host:
    """A host's files and programs."""

    def __init__(self, machine: Machine):
        self.machine = machine

    # -- programs ---------------------------------------------------------------

    def run(self, *argv: str, timeout_s: float = TIMEOUT_S, stdin: str | None = None) -> str:
        """Run a program that must succeed; its output."""
        done = self.machine.run(
            argv, check=True, timeout_s=timeout_s, stdin=stdin, cwd="/", env={"LC_ALL": "C"}
        )
        return done.stdout

    def try_run(self, *argv: str, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Run a program that may fail; its status and output."""
        done = self.machine.run(argv, timeout_s=timeout_s, cwd="/", env={"LC_ALL": "C"})
        return done.exit_status, done.stdout

    def has(self, program: str) -> bool:
        """Whether there is such a program."""
        return self.try_run("sh", "-c", 'command -v "$0"', program)[0] == 0

    # -- files ------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory."""
        return self.try_run("test", "-e", path)[0] == 0

    def read(self, path: str) -> str | None:
        """A file's text; None when there is none."""
        return self.run("cat", path) if self.exists(path) else None

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file, with its directory, whole or not at all, and onto the disk."""
        script = (
            'mkdir -p "$(dirname "$0")" && cat >"$0.falcon-new" && chmod "$1" "$0.falcon-new"'
            ' && mv "$0.falcon-new" "$0" && sync "$0"'
        )
        self.run("sh", "-c", script, path, mode, stdin=text)

    def remove(self, *paths: str) -> None:
        """Remove files, there or not."""
        self.run("rm", "-f", *paths)

    def read_json(self, path: str) -> dict[str, Any] | None:
        """A file of ours; None when there is none."""
        text = self.read(path)
        if text is None:
            return None
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise FalconError(
                f"{path} on the host cannot be read", "it is not JSON", "look at it by hand"
            ) from None
        return found

    def size(self, path: str) -> int:
        """A file's size in bytes; 0 when there is none."""
        status, text = self.try_run("stat", "-c", "%s", path)
        return int(text) if status == 0 else 0

    def sha256(self, path: str) -> str:
        """A file's SHA-256, in hexadecimal."""
        return self.run("sha256sum", path, timeout_s=SLOW_TIMEOUT_S).split()[0]

    def free(self, directory: str) -> tuple[str, int]:
        """The file system ``directory`` is on, and the bytes free there."""
        text = self.run("df", "-P", "-B1", directory)
        fields = text.splitlines()[1].split()
        return fields[0], int(fields[3])

    def need_space(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Raise `FalconError` unless there are so many bytes in each directory.

        Directories on one file system share its space.
        """
        needed: dict[str, int] = {}
        free: dict[str, int] = {}
        named: dict[str, list[str]] = {}
        for directory, amount in wanted:
            device, left = self.free(directory)
            needed[device] = needed.get(device, 0) + amount
            free[device] = left
            named.setdefault(device, []).append(directory)
        for device, amount in needed.items():
            if amount > free[device]:
                raise FalconError(
                    f"the disk is too full: {amount // MIB} MiB are needed in "
                    f"{', '.join(named[device])}",
                    f"{free[device] // MIB} MiB are free on {device}",
                    "make room there",
                )

    # -- what it is -------------------------------------------------------------

    def facts(self) -> Facts:
        """Look at it once."""
        installs = next((name for name in ("dpkg", "rpm") if self.has(name)), "nothing known")
        status, secure = self.try_run("od", "-An", "-t", "u1", SECURE_BOOT)
        return Facts(
            release=self.machine.kernel_release(),
            architecture=self.run("uname", "-m").strip(),
            boot_id=self.boot_id(),
            installs=installs,
            secure_boot=status == 0 and secure.split()[-1:] == ["1"],
            falcon=self.falcon(),
        )

    def falcon(self) -> str:
        """``net.core.falcon`` of the running kernel; "" when it has none."""
        status, text = self.try_run("cat", FALCON_SYSCTL)
        return text.strip() if status == 0 else ""

    def boot_id(self) -> str:
        """What changes with every boot."""
        return self.run("cat", "/proc/sys/kernel/random/boot_id").strip()

    def kernel_notes(self) -> str:
        """The running kernel's ELF notes, in hexadecimal; its build ID is among them."""
        status, text = self.try_run("od", "-An", "-v", "-t", "x1", NOTES)
        return "".join(text.split()) if status == 0 else ""

    def kernel_config(self, release: str) -> str:
        """The configuration of the running kernel."""
        for script in ('cat "/boot/config-$0"', "zcat /proc/config.gz"):
            status, text = self.try_run("sh", "-c", script, release)
            if status == 0:
                return text
        raise FalconError(
            "the host does not have its kernel's configuration",
            f"neither /boot/config-{release} nor /proc/config.gz is there",
            "name fragments with --config",
        )
