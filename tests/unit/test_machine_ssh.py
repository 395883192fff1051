# SPDX-License-Identifier: GPL-2.0-only
"""Commands over SSH, against a real sshd on loopback; sudo alone is played."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fabric
import processes
import pytest
from sshserver import SshServer

from harness import tools
from harness.errors import FalconError
from harness.machine import CommandFailed, CommandTimeout, MachineDied, SshMachine, ssh
from harness.machine.ssh import Access, HostUnreachable

# A busy test machine starts nothing at once.
PATIENCE_S = 30.0

# As the real one: asks on stderr, reads lines of stdin, gives up after three.
SUDO = """\
#!/bin/sh
while :; do case $1 in
-n) quiet=1; shift;; -S) shift;; -p) prompt=$2; shift 2;; --) shift; break;; esac; done
[ "$(cat "$(dirname "$0")/secret")" = "" ] && exec env BY_SUDO=1 "$@"
[ -z "$quiet" ] || { echo "sudo: a password is required" >&2; exit 1; }
for try in 1 2 3; do
    printf %s "$prompt" >&2
    read -r given || exit 1
    [ "$given" = "$(cat "$(dirname "$0")/secret")" ] && exec env BY_SUDO=1 "$@"
    echo "Sorry, try again." >&2
done
exit 1
"""


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[SshServer]:
    """A server that still is to be started."""
    if tools.find("sshd") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("openssh-server is not installed")
    made = SshServer(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def server(stopped: SshServer) -> SshServer:
    stopped.start()
    return stopped


@pytest.fixture
def machine(server: SshServer) -> Iterator[SshMachine]:
    with server.machine() as made:
        yield made


def with_sudo(server: SshServer, secret: str) -> None:
    """Let the login be no root's, and sudo want ``secret``; nothing when it is empty."""
    server.add_program("id", "#!/bin/sh\necho 1000\n")
    server.add_program("sudo", SUDO)
    (server.programs / "secret").write_text(secret)


# ---- commands -----------------------------------------------------------------------


def test_output_errors_and_status_come_back_apart(machine: SshMachine) -> None:
    done = machine.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 7)


def test_words_arrive_as_they_are(machine: SshMachine) -> None:
    words = ["a b", "", "$HOME", "'", '"', "*", "ü", "line\nline", "-n"]
    done = machine.run(["printf", "%s|", *words])
    assert done.stdout == "".join(f"{word}|" for word in words)


def test_bytes_of_any_kind_and_length_pass_both_ways(machine: SshMachine) -> None:
    data = os.urandom(3_000_000)
    assert machine.run(["cat"], stdin=data).stdout_bytes == data


def test_no_input_is_its_end(machine: SshMachine) -> None:
    assert machine.run(["cat"], timeout_s=PATIENCE_S).stdout == ""


def test_input_from_a_descriptor_comes_as_it_is_written(machine: SshMachine) -> None:
    theirs, ours = os.pipe()
    try:
        process = machine.start(["cat"], stdin=theirs)
        os.write(ours, b"first")
        process.wait_for("first", PATIENCE_S)
        assert process.exit_status is None
    finally:
        os.close(ours)
    assert process.wait(PATIENCE_S).stdout == "first"
    os.close(theirs)


def test_directory_and_environment(machine: SshMachine, tmp_path: Path) -> None:
    done = machine.run(["sh", "-c", 'echo "$PWD $A"'], cwd=tmp_path, env={"A": "b c"})
    assert done.stdout == f"{tmp_path} b c\n"


@pytest.mark.parametrize(
    ("argv", "status"),
    [(["no-such-program"], 127), (["/etc/passwd"], 126), (["sh", "-c", "kill -TERM $$"], 143)],
)
def test_statuses_are_a_shells(machine: SshMachine, argv: list[str], status: int) -> None:
    assert machine.run(argv).exit_status == status


def test_directory_that_is_not_there(machine: SshMachine) -> None:
    done = machine.run(["true"], cwd="/no/such/directory")
    assert done.exit_status == 126 and "/no/such/directory" in done.stderr


def test_checked_command_that_fails(machine: SshMachine) -> None:
    with pytest.raises(CommandFailed, match="`false` ended with status 1"):
        machine.run(["false"], check=True)


