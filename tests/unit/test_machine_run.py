# SPDX-License-Identifier: GPL-2.0-only
"""Commands on a machine: the same for this host and for a guest.

The guest is a fake QEMU around the guest's real agent (see fakeqemu.py).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import fakeqemu
import pytest

from harness.errors import FalconError
from harness.machine import (
    CommandFailed,
    CommandSilent,
    CommandTimeout,
    LocalMachine,
    QemuMachine,
    accel,
)


@pytest.fixture(params=["local", "qemu"])
def machine(request, tmp_path, monkeypatch):
    if request.param == "local":
        with LocalMachine() as local:
            yield local
        return
    monkeypatch.setattr(accel, "QEMU", str(fakeqemu.install(tmp_path)))
    (tmp_path / "bzImage").touch()
    with QemuMachine(tmp_path / "bzImage", accel="tcg") as guest:
        yield guest


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_status_and_both_outputs_come_apart(machine):
    result = machine.run(sh("echo out; echo err >&2; exit 7"))
    assert (result.exit_status, result.stdout, result.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        (["no-such-program"], 127, "no-such-program: No such file or directory"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (sh("kill -SEGV $$"), 139, ""),
    ],
)
def test_statuses_are_those_of_a_shell(machine, argv, status, complaint):
    result = machine.run(argv)
    assert (result.exit_status, result.stderr.strip()) == (status, complaint)


def test_environment_and_directory(machine, tmp_path):
    result = machine.run(sh('echo "$FALCON_X"; pwd'), env={"FALCON_X": "a  b"}, cwd=tmp_path)
    assert result.stdout == f"a  b\n{tmp_path}\n"


def test_directory_defaults_to_ours(machine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert machine.run(["pwd"]).stdout.strip() == str(tmp_path)


def test_input_larger_than_any_buffer_comes_back(machine):
    data = os.urandom(3 << 20)
    assert machine.run(["cat"], stdin=data).stdout_bytes == data


def test_input_nobody_reads_does_not_block(machine):
    assert machine.run(["true"], stdin=b"x" * (3 << 20)).exit_status == 0


def test_no_input_is_empty_input(machine):
    assert machine.run(["cat"], timeout_s=5).stdout == ""


def test_input_from_a_descriptor_is_passed_on_as_it_comes(machine):
    reader, writer = os.pipe()
    process = machine.start(["cat"], stdin=reader)
    os.write(writer, b"first\n")
    process.wait_for("first", timeout_s=5)
    os.write(writer, b"last\n")
    os.close(writer)
    assert process.wait(timeout_s=5).stdout == "first\nlast\n"
    os.close(reader)


def test_stream_passes_output_on(machine, capfdbinary):
    machine.run(sh("echo out; echo err >&2"), stream=True)
    assert capfdbinary.readouterr() == (b"out\n", b"err\n")


def test_check_raises_with_the_last_line_of_stderr(machine):
    with pytest.raises(CommandFailed, match=r"ended with status 4: that is why$") as failure:
        machine.run(sh("echo first >&2; echo that is why >&2; exit 4"), check=True)
    assert failure.value.result.exit_status == 4


def test_timeout_kills_the_command_and_its_children(machine, tmp_path):
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! $$ >{pids}; echo before; wait"
    process = machine.start(sh(script))
    process.wait_for("before", timeout_s=30)
    with pytest.raises(CommandTimeout, match=r"longer than 0.5 s: it was killed") as timeout:
        process.wait(0.5)
    assert timeout.value.result.stdout == "before\n"
    for pid in pids.read_text().split():
        wait_until_gone(int(pid))


def test_silence_kills_the_command(machine):
    with pytest.raises(CommandSilent, match=r"said nothing for 4 s: it was killed") as silence:
        machine.run(sh("for i in 1 2 3 4; do echo $i; sleep 0.1; done; sleep 60"), silence_s=4)
    assert silence.value.result.stdout == "1\n2\n3\n4\n"


def test_what_is_not_silent_goes_on(machine):
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.6; done"
    assert machine.run(sh(script), silence_s=4).exit_status == 0


def test_a_process_left_in_the_background_is_not_waited_for(machine, tmp_path):
    pid = tmp_path / "pid"
    started = time.monotonic()
    result = machine.run(sh(f"sleep 60 & echo $! >{pid}; echo done"))
    os.kill(int(pid.read_text()), 9)
    assert result.stdout == "done\n"
    assert time.monotonic() - started < 10


def test_several_commands_at_once(machine):
    server = machine.start(sh("echo ready; read line; echo got $line"), stdin=None)
    server.wait_for("ready", timeout_s=5)
    clients = [machine.start(["echo", str(number)]) for number in range(20)]
    assert [client.wait(timeout_s=5).stdout for client in clients] == [f"{n}\n" for n in range(20)]
    assert server.wait(timeout_s=5).stdout == "ready\ngot\n"


def test_wait_for_tells_why_it_gave_up(machine):
    with pytest.raises(FalconError, match=r"did not say 'ready' .* ended \(1\), its errors: oh no"):
        machine.start(sh("echo oh no >&2; exit 1")).wait_for("ready", timeout_s=5)


def test_kill(machine):
    process = machine.start(["sleep", "60"])
    threading.Timer(0.2, process.kill).start()
    assert process.wait(timeout_s=5).exit_status == 137
    process.kill()  # of a dead one: nothing


def test_files_there_and_back(machine, tmp_path):
    original, remote, back = (tmp_path / name for name in ("a", "b c", "d"))
    original.write_bytes(os.urandom(100_000))
    original.chmod(0o751)
    machine.put(original, remote)
    machine.get(remote, back)
    assert back.read_bytes() == original.read_bytes()
    assert remote.stat().st_mode & 0o777 == 0o751


def test_getting_what_is_not_there(machine, tmp_path):
    with pytest.raises(CommandFailed, match="No such file"):
        machine.get("/no/such/file", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_this_kernel(machine):
    assert machine.kernel_release() == os.uname().release


def test_ctrl_c_kills_the_command(machine, tmp_path):
    pid = tmp_path / "pid"
    process = machine.start(sh(f"echo $$ >{pid}; echo up; sleep 60"))
    process.wait_for("up", timeout_s=5)
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, os.kill, (os.getpid(), 2)).start()
        process.wait()
    wait_until_gone(int(pid.read_text()))


def test_output_is_not_lost_when_much_of_it_comes_at_the_end(machine):
    script = "import sys; sys.stdout.write('x' * 60000); sys.stderr.write('y' * 60000)"
    result = machine.run([sys.executable, "-c", script])
    assert (len(result.stdout), len(result.stderr)) == (60000, 60000)


def test_the_local_machine_refuses_to_reboot():
    with pytest.raises(FalconError, match="not rebooted"):
        LocalMachine().reboot()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")
