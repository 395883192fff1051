# SPDX-License-Identifier: GPL-2.0-only
"""The selftests of one kernel, ready to run.

In: a kernel's source and the tests wanted of it. Out: ``Suite``: a copy of its
tools/testing/selftests in the cache, with the programs that the scripts start
compiled against that kernel's own headers. A program that does not compile is
named with the reason, and costs only the tests that need it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import tools
from harness.console import note
from harness.kernel import cache, kbuild
from harness.kernel.kbuild import Kbuild
from harness.kernel.process import capture
from harness.kernel.source import Source
from harness.paths import cache_dir
from harness.selftests.catalog import Selftest

SELFTESTS = "tools/testing/selftests"
# Part of every suite's key: raise it when the recipe below changes its result.
RECIPE = "1"

_COPIED = ("net", "kselftest", "bpf/progs/xdp_dummy.c", "*.h", "*.sh")
# Its source has had two places, and scripts have looked for it in three.
XDP_DUMMY = "xdp_dummy.bpf.o"
_XDP_SOURCES = ("net/xdp_dummy.bpf.c", "bpf/progs/xdp_dummy.c")
_XDP_TARGETS = ("net/xdp_dummy.bpf.o", "bpf/xdp_dummy.bpf.o", "bpf/xdp_dummy.o")
_BPF_COMPILERS = (("clang", "--target=bpf"), ("bpf-gcc",))
_LIBBPF = Path("/usr/include/bpf/bpf_helpers.h")
# These kernels have no modules; scripts ask for what is built in.
_MODPROBE = "#!/bin/sh\n# All that this kernel has is built in.\nexit 0\n"


@dataclass(frozen=True)
class Suite:
    """Selftests below ``home``; ``broken`` helpers with what their compiler said.

    ``path`` is a directory to be searched for programs before all others.
    """

    home: Path
    broken: dict[str, str]

    @property
    def path(self) -> Path:
        return self.home / "bin"

    def script(self, test: Selftest) -> Path:
        """Where the test's script is, or would be: not every kernel has it."""
        return self.home / "net" / test.script

    def obstacle(self, test: Selftest) -> str:
        """Why the test cannot run on this host; empty if it can."""
        for command in test.commands:
            if not tools.find(command):
                return f"the program {command} is not installed"
        for helper in test.helpers:
            if helper in self.broken:
                return f"{helper} cannot be built: {self.broken[helper]}"
        return ""


def prepare(source: Source, tests: Iterable[Selftest]) -> Suite:
    """The suite of ``source``, from the cache if it was built before."""
    tools.require("gcc", "ip", "ping")
    helpers = sorted({helper for test in tests for helper in test.helpers})
    bpf = f"{_bpf_compiler()} {_LIBBPF.exists()}"
    inputs = [RECIPE, source.key, kbuild.compiler_version(), bpf, *helpers]
    home = cache_dir() / "selftests" / f"{source.key}-{cache.digest(inputs)}"
    with cache.lock("selftests"):
        if not home.exists():
            note(f"building the network selftests of Linux {source.version}")
            with cache.publish(home) as empty:
                _build(source, helpers, empty)
    return Suite(home, json.loads((home / "broken.json").read_text()))


def _build(source: Source, helpers: Sequence[str], home: Path) -> None:
    for pattern in _COPIED:
        for found in (source.tree / SELFTESTS).glob(pattern):
            target = home / found.relative_to(source.tree / SELFTESTS)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if found.is_dir() else shutil.copy2
            copy(found, target)
    (home / "bin").mkdir()
    cache.write_atomically(home / "bin/modprobe", _MODPROBE, mode=0o755)
    headers = Kbuild(source.tree, home / "headers", kbuild.jobs_default())
    headers.run("headers_install")
    outcome = {name: _compile_helper(home, name) for name in helpers}
    broken = {name: why for name, why in outcome.items() if why}
    (home / "broken.json").write_text(json.dumps(broken, indent=1))


def _compile_helper(home: Path, name: str) -> str:
    """Compile one program or BPF object of the suite in ``home``; why it failed, if it did.

    What a kernel does not have yet its scripts do not start.
    """
    return _compile_xdp_dummy(home) if name == XDP_DUMMY else _compile_program(home, name)


def _compile_program(home: Path, name: str) -> str:
    source = home / "net" / f"{name}.c"
    if not source.exists():
        return ""
    # As in the suite's own Makefile, whose rule for all would need more than is here.
    flags = ["-O2", "-w", "-D_GNU_SOURCE=", f"-I{home}/headers/usr/include", f"-I{home}"]
    return _compile(home, ["gcc", *flags, "-o", home / "net" / name, source, "-lpthread"])


def _compile_xdp_dummy(home: Path) -> str:
    sources = [home / name for name in _XDP_SOURCES if (home / name).exists()]
    compiler = _bpf_compiler()
    if not sources:
        return ""
    if not compiler:
        return "neither clang nor bpf-gcc is installed"
    # The kernel's headers first. Old sources name libbpf's without its directory.
    include = [f"-I{home}/headers/usr/include", "-idirafter", str(_LIBBPF.parent.parent)]
    include += ["-idirafter", str(_LIBBPF.parent)]
    made = home / XDP_DUMMY
    why = _compile(home, [*compiler, "-O2", "-w", *include, "-c", "-o", made, sources[0]])
    if not why:
        for target in _XDP_TARGETS:
            (home / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(made, home / target)
    return why


def _bpf_compiler() -> tuple[str, ...]:
    return next((words for words in _BPF_COMPILERS if tools.find(words[0])), ())


def _compile(home: Path, command: Sequence[str | Path]) -> str:
    """Run a compiler; its first error, or nothing."""
    done = capture(command)
    if not done.returncode:
        return ""
    errors = kbuild.first_error(done.stderr.splitlines())
    return errors[0].replace(f"{home}/", "") if errors else f"{command[0]} failed"
