# SPDX-License-Identifier: GPL-2.0-only
"""The table of series, and which version belongs to which."""

from __future__ import annotations

import pytest

from harness.errors import FalconError
from harness.kernel import series
from harness.kernel.version import parse_version, version_of


def test_every_series_of_the_table_loads():
    assert series.DEFAULT in series.names()
    for name in series.names():
        loaded = series.load(name)
        assert loaded.matches(loaded.tarball.version)
        assert len(loaded.tarball.sha256) == 64
        assert loaded.tarball.version in loaded.tarball.url


def test_unknown_series_names_the_known_ones():
    with pytest.raises(FalconError, match=r"no patch series for Linux 3\.10: .*6\.12"):
        series.load("3.10")


@pytest.mark.parametrize(
    ("version", "belongs"),
    [("6.12", True), ("6.12.117", True), ("6.12.0-rc3", True), ("6.1.2", False), ("5.15.3", False)],
)
def test_a_series_matches_its_own_line_only(version, belongs):
    assert series.load("6.12").matches(version) is belongs


def test_version_is_read_with_its_extra_part():
    text = "# comment\nVERSION = 6\nPATCHLEVEL = 13\nSUBLEVEL = 0\nEXTRAVERSION = -rc1\nNAME = X\n"
    assert parse_version(text, "here") == "6.13.0-rc1"


def test_a_directory_without_a_kernel_is_refused(tmp_path):
    with pytest.raises(FalconError, match="is not a Linux source tree"):
        version_of(tmp_path)
