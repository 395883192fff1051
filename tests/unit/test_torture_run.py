# SPDX-License-Identifier: GPL-2.0-only
"""What the user may ask for, how a run is followed, and what it says at its end."""

from __future__ import annotations

import io
import json
import threading
import time
from dataclasses import dataclass, field, replace
from itertools import islice

import pytest

from harness.errors import FalconError
from harness.machine.base import Result
from harness.machine.console import Console, Splat
from harness.torture import driver, run
from harness.torture.account import Balance, Drops
from harness.torture.actions import Action
from harness.torture.driver import Outcome, Totals
from harness.torture.guest import Job
from harness.torture.run import Run, TortureConfig
from harness.torture.sequence import Step, epochs
from harness.torture.traffic import Tally

CONFIG = TortureConfig(minutes=30.0, seed=42)
TOTALS = Totals(
    epochs=60,
    actions={"sysctl": 4901, "hotplug": 310},
    sent=1_234_567,
    delivered=1_200_000,
    counted=34_567,
    jumbo_sent=5_000,
    jumbo_delivered=4_990,
    in_order_epochs=12,
    streams=34,
    bytes=3_200_000_000,
)


# ---- options --------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_time_must_be_some_time(minutes: float) -> None:
    with pytest.raises(FalconError, match=r"minutes are no time; use --minutes 30"):
        TortureConfig(minutes=minutes, seed=1)


def test_some_cpus_must_be_left_when_others_are_off() -> None:
    with pytest.raises(FalconError, match="2 CPUs are too few"):
        TortureConfig(minutes=1, seed=1, smp=2)


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "", "4294967296", "٣"])
def test_a_seed_is_a_number(text: str) -> None:
    with pytest.raises(FalconError, match="is no seed: it is a number from 0 to 4294967295"):
        run.parse_seed(text)


def test_a_seed_is_kept_or_made() -> None:
    assert run.parse_seed("42") == 42
    assert len({run.parse_seed(None) for _ in range(5)}) > 1


def test_a_job_survives_the_way_into_the_guest() -> None:
    job = Job(42, 0.5, 800.0)
    assert Job.from_json(job.to_json()) == job


# ---- closing lines ------------------------------------------------------------------------


class Log(io.StringIO):
    name = "results/torture.log"


def closing(totals: Totals, skipped: tuple[str, ...] = ()) -> list[str]:
    ended = Run(42, Log(), totals=totals, skipped=skipped)
    return list(run.closing_lines(CONFIG, "6.12.117-falcon", ended))


def test_closing_lines() -> None:
    assert closing(TOTALS) == [
        "torture: Linux 6.12.117-falcon, seed 42, 30.0 min, 5,211 actions"
        " (sysctl 4,901, hotplug 310)",
        "torture: UDP sent 1,234,567 = delivered 1,200,000 + counted drops 34,567",
        "torture: UDP jumbo packets and fragments sent 5,000, delivered 4,990,"
        " no more lost than counted drops; none damaged, none twice",
        "torture: order kept in 12 of 60 epochs where nothing excused it;"
        " 0 packets late in the others",
        "torture: TCP 34 flows, 3.2 GB, every byte checked",
        "torture: no splat, no leak",
    ]


def test_cpus_that_went_down_are_told() -> None:
    totals = Totals(sent=100, delivered=95, counted=5, deaths=3)
    assert run.udp_line(totals) == (
        "UDP sent 100 = delivered 95 + counted drops 5; 3 CPUs went down under it"
    )


def test_what_could_not_be_looked_at_is_said() -> None:
    assert closing(TOTALS, ("kmemleak is missing",))[-1] == (
        "torture: no splat, no leak (kmemleak is missing)"
    )


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (7 * 10**6, "7.0 MB")]
)
def test_sizes(count: int, text: str) -> None:
    assert run.size(count) == text


# ---- following the guest ------------------------------------------------------------------------


@dataclass
class FakeGuest:
    """A guest's part that has said all and ended."""

    events: list[dict[str, object]]
    exit_status: int | None = 0

    @property
    def stdout(self) -> str:
        return "".join(json.dumps(event) + "\n" for event in self.events)

    def wait(self) -> Result:
        return Result((), self.exit_status or 0, b"", b"Traceback\nKeyError: 'x'\n", 0.0)

    def check_health(self) -> None:
        pass


@dataclass
class FakeMachine:
    console: Console = field(default_factory=Console)


DONE = {"event": "done", "totals": TOTALS.to_dict(), "skipped": []}
STEP = {"event": "step", "text": "off: cpu 3"}


def follow(*events: dict[str, object], console: bytes = b"", status: int = 0) -> Run:
    machine, followed = FakeMachine(), Run(42, Log())
    machine.console.feed(console)
    run.follow(machine, FakeGuest(list(events), status), followed)  # type: ignore[arg-type]
    return followed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LAST_WORDS_S", 0.0)
    monkeypatch.setattr(run, "BACKTRACE_S", 0.0)


def test_a_clean_end() -> None:
    followed = follow(STEP, DONE)
    assert followed.done and followed.totals == TOTALS
    assert json.loads(followed.log.getvalue().splitlines()[0]) == STEP  # type: ignore[attr-defined]


