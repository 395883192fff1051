# SPDX-License-Identifier: GPL-2.0-only
"""What a maintainer would refuse a patch series for.

In: a series and a source. Out: nothing when a check passes, ``FalconError``
with the reason when it does not. Checks that compile remember what passed, by
the hash of all that went in, so that repeating them is free.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.kernel import cache, config, kbuild, patches
from harness.kernel.kbuild import Kbuild
from harness.kernel.patches import ANONYMOUS, Patch
from harness.kernel.process import capture, last_words, output
from harness.kernel.series import Series
from harness.kernel.source import Source
from harness.paths import cache_dir

SWITCH = "CONFIG_NET_FALCON"
_NOT_IN_THE_KERNEL = ("tools/", "samples/", "Documentation/")
# No object of its own: falcon.c includes it, in a kernel with KUnit.
KUNIT_TEST = "net/core/falcon_test.c"
_WARNING = re.compile(r"^(\S+?):(?:\d+:)*\s+(warning: .*)$")

# FILE_PATH_CHANGES asks of every new file whether MAINTAINERS names it. A series
# kept outside the kernel has no maintainer there, and a hunk in that ever-changing
# file would keep the series from applying to other point releases.
_CHECKPATCH = ["--strict", "--no-summary", "--show-types", "--color=never"]
_IGNORED = ["FILE_PATH_CHANGES"]
# How every TRACE_EVENT() of the kernel is laid out.
_TRACE_HEADERS = "include/trace/events/"
_IGNORED_IN_TRACE_HEADERS = ["PARENTHESIS_ALIGNMENT", "OPEN_ENDED_LINE"]


def applies(source: Source, stack: Sequence[Patch]) -> None:
    """Every patch applies without fuzz after those before it."""
    patches.applied(source, stack)


def am_able(source: Source, stack: Sequence[Patch]) -> None:
    """``git am`` takes the series: well-formed mails, the author and a message in each."""
    tools.require("git")
    with tempfile.TemporaryDirectory(prefix="falcon-") as box:
        for name in {name for patch in stack for name in patch.touches}:
            pristine = source.tree / name
            if pristine.exists():
                cache.write_atomically(Path(box, name), pristine.read_bytes())
        git = ["git", "-C", box]
        output([*git, "init", "-q"], "git init", env=ANONYMOUS)
        output([*git, "add", "-A", "-f"], "git add", env=ANONYMOUS)
        output([*git, "commit", "-q", "--allow-empty", "-m", "base"], "git commit", env=ANONYMOUS)
        files = [patch.path.resolve() for patch in stack]
        done = capture([*git, "am", "-q", *files], env=ANONYMOUS)
        if done.returncode:
            raise FalconError("git am refuses the series", last_words(done))


def checkpatch(source: Source, patch: Patch) -> None:
    """The kernel's own ``checkpatch.pl --strict`` has nothing to say."""
    tools.require("perl")
    script = source.tree / "scripts/checkpatch.pl"
    traces = any(name.startswith(_TRACE_HEADERS) for name in patch.touches)
    ignored = ",".join([*_IGNORED, *(_IGNORED_IN_TRACE_HEADERS if traces else [])])
    command = [script, *_CHECKPATCH, "--ignore", ignored, patch.path.resolve()]
    done = capture(command, cwd=source.tree)
    complaints = re.findall(r"^(?:ERROR|WARNING|CHECK):.*", done.stdout, re.MULTILINE)
    if complaints or done.returncode:
        note(done.stdout.strip())
        why = complaints[0] if complaints else last_words(done)
        raise FalconError(f"checkpatch.pl --strict complains of {patch.name}", why)


@dataclass(frozen=True)
class Prefix:
    """The first ``len(stack)`` patches of a series, with Falcon on or off in the configuration.

    ``smp``: in a kernel for several CPUs; Falcon needs one.
    """

    stack: tuple[Patch, ...]
    falcon: bool
    smp: bool = True

    def __str__(self) -> str:
        last = self.stack[-1].name if self.stack else "no patch"
        switch = f"{SWITCH}={'y' if self.falcon else 'n'}"
        return f"up to {last}, {switch if self.smp else 'CONFIG_SMP=n'}"


def prefixes(stack: Sequence[Patch]) -> list[Prefix]:
    """Every prefix, each with Falcon off and, once the series has its option, on.

    And all patches in a kernel without SMP.
    """
    found = []
    has_switch = False
    for count in range(1, len(stack) + 1):
        part = tuple(stack[:count])
        has_switch = has_switch or _adds_switch(part[-1])
        found += [Prefix(part, falcon) for falcon in ([False, True] if has_switch else [False])]
    if stack:
        found.append(Prefix(tuple(stack), falcon=False, smp=False))
    return found


def _adds_switch(patch: Patch) -> bool:
    text = patch.path.read_text(encoding="utf-8")
    return re.search(r"^\+config NET_FALCON$", text, re.MULTILINE) is not None


