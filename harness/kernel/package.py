# SPDX-License-Identifier: GPL-2.0-only
"""The patched kernel as a distribution's package, to be installed on a server.

In: a series, its source, and the server's own configuration or fragments. Out:
``Package``: the file, and what the kernel in it says of itself when it runs. Cached by all
that went in, as images are; the kernel's own ``bindeb-pkg`` makes it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.kernel import build, cache, config, kbuild
from harness.kernel.kbuild import Kbuild
from harness.kernel.process import output
from harness.kernel.progress import Bar, duration
from harness.kernel.series import Series
from harness.kernel.source import Source
from harness.paths import cache_dir

# Part of every package's key: raise it when the recipe below changes its result.
RECIPE = "1"
TARGET = "bindeb-pkg"
NEEDED = ("dpkg-buildpackage", "dh", "depmod", "readelf", "dpkg-deb", "fakeroot", "rsync")
# The kernel's number of the build, which is in the image: always the first one.
FIXED = ("KBUILD_BUILD_VERSION=1", "KDEB_PKGVERSION=1")
_BUILD_ID = re.compile(r"Build ID: ([0-9a-f]{8,})")


@dataclass(frozen=True)
class Package:
    """A kernel package. ``release`` is what ``uname -r`` says of it, and nothing else does.

    ``name``: the package's own; ``build_id``: the linker's, in hexadecimal, which the running
    kernel shows in /sys/kernel/notes; ``installed_kib``: what it takes on the disk.
    """

    file: Path
    release: str
    name: str
    build_id: str
    sha256: str
    installed_kib: int


def build_package(
    series: Series,
    source: Source,
    *,
    base: config.Base | None = None,
    fragments: Sequence[str] = (),
    jobs: int | None = None,
) -> Package:
    """The package of ``series`` on ``source``, from the cache if it was built before.

    ``base``: a server's configuration; else ``fragments`` over tinyconfig. Falcon is on in
    either. Raises ``FalconError`` when a patch, an option or a file's compilation fails.
    """
    tools.require(*NEEDED)
    plan = build.make_plan(series, source, fragments, falcon=True)
    wishes = _wishes(base)
    key = cache.digest(
        [
            RECIPE,
            plan.key,
            *((base.text, repr(base.modules)) if base else ()),
            *(path.read_bytes() for path in wishes),
        ]
    )
    home = cache_dir() / "packages" / f"{series.name}-{key}"
    if home.exists():
        return _read(home)
    tree = plan.tree()
    with cache.lock(tree.lock):
        if home.exists():
            return _read(home)
        changed = tree.set_patches(plan.patches)
        # bindeb-pkg puts the package beside the build directory.
        place = cache_dir() / "builds" / f"{plan.name}-{'host-' if base else ''}deb"
        make = Kbuild(
            tree.path, place / "objects", jobs or kbuild.jobs_default(), f"-falcon.{key[:8]}"
        )
        note(f"packaging Linux {source.version} ({len(changed)} files changed by patches) with:")
        note(f"  {make.command(*FIXED, TARGET)}")
        started = time.monotonic()
        kbuild.reset_log(make.build_dir)
        for line in config.configure(make, plan.fragments, series.absent, base, wishes):
            note(f"this kernel has no {line}")
        _make(make, place, series.build_steps if base is None else None)
        if plan.has_changed():
            raise FalconError("patches or fragments changed meanwhile", todo="build again")
        with cache.lock("packages"), cache.publish(home) as empty:
            _collect(make, place, empty, time.monotonic() - started)
        note(f"packaged in {duration(time.monotonic() - started)}")
    return _read(home)


def _wishes(base: config.Base | None) -> tuple[Path, ...]:
    """Fragments that make a distribution's configuration one that can be built here."""
    if base is None:
        return ()
    has_btf = config.parse(base.text).get("CONFIG_DEBUG_INFO_BTF") == "y"
    if has_btf and tools.find("pahole"):
        return (config.fragment("host"),)
    if has_btf:
        note(
            "the server's kernel has BTF, this one will not: pahole is missing here"
            " (apt-get install dwarves); programs that need BTF, as some of eBPF do, will not load"
        )
    return config.fragment("host"), config.fragment("nodebug")


def _make(make: Kbuild, place: Path, steps: int | None) -> None:
    for old in place.glob("*.deb"):
        old.unlink()
    with Bar("building the kernel", steps) as bar:
        make.run(*FIXED, "all", on_step=bar.advance)
    note("making the package")
    # dpkg-buildpackage does not hand the jobs on, so all is built by now. What the
    # package needs to be built was looked for by name already.
    make.run(*FIXED, "DPKG_FLAGS=-d", TARGET)


def _collect(make: Kbuild, place: Path, into: Path, seconds: float) -> None:
    """Put the package, and what it is, into the directory that becomes the cache's."""
    release = kbuild.kernel_release(make)
    found = [path for path in place.glob("linux-image-*.deb") if "-dbg_" not in path.name]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FalconError("make bindeb-pkg made no package that can be told", f"found {names}")
    file = into / found[0].name
    shutil.copy2(found[0], file)
    shutil.copy2(make.build_dir / ".config", into / "config")
    for leftover in place.glob("linux-*"):
        leftover.unlink()
    fields = output(["dpkg-deb", "--field", file, "Package", "Installed-Size"], "reading a package")
    named = dict(line.split(": ", 1) for line in fields.splitlines())
    facts = {
        "file": file.name,
        "release": release,
        "name": named["Package"],
        "build_id": build_id(make.build_dir / "vmlinux"),
        "sha256": cache.file_sha256(file),
        "installed_kib": int(named["Installed-Size"]),
        "command": make.command(*FIXED, TARGET),
        "compiler": kbuild.compiler_version(),
        "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "duration_s": round(seconds, 1),
    }
    (into / "metadata.json").write_text(json.dumps(facts, indent=2) + "\n")


def build_id(vmlinux: Path) -> str:
    """The build ID of a linked kernel, in hexadecimal."""
    found = _BUILD_ID.search(output(["readelf", "-n", vmlinux], "reading the build ID"))
    if not found:
        raise FalconError(f"{vmlinux} has no build ID", "its linker was told not to write one")
    return found[1]


def _read(home: Path) -> Package:
    facts = json.loads((home / "metadata.json").read_text())
    known = {name: facts[name] for name in Package.__dataclass_fields__}
    return Package(**known | {"file": home / facts["file"]})
