# SPDX-License-Identifier: GPL-2.0-only
"""The command line: what a user types, and what comes back when it is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import invoke
import pytest

import tasks
from harness import suite, tools
from harness.errors import FalconError
from harness.lab import campaign, pair, timed
from harness.lab.experiments import COUNTED, EXPERIMENTS
from harness.machine import accel, base
from harness.machine.console import Splat
from harness.paths import PROJECT
from harness.report import figures
from harness.suite import Tally

TASKS = [name for name in vars(tasks) if isinstance(getattr(tasks, name), invoke.Task)]


def inv(*words, cwd=PROJECT, **env):
    command = [sys.executable, "-m", "invoke", "--search-root", str(PROJECT), *words]
    environment = {**os.environ, **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_every_task_is_there():
    kernel_side = "fetch_kernel patch_kernel build_kernel check_patches check_cost refresh_patches"
    machines = "doctor boot test demo selftests top torture bench predict report clean"
    hosts = "install_kernel uninstall_kernel host_status rps_pipeline"
    assert sorted(TASKS) == sorted([*kernel_side.split(), *machines.split(), *hosts.split()])


@pytest.mark.parametrize("name", TASKS)
def test_every_option_is_explained(name):
    task = getattr(tasks, name)
    unexplained = [argument.name for argument in task.get_arguments() if not argument.help]
    assert unexplained == []
    assert task.__doc__.strip()


def test_a_users_error_is_one_line_and_a_status(tmp_path):
    done = inv("fetch-kernel", "--kernel", "3.10", cwd=tmp_path, FALCON_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: there is no patch series for Linux 3.10: there is one for 6.12, 6.1, 5.4, 4.19; "
        "choose with --kernel\n"
    )


def test_paths_are_the_users_not_the_projects(tmp_path):
    done = inv("fetch-kernel", "--source", "mine", cwd=tmp_path, FALCON_CACHE=str(tmp_path))
    assert f"{tmp_path}/mine: there is no such file or directory" in done.stderr


@pytest.fixture
def booted(monkeypatch):
    """Calls to the machine instead of a machine."""
    calls = []
    image = type("Image", (), {"bzimage": "bzImage", "release": "6.12.7-falcon"})
    monkeypatch.setattr(tasks, "_image", lambda *_, **__: image)
    monkeypatch.setattr("harness.machine.boot_command", lambda *a, **k: calls.append((a, k)) or 7)
    monkeypatch.setattr("harness.machine.boot_shell", lambda *a, **k: calls.append((a, k)) or 0)
    return calls


def run_boot(monkeypatch, *words):
    """The exit status of ``./inv boot WORDS``."""
    return run_task(monkeypatch, "boot", *words)


def run_task(monkeypatch, *words):
    """The exit status of ``./inv WORDS``."""
    argv = ["inv", *words]
    monkeypatch.setattr(sys, "argv", argv)
    program = invoke.Program(namespace=invoke.Collection.from_module(tasks))
    try:
        program.run(argv, exit=False)
    except SystemExit as end:
        return end.code
    return 0


def test_a_commands_words_and_status_pass_through(monkeypatch, booted):
    assert run_boot(monkeypatch, "--smp", "2", "--", "sh", "-c", "exit  'a b'") == 7
    assert booted == [
        (
            ("bzImage", ["sh", "-c", "exit  'a b'"]),
            {"smp": 2, "mem_mib": 2048, "accel": "auto"},
        )
    ]


def test_without_a_command_there_is_a_shell(monkeypatch, booted):
    assert run_boot(monkeypatch, "--mem", "512") == 0
    assert booted == [(("bzImage",), {"smp": 8, "mem_mib": 512, "accel": "auto"})]


def test_ctrl_c_is_status_130(monkeypatch, booted):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.machine.boot_shell", interrupted)
    assert run_boot(monkeypatch) == 128 + signal.SIGINT


class Campaign:
    """What a campaign was asked for instead of a campaign, and which images were built."""

    def __init__(self):
        self.images, self.setup, self.keys = [], None, []

    def image(self, _kernel, _source, _git, _rev, kind):
        self.images.append(kind)
        return SimpleNamespace(bzimage=Path(kind), release="6.12.7-falcon")

    def run(self, setup, experiments, command):
        self.setup, self.keys = setup, [experiment.key for experiment in experiments]
        self.modes = {experiment.key: experiment.modes for experiment in experiments}
        self.command = command
        yield from ((experiment, []) for experiment in experiments)


@pytest.fixture
def campaigned(monkeypatch):
    """Without KVM, unless a test says otherwise."""
    asked = Campaign()
    monkeypatch.setattr(tasks, "_image", asked.image)
    monkeypatch.setattr(campaign, "run", asked.run)
    monkeypatch.setattr(figures, "show", lambda experiment, rows: None)
    monkeypatch.setattr(accel, "kvm_trouble", lambda: "there is no /dev/kvm")
    monkeypatch.setattr(tools, "find", lambda name: name)
    return asked


def test_bench_all_without_kvm_counts_and_names_the_rest_once(monkeypatch, campaigned, capsys):
    assert run_task(monkeypatch, "bench", "--all", "--quick") == 0
    assert campaigned.keys == list(COUNTED)
    assert campaigned.images == ["tcg"] and campaigned.setup.kernel == Path("tcg")
    assert campaigned.setup.quick and campaigned.setup.release == "6.12.7-falcon"
    told = capsys.readouterr().err
    assert told.count("there is no /dev/kvm") == 1
    assert "figures 2, 2c, 2d, 4, 5, 9a, 10, 11, 12," in told


def test_bench_all_with_kvm_measures_all(monkeypatch, campaigned):
    monkeypatch.setattr(accel, "kvm_trouble", lambda: "")
    monkeypatch.setattr(timed, "host_cpus", lambda: 7)
    assert run_task(monkeypatch, "bench", "--all") == 0
    assert campaigned.keys == list(EXPERIMENTS)
    assert sorted(campaigned.images) == ["kvm", "tcg"]
    setup = campaigned.setup
    assert (setup.kernel, setup.kvm_kernel) == (Path("tcg"), Path("kvm"))


def test_emulated_time_is_measured_when_it_is_named(monkeypatch, campaigned):
    words = ("--figure", "12,19", "--accel", "tcg", "--seconds", "3")
    assert run_task(monkeypatch, "bench", *words) == 0
    assert campaigned.keys == ["12-time", "19", "19-time"]
    assert campaigned.images == ["tcg"] and campaigned.setup.seconds == 3.0


def test_a_figure_that_is_named_twice_is_measured_once(monkeypatch, campaigned):
    assert run_task(monkeypatch, "bench", "--figure", "13,13cd,13-instructions") == 0
    assert campaigned.keys == ["13", "13cd"]


def test_figures_in_some_of_their_modes(monkeypatch, campaigned, capsys):
    words = ("--figure", "10,13cd,2", "--modes", "falcon,rps-pipe")
    assert run_task(monkeypatch, "bench", *words) == 0
    assert campaigned.modes == {
        "10": ("con", "rps-pipe", "falcon"),
        "13cd": ("host", "rps-pipe", "falcon"),
    }
    told = capsys.readouterr().err
    why = "it compares none of the modes that were named with host"
    assert f"figure 2 is not measurable here: {why}" in told
    assert "does not have" not in told
    words = ("--figure", "10,16,19", "--modes", "host,falcon-static,falcon")
    assert run_task(monkeypatch, "bench", *words, "--accel", "tcg") == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "does not have" in line)
    assert line.endswith(
        "modes that a figure does not have are not measured: host in figure 16, 16-time;"
        " falcon-static in figure 10, 10-time"
    )
    assert run_task(monkeypatch, "bench", "--figure", "14") == 0
    assert campaigned.modes == {"14": COUNTED["14"].modes}
    assert run_task(monkeypatch, "bench") == 0
    assert campaigned.modes == {"own": tasks.DEFAULT_MODES}
    assert run_task(monkeypatch, "bench", "--modes", "con") == 0
    assert campaigned.modes == {"own": ("con",)}


@pytest.mark.parametrize(
    ("words", "todo"),
    [
        (("--size", "64", "--flows", "2"), "a figure has loads of its own; leave --size, --flows"),
        (("--protocol", "tcp"), "leave --protocol out"),
        (("--modes", "falcon,fast"), "there is no mode fast"),
    ],
)
def test_what_no_figure_takes_is_refused(monkeypatch, campaigned, capsys, words, todo):
    assert run_task(monkeypatch, "bench", "--figure", "10", *words) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and todo in error
    assert campaigned.images == []


def test_the_command_that_is_recorded_is_the_users(monkeypatch, campaigned):
    assert run_task(monkeypatch, "bench", "--figure", "10,13") == 0
    assert campaigned.command == "./inv bench --figure 10,13"
    by_inv = ["invoke", "--search-root", "/a/checkout", "bench", "--all"]
    assert tasks._command(by_inv) == "./inv bench --all"


@pytest.mark.parametrize(
    ("words", "todo"),
    [
        (("--server", "a"), "name both: ./inv bench --server A --client B"),
        (("--client", "b"), "name both: ./inv bench --server A --client B"),
        (("--server", "a", "--client", "a"), "name both"),
        (("--vni", "4097"), "name both"),
        (("--server", "a", "--client", "b", "--accel", "tcg"), "leave --source"),
    ],
)
def test_hosts_are_two_with_their_own_kernel(monkeypatch, campaigned, capsys, words, todo):
    assert run_task(monkeypatch, "bench", *words) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and todo in error
    assert campaigned.images == []


def test_bench_on_hosts_takes_time_and_builds_nothing(monkeypatch, campaigned):
    looked = []

    def look(server, client, programs, smp, address, vni):
        looked.append((server.name, client.name, programs, smp, address, vni))
        facts = pair.Facts("6.12.7-falcon", "#1", "x86_64", True, (), False, ())
        wire = pair.Wire("10.0.0.2", "eth0", "10.0.0.1", "eth0", 1500, tuple(range(8)))
        return pair.Pair(server, client, facts, facts, wire, 6)

    monkeypatch.setattr(pair, "look", look)
    where = ("--server", "root@a", "--client", "b", "--address", "10.0.0.1")
    assert run_task(monkeypatch, "bench", *where, "--modes", "con,falcon") == 0
    assert looked == [("root@a", "b", [], 7, "10.0.0.1", 0)]
    assert campaigned.keys == ["own-time"] and campaigned.images == []
    setup = campaigned.setup
    assert (setup.release, setup.smp, setup.hosts.server.name) == ("6.12.7-falcon", 6, "root@a")
    assert run_task(monkeypatch, "bench", *where, "--figure", "18", "--vni", "4097") == 0
    assert campaigned.keys == ["18-time"] and looked[1][2] == ["memcached"]
    assert looked[1][-1] == 4097


@pytest.mark.parametrize(
    "words", [("--figure", "12"), ("--protocol", "memcached", "--size", "550")]
)
def test_what_takes_kvm_alone_is_refused_without(monkeypatch, campaigned, capsys, words):
    assert run_task(monkeypatch, "bench", *words) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: there is nothing to measure: figure ")
    assert "there is no /dev/kvm" in error and "--accel tcg" in error
    assert campaigned.images == [], "nothing is built for nothing"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(suite, "TESTS", tmp_path / "tests")
    (tmp_path / "tests/unit").mkdir(parents=True)
    (tmp_path / "tests/integration").mkdir()
    return tmp_path


MIXED = """\
import pytest
def test_good(): pass
def test_bad(): assert False
@pytest.fixture
def broken(): raise OSError
def test_error(broken): pass
def test_skip(): pytest.skip("why")
"""


class Found:
    """A source that is there."""

    version = "6.12.7"


def kernel(machine=None, name="6.12", source=Found, torture=None, **more):
    return suite.Kernel(name, source=source, machine=machine, torture=torture, **more)


def run_suite(*names, keyword=None, machine=None, kernels=None):
    return suite.run(names, kernels or [kernel(machine)], keyword=keyword)


def last_line(capfd):
    return capfd.readouterr().out.splitlines()[-1]


def test_the_closing_line_sums_up(results, capfd):
    (results / "tests/unit/test_a.py").write_text(MIXED)
    assert run_suite("unit") == 1
    assert last_line(capfd) == "1 passed, 2 failed, 1 skipped"
    assert (results / "results/unit.xml").exists()


def test_all_passed_is_status_0(results, capfd):
    (results / "tests/unit/test_a.py").write_text(MIXED)
    assert run_suite("unit", keyword="good or skip") == 0
    assert last_line(capfd) == "1 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize("text", ["", "import nothing_of_that_name\n", "syntax error"])
def test_a_suite_that_ran_nothing_is_a_failure(results, capfd, text):
    (results / "tests/unit/test_a.py").write_text(text)
    assert run_suite("unit") == 1
    assert last_line(capfd) == "0 passed, 1 failed, 0 skipped"


def test_a_keyword_that_selects_nothing_anywhere_is_a_failure(results, capfd):
    (results / "tests/unit/test_a.py").write_text(MIXED)
    assert run_suite("unit", keyword="no_such_test") == 1


@pytest.mark.parametrize(("before", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_ends_a_task_but_for_nohup(before, ends):
    handlers = []
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, before)
    try:
        with pytest.raises(SystemExit):
            tasks.task(lambda _: handlers.append(signal.getsignal(signal.SIGHUP)) or 1)(
                invoke.Context()
            )
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert handlers == [tasks._end if ends else before]


def test_a_unit_test_that_hangs_ends_and_is_named(results, capfd, monkeypatch):
    monkeypatch.setattr(suite, "UNIT_TEST_S", 1)
    waits = (
        "import threading\ndef test_hangs(): threading.Event().wait(60)\ndef test_goes_on(): pass\n"
    )
    (results / "tests/unit/test_a.py").write_text(waits)
    assert run_suite("unit") == 1
    printed = capfd.readouterr().out
    assert "test_a.py::test_hangs" in printed
    assert printed.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"


STORY = """\
def test_first(): print("as it comes")
def test_second(): assert False
def test_third(): pass
"""


def test_system_test_is_shown_as_it_comes(results, capfd):
    (results / "tests/system").mkdir()
    (results / "tests/system/test_a.py").write_text(STORY)
    assert suite.run_system(keyword="first") == 0
    lines = capfd.readouterr().out.splitlines()
    assert any("as it comes" in line for line in lines)
    assert lines[-1] == "1 passed, 0 failed, 0 skipped"


LOOKS = """\
import pytest
@pytest.mark.looks
def test_looks(): print("as it comes")
def test_installs(): assert False
"""


def test_what_the_system_test_does_without_a_kernel_is_a_suite(results, capfd):
    (results / "tests/system").mkdir()
    (results / "tests/system/test_a.py").write_text(LOOKS)
    assert run_suite("server") == 0
    lines = capfd.readouterr().out.splitlines()
    assert any("as it comes" in line for line in lines)
    assert lines[-2:] == [
        "server tests  1 passed, 0 failed, 0 skipped",
        "1 passed, 0 failed, 0 skipped",
    ]
    assert (results / "results/server.xml").exists()


def test_system_test_ends_with_its_first_failure(results, capfd):
    (results / "tests/system").mkdir()
    (results / "tests/system/test_a.py").write_text(STORY)
    assert suite.run_system() == 1
    assert last_line(capfd) == "1 passed, 1 failed, 0 skipped"


STANDS_STILL = """\
import time
import pytest
@pytest.fixture
def build(): time.sleep(3)
def test_built(build): pass
def test_waits():
    try: time.sleep(1000)
    finally: print("cleaned up")
