# SPDX-License-Identifier: GPL-2.0-only
"""Which accelerator QEMU gets: KVM where it really runs code, else TCG.

In: "kvm", "tcg" or "auto". Out: "kvm" or "tcg", or a `FalconError`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from harness import tools
from harness.errors import FalconError
from harness.kernel.process import output

QEMU = "qemu-system-x86_64"
CHOICES = ("auto", "kvm", "tcg")
# A working KVM ends the probe in a tenth of a second, most of it QEMU's start.
PROBE_TIMEOUT_S = 2.0
# isa-debug-exit turns a byte B written to its port into the exit status 2B + 1.
PROBE_STATUS = 0x20 * 2 + 1


def probe_firmware() -> bytes:
    """A 64 KiB "BIOS" that counts down from 64 million and leaves QEMU.

    The loop is the point: there are hosts where /dev/kvm opens, makes virtual
    machines and virtual CPUs, and then emulates every instruction in software
    at about a million a second, or never gets a kernel to run.
    """
    code = bytes.fromhex(
        "66b900000004"  # mov ecx, 0x4000000
        "67e2fd"  # loop $
        "b020"  # mov al, 0x20
        "e6f4"  # out 0xf4, al
        "f4"  # hlt
    )
    start, reset_vector = 0xFF00, 0xFFF0
    image = bytearray(b"\xf4" * 0x10000)
    image[start : start + len(code)] = code
    jump = (start - (reset_vector + 3)) & 0xFFFF
    image[reset_vector : reset_vector + 3] = b"\xe9" + jump.to_bytes(2, "little")
    return bytes(image)


@lru_cache
def qemu_version() -> str:
    """What the QEMU that is installed says of itself; "" where there is none."""
    if tools.find(QEMU) is None:
        return ""
    first = output([QEMU, "--version"], "asking QEMU for its version").splitlines()[0]
    return first.removeprefix("QEMU emulator version ")


def runs_code(accel: str) -> bool:
    """Let QEMU run the probe on ``accel``; False when it fails or takes too long."""
    with tempfile.TemporaryDirectory(prefix="falcon-probe-") as directory:
        firmware = Path(directory, "probe.bin")
        firmware.write_bytes(probe_firmware())
        command = [QEMU, "-accel", accel, "-machine", "pc", "-m", "16", "-display", "none"]
        command += ["-nodefaults", "-no-user-config", "-bios", str(firmware)]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROBE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == PROBE_STATUS


@lru_cache
def kvm_trouble() -> str:
    """Why KVM can't be used here; "" when it can."""
    if not Path("/dev/kvm").exists():
        return "there is no /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no permission to open /dev/kvm (is the user in group kvm?)"
    if not runs_code("kvm"):
        return "/dev/kvm is there, but a virtual machine on it does not run at speed"
    return ""


def choose(accel: str) -> str:
    """Turn the user's choice into "kvm" or "tcg".

    Raises `FalconError` for an unknown choice and for "kvm" where it can't work.
    """
    if accel not in CHOICES:
        raise FalconError(f"unknown accelerator {accel!r}", todo=f"use one of {', '.join(CHOICES)}")
    if accel == "tcg":
        return "tcg"
    trouble = kvm_trouble()
    if accel == "kvm" and trouble:
        raise FalconError("KVM can't be used", trouble, "use --accel tcg")
    return "tcg" if trouble else "kvm"
