# SPDX-License-Identifier: GPL-2.0-only
"""Every place a source can come from, and why one cannot serve."""

from __future__ import annotations

import os
import subprocess

import fakelinux
import pytest

from harness.errors import FalconError
from harness.kernel import providers, source
from harness.kernel.patches import ANONYMOUS


def git(tree, *words):
    env = {**os.environ, **ANONYMOUS}
    done = subprocess.run(["git", "-C", tree, *words], env=env, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def repository(lab):
    git(lab.tree, "init", "-q")
    git(lab.tree, "add", "-A")
    git(lab.tree, "commit", "-qm", "v6.12.7")
    git(lab.tree, "tag", "v6.12.7")
    return lab.tree


def names_below(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_a_users_tree_is_copied_once_and_left_alone(lab):
    first = lab.source()
    assert first.version == "6.12.7"
    assert names_below(first.tree) == names_below(lab.tree)
    (first.tree / "mark").touch()
    assert (lab.source().tree / "mark").exists(), "the same content must not be copied again"
    assert not (lab.tree / "mark").exists()


def test_a_changed_tree_is_another_source(lab):
    before = lab.source()
    (lab.tree / "init/main.c").write_text("int start;\n")
    after = lab.source()
    assert after.key != before.key
    assert (before.tree / "init/main.c").read_text() == fakelinux.MAIN_C


@pytest.mark.parametrize("suffix", ["tar.xz", "tar.gz", "tar"])
def test_a_tarball_is_unpacked_without_its_top_directory(lab, tmp_path, suffix):
    tarball = tmp_path / f"linux-6.12.7.{suffix}"
    subprocess.run(["tar", "-caf", tarball, "-C", tmp_path, "linux"], check=True)
    got = source.get(lab.series, path=tarball)
    assert names_below(got.tree) == names_below(lab.tree)


def test_a_broken_tarball_leaves_nothing(lab, tmp_path, cache_home):
    tarball = tmp_path / "linux-6.12.tar.xz"
    subprocess.run(["tar", "-caf", tarball, "-C", tmp_path, "linux"], check=True)
    tarball.write_bytes(tarball.read_bytes()[:-200])
    with pytest.raises(FalconError, match="cannot be unpacked"):
        source.get(lab.series, path=tarball)
    assert list((cache_home / "sources").iterdir()) == []


def test_what_a_dead_run_left_is_removed(lab, cache_home):
    leftover = cache_home / "sources" / ".tmp-dead"
    leftover.mkdir(parents=True)
    lab.source()
    assert not leftover.exists()


def test_another_version_is_refused_with_both_named(lab, tmp_path):
    other = fakelinux.make_tree(tmp_path / "other", "5.15.3")
    with pytest.raises(FalconError, match=r"source is Linux 5\.15\.3, .* is for 6\.12"):
        source.get(lab.series, path=other)


def test_another_version_in_a_tarball_is_refused_and_leaves_nothing(lab, tmp_path, cache_home):
    fakelinux.make_tree(tmp_path / "other", "5.15.3")
    tarball = tmp_path / "other.tar.gz"
    subprocess.run(["tar", "-caf", tarball, "-C", tmp_path, "other"], check=True)
    with pytest.raises(FalconError, match=r"5\.15\.3.*6\.12"):
        source.get(lab.series, path=tarball)
    assert list((cache_home / "sources").iterdir()) == []


def test_a_tree_that_was_built_in_is_refused(lab):
    (lab.tree / ".config").touch()
    with pytest.raises(FalconError, match="make mrproper"):
        lab.source()


def test_a_missing_path_and_a_stray_file_say_so(lab, tmp_path):
    with pytest.raises(FalconError, match="no such file or directory"):
        source.get(lab.series, path=tmp_path / "nowhere")
    stray = tmp_path / "linux.zip"
    stray.touch()
    with pytest.raises(FalconError, match="not a tarball by its name"):
        source.get(lab.series, path=stray)


def test_git_revision_of_a_bare_repository(lab, repository, tmp_path):
    (repository / "later").touch()
    git(repository, "add", "later")
    git(repository, "commit", "-qm", "later")
    bare = tmp_path / "linux.git"
    subprocess.run(["git", "clone", "-q", "--bare", repository, bare], check=True)
    got = source.get(lab.series, git=bare, rev="v6.12.7")
    assert "later" not in names_below(got.tree)
    assert "init/main.c" in names_below(got.tree)
    assert os.access(got.tree / "scripts/checkpatch.pl", os.X_OK)


def test_git_names_the_missing_revision(lab, repository):
    with pytest.raises(FalconError, match=r"has no revision v9\.9"):
        source.get(lab.series, git=repository, rev="v9.9")


def test_git_needs_its_revision(lab, repository):
    with pytest.raises(FalconError, match="belong together"):
        source.get(lab.series, git=repository)


def drop_blob(repository, path):
    """Make the repository partial: the content of ``path`` is gone from it."""
    oid = git(repository, "rev-parse", f"HEAD:{path}")
    (repository / ".git/objects" / oid[:2] / oid[2:]).unlink()


def test_git_leaves_out_an_absent_blob_that_no_build_needs(lab, repository):
    fakelinux.write(repository, {"drivers/big.h": "large\n"})
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "driver")
    drop_blob(repository, "drivers/big.h")
    got = source.get(lab.series, git=repository, rev="HEAD")
    assert "drivers/big.h" not in names_below(got.tree)
    assert "net/core/dev.c" in names_below(got.tree)


def test_git_refuses_when_a_needed_blob_is_absent(lab, repository, cache_home):
    drop_blob(repository, "net/core/dev.c")
    with pytest.raises(FalconError, match=r"lacks the content of 1 files, net/core/dev\.c"):
        source.get(lab.series, git=repository, rev="HEAD")
    assert list((cache_home / "sources").iterdir()) == []


def test_distribution_tarball_is_found(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(providers, "DISTRIBUTION_DIR", tmp_path)
    tarball = tmp_path / "linux-source-6.12.tar.xz"
    subprocess.run(["tar", "-caf", tarball, "-C", tmp_path, "linux"], check=True)
    assert "package linux-source-6.12" in source.get(lab.series).origin


def test_with_no_source_every_place_says_why(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(providers, "DISTRIBUTION_DIR", tmp_path)
    monkeypatch.setattr(providers, "_as_root", lambda: None)
    with pytest.raises(FalconError) as caught:
        source.get(lab.series)
    text = str(caught.value)
    assert "no source of Linux 6.12" in text
    assert "sudo apt-get install linux-source-6.12" in text or "no Debian" in text
    assert "cannot fetch http://127.0.0.1:9/" in text
    assert "--source PATH" in text


def test_a_variable_names_a_tree(lab, monkeypatch):
    monkeypatch.setenv("FALCON_SOURCE_6_12", str(lab.tree))
    assert source.get(lab.series).origin == str(lab.tree)


def test_a_variable_names_a_git_revision(lab, repository, monkeypatch):
    monkeypatch.setenv("FALCON_SOURCE_6_12", f"{repository}@v6.12.7")
    got = source.get(lab.series)
    assert got.version == "6.12.7"
    assert got.origin == f"{repository} at v6.12.7"


def test_a_variable_that_leads_nowhere_is_an_error_not_a_fallback(lab, monkeypatch):
    monkeypatch.setenv("FALCON_SOURCE_6_12", "/nowhere/linux")
    with pytest.raises(FalconError, match="/nowhere/linux: there is no such file or directory"):
        source.get(lab.series)


def test_what_a_command_names_comes_before_the_variable(lab, monkeypatch):
    monkeypatch.setenv("FALCON_SOURCE_6_12", "/nowhere/linux")
    assert lab.source().version == "6.12.7"
