# SPDX-License-Identifier: GPL-2.0-only
"""Which series is checked, on which source: the options that ``./inv test`` passes on.

One test a patch and a prefix: the tests are made from the series' files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import FalconError
from harness.kernel import check, patches, series, source


def pytest_addoption(parser):
    group = parser.getgroup("falcon", "the series to check")
    group.addoption("--kernel", default=series.DEFAULT, help="kernel line of the series")
    group.addoption("--source", type=Path, help="kernel tree or tarball to use")
    group.addoption("--git", type=Path, help="git repository to take the kernel from")
    group.addoption("--rev", help="revision in the repository")


def pytest_generate_tests(metafunc):
    stack = patches.load(series.load(metafunc.config.getoption("--kernel")))
    if "patch" in metafunc.fixturenames:
        metafunc.parametrize("patch", stack, ids=lambda patch: patch.name)
    if "prefix" in metafunc.fixturenames:
        metafunc.parametrize("prefix", check.prefixes(stack), ids=str)


@pytest.fixture(scope="session")
def chosen(request):
    """The series under test."""
    return series.load(request.config.getoption("--kernel"))


@pytest.fixture(scope="session")
def stack(chosen):
    """All its patches."""
    return patches.load(chosen)


@pytest.fixture(scope="session")
def tree(request, chosen):
    """Its source. None to be had is a failure, not a skip: nothing was checked then."""
    options = {name: request.config.getoption(f"--{name}") for name in ("git", "rev")}
    try:
        return source.get(chosen, path=request.config.getoption("--source"), **options)
    except FalconError as error:
        pytest.fail(str(error), pytrace=False)