"""


def test_system_test_does_not_wait_for_ever(results, monkeypatch, capfd):
    (results / "tests/system").mkdir()
    (results / "tests/system/test_a.py").write_text(STANDS_STILL)
    monkeypatch.setattr(suite, "SYSTEM_TEST_S", 2)
    began = time.monotonic()
    assert suite.run_system() == 1
    assert time.monotonic() - began < 60
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 1 failed, 0 skipped"
    assert any("cleaned up" in line for line in lines)


SLOW_TO_CLEAN_UP = """\
import time
from pathlib import Path
import pytest
HERE = Path(__file__).parent
@pytest.fixture
def server():
    yield
    time.sleep(1.5)
    (HERE / "clean").write_text("")
def test_a(server):
    (HERE / "begun").write_text("")
    time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("number", "everybody"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
)
def test_interrupted_suite_lets_its_fixtures_clean_up(results, number, everybody):
    unit = results / "tests/unit"
    (unit / "test_a.py").write_text(SLOW_TO_CLEAN_UP)
    script = (
        "import signal, sys\nfrom pathlib import Path\nfrom harness import suite\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"suite.TESTS, suite.RESULTS = Path({str(unit.parent)!r}), Path({str(results)!r})\n"
        "suite.run(['unit'], [])\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], process_group=0)
    deadline = time.monotonic() + 60
    while not (unit / "begun").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if everybody:  # as a terminal does
        os.killpg(run.pid, number)
    else:
        run.send_signal(number)
    assert run.wait(60) in (143, -signal.SIGINT)
    assert (unit / "clean").exists()


class Guest(base.Machine):
    """A machine whose commands run here."""

    def __init__(self, falcon=True, splats=()):
        self.falcon = falcon
        self.complaints = splats

    def run(self, argv, **_):
        done = subprocess.run(argv)
        return base.Result(tuple(argv), done.returncode, b"", b"", 0.0)

    def is_falcon(self):
        return self.falcon

    def splats(self):
        return self.complaints

    def start(self, argv, **_):
        raise NotImplementedError

    reboot = close = lambda self: None


class StuckGuest(Guest):
    """Its tests do not go on, though it answers."""

    def run(self, argv, *, silence_s, **_):
        stuck = base.Result(("pytest",), -1, b"", b"", 0.0)
        raise base.CommandSilent(stuck, silence_s, killed=True)

    def end_hung(self, what, why):
        raise base.MachineDied(what, why, console="watchdog: BUG: soft lockup - CPU#3")


IMAGE = type("Image", (), {"release": "6.12.7"})


def test_integration_tests_run_in_the_machine(results, capfd):
    (results / "tests/unit/test_a.py").write_text("def test_a(): pass\n")
    (results / "tests/integration/test_b.py").write_text("def test_b(): pass\n")
    assert run_suite("unit", "integration", machine=lambda: (IMAGE, Guest())) == 0
    assert last_line(capfd) == "2 passed, 0 failed, 0 skipped"


def test_a_kernel_that_complains_is_a_failure(results, capfd):
    (results / "tests/integration/test_b.py").write_text("def test_b(): pass\n")
    guest = Guest(splats=(Splat("warning", "WARNING: CPU: 0 at net/core/dev.c"),))
    assert run_suite("integration", machine=lambda: (IMAGE, guest)) == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"
    assert "net/core/dev.c" in captured.err


def test_tests_that_do_not_go_on_are_ended_and_a_failure(results, capfd):
    (results / "tests/integration/test_b.py").write_text("def test_b(): pass\n")
    assert run_suite("integration", machine=lambda: (IMAGE, StuckGuest())) == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    assert "the tests do not go on: `pytest` said nothing for 900 s" in captured.err


def test_a_kernel_without_falcon_is_a_failure_not_a_skip(results, capfd):
    (results / "tests/integration/test_b.py").write_text("def test_b(): pass\n")
    assert run_suite("integration", machine=lambda: (IMAGE, Guest(falcon=False))) == 1
    assert last_line(capfd) == "0 passed, 1 failed, 0 skipped"


def test_a_machine_that_cannot_be_had_fails_and_the_line_still_comes(results, capfd):
    (results / "tests/unit/test_a.py").write_text("def test_a(): pass\n")

    def machine():
        raise FalconError("the kernel panicked")

    assert run_suite("unit", "integration", machine=machine) == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"
    assert "integration tests, Linux 6.12: the kernel panicked" in captured.err


def test_torture_counts_as_one_test(results, capfd):
    assert run_suite("torture", kernels=[kernel(torture=lambda: None)]) == 0
    assert last_line(capfd) == "1 passed, 0 failed, 0 skipped"


def test_a_kernel_that_does_not_stand_torture_is_a_failure(results, capfd):
    def torture():
        raise FalconError("torture, seed 42: 3 packets are unaccounted for")

    assert run_suite("torture", kernels=[kernel(torture=torture)]) == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    assert "torture, Linux 6.12: torture, seed 42" in captured.err


def test_only_a_whole_run_tortures(results, capfd):
    (results / "tests/integration/test_b.py").write_text("def test_b(): pass\n")
    machine = lambda: (IMAGE, Guest())  # noqa: E731
    untouched = kernel(machine, torture=nowhere, whole=False)
    assert run_suite("integration", "torture", kernels=[untouched]) == 0
    asked = kernel(machine, torture=nowhere)
    assert run_suite("integration", "torture", kernels=[asked], keyword="b") == 0


def test_tallies_add():
    assert str(Tally(1, 0, 2) + Tally(3, 1, 0)) == "4 passed, 1 failed, 2 skipped"


def test_the_package_list_is_well_formed():
    assert {"gcc", "qemu-system-x86", "libelf-dev"} <= {tool.package for tool in tools.known()}
    assert all(tool.proof and tool.purpose for tool in tools.known())


def nowhere():
    raise FalconError("no source of Linux 5.4", "not packaged", "name one with --source PATH")


def test_each_kernel_has_its_line_and_its_report(results, capfd):
    (results / "tests/integration/test_b.py").write_text("def test_b(): pass\n")
    machine = lambda: (IMAGE, Guest())  # noqa: E731
    assert run_suite("integration", kernels=[kernel(machine), kernel(machine, "6.1")]) == 0
    assert capfd.readouterr().out.splitlines()[-3:] == [
        "Linux 6.12    1 passed, 0 failed, 0 skipped (6.12.7)",
        "Linux 6.1     1 passed, 0 failed, 0 skipped (6.12.7)",
        "2 passed, 0 failed, 0 skipped",
    ]
    reports = sorted(path.name for path in (results / "results").iterdir())
    assert reports == ["integration-6.1.xml", "integration-6.12.xml"]


def test_a_kernel_without_a_source_is_reported_with_the_reason_never_green(results, capfd):
    (results / "tests/unit/test_a.py").write_text("def test_a(): pass\n")
    absent = kernel(name="5.4", source=nowhere, required=False)
    assert run_suite("unit", "integration", kernels=[absent]) == 0
    assert capfd.readouterr().out.splitlines()[-3:] == [
        "unit tests    1 passed, 0 failed, 0 skipped",
        "Linux 5.4     NOT RUN: no source of Linux 5.4: not packaged; name one with --source PATH",
        "1 passed, 0 failed, 1 skipped",
    ]


def test_a_kernel_asked_for_must_have_a_source(results, capfd):
    assert run_suite("integration", kernels=[kernel(name="5.4", source=nowhere)]) == 1
    assert last_line(capfd) == "0 passed, 1 failed, 0 skipped"


def test_other_kernels_prefixes_are_not_compiled_in_a_run_of_all(results, capfd):
    (results / "tests/patches").mkdir()
    (results / "tests/patches/test_p.py").write_text(
        "import pytest\n@pytest.mark.compiles\ndef test_long(): pass\ndef test_short(): pass\n"
    )
    assert run_suite("patches", kernels=[kernel(), kernel(name="6.1", whole=False)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[-3] == "Linux 6.12    2 passed, 0 failed, 0 skipped (6.12.7)"
    assert lines[-2] == "Linux 6.1     1 passed, 0 failed, 0 skipped (6.12.7)"


def test_fragments_a_user_adds_come_last_and_kunit_comes_without_them():
    assert tasks._fragments("tcg") == ("guest", "tcg", "kunit")
    assert tasks._fragments("tcg", falcon=False) == ("guest", "tcg")
    assert tasks._fragments("tcg", "debug,falcon") == ("guest", "tcg", "debug", "falcon")
