# SPDX-License-Identifier: GPL-2.0-only
"""The patch series as a maintainer checks it, on a real kernel source."""

from __future__ import annotations

import pytest

from harness.kernel import check


def test_applies_without_fuzz(tree, stack):
    check.applies(tree, stack)


def test_git_am_takes_it(tree, stack):
    check.am_able(tree, stack)


def test_checkpatch_strict(tree, patch):
    check.checkpatch(tree, patch)


@pytest.mark.compiles
@pytest.mark.timeout(1200)
def test_prefix_builds_without_a_new_warning(builder, prefix):
    builder.check(prefix)


@pytest.fixture(scope="session")
def builder(chosen, tree):
    """Compiles prefixes in one tree, one after the other."""
    return check.PrefixBuilder(chosen, tree)
