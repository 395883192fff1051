# SPDX-License-Identifier: GPL-2.0-only
"""Selftests by configuration: results, second tries, dead kernels, and what is compared."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from harness import selftests
from harness.errors import FalconError
from harness.machine.base import CommandTimeout, MachineDied, Result
from harness.machine.console import Splat
from harness.selftests import comparison as runs
from harness.selftests.build import Suite
from harness.selftests.catalog import Selftest
from harness.selftests.comparison import (
    ATTEMPTS,
    CONFIGURATIONS,
    LATE_ATTEMPTS,
    OFF,
    ON,
    VANILLA,
)

GRO, VETH = Selftest("gro.sh"), Selftest("veth.sh", ("-s", "1"), timeout_s=9)
COUNTERS = """\
state on gate open load 3 threshold 100 interval 50 two_choice 1 cpus 1-3

cpu load in steered first second gated held dropped
0 - 0 {0} {0} 0 0 0 0
1 3 {0} {0} {0} 0 0 0 0

stage ifindex steered first second gated held dropped
"""


class Guest:
    """A machine that answers by a script: what each start of a test does, in turn.

    An int is its exit status, text what it says before status 1, an exception is
    raised, a ``Splat`` comes from the kernel.
    """

    def __init__(self, name, says, *, falcon, accel="tcg"):
        self.name, self.says, self.falcon = name, says, falcon
        self.config = SimpleNamespace(accel=accel, smp=4)
        self.steered, self.complaints, self.calls, self.is_open = 0, [], [], False

    def run(self, argv, **options):
        assert self.is_open
        if argv[:2] == ["sh", "-c"] and argv[2] == runs._SWITCH_ON:
            self.calls.append(f"on {argv[3]}")
        elif argv[:2] == ["sh", "-c"] and argv[2] == runs._TIDY_UP:
            self.calls.append("tidy")
        elif argv == ["cat", "/proc/net/falcon"]:
            return self.result(argv, 0, COUNTERS.format(self.steered))
        else:
            return self.start(argv, options)
        return self.result(argv, 0)

    def start(self, argv, options):
        self.environment, self.directory = options["env"], options["cwd"]
        self.calls.append(" ".join(argv[3:]))
        self.steered += 10
        does = self.says.pop(0) if self.says else 0
        if isinstance(does, Exception):
            raise does
        if isinstance(does, Splat):
            self.complaints.append(does)
            does = 0
        if isinstance(does, str):
            return self.result(argv, 1, does)
        return self.result(argv, does, f"status {does}\n")

    @staticmethod
    def result(argv, status, text=""):
        return Result(tuple(argv), status, text.encode(), b"", 0.0)

    def splats(self):
        return tuple(self.complaints)

    def is_falcon(self):
        return self.falcon

    def kernel_release(self):
        return "6.12.7"

    def reboot(self):
        self.steered, self.complaints = 0, []
        self.calls.append("reboot")

    def __enter__(self):
        self.is_open = True
        return self

    def __exit__(self, *_):
        self.is_open = False


@pytest.fixture
def suite(tmp_path):
    for test in (GRO, VETH):
        (tmp_path / "net").mkdir(exist_ok=True)
        (tmp_path / "net" / test.script).touch()
    return Suite(tmp_path, {})


@pytest.fixture
def compare(suite, tmp_path):
    """Compare with these answers by configuration; the rows, and the guests by configuration."""

    def compare_(tests=(GRO,), **says):
        guests = {
            name: Guest(name, list(says.get(name, [])), falcon=name != VANILLA)
            for name in CONFIGURATIONS
        }
        rows = runs.compare(suite, tests, guests.get, tmp_path / "logs")
        return rows, guests

    return compare_


def results(rows):
    return [row.results for row in rows]


def late(test):
    killed = Result((test.script,), 137, b"so far\n", b"", test.timeout_s)
    return CommandTimeout(killed, test.timeout_s, killed=True)


def test_the_same_everywhere(compare):
    rows, guests = compare()
    assert results(rows) == [("pass",) * 3]
    assert not rows[0].differs and not rows[0].is_regression
    assert guests[VANILLA].calls == ["./gro.sh", "tidy"]
    assert not any(guest.is_open for guest in guests.values())


def test_falcon_is_switched_on_where_it_should_be_only(compare):
    _, guests = compare()
    assert guests[ON].calls[0] == "on 1-3"
    assert not any(call.startswith("on") for call in guests[OFF].calls)


@pytest.mark.parametrize(
    ("status", "result"), [(0, "pass"), (4, "skip"), (1, "fail"), (255, "fail")]
)
def test_exit_codes_are_kselftests(compare, status, result):
    rows, _ = compare(**{name: [status] * ATTEMPTS for name in CONFIGURATIONS})
    assert results(rows) == [(result,) * 3]


def test_what_fails_is_tried_again(compare):
    rows, _ = compare(on=["lost a packet\n", 0])
    outcome = rows[0].outcomes[ON]
    assert (outcome.result, outcome.attempts, outcome.why) == ("pass", 2, "")


def test_a_regression_fails_every_time(compare):
    rows, guests = compare(on=[*[1] * (ATTEMPTS - 1), "one\nlast words\n\n"])
    assert rows[0].is_regression
    assert (rows[0].outcomes[ON].attempts, rows[0].outcomes[ON].why) == (ATTEMPTS, "last words")
    assert guests[ON].calls.count("tidy") == ATTEMPTS


def test_a_skip_on_the_patched_kernel_is_a_regression(compare):
    rows, _ = compare(off=[4])
    assert rows[0].is_regression and results(rows) == [("pass", "skip", "pass")]


def test_what_the_stock_kernel_fails_is_no_regression_and_tried_once(compare):
    rows, guests = compare(vanilla=[1] * ATTEMPTS, off=[1], on=[0])
    assert results(rows) == [("fail", "fail", "pass")]
    assert rows[0].differs and not rows[0].is_regression
    assert guests[OFF].calls == ["./gro.sh", "tidy"]


def test_a_test_that_takes_too_long(compare):
    rows, guests = compare([VETH], on=[late(VETH)] * LATE_ATTEMPTS)
    assert rows[0].outcomes[ON].result == "timeout"
    assert rows[0].outcomes[ON].why == "took longer than 9 s"
    assert guests[ON].calls.count("tidy") == LATE_ATTEMPTS
    assert rows[0].name == "veth -s 1"
    assert guests[ON].calls[1] == "./veth.sh -s 1"


def test_what_is_too_slow_on_the_stock_kernel_is_not_tried_again_anywhere(compare):
    rows, guests = compare(
        [VETH], **{name: [late(VETH)] * LATE_ATTEMPTS for name in CONFIGURATIONS}
    )
    assert results(rows) == [("timeout",) * 3]
    assert [guest.calls.count("tidy") for guest in guests.values()] == [1, 1, 1]


def test_a_dead_kernel_is_booted_again_with_falcon_on(compare):
    death = MachineDied("the guest kernel panicked", "oops", console="... panic")
    rows, guests = compare([GRO, VETH], on=[death])
    assert results(rows) == [("pass", "pass", "died"), ("pass",) * 3]
    assert rows[0].outcomes[ON].attempts == 1
    assert guests[ON].calls == ["on 1-3", "./gro.sh", "reboot", "on 1-3", "./veth.sh -s 1", "tidy"]


def test_a_complaint_of_the_kernel_counts_even_if_the_test_passed(compare):
    rows, _ = compare([GRO, VETH], on=[Splat("warning", "WARNING: net/core/dev.c")])
    assert rows[0].outcomes[ON].result == "splat"
    assert rows[0].outcomes[ON].why == "WARNING: net/core/dev.c"
    assert rows[1].outcomes[ON].result == "pass"


def test_absent_and_impossible_tests_are_not_started(compare, suite):
    suite.broken["nothing"] = "no source"
    impossible = Selftest("veth.sh", helpers=("nothing",))
    rows, guests = compare([GRO, Selftest("new.sh"), impossible])
    assert results(rows) == [("pass",) * 3, ("-",) * 3, ("skip",) * 3]
    assert rows[1].is_absent
    assert rows[2].outcomes[ON].why == "nothing cannot be built: no source"
    assert guests[VANILLA].calls == ["./gro.sh", "tidy"]


def test_a_kernel_without_any_of_them(compare):
    with pytest.raises(FalconError, match="none of these"):
        compare([Selftest("new.sh")])


def test_steered_packets_are_counted_by_test(compare):
    rows, _ = compare([GRO, VETH], on=[1, 0])
    assert [row.outcomes[ON].steered for row in rows] == [40, 20]  # two CPUs, ten each
    assert rows[0].outcomes[VANILLA].steered == 0


@pytest.mark.parametrize("wrong", [VANILLA, OFF])
def test_the_wrong_kernel_is_refused(suite, tmp_path, wrong):
    def guest(name):
        return Guest(name, [], falcon=(name != VANILLA) != (name == wrong))

    with pytest.raises(FalconError, match=f"6.12.7 is not the kernel for '{wrong}'"):
        runs.compare(suite, [GRO], guest, tmp_path / "logs")


def test_programs_of_the_suite_come_first_and_slow_machines_say_so(compare, suite):
    _, guests = compare()
    environment = guests[ON].environment
    assert environment["PATH"].split(":")[0] == str(suite.path)
    assert environment["KSFT_MACHINE_SLOW"] == "yes"
    assert guests[ON].directory == suite.home / "net"


def test_a_fast_machine_is_not_called_slow(suite, tmp_path):
    guests = {name: Guest(name, [], falcon=name != VANILLA, accel="kvm") for name in CONFIGURATIONS}
    runs.compare(suite, [GRO], guests.get, tmp_path / "logs")
    assert "KSFT_MACHINE_SLOW" not in guests[ON].environment


def test_every_attempt_is_in_the_log(compare, tmp_path):
    compare(on=["first\n", "second\n", 0])
    log = (tmp_path / "logs/on/gro.log").read_text()
    assert log == "first\n--- fail first\nsecond\n--- fail second\nstatus 0\n--- pass \n"


def test_results_are_kept(compare, tmp_path):
    rows, _ = compare([GRO, VETH], on=[4])
    runs.write(tmp_path / "selftests.json", rows, {VANILLA: "6.12.7", ON: "6.12.7-falcon"})
    kept = json.loads((tmp_path / "selftests.json").read_text())
    assert kept["kernels"][ON] == "6.12.7-falcon"
    assert [test["name"] for test in kept["tests"]] == ["gro", "veth -s 1"]
    assert kept["tests"][0]["on"]["result"] == "skip"
    assert kept["tests"][0]["on"]["why"] == "status 4"


def test_the_stock_kernel_is_unpatched_and_the_others_are_one(lab, tmp_path, monkeypatch):
    """All of it, with real builds of a fake kernel and guests that boot what was built."""
    booted = {}

    def guest(kernel, **settings):
        config = (kernel.parent / "config").read_text()
        booted[kernel] = settings
        return Guest("", [], falcon="NET_FALCON" in config)

    (lab.fragments / "selftests.config").write_text("CONFIG_RPS=y\n")
    suite = Suite(tmp_path, {})
    (tmp_path / "net").mkdir()
    (tmp_path / "net/gro.sh").touch()
    monkeypatch.setattr(selftests, "prepare", lambda source, tests: suite)
    monkeypatch.setattr(selftests, "QemuMachine", guest)
    monkeypatch.setattr(selftests, "RESULTS", tmp_path)
    config = selftests.Config(lab.series, lab.source(), ("guest", "selftests"), 4, 512, "tcg")
    rows = selftests.run(config, ["gro"])
    assert results(rows) == [("pass",) * 3]
    assert len(booted) == 2
    assert set(map(str, booted.values())) == {"{'smp': 4, 'mem_mib': 512, 'accel': 'tcg'}"}
    kept = json.loads((tmp_path / "selftests-6.12.json").read_text())
    assert kept["kernels"] == {"vanilla": "6.12.7", "off": "6.12.7-falcon", "on": "6.12.7-falcon"}
