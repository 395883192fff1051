# SPDX-License-Identifier: GPL-2.0-only
"""Images: cached by what went in, rebuilt in little, never half there."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakelinux
import pytest

from harness.errors import FalconError
from harness.kernel import build as builds
from harness.kernel import cache
from harness.kernel.build import build
from harness.kernel.kbuild import first_error


def build_lab(lab, **options):
    return build(lab.series, source=lab.source(), jobs=2, **options)


def compiled(lab):
    """The files that the last build compiled, by its log."""
    (log,) = (cache.cache_dir() / "builds").glob("*/build.log")
    lines = log.read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("  CC ")]


def test_an_image_and_how_it_was_built(lab):
    image = build_lab(lab)
    assert image.bzimage.exists() and image.vmlinux.exists()
    assert "CONFIG_NET_FALCON=y" in image.config.read_text()
    assert image.release == "6.12.7-falcon"
    facts = json.loads(image.metadata.read_text())
    assert facts["version"] == "6.12.7"
    assert list(facts["patches"]) == ["0001-net-step-1.patch", "0002-net-step-2.patch"]
    assert facts["fragments"] == ["guest", "falcon"]
    assert facts["compiler"].startswith("gcc ")


def test_the_command_in_the_metadata_repeats_the_build(lab):
    image = build_lab(lab)
    command = json.loads(image.metadata.read_text())["command"]
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert "KBUILD_BUILD_TIMESTAMP=1970-01-01" in command


def test_the_same_inputs_build_once(lab):
    first = build_lab(lab)
    first.bzimage.write_text("from the cache")
    assert build_lab(lab).bzimage.read_text() == "from the cache"


def test_inputs_edited_during_the_build_give_no_image(lab, cache_home, monkeypatch):
    """Neither under the old inputs' key nor under the new one's."""
    compile_only = builds._compile

    def compile_and_edit(plan, make):
        compile_only(plan, make)
        (lab.fragments / "guest.config").write_text("CONFIG_RPS=y\n")

    monkeypatch.setattr(builds, "_compile", compile_and_edit)
    with pytest.raises(FalconError, match="changed while they were built"):
        build_lab(lab)
    assert not list((cache_home / "images").glob("*/bzImage"))


@pytest.mark.parametrize("what", ["patch", "fragment", "falcon", "source"])
def test_each_input_makes_another_image(lab, what):
    before = build_lab(lab)
    options = {}
    if what == "patch":
        lab.patch(fakelinux.ADD_FALCON)
    elif what == "fragment":
        (lab.fragments / "guest.config").write_text("CONFIG_RPS=y\n")
    elif what == "falcon":
        options["falcon"] = False
    else:
        (lab.tree / "init/main.c").write_text("int start;\n")
    after = build_lab(lab, **options)
    assert after.key != before.key
    assert before.bzimage.exists()


def test_a_patchs_message_is_not_built(lab):
    before = build_lab(lab)
    first = sorted(lab.series.patch_dir.glob("*.patch"))[0]
    text = first.read_text()
    changed = text.replace("\n---\n", "\nMore of a reason.\n---\n", 1)
    assert changed != text
    first.write_text(changed)
    assert build_lab(lab).key == before.key


def test_the_order_of_absent_options_does_not_matter(lab):
    """They are a set, whose order differs from one run of Python to the next."""
    keys = set()
    for absent in (("CONFIG_A", "CONFIG_B"), ("CONFIG_B", "CONFIG_A")):
        series = dataclasses.replace(lab.series, absent=absent)
        keys.add(builds.make_plan(series, lab.source(), ["guest"], True).key)
    assert len(keys) == 1


def test_without_falcon_the_option_is_off(lab):
    image = build_lab(lab, falcon=False)
    assert "NET_FALCON" not in image.config.read_text()
    assert image.release == "6.12.7"


def test_unpatched_is_the_source_as_it_is(lab):
    image = build_lab(lab, patched=False)
    facts = json.loads(image.metadata.read_text())
    assert (image.release, facts["patches"], image.falcon) == ("6.12.7", {}, False)
    assert image.key != build_lab(lab, falcon=False).key


def test_unpatched_and_patched_do_not_recompile_each_other(lab, cache_home):
    """Neither the objects, nor by touching the sources that the other is made of."""
    build_lab(lab, falcon=False)
    sources = {path: path.stat().st_mtime_ns for path in cache_home.glob("trees/*-build/**/*.c")}
    build_lab(lab, patched=False)
    assert len(list((cache_home / "builds").iterdir())) == 2
    assert sources == {path: path.stat().st_mtime_ns for path in sources}


def test_a_changed_patch_compiles_only_what_it_touches(lab):
    build_lab(lab)
    assert sorted(compiled(lab)) == ["init/main.o", "net/core/dev.o", "net/core/falcon.o"]
    lab.patch(fakelinux.ADD_FALCON.replace("return 1", "return 2"), fakelinux.HOOK_DEV)
    build_lab(lab)
    assert compiled(lab) == ["net/core/falcon.o"]


def test_going_back_to_earlier_patches_compiles_what_differs(lab):
    build_lab(lab)
    lab.patch(fakelinux.ADD_FALCON.replace("return 1", "return 2"))
    build_lab(lab)
    assert sorted(compiled(lab)) == ["net/core/dev.o", "net/core/falcon.o"]


def test_a_compiler_error_is_shown_and_leaves_no_image(lab, cache_home, capsys):
    lab.patch(fakelinux.ADD_FALCON.replace("return 1", "return nothing"))
    with pytest.raises(
        FalconError, match=r"make bzImage failed: .*falcon\.c:3:\d+: error: .nothing."
    ):
        build_lab(lab)
    assert "return nothing;" in capsys.readouterr().err
    assert not list((cache_home / "images").glob("*"))


def test_a_lost_option_fails_before_compiling(lab):
    lab.patch(fakelinux.HOOK_DEV)
    with pytest.raises(FalconError, match="CONFIG_NET_FALCON=y"):
        build_lab(lab)
    assert compiled(lab) == []


def test_a_missing_program_is_named_with_its_package(lab, monkeypatch, tmp_path):
    source = lab.source()
    monkeypatch.setattr("harness.tools.find", lambda name: None if name == "flex" else "/" + name)
    with pytest.raises(FalconError, match="flex is missing; run: apt-get install flex"):
        build(lab.series, source=source, jobs=1)


SLOW = 'bzImage:\n\t@echo $$$$ > $(O)/pid; echo "  CC      slow.o"; sleep 60 & wait\n'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_takes_make_with_it(lab, cache_home, number):
    """Also SIGKILL, which no handler sees."""
    makefile = lab.tree / "Makefile"
    makefile.write_text(makefile.read_text().partition("bzImage: ")[0] + SLOW)
    process = multiprocessing.get_context("fork").Process(target=_build_until_killed, args=(lab,))
    process.start()
    shell = _wait_for_pid(cache_home)
    os.kill(process.pid, number)
    process.join(10)
    deadline = time.monotonic() + 5
    while _alive(shell) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(shell)
    assert not (cache_home / "images").exists()


def _build_until_killed(lab):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    build_lab(lab)


def _wait_for_pid(cache_home):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for file in cache_home.glob("builds/*/pid"):
            if text := file.read_text().strip():
                return int(text)
        time.sleep(0.02)
    raise AssertionError("the build did not start")


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: gone while it was read
        return False


@pytest.mark.parametrize(
    ("output", "first"),
    [
        (
            "  CC      a.o\nnet/a.c:3:9: error: 'x' undeclared\n    3 | x;\n      | ^\n"
            "  CC      b.o\nmake[2]: *** [scripts/Makefile.build:229: a.o] Error 1\n"
            "make: *** [Makefile:224: __sub-make] Error 2\n",
            "net/a.c:3:9: error: 'x' undeclared",
        ),
        (
            "  LD      vmlinux\nld: warning: net/a.o: no stack note\n"
            "ld: net/a.o: in function `f':\na.c: undefined reference to `g'\n"
            "make[1]: *** [Makefile:1] Error 1\n",
            "ld: net/a.o: in function `f':",
        ),
        (
            "make[2]: *** No rule to make target 'net/core/falcon.o'.  Stop.\n"
            "make: *** [Makefile:1] Error 2\n",
            "make[2]: *** No rule to make target 'net/core/falcon.o'.  Stop.",
        ),
        (
            "  GEN     x\n/bin/sh: 1: bc: not found\nmake: *** [a] Error 127\n",
            "/bin/sh: 1: bc: not found",
        ),
        ("  CC a.o\nmake: *** [Makefile:1: a.o] Error 1\n", "make: *** [Makefile:1: a.o] Error 1"),
    ],
)
def test_the_first_error_is_found(output, first):
    assert first_error(output.splitlines())[0] == first


def test_an_error_comes_with_its_explanation_and_no_more():
    output = "a.c:3:9: error: x\n    3 | x;\n      | ^\n  CC      b.o\nb.c:1:1: error: y\n"
    assert first_error(output.splitlines()) == ["a.c:3:9: error: x", "    3 | x;", "      | ^"]


def test_no_error_is_made_up():
    assert first_error(["  CC      lib/errname.o", "a.c:1:1: warning: no error: here"]) == []
