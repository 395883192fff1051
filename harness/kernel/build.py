# SPDX-License-Identifier: GPL-2.0-only
"""Build an image, or take it from the cache.

In: a series, its source and configuration fragments. Out: ``Image``: bzImage,
vmlinux, the configuration and ``metadata.json`` in a directory named by the
hash of all that went in. The build directory stays, so that the next build
compiles only what a changed patch touches.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.console import note
from harness.errors import FalconError
from harness.kernel import cache, config, kbuild, patches
from harness.kernel.kbuild import Kbuild
from harness.kernel.progress import Bar, duration
from harness.kernel.series import Series
from harness.kernel.source import Source
from harness.paths import cache_dir

IMAGE = "arch/x86/boot/bzImage"
# Part of every image's key: raise it when the recipe below changes its result.
RECIPE = "1"
# In the names of what is built from the source as it is.
VANILLA = "vanilla"


@dataclass(frozen=True)
class Image:
    """A built kernel; ``release`` is what ``uname -r`` says of it."""

    bzimage: Path
    vmlinux: Path
    config: Path
    metadata: Path
    release: str
    key: str
    falcon: bool


@dataclass(frozen=True)
class Plan:
    """All that decides what an image holds."""

    series: Series
    source: Source
    patches: tuple[patches.Patch, ...]
    fragments: tuple[Path, ...]
    falcon: bool

    @cached_property
    def key(self) -> str:
        """The same inputs, the same key; as they are when this is first asked for."""
        return self._digest()

    def has_changed(self) -> bool:
        """Whether somebody has edited, or removed, the inputs since the key was taken."""
        try:
            return self._digest() != self.key
        except FileNotFoundError:
            return True

    def _digest(self) -> str:
        return cache.digest(
            [
                RECIPE,
                self.source.key,
                patches.digest(self.patches),
                *(path.read_bytes() for path in self.fragments),
                kbuild.compiler_version(),
                *sorted(self.series.absent),
            ]
        )

    @property
    def name(self) -> str:
        """The build directory's name: the same through all changes of patches and fragments."""
        parts = [path.stem for path in self.fragments]
        return f"{self.source.key}-{'+'.join(parts if self.patches else [*parts, VANILLA])}"

    def tree(self) -> patches.WorkTree:
        """Where the source lies for make: unpatched it has a tree of its own, as ``name`` has.

        In a shared one each of the two builds would put back the other's headers.
        """
        return patches.WorkTree(self.source, "build" if self.patches else VANILLA)


def build(
    series: Series,
    *,
    source: Source,
    fragments: Iterable[str] = ("guest",),
    falcon: bool = True,
    patched: bool = True,
    jobs: int | None = None,
) -> Image:
    """The image of ``series`` on ``source``, from the cache if it was built before.

    ``falcon`` False leaves CONFIG_NET_FALCON off in the patched tree; ``patched``
    False builds the source as it is. Raises ``FalconError`` when a patch, an
    option or a file's compilation fails.
    """
    plan = make_plan(series, source, fragments, falcon, patched=patched)
    found = cached(plan)
    if found:
        return found
    tree = plan.tree()
    with cache.lock(tree.lock):
        return cached(plan) or _build(plan, tree, jobs or kbuild.jobs_default())


def make_plan(
    series: Series,
    source: Source,
    fragments: Iterable[str],
    falcon: bool,
    *,
    patched: bool = True,
) -> Plan:
    """The plan for these choices; ``falcon`` adds the fragment that switches it on."""
    falcon = falcon and patched
    names = [*fragments, *(["falcon"] if falcon else [])]
    paths = tuple(config.fragment(name) for name in names)
    return Plan(series, source, patches.load(series) if patched else (), paths, falcon)


def cached(plan: Plan) -> Image | None:
    """The plan's image if it was built before, else None."""
    home = _image_dir(plan)
    return _image(home, plan) if home.exists() else None


def _build(plan: Plan, tree: patches.WorkTree, jobs: int) -> Image:
    started = time.monotonic()
    changed = tree.set_patches(plan.patches)
    build_dir = cache_dir() / "builds" / plan.name
    make = Kbuild(tree.path, build_dir, jobs, "-falcon" if plan.falcon else "")
    note(f"building Linux {plan.source.version} ({len(changed)} files changed by patches) with:")
    note(f"  {make.command('bzImage')}")
    kbuild.reset_log(build_dir)
    for line in config.configure(make, plan.fragments, plan.series.absent):
        note(f"this kernel has no {line}")
    _compile(plan, make)
    if plan.has_changed():
        raise FalconError("patches or fragments changed while they were built", todo="build again")
    with cache.lock("images"), cache.publish(_image_dir(plan)) as empty:
        _collect(make, empty, plan, time.monotonic() - started)
    note(f"built in {duration(time.monotonic() - started)}")
    return _image(_image_dir(plan), plan)


def _compile(plan: Plan, make: Kbuild) -> None:
    """``make bzImage`` under a progress bar.

    ``series.toml`` says how many files a whole build makes; an interrupted one
    starts from the objects it has. How many a later build makes only make knows.
    """
    finished_once = make.build_dir / "finished-once"
    whole = not finished_once.exists()
    done = sum(1 for _ in make.build_dir.rglob("*.o")) if whole else 0
    total = max(plan.series.build_steps, done) if whole else None
    with Bar(f"building Linux {plan.source.version}", total, done=done) as bar:
        make.run("bzImage", on_step=bar.advance)
    finished_once.touch()


def _collect(make: Kbuild, into: Path, plan: Plan, seconds: float) -> None:
    """Put what ``make`` made, and how, into the directory that becomes the image."""
    shutil.copy2(make.build_dir / IMAGE, into / "bzImage")
    shutil.copy2(make.build_dir / "vmlinux", into / "vmlinux")
    shutil.copy2(make.build_dir / ".config", into / "config")
    facts = {
        "release": kbuild.kernel_release(make),
        "series": plan.series.name,
        "version": plan.source.version,
        "source": {"origin": plan.source.origin, "key": plan.source.key},
        "patches": {patch.name: patches.digest([patch]) for patch in plan.patches},
        "fragments": [path.stem for path in plan.fragments],
        "falcon": plan.falcon,
        "compiler": kbuild.compiler_version(),
        "command": make.command("bzImage"),
        "bzimage_sha256": cache.file_sha256(into / "bzImage"),
        "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "duration_s": round(seconds, 1),
        "jobs": make.jobs,
    }
    (into / "metadata.json").write_text(json.dumps(facts, indent=2) + "\n")


def _image_dir(plan: Plan) -> Path:
    return cache_dir() / "images" / f"{plan.series.name}-{plan.key}"


def _image(home: Path, plan: Plan) -> Image:
    metadata = home / "metadata.json"
    return Image(
        bzimage=home / "bzImage",
        vmlinux=home / "vmlinux",
        config=home / "config",
        metadata=metadata,
        release=json.loads(metadata.read_text())["release"],
        key=plan.key,
        falcon=plan.falcon,
    )
