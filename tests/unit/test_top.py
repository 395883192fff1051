# SPDX-License-Identifier: GPL-2.0-only
"""Falcon's top: its screen, its JSON, and how it ends."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness import console, top
from harness.errors import FalconError
from harness.overlay import falcon
from harness.overlay.watch import CpuRates, Measurement, Rates, StageRates
from harness.report.top import as_json, per_second, screen
from harness.top import TopConfig

STATE = {
    **{"state": "on", "gate": "open", "load": "12", "threshold": "85", "interval": "50"},
    **{"two_choice": "1", "gro_split": "2", "cpus": "1-4"},
}
BUSY = Rates(steered=20_000, first=15_000, second=5_000, held=2.5, split=10_000)
MEASURED = Measurement(
    kernel="6.12.7",
    seconds=1.0,
    state=STATE,
    cpus=(
        CpuRates(0, None, 0.0, BUSY, 0.75),
        CpuRates(1, 97, 30_000.0, Rates(gated=7, dropped=1), 0.25),
        CpuRates(2, 0, 0.0, Rates(), 0.0),
    ),
    stages=(
        StageRates("web", "eth0", 7, "-", Rates(steered=5, first=5)),
        StageRates("host", "nic0", 2, "split", BUSY),
    ),
    namespaces=2,
    hidden=0,
)


def lines(measured: Measurement = MEASURED, width: int = 80, height: int | None = None) -> list:
    return screen(measured, width, height).plain.splitlines()


def test_screen_tells_state_cpus_and_stages_the_busiest_first() -> None:
    shown = lines()
    assert shown[:2] == [
        "Linux 6.12.7: Falcon on, gate open, load 12% of 85%, CPUs 1-4, two_choice 1,",
        "gro_split 2, load every 50 ms, 2 network namespaces",
    ]
    cells = [re.split(" {2,}", line.strip()) for line in shown]
    assert " ".join(cells[3]) == (
        "CPU load in/s steered/s first second gated/s split/s dropped/s softirq"
    )
    assert cells[4] == ["0", "-", "0", "20.0k", "75%", "25%", "0", "10.0k", "0", "75%"]
    assert cells[5] == ["1", "97%", "30.0k", "0", "-", "-", "7.0", "0", "1.0", "25%"]
    assert [row[:4] for row in cells[8:]] == [
        ["namespace", "device", "gro", "steered/s"],
        ["host", "nic0", "split", "20.0k"],
        ["web", "eth0", "-", "5.0"],
    ]


def test_columns_are_right_under_their_headings() -> None:
    shown = lines(width=100)
    for column in ("steered/s", "held/s", "dropped/s"):
        end = shown[3].index(column) + len(column)
        assert all(line[end - 1].isdigit() or line[end - 1] == "k" for line in shown[4:7])
        assert all(line[end : end + 1] in (" ", "") for line in shown[4:7])


@pytest.mark.parametrize("width", [30, 40, 60, 79, 80, 100, 300])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = lines(width=width)
    assert max(map(len, shown)) <= width
    headings = " ".join(line for line in shown if "steered/s" in line or "CPU" in line)
    assert ("held/s" in headings) == (width >= 100)
    # What is never left out
    assert "steered/s" in headings


def test_long_names_are_shortened() -> None:
    stage = replace(MEASURED.stages[0], namespace="containerd-shim-runc-v2[4711]")
    shown = lines(replace(MEASURED, stages=(stage,)), width=120)
    assert shown[-1].startswith("containerd-shim-run…  eth0")


def many(cpus: int, stages: int) -> Measurement:
    return replace(
        MEASURED,
        cpus=tuple(CpuRates(n, 1, float(n), Rates(), 0.0) for n in range(cpus)),
        stages=tuple(
            StageRates(f"ns{n}", "eth0", n, "-", Rates(steered=float(n))) for n in range(stages)
        ),
    )


@pytest.mark.parametrize("height", [12, 24, 50])
@pytest.mark.parametrize(("cpus", "stages"), [(2, 1), (64, 1), (4, 200), (128, 500), (8, 12)])
def test_screen_fits_and_shows_the_busiest(height: int, cpus: int, stages: int) -> None:
    shown = lines(many(cpus, stages), height=height)
    assert len(shown) <= height
    assert any(line.split()[:1] == [str(cpus - 1)] for line in shown), "the busiest CPU"
    assert any(line.split()[:1] == [f"ns{stages - 1}"] for line in shown), "the busiest stage"
    left_out = [int(line.split()[2]) for line in shown if line.startswith("…")]
    rows = [line for line in shown[3:] if re.match(r" *\d|ns\d", line)]
    assert len(rows) + sum(left_out) == cpus + stages
    # Room is not wasted
    assert not left_out or len(shown) >= height - 2


def test_cpus_stay_in_their_order() -> None:
    shown = [line.split()[0] for line in lines(many(64, 1), height=20) if line.startswith(" ")]
    assert shown == sorted(shown, key=int) and "63" in shown


def test_kernel_that_cannot_split_and_hidden_namespaces_are_told() -> None:
    state = {word: value for word, value in STATE.items() if word != "gro_split"}
    shown = " ".join(lines(replace(MEASURED, state=state, namespaces=1, hidden=3)))
    assert "gro_split -," in shown
    assert "1 network namespace (3 more need root)" in shown


def test_machine_without_any_packet_has_empty_tables() -> None:
    shown = lines(replace(MEASURED, cpus=(), stages=()))
    assert [line.split()[0] for line in shown if line][-2:] == ["CPU", "namespace"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.04, "0"),
        (0.05, "0.1"),
        (9.94, "9.9"),
        (9.96, "10"),
        (9_999, "9,999"),
        (9_999.6, "10.0k"),
        (999_949, "999.9k"),
        (999_951, "1.00M"),
        (123_456_789, "123.46M"),
    ],
)
def test_rates_are_short(value: float, text: str) -> None:
    assert per_second(value) == text


def test_json_has_everything_as_numbers() -> None:
    line = as_json(MEASURED, 1_700_000_000.1234)
    assert "\n" not in line
    told = json.loads(line)
    assert told["time"] == 1_700_000_000.123
    assert told["state"] == {
        **{"state": "on", "gate": "open", "cpus": "1-4", "gro_split": 2},
        **{"load": 12, "threshold": 85, "interval": 50, "two_choice": 1},
    }
    assert told["cpus"][1]["load"] == 97 and told["cpus"][0]["load"] is None
    assert told["stages"][1]["rates"]["split"] == 10_000
    assert [stage["namespace"] for stage in told["stages"]] == ["web", "host"]


# ---- running ------------------------------------------------------------------------


class FakeReading:
    """A reading of its own number."""

    def __init__(self, number: int):
        self.number = number

    def since(self, earlier: FakeReading) -> Measurement:
        assert earlier.number == self.number - 1, "each measurement begins where the last ended"
        return replace(MEASURED, kernel=f"6.12.{self.number}")


class FakeWatch:
    """Readings, and after ``last`` of them Ctrl-C."""

    last = 10

    def __init__(self) -> None:
        self.readings = 0

    def read(self) -> FakeReading:
        if self.readings > self.last:
            raise KeyboardInterrupt
        self.readings += 1
        return FakeReading(self.readings)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What goes into a pipe; a second passes at once."""
    written = StringIO()
    monkeypatch.setattr(top, "Watch", FakeWatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(console, "out", Console(file=written, highlight=False, soft_wrap=True))
    yield written


def kernels(text: str) -> list[str]:
    return re.findall(r"Linux (6\.12\.\d+):", text)


def test_once_is_one_measurement_whole(printed: StringIO) -> None:
    top.run(TopConfig(count=1, plain=True))
    text = printed.getvalue()
    assert kernels(text) == ["6.12.2"]
    assert "held/s" in text, "a pipe has no width to keep to"
    assert "\x1b" not in text and not text.startswith("\n")


def test_pipe_gets_one_measurement_after_the_other(printed: StringIO) -> None:
    top.run(TopConfig(count=3))
    assert kernels(printed.getvalue()) == ["6.12.2", "6.12.3", "6.12.4"]


def test_json_is_a_line_each(printed: StringIO) -> None:
    top.run(TopConfig(count=2, as_json=True))
    told = [json.loads(line) for line in printed.getvalue().splitlines()]
    assert [one["kernel"] for one in told] == ["6.12.2", "6.12.3"]


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupting_is_a_good_end(printed: StringIO, as_json: bool) -> None:
    top.run(TopConfig(as_json=as_json))
    assert len(printed.getvalue().splitlines()) >= FakeWatch.last


def test_terminal_is_renewed_and_keeps_the_last_screen(
    printed: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=printed, force_terminal=True, width=60, height=20, soft_wrap=True)
    monkeypatch.setattr(console, "out", terminal)
    top.run(TopConfig())
    live, _, after = printed.getvalue().rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in live and "6.12.2" in live
    assert kernels(re.sub(r"\x1b\[[0-9;]*m", "", after)) == [f"6.12.{FakeWatch.last + 1}"]


@pytest.mark.parametrize(
    "config", [TopConfig(interval_s=0), TopConfig(interval_s=-1), TopConfig(count=-1)]
)
def test_nothing_to_measure_is_refused(printed: StringIO, config: TopConfig) -> None:
    with pytest.raises(FalconError, match="nothing to measure"):
        top.run(config)


def test_host_without_falcon_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(falcon, "SYSCTL", tmp_path)
    with pytest.raises(FalconError, match="has no Falcon") as refused:
        top.run(TopConfig(count=1, plain=True))
    assert refused.value.status == 1 and "\n" not in str(refused.value)
