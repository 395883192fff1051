# SPDX-License-Identifier: GPL-2.0-only
"""The initramfs: what is in it, byte for byte the same every time, and its compiler's errors."""

from __future__ import annotations

import subprocess

import pytest

from harness.errors import FalconError
from harness.machine import initramfs


def test_the_kernels_own_format_is_read_back_by_cpio():
    archive = initramfs.cpio(initramfs.contents(b"#!program"))
    listing = subprocess.run(["cpio", "-itv"], input=archive, capture_output=True, check=True)
    lines = {line.split()[-1]: line for line in listing.stdout.decode().splitlines()}
    assert set(lines) == {"dev", "lower", "upper", "root", "dev/console", "init"}
    assert lines["init"].startswith("-rwxr-xr-x")
    assert lines["dev/console"].startswith("crw-------")
    assert "5,   1" in lines["dev/console"]


def test_contents_come_back(tmp_path):
    program = b"\x7fELF" + bytes(range(256))
    archive = initramfs.cpio([initramfs.Entry("init", 0o100755, program)])
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "init").read_bytes() == program


def test_same_input_same_bytes():
    assert initramfs.cpio(initramfs.contents(b"x")) == initramfs.cpio(initramfs.contents(b"x"))


def test_it_is_built_once_and_static(cache_home):
    first = initramfs.build()
    made = first.stat().st_mtime_ns
    assert initramfs.build() == first
    assert first.stat().st_mtime_ns == made
    assert b"/ld-linux" not in initramfs.build_init().read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == [
        initramfs.build_init().name,
        first.name,
    ]


def test_a_changed_source_is_another_program(cache_home, tmp_path, monkeypatch):
    before = initramfs.build_init()
    copy = tmp_path / "guest"
    copy.mkdir()
    for source in initramfs.GUEST.iterdir():
        (copy / source.name).write_bytes(source.read_bytes() + b"/* changed */\n")
    monkeypatch.setattr(initramfs, "GUEST", copy)
    assert initramfs.build_init() != before


def test_no_compiler(cache_home, monkeypatch):
    monkeypatch.setattr(initramfs, "COMPILER", "no-such-compiler")
    with pytest.raises(FalconError, match="no-such-compiler is not installed; install"):
        initramfs.build()


def test_a_compile_error_is_shown_not_its_last_page(cache_home, tmp_path, monkeypatch):
    (tmp_path / "bad.c").write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr(initramfs, "GUEST", tmp_path)
    with pytest.raises(FalconError, match="'nothing' undeclared"):
        initramfs.build_init()
    assert list((cache_home / "guest").iterdir()) == []


def test_the_guests_sources_compile_without_a_warning(tmp_path):
    for source in initramfs.GUEST.glob("*.c"):
        command = [initramfs.COMPILER, *initramfs.CFLAGS, "-Werror", "-c", str(source)]
        subprocess.run([*command, "-o", str(tmp_path / "out.o")], check=True)
