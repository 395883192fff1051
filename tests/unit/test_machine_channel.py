# SPDX-License-Identifier: GPL-2.0-only
"""The frames of the command channel, and that both ends count their kinds alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import FalconError
from harness.machine.channel import Frame, FrameReader, Kind, pack, start_request
from harness.machine.initramfs import GUEST

FRAMES = st.lists(
    st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=300))
)


@given(FRAMES, st.integers(1, 50))
def test_frames_survive_any_cutting(frames, size):
    stream = b"".join(pack(Kind(kind), number, payload) for kind, number, payload in frames)
    reader = FrameReader()
    received = []
    for start in range(0, len(stream), size):
        received += reader.feed(stream[start : start + size])
    assert received == frames


def test_the_kinds_are_those_of_the_guest():
    text = (GUEST / "agent.h").read_text()
    enum = re.search(r"enum frame_kind \{(.*?)\};", text, re.DOTALL)
    assert enum
    in_c = {name: int(value) for name, value in re.findall(r"([A-Z]+) = (\d+)", enum.group(1))}
    assert in_c == {kind.name: kind.value for kind in Kind}


def test_a_request_is_laid_out_as_the_guest_reads_it():
    request = start_request(["a", "b c"], "/d", {"X": "1"}, (24, 80))
    assert request == b"\0\x18\0\x50" + b"\0\0\0\x02" + b"/d\0a\0b c\0X=1\0"


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
def test_what_no_kernel_could_run_is_refused_here(argv):
    with pytest.raises(FalconError):
        start_request(argv, "/", None)
