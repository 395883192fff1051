# SPDX-License-Identifier: GPL-2.0-only
"""The patch series as a maintainer checks it, on a real kernel source."""

from __future__ import annotations

import re

import pytest

from harness.kernel import check


def test_applies_without_fuzz(tree, stack):
    check.applies(tree, stack)


def test_git_am_takes_it(tree, stack):
    check.am_able(tree, stack)


def test_checkpatch_strict(tree, patch):
    check.checkpatch(tree, patch)


def test_patch_is_numbered_in_order(stack):
    assert [patch.name[:4] for patch in stack] == [f"{n:04}" for n in range(1, len(stack) + 1)]


def test_patch_says_who_and_why(patch):
    message = patch.path.read_text(encoding="utf-8").partition("\n---\n")[0]
    body = message.partition("\n\n")[2]
    assert re.search(r"^Signed-off-by: .+ <.+@.+>$", message, re.MULTILINE)
    assert len(body.split()) > 20, "a patch without a reason"


def test_added_files_say_their_licence(stack):
    from harness.kernel.patches import added_file

    for patch in stack:
        for name in patch.adds:
            head = added_file(stack, name).splitlines()[:2]
            assert any("SPDX-License-Identifier: GPL-2.0" in line for line in head), name


@pytest.mark.timeout(1200)
def test_prefix_builds_without_a_new_warning(builder, prefix):
    builder.check(prefix)


@pytest.fixture(scope="session")
def builder(chosen, tree):
    """Compiles prefixes in one tree, one after the other."""
    return check.PrefixBuilder(chosen, tree)
