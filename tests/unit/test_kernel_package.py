# SPDX-License-Identifier: GPL-2.0-only
"""Packages for servers: by their own configuration, told apart by what is in them."""

from __future__ import annotations

import json
import subprocess

import fakelinux
import pytest

from harness import tools
from harness.errors import FalconError
from harness.kernel import cache, package
from harness.kernel.config import Base
from harness.kernel.package import build_package

SERVERS = "CONFIG_NET=y\nCONFIG_RPS=y\nCONFIG_OF_ANOTHER_KERNEL=m\n"


@pytest.fixture(autouse=True)
def fragments(lab, monkeypatch):
    if tools.find("dpkg-deb") is None:
        pytest.skip("dpkg-dev is not installed")
    # The fake kernel is packaged by itself.
    monkeypatch.setattr(package, "NEEDED", ("dpkg-deb", "readelf"))
    fakelinux.write(lab.fragments, {"host.config": 'CONFIG_KEYS=""\n', "nodebug.config": ""})


def build_it(lab, base=None, fragments=()):
    return build_package(lab.series, lab.source(), base=base, fragments=fragments, jobs=2)


def config_of(made):
    return (made.file.parent / "config").read_text().splitlines()


def test_package_and_what_its_kernel_says_of_itself(lab):
    made = build_it(lab, Base(SERVERS))
    assert made.file.name == f"linux-image-{made.release}_1_amd64.deb"
    assert made.name == f"linux-image-{made.release}"
    assert made.release.startswith("6.12.7-falcon.")
    assert made.sha256 == cache.file_sha256(made.file)
    assert made.installed_kib == 77
    files = subprocess.run(["dpkg-deb", "-c", made.file], capture_output=True, text=True).stdout
    assert f"./boot/vmlinuz-{made.release}" in files
    facts = json.loads((made.file.parent / "metadata.json").read_text())
    assert facts["command"].endswith("bindeb-pkg")


def test_build_id_is_the_linkers(lab):
    made = build_it(lab, Base(SERVERS))
    [vmlinux] = (cache.cache_dir() / "builds").glob("*/objects/vmlinux")
    assert made.build_id == package.build_id(vmlinux) and len(made.build_id) == 40
    assert bytes.fromhex(made.build_id) in vmlinux.read_bytes()


def test_kernel_without_a_build_id(tmp_path):
    source, vmlinux = tmp_path / "a.c", tmp_path / "vmlinux"
    source.write_text("int a;\n")
    command = ["gcc", "-shared", "-nostdlib", "-Wl,--build-id=none", "-o", vmlinux, source]
    subprocess.run(command, check=True)
    with pytest.raises(FalconError, match="has no build ID"):
        package.build_id(vmlinux)


def test_servers_configuration_is_the_base_and_falcon_comes_on_top(lab):
    made = build_it(lab, Base(SERVERS))
    assert config_of(made) == ["CONFIG_NET=y", "CONFIG_RPS=y", "CONFIG_NET_FALCON=y"]


def test_fragments_alone_stand_on_tinyconfig(lab):
    made = build_it(lab, fragments=("guest",))
    assert config_of(made) == ["CONFIG_TINY=y", "CONFIG_NET=y", "CONFIG_NET_FALCON=y"]


def test_loaded_modules_are_what_localmodconfig_gets(lab):
    build_it(lab, Base(SERVERS, "Module\ne1000 1 0\n"))
    [loaded] = (cache.cache_dir() / "builds").glob("*/objects/was-loaded")
    assert loaded.read_text() == "Module\ne1000 1 0\n"


def test_same_inputs_are_packaged_once(lab):
    first = build_it(lab, Base(SERVERS))
    first.file.write_text("from the cache")
    again = build_it(lab, Base(SERVERS))
    assert again == first and again.file.read_text() == "from the cache"


@pytest.mark.parametrize("what", ["config", "modules", "patch", "fragment"])
def test_each_input_makes_another_release(lab, what):
    before = build_it(lab, Base(SERVERS))
    base = Base(SERVERS)
    if what == "config":
        base = Base("CONFIG_NET=y\n")
    elif what == "modules":
        base = Base(SERVERS, "")
    elif what == "patch":
        lab.patch(fakelinux.ADD_FALCON)
    else:
        fakelinux.write(lab.fragments, {"host.config": "# another\n"})
    after = build_it(lab, base)
    assert after.release != before.release
    assert before.file.exists()


def test_package_that_fails_leaves_nothing(lab):
    makefile = lab.tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("$(FAIL)", "false"))
    with pytest.raises(FalconError, match=r"make .*bindeb-pkg failed"):
        build_it(lab, Base(SERVERS))
    assert not list((cache.cache_dir() / "packages").glob("*/*"))


def test_program_that_is_missing_is_named(lab, monkeypatch):
    monkeypatch.setattr(package, "NEEDED", ("no-such-program",))
    with pytest.raises(FalconError, match="the program no-such-program is missing"):
        build_it(lab)


@pytest.mark.parametrize(("pahole", "wishes"), [("/bin/pahole", 1), (None, 2)])
def test_btf_is_kept_where_it_can_be_made(lab, monkeypatch, capfd, pahole, wishes):
    monkeypatch.setattr(tools, "find", lambda _name: pahole)
    base = Base("CONFIG_DEBUG_INFO_BTF=y\n")
    names = [path.stem for path in package._wishes(base)]
    assert names == ["host", "nodebug"][:wishes]
    assert ("apt-get install dwarves" in capfd.readouterr().err) == (pahole is None)
