# SPDX-License-Identifier: GPL-2.0-only
"""Fragments: parsed, merged, and no option lost unnoticed."""

from __future__ import annotations

import pytest

from harness.errors import FalconError
from harness.kernel import config
from harness.kernel.kbuild import Kbuild


def configure(lab, tmp_path, *names, absent=frozenset()):
    kbuild = Kbuild(lab.tree, tmp_path / "out", jobs=1)
    missing = config.configure(kbuild, [config.fragment(name) for name in names], absent)
    return missing, config.parse((tmp_path / "out/.config").read_text())


def test_set_and_unset_options_are_read_and_comments_are_not():
    text = '# a remark\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="text"\n\n'
    assert config.parse(text) == {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": '"text"'}


def test_an_option_not_set_is_the_same_as_one_not_there():
    assert config.lost({"CONFIG_B": "n"}, {}) == []
    assert config.lost({"CONFIG_B": "n"}, {"CONFIG_B": "y"}) == ["CONFIG_B=n"]


def test_fragments_are_merged_over_tinyconfig(lab, tmp_path):
    missing, options = configure(lab, tmp_path, "guest")
    assert missing == []
    assert options == {"CONFIG_TINY": "y", "CONFIG_NET": "y"}


def test_a_lost_option_is_an_error_that_names_it(lab, tmp_path):
    with pytest.raises(FalconError, match=r"configuration lost CONFIG_NET_FALCON=y:"):
        configure(lab, tmp_path, "guest", "falcon")


def test_an_option_known_to_be_absent_is_reported_only(lab, tmp_path):
    absent = frozenset({"CONFIG_NET_FALCON"})
    missing, _ = configure(lab, tmp_path, "guest", "falcon", absent=absent)
    assert missing == ["CONFIG_NET_FALCON=y"]


def test_a_later_fragment_overrides_an_earlier_one(lab, tmp_path):
    (lab.fragments / "off.config").write_text("# CONFIG_NET is not set\n")
    with pytest.raises(FalconError, match="CONFIG_NET=n"):
        configure(lab, tmp_path, "off", "guest", "off")


def test_an_unknown_fragment_names_those_there_are(lab):
    with pytest.raises(
        FalconError, match="no configuration fragment gest: there are falcon, guest"
    ):
        config.fragment("gest")