def test_a_failure_names_the_seed_and_shows_the_last_actions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = r"torture, seed 42: epoch 3.*repeat it with --seed 42; every step is in .*torture\.log"
    with pytest.raises(FalconError, match=told):
        follow(STEP, {"event": "failed", "why": "epoch 3 (storm): lost"}, status=1)
    assert "off: cpu 3" in capsys.readouterr().err


def test_a_splat_ends_the_run_even_if_the_guest_is_content(
    capsys: pytest.CaptureFixture[str],
) -> None:
    splat = b"fine\n[ 1.0] BUG: KASAN: use-after-free in falcon_rx\n[ 1.1] Call Trace:\n"
    with pytest.raises(FalconError, match=r"seed 42: the kernel complained \(KASAN\): BUG: KASAN"):
        follow(STEP, DONE, console=splat)
    told = capsys.readouterr().err
    assert "Call Trace:" in told and "fine" not in told


def test_a_guest_that_ends_without_a_word_is_a_failure() -> None:
    with pytest.raises(FalconError, match=r"the guest's part ended \(1\): KeyError: 'x'"):
        follow(STEP, status=1)


def test_a_guest_that_says_it_is_done_but_was_killed_is_no_clean_end() -> None:
    with pytest.raises(FalconError, match="ended \\(137\\)"):
        follow(STEP, DONE, status=137)


def test_the_console_is_shown_from_the_first_complaint_on() -> None:
    console = Console()
    console.feed(b"a\nb\nWARNING: suspicious RCU usage\nstack\n")
    assert run.story(console) == "WARNING: suspicious RCU usage\nstack"
    assert console.splats == (Splat("warning", "WARNING: suspicious RCU usage"),)


# ---- epochs -------------------------------------------------------------------------------------


def outcome(number: int = 0, *, small: Balance, late: int = 0) -> Outcome:
    epoch = next(islice(epochs(1, (0, 1, 2, 3)), number, None))
    tally = Tally({}, {}, {"small": late, "jumbo": 0}, 2, 1000, ())
    return Outcome(epoch, tally, {"small": small, "jumbo": Balance(10, 9, Drops(0, 3))})


def test_totals_add_up() -> None:
    totals = Totals()
    totals.add(outcome(small=Balance(100, 90, Drops.exactly(10))))
    totals.add(outcome(small=Balance(50, 50, Drops())))
    assert (totals.sent, totals.delivered, totals.counted) == (150, 140, 10)
    assert (totals.epochs, totals.in_order_epochs, totals.streams, totals.bytes) == (2, 2, 4, 2000)
    assert (totals.jumbo_sent, totals.jumbo_delivered) == (20, 18)


def test_order_that_falcon_gave_up_is_excused_and_told() -> None:
    late = outcome(small=Balance(100, 100, Drops()), late=2)
    assert late.keeps_order
    with pytest.raises(FalconError, match="2 packets came out of order"):
        late.check()
    forced = replace(late, forced=1)
    forced.check()
    totals = Totals()
    totals.add(forced)
    assert (totals.in_order_epochs, totals.out_of_order, totals.forced) == (0, 2, 1)
    assert run.forced_words(totals) == (
        "; once queues did not drain in time for a change, says Falcon"
    )
    assert not run.forced_words(TOTALS)


def test_an_epoch_fails_when_its_packets_are_not_accounted_for() -> None:
    outcome(small=Balance(100, 90, Drops.exactly(10))).check()
    with pytest.raises(FalconError, match=r"small packets are unaccounted for.*1 unaccounted"):
        outcome(small=Balance(100, 89, Drops.exactly(10))).check()
    with pytest.raises(FalconError, match="out of order"):
        outcome(small=Balance(1, 1, Drops()), late=1).check()


class Note(Action):
    """Does nothing; `test_lanes` notes that it was done."""

    name, kind, weight = "note", "note", 1

    def __init__(self, lane: str):
        self.lane = lane  # type: ignore[misc]

    def draw(self, rng: object, model: object) -> None:
        return None

    def apply(self, world: object) -> None:
        pass


def steps(*lanes: str) -> list[Step]:
    return [Step(Note(lane), {"n": n}, 0.0) for n, lane in enumerate(lanes)]  # type: ignore[abstract]


def test_a_lane_keeps_its_order_and_lanes_run_beside_each_other() -> None:
    done: list[tuple[str, int]] = []
    meeting = threading.Barrier(2, timeout=10)

    def do(step: Step) -> None:
        if step.arguments["n"] < 2:
            meeting.wait()  # only a step of the other lane, under way now, ends this
        done.append((step.action.lane, step.arguments["n"]))

    driver.in_lanes(steps("a", "b", "a", "b", "a"), do)
    assert [n for lane, n in done if lane == "a"] == [0, 2, 4]
    assert [n for lane, n in done if lane == "b"] == [1, 3]


def test_a_failure_in_one_lane_ends_the_others() -> None:
    done: list[int] = []
    failed = threading.Event()

    def do(step: Step) -> None:
        if step.action.lane == "a":
            failed.set()
            raise FalconError("the kernel took garbage")
        failed.wait(10)
        time.sleep(0.001)  # the other lane has a second to fail in
        done.append(step.arguments["n"])

    with pytest.raises(FalconError, match="took garbage"):
        driver.in_lanes(steps("a", *"b" * 1000), do)
    assert len(done) < 1000