class PrefixBuilder:
    """Compiles what the series touches, prefix by prefix, in a tree of its own.

    A build directory for each configuration, Falcon off, on, and no SMP, so that
    going through the prefixes compiles little each time.
    """

    def __init__(self, series: Series, source: Source, fragments: Sequence[str] = ("guest",)):
        self.series, self.source = series, source
        self.stack = patches.load(series)
        self.fragments = tuple(config.fragment(name) for name in fragments)
        self.tree = patches.WorkTree(source, "check")

    def check(self, prefix: Prefix, whole: bool = False) -> None:
        """The touched objects (``whole``: and the image) build with W=1, with no new warning.

        New is what the unpatched source does not warn of, on whatever line.
        """
        stamp = self._memory(prefix, whole)
        if stamp.exists():
            return
        with cache.lock(self.tree.lock):
            new = self._warnings(prefix, whole) - self._baseline(prefix.smp)
        if new:
            raise FalconError(f"new warnings {prefix}", "; ".join(sorted(new)))
        cache.write_atomically(stamp, f"{prefix}\n")

    def compile(self, prefix: Prefix) -> Path:
        """Compile the touched objects of ``prefix``; the directory they are made in.

        Hold ``cache.lock(builder.tree.lock)`` as long as they are needed.
        """
        self._warnings(prefix, whole=False)
        return self._build_dir(prefix)

    def _baseline(self, smp: bool) -> set[str]:
        """What the unpatched source warns of, in the files that the series will touch."""
        unpatched = Prefix((), False, smp)
        memory = self._memory(unpatched, whole=False)
        if not memory.exists():
            found = self._warnings(unpatched, whole=False)
            cache.write_atomically(memory, json.dumps(sorted(found), indent=1))
        return set(json.loads(memory.read_text()))

    def _memory(self, prefix: Prefix, whole: bool) -> Path:
        """The file that remembers this check's result."""
        inputs = [self.source.key, patches.digest(prefix.stack), str(prefix), str(whole)]
        inputs += [kbuild.compiler_version(), *self._objects(prefix)]
        key = cache.digest([*inputs, *(path.read_bytes() for path in self._fragments(prefix))])
        return cache_dir() / "checked" / key

    def _warnings(self, prefix: Prefix, whole: bool) -> set[str]:
        """Compile; what headers and the touched files warn of, without line numbers, which patches
        shift.
        """
        self.tree.set_patches(prefix.stack)
        make = self._configured(prefix)
        objects = self._objects(prefix)
        for name in objects:  # compiled before, they would not warn again
            (make.build_dir / name).unlink(missing_ok=True)
        lines = make.run("W=1", *objects) if objects else []
        if whole:
            make.run("bzImage")
        asked_for = tuple(f"/{name.removesuffix('.o')}.c" for name in objects)
        found = (m for line in lines if (m := _WARNING.match(line)))
        # Once, make compiles files of its own before, and 4.19's asm-offsets.c warns.
        return {
            f"{m[1]}: {m[2]}"
            for m in found
            if f"/{m[1]}".endswith(asked_for) or not m[1].endswith(".c")
        }

    def _configured(self, prefix: Prefix) -> Kbuild:
        build_dir = self._build_dir(prefix)
        make = Kbuild(self.tree.path, build_dir, kbuild.jobs_default())
        kbuild.reset_log(build_dir)
        config.configure(make, self._fragments(prefix), self.series.absent)
        return make

    def _fragments(self, prefix: Prefix) -> list[Path]:
        if not prefix.smp:
            return [config.fragment("uniprocessor")]
        extra = ["falcon"] if prefix.falcon else []
        if prefix.falcon and any(KUNIT_TEST in patch.adds for patch in prefix.stack):
            extra.append("kunit")
        return [*self.fragments, *map(config.fragment, extra)]

    def _build_dir(self, prefix: Prefix) -> Path:
        switch = "on" if prefix.falcon else "off" if prefix.smp else "up"
        return cache_dir() / "builds" / f"{self.source.key}-check-{switch}"

    def _objects(self, prefix: Prefix) -> list[str]:
        """The objects to make: of the touched C files, those the configuration builds.

        The unpatched source gives those of the whole series, to compare with.
        """
        stack = prefix.stack or self.stack
        touched = {name for patch in stack for name in patch.touches}
        added = {name for patch in stack for name in patch.adds}
        built = touched if prefix.falcon else touched - added
        return sorted(
            name.removesuffix(".c") + ".o"
            for name in built
            if name.endswith(".c")
            and name != KUNIT_TEST
            and not name.startswith(_NOT_IN_THE_KERNEL)
        )


def all_checks(
    series: Series, source: Source, *, whole: bool
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check in turn, cheapest first: its name, and the call that makes it."""
    stack = patches.load(series)
    yield f"applies to Linux {source.version} without fuzz", partial(applies, source, stack)
    yield "git am takes the series", partial(am_able, source, stack)
    for patch in stack:
        yield f"checkpatch --strict {patch.name}", partial(checkpatch, source, patch)
    builder = PrefixBuilder(series, source)
    for prefix in prefixes(stack):
        yield f"builds {prefix}", partial(builder.check, prefix, whole)
