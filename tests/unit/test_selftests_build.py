# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's selftests: which are chosen, and how their programs are built."""

from __future__ import annotations

import subprocess

import fakelinux
import pytest

from harness.errors import FalconError
from harness.kernel.source import Source
from harness.selftests import build as builds
from harness.selftests.catalog import CATALOG, Selftest, select

MAKEFILE = """\
headers_install:
	@mkdir -p $(O)/usr/include/linux && echo "#define ANSWER 42" > $(O)/usr/include/linux/answer.h
"""
SELFTESTS = {
    "net/gro.sh": "#!/bin/sh\n./gro\n",
    "net/gro.c": '#include <linux/answer.h>\n#include "../kselftest.h"\n'
    "int main(void) { return ANSWER + KSFT; }\n",
    "net/bad.c": "int main(void) { return nothing; }\n",
    "net/forwarding/lib.sh": "#!/bin/sh\n",
    "kselftest.h": "#define KSFT 1\n",
    "bpf/progs/xdp_dummy.c": "#include <linux/answer.h>\nint answer = ANSWER;\n",
    "bpf/progs/other.c": "not copied\n",
}
GRO = Selftest("gro.sh", helpers=("gro",))


@pytest.fixture
def source(tmp_path, cache_home):
    tree = fakelinux.make_tree(tmp_path / "linux")
    (tree / "Makefile").write_text((tree / "Makefile").read_text() + MAKEFILE)
    fakelinux.write(tree / builds.SELFTESTS, SELFTESTS)
    return Source(tree, "6.12.7", "here", "6.12-test")


def run_gro(suite):
    return subprocess.run(["./gro.sh"], cwd=suite.script(GRO).parent).returncode


def test_a_script_runs_with_its_program_by_the_kernels_own_headers(source):
    suite = builds.prepare(source, [GRO])
    assert run_gro(suite) == 42 + 1
    assert suite.obstacle(GRO) == ""
    assert (suite.home / "net/forwarding/lib.sh").exists()
    assert not (suite.home / "bpf/progs/other.c").exists()


def test_the_source_stays_as_it_was(source):
    before = sorted(source.tree.rglob("*"))
    builds.prepare(source, [GRO])
    assert sorted(source.tree.rglob("*")) == before


def test_a_suite_is_built_once_and_for_other_programs_anew(source):
    first = builds.prepare(source, [GRO])
    (first.home / "mark").touch()
    again = builds.prepare(source, [GRO, Selftest("other.sh", helpers=("gro",))])
    assert (again.home / "mark").exists()
    assert builds.prepare(source, [Selftest("gro.sh", helpers=("bad",))]).home != first.home


def test_a_program_that_does_not_compile_costs_its_own_tests_only(source):
    bad = Selftest("bad.sh", helpers=("gro", "bad"))
    suite = builds.prepare(source, [GRO, bad])
    assert suite.obstacle(GRO) == ""
    assert suite.obstacle(bad).startswith("bad cannot be built: ")
    assert "error: " in suite.obstacle(bad) and "nothing" in suite.obstacle(bad)


def test_a_program_that_this_kernel_does_not_have_yet_is_no_obstacle(source):
    """The script of that time does not start it."""
    test = Selftest("gro.sh", helpers=("gro", "new"))
    suite = builds.prepare(source, [test])
    assert suite.obstacle(test) == ""
    assert run_gro(suite) == 42 + 1


def test_a_command_that_is_not_installed(source):
    test = Selftest("gro.sh", commands=("sh", "no-such-program"))
    obstacle = builds.prepare(source, [test]).obstacle(test)
    assert obstacle == "the program no-such-program is not installed"


def test_a_bpf_object_lies_where_any_kernels_scripts_look(source, monkeypatch):
    monkeypatch.setattr(builds, "_BPF_COMPILERS", (("no-such-compiler",), ("gcc",)))
    suite = builds.prepare(source, [Selftest("veth.sh", helpers=("xdp_dummy.bpf.o",))])
    assert suite.broken == {}
    for place in ("net/xdp_dummy.bpf.o", "bpf/xdp_dummy.bpf.o", "bpf/xdp_dummy.o"):
        assert (suite.home / place).read_bytes()[:4] == b"\x7fELF"


def test_without_a_bpf_compiler_the_reason_is_told(source, monkeypatch):
    monkeypatch.setattr(builds, "_BPF_COMPILERS", (("no-such-compiler",),))
    suite = builds.prepare(source, [Selftest("veth.sh", helpers=("xdp_dummy.bpf.o",))])
    assert suite.broken == {"xdp_dummy.bpf.o": "neither clang nor bpf-gcc is installed"}


def test_modprobe_finds_everything_built_in(source):
    suite = builds.prepare(source, [GRO])
    assert subprocess.run([suite.path / "modprobe", "-q", "vxlan"]).returncode == 0


def test_every_test_of_the_catalog_has_a_name_of_its_own():
    names = [test.name for test in CATALOG]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["gro", "gro.sh"])
def test_one_test_is_chosen_by_its_script(name):
    assert [test.script for test in select([name])] == ["gro.sh"]


def test_all_variants_of_a_script_are_chosen_or_one():
    pmtu = [test for test in CATALOG if test.script == "pmtu.sh"]
    assert len(pmtu) > 1
    assert select(["pmtu"]) == tuple(pmtu)
    assert select([pmtu[0].name]) == (pmtu[0],)


def test_no_name_chooses_all():
    assert select([]) == CATALOG


def test_an_unknown_test_is_told_with_those_there_are():
    with pytest.raises(FalconError, match=r"no selftest grow here: there are gro, .*forwarding/"):
        select(["gro", "grow"])
