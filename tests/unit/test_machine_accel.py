# SPDX-License-Identifier: GPL-2.0-only
"""KVM is used only where it runs code: the probe, and the choice made from it."""

from __future__ import annotations

import shutil

import pytest

from harness.errors import FalconError
from harness.machine import accel


@pytest.fixture(autouse=True)
def fresh_probe():
    accel.kvm_trouble.cache_clear()
    yield
    accel.kvm_trouble.cache_clear()


@pytest.mark.skipif(not shutil.which(accel.QEMU), reason=f"{accel.QEMU} is not installed")
def test_the_probe_runs_where_code_runs(monkeypatch):
    monkeypatch.setattr(accel, "PROBE_TIMEOUT_S", 20.0)  # TCG on a busy host
    assert accel.runs_code("tcg")


@pytest.mark.parametrize(
    ("script", "what"), [("exit 0", "another status"), ("exec sleep 60", "no end in sight")]
)
def test_the_probe_fails_on_a_machine_that_does_not_get_there(tmp_path, monkeypatch, script, what):
    qemu = tmp_path / "qemu"
    qemu.write_text(f"#!/bin/sh\n{script}\n")
    qemu.chmod(0o755)
    monkeypatch.setattr(accel, "QEMU", str(qemu))
    assert not accel.runs_code("kvm"), what


def test_the_firmware_starts_at_the_reset_vector():
    image = accel.probe_firmware()
    assert len(image) == 0x10000
    assert image[0xFFF0] == 0xE9  # jmp rel16
    target = (0xFFF3 + int.from_bytes(image[0xFFF1:0xFFF3], "little")) & 0xFFFF
    assert image[target : target + 2] == b"\x66\xb9"  # mov ecx, imm32


@pytest.mark.parametrize(
    ("asked", "trouble", "chosen"),
    [("auto", "", "kvm"), ("auto", "none here", "tcg"), ("tcg", "", "tcg"), ("kvm", "", "kvm")],
)
def test_choice(monkeypatch, asked, trouble, chosen):
    monkeypatch.setattr(accel, "kvm_trouble", lambda: trouble)
    assert accel.choose(asked) == chosen


def test_kvm_asked_for_in_vain(monkeypatch):
    monkeypatch.setattr(accel, "kvm_trouble", lambda: "none here")
    with pytest.raises(FalconError, match="KVM can't be used: none here; use --accel tcg"):
        accel.choose("kvm")


def test_an_unknown_accelerator():
    with pytest.raises(FalconError, match="unknown accelerator 'xen'; use one of auto, kvm, tcg"):
        accel.choose("xen")
