# SPDX-License-Identifier: GPL-2.0-only
"""Our programs on other machines: they answer, and what goes wrong there is told here."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sshserver import SshServer

from harness import tools
from harness.errors import FalconError
from harness.lab import remote
from harness.lab.loads import Flow, UdpLoad
from harness.lab.remote import Agent, Starter
from harness.machine import MachineDied
from harness.machine.base import Machine
from harness.machine.local import LocalMachine
from harness.paths import PROJECT

PATIENCE_S = 30.0

PROGRAM = """
import sys, time
from pathlib import Path
from harness.errors import FalconError
from harness.lab import dialogue

def echo(text):
    return {"echo": text}

def fail(why):
    raise FalconError("it does not work", why)

def answers(setting, commands):
    deeds = {"echo": echo, "fail": fail, "die": lambda status: sys.exit(status)}
    try:
        yield from dialogue.answers(
            setting, lambda command: dialogue.carry_out(deeds, command), commands
        )
    finally:
        Path(setting["trace"]).write_text("undone")

sys.exit(dialogue.serve(answers))
"""


@pytest.fixture(params=["here", "by SSH"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    if request.param == "here":
        with LocalMachine() as made:
            yield made
        return
    if tools.find("sshd") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("openssh-server is not installed")
    server = SshServer(tmp_path)
    server.start()
    with server.machine() as reached:
        request.node.server = server
        yield reached
    server.stop()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def starter(machine: Machine, trace: Path) -> Starter:
    setting = f'{{"trace": "{trace}", "cpus": 7}}'
    command = [sys.executable, "-c", PROGRAM, setting]
    env = {"PYTHONPATH": str(PROJECT)}
    return lambda stdin: machine.start(command, cwd=PROJECT, env=env, stdin=stdin)


def test_commands_are_answered_and_their_end_is_the_programs(machine: Machine, trace: Path) -> None:
    with Agent(starter(machine, trace), "alpha") as agent:
        assert agent.ready["cpus"] == 7
        for text in ("one", "two"):
            assert agent.ask({"do": "echo", "text": text}) == {"echo": text}
        assert not trace.exists()
    assert trace.read_text() == "undone"


def test_what_goes_wrong_there_is_told_with_its_name(machine: Machine, trace: Path) -> None:
    with pytest.raises(FalconError) as error, Agent(starter(machine, trace), "alpha") as agent:
        agent.ask({"do": "fail", "why": "no device"})
    assert str(error.value) == "alpha: it does not work: no device"
    with (
        pytest.raises(FalconError, match="alpha: our program there ended with status 3"),
        Agent(starter(machine, trace), "alpha") as agent,
    ):
        agent.ask({"do": "die", "status": 3})


def test_program_that_does_not_start_is_an_error_with_its_words(machine: Machine) -> None:
    command = ["sh", "-c", "echo no such module >&2; exit 1"]
    start: Any = lambda stdin: machine.start(command, stdin=stdin)  # noqa: E731
    with pytest.raises(FalconError, match="alpha: no such module"), Agent(start, "alpha"):
        pass


def test_an_error_here_ends_the_program_there(machine: Machine, trace: Path) -> None:
    with pytest.raises(ZeroDivisionError), Agent(starter(machine, trace), "alpha") as agent:
        raise ZeroDivisionError
    deadline = time.monotonic() + PATIENCE_S
    while agent._process.exit_status is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("machine", ["by SSH"], indirect=True)
def test_lost_connection_is_noticed(
    machine: Machine, trace: Path, request: pytest.FixtureRequest
) -> None:
    with (
        pytest.raises(MachineDied, match="connection"),
        Agent(starter(machine, trace), "alpha") as agent,
    ):
        request.node.server.drop_connections()
        agent.ask({"do": "echo", "text": "one"})


def test_clients_elsewhere_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a measurement does with clients, as commands."""
    asked: list[tuple[str, Any]] = []
    latency = {f"{name}_us": 1.0 for name in ("mean", "p50", "p90", "p99", "p999", "max")}
    done = {"operations": 9, "seconds": 2.0, "errors": 1, "out_of_order": None, "latency": latency}
    answers = {"all_run": {"all_run": True}, "wait": done, "sent": {"datagrams": 5, "again": 0}}

    def ask(command: dict[str, Any], timeout_s: float = 0.0) -> dict[str, Any]:
        asked.append((command.pop("do"), command))
        return answers.get(asked[-1][0], {})

    sender = remote.Sender(lambda _: None, "beta")  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(sender, "ask", ask)
    flows = [Flow(0, "10.77.2.1", 20_000), Flow(None, "10.0.0.1", 20_001)]
    sender.require("wrk")
    with sender.running(UdpLoad(64), flows, 100.0, 4) as running:
        assert running.all_run
        found = running.wait()
    assert found.operations == 9 and found.latency and found.latency.p99_us == 1.0
    assert sender.sent(flows).datagrams == 5
    assert [name for name, _ in asked] == ["require", "start", "all_run", "wait", "stop", "sent"]
    assert asked[1][1]["flows"][1]["container"] is None
    assert asked[1][1]["load"]["size"] == 64 and asked[1][1]["seconds"] == 4
    asked.clear()
    with (
        pytest.raises(ZeroDivisionError),
        sender.running(UdpLoad(64), flows, 100.0, 4),
    ):
        raise ZeroDivisionError
    assert [name for name, _ in asked] == ["start"], "nothing is asked of who may be dead"
