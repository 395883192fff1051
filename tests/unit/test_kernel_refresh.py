# SPDX-License-Identifier: GPL-2.0-only
"""From patches to a git tree and back, without a byte's difference."""

from __future__ import annotations

import os
import subprocess

import pytest

from harness.errors import FalconError
from harness.kernel import patches, refresh
from harness.kernel.patches import ANONYMOUS
from harness.kernel.refresh import Change


def git(tree, *words):
    env = {**os.environ, **ANONYMOUS}
    done = subprocess.run(["git", "-C", tree, *words], env=env, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def tree(lab, tmp_path):
    """A git tree with the series as commits, and the series as that tree writes it."""
    place = tmp_path / "edit"
    refresh.edit_tree(lab.source(), patches.load(lab.series), place)
    refresh.regenerate(lab.series, place)
    return place


def texts(lab):
    return {path.name: path.read_bytes() for path in lab.series.patch_dir.glob("*.patch")}


def test_each_patch_is_a_commit_on_the_pristine_source(lab, tree):
    subjects = git(tree, "log", "--format=%s %an", "falcon-base..").splitlines()
    assert subjects == ["net step 2 A Tester", "net step 1 A Tester"]
    assert git(tree, "log", "-1", "--format=%s", "falcon-base") == "Linux 6.12.7"


def test_nothing_changed_means_nothing_written(lab, tree):
    before = {path: path.stat().st_mtime_ns for path in lab.series.patch_dir.iterdir()}
    assert refresh.regenerate(lab.series, tree) == []
    assert {path: path.stat().st_mtime_ns for path in lab.series.patch_dir.iterdir()} == before


def test_a_round_trip_through_a_second_tree_is_stable(lab, tree, tmp_path):
    before = texts(lab)
    second = tmp_path / "second"
    refresh.edit_tree(lab.source(), patches.load(lab.series), second)
    assert refresh.regenerate(lab.series, second) == []
    assert texts(lab) == before


def test_a_users_git_settings_change_nothing(lab, tree, monkeypatch, tmp_path):
    settings = tmp_path / "gitconfig"
    settings.write_text("[diff]\n\tnoprefix = true\n[format]\n\tnumbered = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    assert refresh.regenerate(lab.series, tree) == []


def test_an_edited_commit_changes_its_patch_alone(lab, tree):
    (tree / "net/core/dev.c").write_text((tree / "net/core/dev.c").read_text() + "int more;\n")
    git(tree, "commit", "-qa", "--amend", "--no-edit")
    assert refresh.regenerate(lab.series, tree) == [Change("0002-net-step-2.patch", "changed")]
    assert b"+int more;" in texts(lab)["0002-net-step-2.patch"]


def test_new_and_dropped_commits_add_and_remove_files(lab, tree):
    git(tree, "reset", "-q", "--hard", "HEAD~1")
    (tree / "net/core/other.c").write_text("int other;\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "net: add another")
    assert refresh.regenerate(lab.series, tree) == [
        Change("0002-net-step-2.patch", "removed"),
        Change("0002-net-add-another.patch", "new"),
    ]
    assert sorted(texts(lab)) == ["0001-net-step-1.patch", "0002-net-add-another.patch"]


def test_uncommitted_work_is_refused(lab, tree):
    (tree / "net/core/dev.c").write_text("int more;\n")
    with pytest.raises(FalconError, match=r"uncommitted changes: M net/core/dev\.c"):
        refresh.regenerate(lab.series, tree)


def test_a_new_file_that_was_not_added_is_not_forgotten(lab, tree):
    (tree / "net/core/new.c").touch()
    with pytest.raises(FalconError, match=r"uncommitted changes: \?\? net/core/new\.c"):
        refresh.regenerate(lab.series, tree)


def test_git_sees_new_files_though_the_source_package_hides_them(lab, tmp_path):
    (lab.tree / ".gitignore").write_text("*.o\n/*\n!/debian/\n")
    place = tmp_path / "edit"
    refresh.edit_tree(lab.source(), patches.load(lab.series), place)
    (place / "net/core/new.c").touch()
    git(place, "add", "net/core/new.c")
    git(place, "commit", "-qm", "net: new")
    refresh.regenerate(lab.series, place)
    assert "0003-net-new.patch" in texts(lab)


def test_somebodys_tree_is_not_overwritten(lab, tree):
    with pytest.raises(FalconError, match="exists"):
        refresh.edit_tree(lab.source(), (), tree)


def test_no_tree_says_how_to_make_one(lab, tmp_path):
    with pytest.raises(FalconError, match="refresh-patches --edit"):
        refresh.regenerate(lab.series, tmp_path / "nowhere")


def test_a_tree_without_commits_does_not_empty_the_series(lab, tree):
    git(tree, "reset", "-q", "--hard", "falcon-base")
    with pytest.raises(FalconError, match="has no commit after falcon-base"):
        refresh.regenerate(lab.series, tree)
    assert len(texts(lab)) == 2
