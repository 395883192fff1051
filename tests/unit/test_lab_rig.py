# SPDX-License-Identifier: GPL-2.0-only
"""What every measurement stands on: which machine is kept, and how it is given up."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import FalconError
from harness.lab import instructions, timed
from harness.lab.loads import UdpLoad
from harness.lab.rig import Boot, Rig, Rigs, Window, interleaved, uncertainty, wavering
from harness.machine.console import Splat
from harness.machine.qemu import QemuMachine
from harness.overlay.plan import Plan

BOOT = Boot(Path("/bzImage"), Plan(), smp=7, mem_mib=2048, accel="tcg")


class Machines:
    """What happened to them, in order."""

    def __init__(self, closing: BaseException | None = None):
        self.told: list[str] = []
        self.closing = closing

    @contextmanager
    def opened(self, boot: Boot) -> Iterator[str]:
        self.told.append(f"boot {boot.smp}")
        try:
            yield f"rig of {boot.smp}"
        except BaseException as error:
            self.told.append(f"killed by {type(error).__name__}")
            if self.closing:
                raise self.closing from error
            raise
        self.told.append("ended")


def test_a_machine_is_kept_while_it_is_the_one_that_is_needed() -> None:
    machines, others = Machines(), Machines()
    with Rigs() as rigs:
        opener: Any = machines.opened
        assert rigs.get(BOOT, opener) == rigs.get(replace(BOOT), opener) == "rig of 7"
        assert rigs.get(replace(BOOT, smp=8), opener) == "rig of 8"
        other: Any = others.opened
        rigs.get(replace(BOOT, smp=8), other)
        assert machines.told == ["boot 7", "ended", "boot 8", "ended"]
    assert others.told == ["boot 8", "ended"]


def test_a_machine_that_failed_is_neither_waited_for_nor_used_again() -> None:
    machines = Machines(closing=FalconError("the guest is dead"))
    opener: Any = machines.opened
    with Rigs() as rigs:
        rigs.get(BOOT, opener)
        rigs.abandon(FalconError("the guest hung"))  # and what that leads to is no news
        rigs.get(BOOT, opener)
    assert machines.told == ["boot 7", "killed by FalconError", "boot 7", "ended"]


def test_a_machine_that_ends_badly_fails_no_measurement_after_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def ends_badly(_boot: Boot) -> Iterator[str]:
        yield "rig"
        raise FalconError("the guest hung")

    machines = Machines()
    opener: Any = machines.opened
    with Rigs() as rigs:
        rigs.get(BOOT, ends_badly)  # type: ignore[arg-type]
        assert rigs.get(BOOT, opener) == "rig of 7"
        rigs.get(replace(BOOT, smp=8), ends_badly)  # type: ignore[arg-type]
    assert capsys.readouterr().err.count("no longer needed: the guest hung") == 2


def test_ctrl_c_is_passed_on_to_the_machine() -> None:
    machines = Machines()
    opener: Any = machines.opened
    with pytest.raises(KeyboardInterrupt), Rigs() as rigs:
        rigs.get(BOOT, opener)
        raise KeyboardInterrupt
    assert machines.told == ["boot 7", "killed by KeyboardInterrupt"]


def test_a_machine_that_does_not_boot_leaves_nothing() -> None:
    @contextmanager
    def broken(boot: Boot) -> Iterator[str]:
        raise FalconError("the guest kernel panicked")
        yield "no rig"

    machines = Machines()
    opener: Any = machines.opened
    with Rigs() as rigs:
        with pytest.raises(FalconError, match="panicked"):
            rigs.get(BOOT, broken)  # type: ignore[arg-type]
        assert rigs.get(BOOT, opener) == "rig of 7"
    assert machines.told == ["boot 7", "ended"]


def test_complaints_of_the_kernel_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    splats: list[Splat] = []
    monkeypatch.setattr(QemuMachine, "splats", lambda self: tuple(splats))
    machine = QemuMachine.__new__(QemuMachine)
    rig = Rig(None, None, Plan(), machine)  # type: ignore[arg-type]
    rig.check()
    splats.append(Splat("warning", "WARNING: CPU: 1 at net/core/dev.c"))
    with pytest.raises(FalconError, match=r"complained: WARNING: CPU: 1 at net/core"):
        rig.check()
    Rig(None, None, Plan()).check()  # type: ignore[arg-type]


def test_the_overlay_is_as_large_as_the_load_needs() -> None:
    load = UdpLoad(flows=6, containers=3)
    for kind in (instructions.Config, timed.Config):
        assert kind(Path(), load, ("con",)).boot.plan == Plan(containers=3)


# ---- rounds -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number(Window):
    """A window of which all that counts is a number."""

    compared: float = 1.0
    headline = "a number"


def windows(
    rounds: int,
    most: int,
    ratio: Callable[[int], float],
    without: tuple[int, ...] = (),
    before: tuple[Number, ...] = (),
) -> list[tuple[int, str]]:
    """Rounds and modes that are taken if falcon is so many times con, and rounds ``without``
    samples are left out.
    """
    of = {"rounds": rounds, "most_rounds": most, "before": before}
    config = timed.Config(Path(), UdpLoad(), ("con", "falcon"), **of)  # type: ignore[arg-type]

    def take(number: int, names: Sequence[str]) -> list[Number]:
        if number in without:
            return []
        # What the host does to a round it does to both modes.
        drift = 1.0 + number
        of = {"con": drift, "falcon": drift * ratio(number)}
        return [Number(name, number, 1, 0, 0, of[name]) for name in names]

    rig = Rig(None, None, Plan())  # type: ignore[arg-type]
    return [(window.round, window.mode) for window in interleaved(config, rig, take)]


def test_modes_take_turns_at_being_first() -> None:
    assert windows(2, 0, lambda _: 1.5) == [*((0, "con"), (0, "falcon"), (1, "falcon"), (1, "con"))]


def test_ratios_that_agree_need_no_more_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(windows(3, 6, lambda number: 1.5 + 0.01 * number)) == 2 * 3
    assert "uncertain" not in capsys.readouterr().err


def test_rounds_that_are_left_out_are_made_up_for() -> None:
    assert [number for number, _ in windows(2, 4, lambda _: 1.5, without=(0, 2))] == [1, 1, 3, 3]
    with pytest.raises(FalconError, match="only 1 of 2 rounds could be measured"):
        windows(2, 3, lambda _: 1.5, without=(0, 2))


def test_rounds_are_added_until_ratios_agree() -> None:
    found = windows(3, 40, lambda number: 1.4 + 0.2 * (number % 2))
    assert 2 * 3 < len(found) < 2 * 40
    assert found[-1][0] == len(found) // 2 - 1


def test_ratios_that_never_agree_are_said_to_be_uncertain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(windows(2, 5, lambda number: 1.0 + number)) == 2 * 5
    said = capsys.readouterr().err
    assert re.search(r"falcon : con is uncertain by \d\d%, after 5 rounds", said)


@pytest.mark.parametrize(
    ("last", "ratio", "numbers"),
    [
        (1, 1.5, [2]),
        # That a round before was another one counts, too: there are as many more as ever.
        (1, 3.0, [2, 3, 4]),
        # Numbers of rounds that were left out are no rounds.
        (9, 1.5, [10]),
    ],
)
def test_rounds_that_there_were_before_count(last: int, ratio: float, numbers: list[int]) -> None:
    compared = {(0, "con"): 1.0, (0, "falcon"): ratio, (last, "con"): 1.0, (last, "falcon"): 1.5}
    before = tuple(Number(mode, n, 1, 0, 0, of) for (n, mode), of in compared.items())
    found = windows(3, 5, lambda _: 1.5, before=before)
    assert [number for number, _ in found] == [n for n in numbers for _ in range(2)]


def test_what_is_missing_with_rounds_from_before_is_an_error() -> None:
    before = tuple(Number(mode, 0, 1, 0, 0, 1.0) for mode in ("con", "falcon"))
    with pytest.raises(FalconError, match="only 1 of 2 rounds could be measured"):
        windows(2, 3, lambda _: 1.5, without=(1, 2), before=before)


def test_how_uncertain_a_ratio_is() -> None:
    pairs = [(1.0, 2.0), (10.0, 22.0), (5.0, 9.0), (0.0, 7.0)]
    samples = [
        Number(mode, number, 1, 0, 0, value)
        for number, pair in enumerate(pairs)
        for mode, value in zip(("con", "falcon"), pair, strict=True)
    ]
    ratios = [2.0, 2.2, 1.8]  # the last baseline is no base
    expected = statistics.stdev(ratios) / statistics.mean(ratios) / len(ratios) ** 0.5
    assert uncertainty(samples, "falcon", "con") == pytest.approx(expected)
    assert uncertainty(samples[:2], "falcon", "con") == 0
    assert wavering(samples, "con") == {"falcon": pytest.approx(expected)}
