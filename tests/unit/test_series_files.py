# SPDX-License-Identifier: GPL-2.0-only
"""The patch files of every series as they lie in patches/: no kernel is needed to read them."""

from __future__ import annotations

import re

import pytest

from harness.kernel import patches, series
from harness.kernel.patches import added_file
from harness.paths import PROJECT

# The same text in every series: what differs belongs in falcon_compat.h and the hooks.
CORE = (
    "net/core/falcon.c",
    "net/core/falcon_pick.h",
    "include/net/falcon.h",
    "include/trace/events/falcon.h",
    "tools/testing/selftests/net/falcon.sh",
    "Documentation/networking/falcon.rst",
)
COMPAT = "net/core/falcon_compat.h"
README = (PROJECT / "README.md").read_text(encoding="utf-8")
NAMES = series.names()
STACKS = {name: patches.load(series.load(name)) for name in NAMES}
PATCHES = [
    pytest.param(patch, id=f"{name}/{patch.name}") for name in NAMES for patch in STACKS[name]
]


def test_there_is_a_series_for_each_long_term_kernel():
    assert set(NAMES) == {"4.19", "5.4", "6.1", "6.12"}


@pytest.mark.parametrize("name", NAMES)
def test_patches_are_numbered_in_order(name):
    stack = STACKS[name]
    assert [patch.name[:4] for patch in stack] == [f"{n:04}" for n in range(1, len(stack) + 1)]


@pytest.mark.parametrize("patch", PATCHES)
def test_patch_says_who_and_why(patch):
    message = patch.path.read_text(encoding="utf-8").partition("\n---\n")[0]
    body = message.partition("\n\n")[2]
    assert re.search(r"^Signed-off-by: .+ <.+@.+>$", message, re.MULTILINE)
    assert len(body.split()) > 20, "a patch without a reason"


@pytest.mark.parametrize("name", NAMES)
def test_added_files_say_their_licence(name):
    for patch in STACKS[name]:
        for added in patch.adds:
            head = added_file(STACKS[name], added).splitlines()[:2]
            assert any("SPDX-License-Identifier: GPL-2.0" in line for line in head), added


@pytest.mark.parametrize("name", [name for name in NAMES if name != series.DEFAULT])
def test_series_has_the_patches_of_the_default_one(name):
    wanted = [patch.name for patch in STACKS[series.DEFAULT]]
    assert [patch.name for patch in STACKS[name]] == wanted


@pytest.mark.parametrize("name", [name for name in NAMES if name != series.DEFAULT])
@pytest.mark.parametrize("file", CORE)
@pytest.mark.parametrize("count", range(1, len(STACKS[series.DEFAULT]) + 1))
def test_core_files_are_the_same_text_after_every_patch(name, file, count):
    """Not only at the end, so that each patch can be reviewed once for all kernels."""
    assert _text_after(name, file, count) == _text_after(series.DEFAULT, file, count)


@pytest.mark.parametrize("name", NAMES)
def test_core_files_do_not_ask_for_the_kernels_version(name):
    for file in (*CORE, COMPAT):
        assert "LINUX_VERSION_CODE" not in added_file(STACKS[name], file), file


@pytest.mark.parametrize("name", NAMES)
def test_compat_offers_the_same_names(name):
    """What falcon.c uses of falcon_compat.h must be in each of them."""
    assert _names(COMPAT, name) == _names(COMPAT, series.DEFAULT)


def _text_after(name, file, count):
    stack = STACKS[name][:count]
    if not any(file in patch.adds for patch in stack):
        return None
    return added_file(stack, file)


def _names(file, name):
    return set(re.findall(r"\bfalcon_\w+(?=\()|\bFALCON_\w+", added_file(STACKS[name], file)))


@pytest.mark.parametrize("name", NAMES)
def test_the_readmes_matrix_says_what_was_recorded(name):
    """Oldest and newest point release that applied, and all that were booted."""
    known = series.load(name)
    row = next(line for line in README.splitlines() if line.startswith(f"| {name} |"))
    assert " to ".join(dict.fromkeys((known.applied_on[0], known.applied_on[-1]))) in row
    assert ", ".join(known.booted_on) in row


@pytest.mark.parametrize("name", NAMES)
def test_recorded_releases_are_in_order_and_of_the_line(name):
    known = series.load(name)
    for releases in (known.applied_on, known.booted_on):
        assert releases, "nothing was ever tried"
        assert all(known.matches(release) for release in releases)
        numbers = [int(release.rpartition(".")[2]) for release in releases]
        assert numbers == sorted(set(numbers))
    assert set(known.booted_on) <= set(known.applied_on)