def test_files_go_and_come_with_their_mode(machine: SshMachine, tmp_path: Path) -> None:
    here, there, back = (tmp_path / name for name in ("here", "there", "back"))
    here.write_bytes(bytes(range(256)) * 1000)
    here.chmod(0o640)
    machine.put(here, there)
    machine.get(there, back)
    assert back.read_bytes() == here.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o640


def test_several_commands_at_once(machine: SshMachine) -> None:
    started = [machine.start(["cat"], stdin=f"{number}") for number in range(8)]
    assert [process.wait(PATIENCE_S).stdout for process in started] == list("01234567")


def test_command_that_leaves_a_program_behind_ends(machine: SshMachine) -> None:
    script = "sleep 1000 & echo $!"
    done = machine.run(["sh", "-c", script], timeout_s=PATIENCE_S)
    os.kill(int(done.stdout), 9)  # raises if it does not run


# ---- their end ------------------------------------------------------------------------

TREE = "sleep 1000 & echo $! $$; wait"


def pids_of(process: object) -> list[int]:
    process.wait_for("\n", PATIENCE_S)  # type: ignore[attr-defined]
    return [int(word) for word in process.stdout.split()]  # type: ignore[attr-defined]


def test_command_that_takes_too_long_is_killed_with_its_children(machine: SshMachine) -> None:
    with pytest.raises(CommandTimeout, match="it was killed") as caught:
        machine.run(["sh", "-c", TREE], timeout_s=3)
    processes.wait_until_gone(map(int, caught.value.result.stdout.split()))


def test_close_kills_what_runs(server: SshServer) -> None:
    with server.machine() as machine:
        pids = pids_of(machine.start(["sh", "-c", TREE]))
    processes.wait_until_gone(pids)


