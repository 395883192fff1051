# SPDX-License-Identifier: GPL-2.0-only
"""The patch stack: strict, incremental for make, and clear about what fails."""

from __future__ import annotations

import time

import fakelinux
import pytest

from harness.errors import FalconError
from harness.kernel import patches
from harness.kernel.patches import WorkTree


def times(tree):
    return {p: p.stat().st_mtime_ns for p in sorted(tree.rglob("*")) if p.is_file()}


@pytest.fixture
def work(lab):
    """A work tree with the whole series applied, a moment ago."""
    tree = WorkTree(lab.source())
    tree.set_patches(patches.load(lab.series))
    time.sleep(0.01)
    return tree


def test_subjects_and_touched_files_are_read(lab):
    first, second = patches.load(lab.series)
    assert first.subject == "net step 1"
    assert first.touches == ("Kconfig", "net/core/falcon.c")
    assert first.adds == ("net/core/falcon.c",)
    assert second.touches == ("net/core/dev.c",)


def test_a_series_without_patches_is_an_error(lab):
    lab.patch()
    with pytest.raises(FalconError, match="has no patches"):
        patches.load(lab.series)
    assert patches.load(lab.series, may_be_empty=True) == ()


def test_the_work_tree_is_patched_and_the_source_is_not(lab, work):
    assert "hook_b" in (work.path / "net/core/dev.c").read_text()
    assert "config NET_FALCON" in (work.path / "Kconfig").read_text()
    assert (work.source.tree / "net/core/dev.c").read_text() == fakelinux.DEV_C
    assert not (work.source.tree / "net/core/falcon.c").exists()


def test_applying_the_same_series_again_touches_nothing(lab, work):
    before = times(work.path)
    assert work.set_patches(patches.load(lab.series)) == ()
    assert times(work.path) == before


def test_a_changed_patch_touches_only_its_file(lab, work):
    before = times(work.path)
    lab.patch(fakelinux.ADD_FALCON.replace("return 1", "return 2"), fakelinux.HOOK_DEV)
    assert work.set_patches(patches.load(lab.series)) == ("net/core/falcon.c",)
    after = times(work.path)
    assert [p.name for p in before if before[p] != after[p]] == ["falcon.c"]


def test_a_dropped_patch_gives_back_the_pristine_file_with_a_new_time(lab, work):
    """Its object was built from the patched file and is newer than the pristine one."""
    patched_at = (work.path / "net/core/dev.c").stat().st_mtime_ns
    lab.patch(fakelinux.ADD_FALCON)
    assert work.set_patches(patches.load(lab.series)) == ("net/core/dev.c",)
    assert (work.path / "net/core/dev.c").read_text() == fakelinux.DEV_C
    assert (work.path / "net/core/dev.c").stat().st_mtime_ns > patched_at


def test_without_patches_added_files_are_gone(work):
    work.set_patches(())
    assert not (work.path / "net/core/falcon.c").exists()
    assert (work.path / "Kconfig").read_text() == fakelinux.KCONFIG


def test_a_run_killed_half_way_is_put_right_by_the_next(lab, work, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(patches, "_replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            work.set_patches(())
    assert work.set_patches(()) == ("Kconfig", "net/core/dev.c", "net/core/falcon.c")


def test_an_executable_file_stays_one(lab, work):
    lab.patch(
        "diff --git a/tools/t.sh b/tools/t.sh\nnew file mode 100755\n"
        "--- /dev/null\n+++ b/tools/t.sh\n@@ -0,0 +1 @@\n+#!/bin/sh\n"
    )
    work.set_patches(patches.load(lab.series))
    assert (work.path / "tools/t.sh").stat().st_mode & 0o111


def test_a_failing_hunk_is_named_with_patch_and_file(lab, work):
    before = times(work.path)
    lab.patch(fakelinux.ADD_FALCON, fakelinux.HOOK_DEV.replace("line_31(", "line_99("))
    with pytest.raises(FalconError) as caught:
        work.set_patches(patches.load(lab.series))
    assert (
        "0002-net-step-2.patch does not apply to Linux 6.12.7: "
        "hunk 2 of 2 of net/core/dev.c (line 30) does not match the file"
    ) in str(caught.value)
    assert times(work.path) == before, "a series that does not apply must change nothing"


def test_context_must_match_exactly_but_may_have_moved(lab):
    tree = lab.source()
    fuzzy = fakelinux.HOOK_DEV.replace(" int line_4(void) { return 4; }", " int line_4(void);")
    lab.patch(fuzzy)
    with pytest.raises(FalconError, match="hunk 1 of 2"):
        patches.applied(tree, patches.load(lab.series))
    moved = fakelinux.HOOK_DEV.replace("-4,4 +4,5", "-2,4 +2,5")
    lab.patch(moved)
    files = patches.applied(tree, patches.load(lab.series))
    assert b"hook_a" in files["net/core/dev.c"].data


def test_a_file_that_is_not_there_is_named(lab):
    lab.patch(fakelinux.HOOK_DEV.replace("net/core/dev.c", "net/core/gone.c"))
    with pytest.raises(FalconError, match=r"net/core/gone\.c: No such file"):
        patches.applied(lab.source(), patches.load(lab.series))


def test_a_mangled_patch_is_named(lab):
    lab.patch(fakelinux.HOOK_DEV.replace("int line_31(void) { return 31; }\n", "", 1))
    with pytest.raises(FalconError, match=r"0001-net-step-1\.patch is not a well-formed patch"):
        patches.load(lab.series)


def test_an_added_file_can_be_had_without_a_kernel_tree(lab):
    text = patches.added_file(patches.load(lab.series), "net/core/falcon.c")
    assert text == "int falcon(void)\n{\n\treturn 1;\n}\n"
    with pytest.raises(FalconError, match=r"adds no file net/core/dev\.h"):
        patches.added_file(patches.load(lab.series), "net/core/dev.h")


def test_a_patched_copy_is_the_users_own(lab, tmp_path):
    copy = patches.patched_tree(lab.series, lab.source(), tmp_path / "mine")
    (copy / "net/core/dev.c").write_text("")
    assert (
        "hook_a" in (patches.patched_tree(lab.series, lab.source()) / "net/core/dev.c").read_text()
    )
    with pytest.raises(FalconError, match="exists"):
        patches.patched_tree(lab.series, lab.source(), tmp_path / "mine")