def test_killed_harness_leaves_no_command_behind(server: SshServer, tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from harness.machine.ssh import Access, SshMachine
machine = SshMachine({server.name!r}, Access(ssh_config=Path({str(server.config)!r})))
process = machine.start(["sh", "-c", {TREE!r}])
process.wait_for("\\n", {PATIENCE_S})
print(process.stdout, flush=True)
time.sleep(1000)
"""
    harness = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert harness.stdout
    pids = [int(word) for word in harness.stdout.readline().split()]
    harness.kill()
    harness.wait()
    processes.wait_until_gone(pids)
    harness.stdout.close()


def test_lost_connection_is_told_and_its_command_dies(server: SshServer) -> None:
    with server.machine() as machine:
        process = machine.start(["sh", "-c", TREE])
        pids = pids_of(process)
        server.drop_connections()
        with pytest.raises(MachineDied, match="the connection to server was lost"):
            process.wait(PATIENCE_S)
        processes.wait_until_gone(pids)
        assert machine.run(["echo", "again"]).stdout == "again\n"  # it connects anew


def test_server_that_went_away_is_told(server: SshServer) -> None:
    with server.machine() as machine:
        machine.connect()
        server.stop()
        with pytest.raises(HostUnreachable, match="cannot reach server: Connection refused"):
            machine.run(["true"])


# ---- who is let in ----------------------------------------------------------------------


def test_unknown_host_key_is_refused_and_not_remembered(server: SshServer) -> None:
    server.known_hosts.write_text("")
    with pytest.raises(FalconError) as caught:
        server.machine().connect()
    port = server.port
    assert f"the host key of [127.0.0.1]:{port} is not known" in str(caught.value)
    assert "SHA256:" in str(caught.value) and f"ssh -p {port} 127.0.0.1" in str(caught.value)
    assert server.known_hosts.read_text() == ""


def test_changed_host_key_is_refused(server: SshServer) -> None:
    server.known_hosts.write_text("")
    server.know(server.port, "other_key")
    with pytest.raises(FalconError, match=r"the host key of .* has changed"):
        server.machine().connect()


def test_key_that_the_server_does_not_know(server: SshServer) -> None:
    (server.directory / "authorized_keys").write_text("")
    with pytest.raises(HostUnreachable, match="cannot log in to server: no key was accepted"):
        server.machine().connect()


def test_wrong_login_password(stopped: SshServer) -> None:
    (stopped.directory / "authorized_keys").write_text("")
    stopped.passwords = True
    stopped.start()
    with pytest.raises(HostUnreachable) as caught:
        stopped.machine(password="not this one").connect()
    assert str(caught.value).startswith(
        "cannot log in to server: neither a key nor the password was accepted"
    )
    assert "not this one" not in str(caught.value)
    assert "Failed password for" in (stopped.directory / "sshd.log").read_text()


def test_nobody_listens(stopped: SshServer) -> None:
    with pytest.raises(HostUnreachable, match="cannot reach server: Connection refused"):
        stopped.machine().connect()


def test_no_such_host(stopped: SshServer) -> None:
    with pytest.raises(HostUnreachable, match=r"cannot reach no-such-host\.invalid"):
        SshMachine("no-such-host.invalid").connect()


def test_configuration_includes_others_as_ssh_reads_them(tmp_path: Path) -> None:
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d/a").write_text("Host a\n  Port 1\nHost b\n  Port 2\n")
    (tmp_path / "config.d/b").write_text("Include=deeper\nUser somebody\n")
    (tmp_path / "deeper").write_text("Host c\n  Port 3\n")
    (tmp_path / "of-d").write_text("Port 4\n")
    own = tmp_path / "config"
    own.write_text(
        f"Include\tconfig.d/*\tnowhere/*\n\nCompression yes\nHost d\n  include {tmp_path}/of-d\n"
        "  User d\nHost *\n  Port 5\n"
    )
    config = ssh._ssh_config([own])
    found = {name: config.lookup(name) for name in "abcde"}
    assert [found[name]["port"] for name in "abcde"] == ["1", "2", "3", "4", "5"]
    assert {one["user"] for one in found.values()} == {"somebody"}
    assert {one["compression"] for one in found.values()} == {"yes"}


def test_host_of_an_included_file_is_reached(server: SshServer) -> None:
    including = server.directory / "including"
    including.write_text(f"Include {server.config}\n")
    with SshMachine(server.name, Access(ssh_config=including)) as machine:
        assert machine.run(["true"]).exit_status == 0


def test_jump_host_is_gone_through_and_its_key_checked(server: SshServer) -> None:
    server.add_host("behind", server.port, f"ProxyJump {server.name}")
    with server.machine("behind") as machine:
        assert machine.run(["echo", "through"]).stdout == "through\n"
        assert machine._connection.gateway.is_connected
    server.known_hosts.write_text("")
    with pytest.raises(FalconError, match=r"the host key of .* is not known"):
        server.machine("behind").connect()


# ---- sudo -----------------------------------------------------------------------------


def test_without_sudo_where_the_login_is_root(server: SshServer) -> None:
    if os.geteuid() != 0:
        pytest.skip("the login to the test server is not root's")
    server.add_program("sudo", "#!/bin/sh\nexit 1\n")
    with server.machine() as machine:
        assert machine.run(["echo", "root"]).stdout == "root\n"


def test_sudo_that_wants_no_password(server: SshServer) -> None:
    with_sudo(server, "")
    with server.machine() as machine:
        assert machine.run(["sh", "-c", "echo $BY_SUDO; cat"], stdin="in").stdout == "1\nin"


def test_sudo_password_is_given_once_and_is_not_the_commands_input(server: SshServer) -> None:
    with_sudo(server, "open sesame")
    with server.machine(sudo_password="open sesame") as machine:
        assert machine.run(["sh", "-c", "echo $BY_SUDO; cat"], stdin="in").stdout == "1\nin"
        assert machine.run(["cat"], stdin="in").stderr == ""


def test_password_that_sudo_does_not_want_is_not_the_commands_input(server: SshServer) -> None:
    with_sudo(server, "")
    with server.machine(sudo_password="open sesame") as machine:
        assert machine.run(["cat"], stdin="in").stdout == "in"


def test_wrong_sudo_password(server: SshServer) -> None:
    with_sudo(server, "open sesame")
    began = time.monotonic()
    with pytest.raises(FalconError, match="sudo on server does not accept the password"):
        server.machine(sudo_password="sesame").connect()
    assert time.monotonic() - began < PATIENCE_S


def test_sudo_password_that_is_missing(server: SshServer) -> None:
    with_sudo(server, "open sesame")
    with pytest.raises(FalconError, match="sudo on server wants a password; give it"):
        server.machine().connect()


def test_login_that_may_not_use_sudo(server: SshServer) -> None:
    server.add_program("id", "#!/bin/sh\necho 1000\n")
    refusal = "joe is not in the sudoers file."
    server.add_program("sudo", f"#!/bin/sh\necho '{refusal}' >&2\nexit 1\n")
    with pytest.raises(FalconError, match=f"runs no commands as root for us: {refusal}"):
        server.machine().connect()


def test_killed_by_sudo_too(server: SshServer) -> None:
    with_sudo(server, "open sesame")
    with server.machine(sudo_password="open sesame") as machine:
        pids = pids_of(machine.start(["sh", "-c", TREE]))
    processes.wait_until_gone(pids)


# ---- reboots ----------------------------------------------------------------------------

FAKE_BOOT_ID = """\
#!/bin/sh
if [ "$1" = /proc/sys/kernel/random/boot_id ]; then shift; set -- "$(dirname "$0")/boot_id"; fi
exec /bin/cat "$@"
"""


@pytest.fixture
def rebooting(stopped: SshServer) -> SshServer:
    """A server whose boot has a name of the test's."""
    stopped.add_program("cat", FAKE_BOOT_ID)
    stopped.add_program("systemctl", '#!/bin/sh\ntouch "$(dirname "$0")/asked"\n')
    (stopped.programs / "boot_id").write_text("first\n")
    stopped.start()
    return stopped


def test_reboot_waits_through_refusals_for_another_boot(rebooting: SshServer) -> None:
    def go_down_and_up() -> None:
        while not (rebooting.programs / "asked").exists():
            time.sleep(0.05)
        time.sleep(1)  # still up, the old boot
        rebooting.stop()
        time.sleep(3)
        (rebooting.programs / "boot_id").write_text("second\n")
        rebooting.start()

    helper = threading.Thread(target=go_down_and_up)
    helper.start()
    with rebooting.machine() as machine:
        machine.reboot(PATIENCE_S)
        assert machine.boot_id() == "second"
    helper.join()


@pytest.mark.parametrize("step", ["_watch", "_ask"])
def test_connection_lost_just_after_the_login_is_one_more_try(
    rebooting: SshServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = getattr(ssh, step)
    lost: list[fabric.Connection] = []

    def too_late(connection: fabric.Connection, *rest: str) -> object:
        if not lost:
            lost.append(connection)
            rebooting.drop_connections()
            deadline = time.monotonic() + PATIENCE_S
            while connection.transport.is_active():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        return whole(connection, *rest)

    monkeypatch.setattr(ssh, step, too_late)
    with rebooting.machine() as machine:
        machine.wait_for_boot("none yet", PATIENCE_S)
        lost.clear()
        machine.close()
        with pytest.raises(HostUnreachable, match="the connection to server was lost at login"):
            machine.connect()


def test_host_that_stays_away(rebooting: SshServer) -> None:
    with rebooting.machine() as machine:
        before = machine.boot_id()
        rebooting.stop()
        with pytest.raises(MachineDied, match=r"did not come back in 3 s: .*Connection refused"):
            machine.wait_for_boot(before, 3)


def test_reboot_that_kills_its_own_command_has_begun(rebooting: SshServer) -> None:
    rebooting.add_program("systemctl", "#!/bin/sh\nkill -s KILL $PPID\n")
    with rebooting.machine() as machine:
        machine.begin_reboot()
        assert machine.run(["true"]).exit_status == 0  # the connection was not what ended it


def test_reboot_that_is_refused_is_told(rebooting: SshServer) -> None:
    refusal = "Call to Reboot failed: Access denied"
    rebooting.add_program("systemctl", f"#!/bin/sh\necho '{refusal}' >&2\nexit 1\n")
    with rebooting.machine() as machine, pytest.raises(CommandFailed, match=refusal):
        machine.begin_reboot()


def test_host_that_does_not_go_down(rebooting: SshServer) -> None:
    with (
        rebooting.machine() as machine,
        pytest.raises(MachineDied, match="did not come back in 3 s: it has not gone down"),
    ):
        machine.reboot(3)
