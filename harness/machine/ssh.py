# SPDX-License-Identifier: GPL-2.0-only
"""A machine at the other end of an SSH connection, by fabric and paramiko.

In: ``user@host:port``, or a name of ``~/.ssh/config``. Out: `Process` objects fed
from SSH channels. Commands run as root, by sudo where the login is another user.

How a command runs there (docs/decisions/0060)::

    sshd ── login shell ── [sudo] ── sh: says its process group on stderr
                                      ├─ the command
                                      └─ a watch on sshd: kills the group when the
                                         connection is gone
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    NoValidConnectionsError,
    PasswordRequiredException,
)

from harness.errors import FalconError
from harness.machine.base import CommandFailed, Input, Machine, MachineDied, Process, chunks

# What paramiko logs is in the errors it raises; its tracebacks are not for users.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

CHUNK = 32768
# Until the host has answered and agreed on keys, unless ~/.ssh/config says otherwise.
CONNECT_TIMEOUT_S = 45.0
# A busy server takes its time from there to its greeting, and to let somebody in.
LOGIN_TIMEOUT_S = 90.0
# A connection that is silent gets a packet so often, and is dead when none was
# acknowledged for so long.
KEEPALIVE_S, DEAD_AFTER_S = 5, 30
# How long a command may take to start; a sudo that asks a directory service is slow.
START_TIMEOUT_S = 120.0
KILL_TIMEOUT_S = 60.0
# Output of a command that has ended is complete when no more came for so long.
DRAIN_S = 5.0
# An emulated server takes minutes, one with much memory to check as long.
BOOT_TIMEOUT_S = 900.0
RETRY_S = 2.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SSH_CONFIGS = (Path("~/.ssh/config"), Path("/etc/ssh/ssh_config"))
SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
# A shell's status of a command that was ended by signal N is SIGNALLED + N.
SIGNALLED = 128
KILLED = SIGNALLED + 9

# $1: sshd's process, $2: what marks the end of what is not the command's, $3: the
# working directory or "", then the command.
WRAPPER = """\
sshd=$1 mark=$2 directory=$3
shift 3
read -r _ _ _ _ group _ </proc/$$/stat
printf '%s %s\\n' "$mark" "$group" >&2
if [ -n "$directory" ]; then cd -- "$directory" || exit 126; fi
if kill -0 "$sshd" 2>/dev/null; then
	(while kill -0 "$sshd" 2>/dev/null; do sleep 2; done; kill -s KILL -- "-$group") \\
		</dev/null >/dev/null 2>&1 &
	watch=$!
fi
"$@"
status=$?
[ -z "$watch" ] || kill "$watch" 2>/dev/null
exit $status
"""


class HostUnreachable(FalconError):
    """There was no connection to be had: refused, timed out, no such host, no access."""


class _NoChannel(MachineDied):
    """A command cannot have begun: there was no channel for it."""


class Cancelled(FalconError):
    """Another thread called `SshMachine.cancel`."""


@dataclass(frozen=True)
class Access:
    """How to get in, besides keys and the agent.

    ``password`` for the login, ``sudo_password`` for sudo; ``ssh_config`` in place of
    ``~/.ssh/config``. Passwords are kept out of ``repr``.
    """

    password: str | None = field(default=None, repr=False)
    sudo_password: str | None = field(default=None, repr=False)
    ssh_config: Path | None = None


class _PatientTransport(paramiko.Transport):
    """Gives a busy host time for the cryptography of a login; paramiko's 15 s are too few."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.handshake_timeout = LOGIN_TIMEOUT_S


class _Refuse(paramiko.MissingHostKeyPolicy):
    """A host whose key is not known is not talked to."""

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        name, _, port = hostname.strip("[").partition("]:")
        by_hand = f"ssh -p {port} {name}" if port else f"ssh {name}"
        raise FalconError(
            f"the host key of {hostname} is not known",
            f"it shows {key.get_name()} {key.fingerprint}",
            f"compare that with the server's, then accept it with: {by_hand}",
        )


class SshMachine(Machine):
    """A host over SSH: connects at the first command, or by `connect`.

    ``host``: ``[user@]host[:port]``. ``cwd`` of its commands defaults to the login's
    directory. After a reboot, or a lost connection, the next command connects anew.
    """

    def __init__(self, host: str, access: Access | None = None):
        self.name = host
        self.access = access or Access()
        self._connection: fabric.Connection | None = None
        self._login_is_root = False
        self._processes: set[_SshProcess] = set()
        self._lock = threading.RLock()
        self._cancelled = threading.Event()

    # -- the connection ---------------------------------------------------------

    def connect(self) -> None:
        """Connect, and see that commands run as root.

        Raises `FalconError`: the host key is unknown or has changed, the host cannot be
        reached (`HostUnreachable`), lets us not in, or does not give us root.
        """
        with self._lock:
            if self._connection is not None:
                if _is_alive(self._connection):
                    return
                self._drop()
            connection = self._new_connection()
            try:
                self._open(connection)
                _watch(connection)
                self._login_is_root = _ask(connection, "id -u") == "0"
            except (OSError, EOFError, paramiko.SSHException) as error:
                _close(connection)
                raise HostUnreachable(
                    f"the connection to {self.name} was lost at login",
                    _words(error),
                    f"see that `ssh {self.name}` works",
                ) from None
            except BaseException:
                _close(connection)
                raise
            self._connection = connection
            try:
                self._launch(["true"], None, None, False).settle(None).wait(START_TIMEOUT_S)
            except BaseException:
                self._drop()
                raise

    def _new_connection(self) -> fabric.Connection:
        patience: dict[str, Any] = {
            "banner_timeout": LOGIN_TIMEOUT_S,
            "auth_timeout": LOGIN_TIMEOUT_S,
            "transport_factory": _PatientTransport,
        }
        # For jump hosts as well; the password is the host's alone.
        defaults = {"timeouts": {"connect": int(CONNECT_TIMEOUT_S)}, "connect_kwargs": patience}
        own = self.access.ssh_config
        files = [own] if own else [file for file in SSH_CONFIGS if file.expanduser().is_file()]
        connection = fabric.Connection(
            self.name,
            config=fabric.Config(overrides=defaults, ssh_config=_ssh_config(files)),
            connect_kwargs={**patience, "password": self.access.password},
        )
        for hop in _chain(connection):
            _check_keys(hop)
        return connection

    def _open(self, connection: fabric.Connection) -> None:
        """Connect, with every failure told in a line."""
        try:
            connection.open()
        except FalconError:
            raise
        except BadHostKeyException as error:
            raise FalconError(
                f"the host key of {error.hostname} has changed",
                f"it shows {error.key.fingerprint}, known is {error.expected_key.fingerprint}: "
                "the host was set up anew, or somebody is in between",
                f"if you know why: ssh-keygen -R '{error.hostname}', and log in by ssh once",
            ) from None
        except PasswordRequiredException:
            raise HostUnreachable(
                f"cannot log in to {self.name}", "the key needs a passphrase", "ssh-add it first"
            ) from None
        except AuthenticationException as error:
            tried = "no key was accepted"
            if self.access.password:
                tried = "neither a key nor the password was accepted"
            raise HostUnreachable(
                f"cannot log in to {self.name}",
                f"{tried} ({_words(error)})",
                f"see that `ssh {self.name}` works, or give a password with --ask-password",
            ) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise HostUnreachable(
                f"cannot reach {self.name}", _words(error), f"see that `ssh {self.name}` works"
            ) from None

    def _drop(self) -> None:
        if self._connection is not None:
            _close(self._connection)
        self._connection = None

    def _check_health(self, connection: fabric.Connection) -> None:
        if not _is_alive(connection):
            raise MachineDied(f"the connection to {self.name} was lost", "while a command ran")

    # -- the interface of Machine --------------------------------------------------

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
    ) -> Process:
        if not argv:
            raise FalconError("there is no command to run")
        try:
            self.connect()
            process = self._launch(argv, cwd, env, stream)
        except _NoChannel:
            # The connection was lost before anybody noticed; nothing has begun there.
            with self._lock:
                self._drop()
            self.connect()
            process = self._launch(argv, cwd, env, stream)
        return process.settle(stdin)

    def _launch(
        self,
        argv: Sequence[str],
        cwd: str | Path | None,
        env: Mapping[str, str] | None,
        stream: bool,
    ) -> _SshProcess:
        assert self._connection is not None
        connection = self._connection
        process = _SshProcess(self, connection, argv, stream)
        process.open(self._command_line(process, argv, cwd, env))
        with self._lock:
            self._processes = {p for p in self._processes if p.exit_status is None} | {process}
        return process

    def _command_line(
        self,
        process: _SshProcess,
        argv: Sequence[str],
        cwd: str | Path | None,
        env: Mapping[str, str] | None,
    ) -> str:
        """One line for the login shell, which may be any: a word it knows and quoted ones."""
        wrapped = ["sh", "-c", WRAPPER, "falcon"]
        if not self._login_is_root:
            # -S: the password comes over stdin; without one sudo does not wait for it.
            how = ["-S", "-p", process.prompt] if self.access.sudo_password else ["-n"]
            wrapped = ["sudo", *how, "--", *wrapped]
        settings = [f"{name}={value}" for name, value in (env or {}).items()]
        command = ["env", *settings, *argv] if settings else list(argv)
        words = [process.mark, str(cwd or ""), *command]
        # $PPID of the outer sh is sshd's process for this connection.
        outer = f'exec {shlex.join(wrapped)} "$PPID" "$@"'
        return shlex.join(["exec", "sh", "-c", outer, "falcon", *words])

    def kill_group(self, connection: fabric.Connection, group: int) -> None:
        """Kill a process group there. For `_SshProcess`."""
        command = ["kill", "-s", "KILL", "--", f"-{group}"]
        killer = _SshProcess(self, connection, command, False)
        killer.open(self._command_line(killer, command, None, None))
        killer.settle(None).wait(KILL_TIMEOUT_S)

    def boot_id(self) -> str:
        """What changes with every boot."""
        return self.run(["cat", BOOT_ID], check=True, timeout_s=START_TIMEOUT_S).stdout.strip()

    def reboot(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Boot again and wait until commands run; `MachineDied` when they do not in time."""
        before = self.boot_id()
        self.begin_reboot()
        self.wait_for_boot(before, timeout_s)

    def begin_reboot(self) -> None:
        """Tell the host to reboot, and do not wait for it."""
        script = "if command -v systemctl >/dev/null; then systemctl reboot; else reboot; fi"
        try:
            self.run(["sh", "-c", script], check=True, timeout_s=START_TIMEOUT_S)
        except MachineDied:
            pass  # it was faster than its answer
        except CommandFailed as error:
            # Going down, it may kill the command before the connection.
            if error.result.exit_status < SIGNALLED:
                raise

    def wait_for_boot(self, before: str, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until the host runs another boot than ``before``, a `boot_id`.

        Whatever goes wrong meanwhile is tried again: a host that comes up refuses
        connections, then logins. `MachineDied`, with the last trouble, after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        trouble = "it has not gone down"
        while time.monotonic() < deadline:
            self.check_cancelled()
            try:
                if self.boot_id() != before:
                    return
                trouble = "it has not gone down"
            except FalconError as error:
                trouble = str(error)
                with self._lock:
                    self._drop()
            self._cancelled.wait(RETRY_S)
        raise MachineDied(f"{self.name} did not come back in {timeout_s:g} s", trouble)

    def cancel(self) -> None:
        """Let what another thread does here end in `Cancelled`: commands, waits for a boot.

        Commands that are started after it run as ever, so that thread can clean up.
        """
        self._cancelled.set()
        with self._lock:
            processes = set(self._processes)
        for process in processes:
            if process.exit_status is None:
                process.cancel()

    def check_cancelled(self) -> None:
        """Raise `Cancelled` after a `cancel`."""
        if self._cancelled.is_set():
            raise Cancelled(f"{self.name}: interrupted")

    def close(self) -> None:
        """Kill what still runs there, and disconnect."""
        with self._lock:
            processes, self._processes = self._processes, set()
        for process in processes:
            with suppress(FalconError):  # a connection that is gone: the watch kills it there
                process.kill()
        with self._lock:
            self._drop()


class _SshProcess(Process):
    """A command on a channel.

    Until the wrapper's mark comes on stderr, what comes there is sudo's or the login
    shell's, and stdin is not the command's yet.
    """

    def __init__(
        self, machine: SshMachine, connection: fabric.Connection, argv: Sequence[str], stream: bool
    ):
        super().__init__(argv, kill=self._kill_there, health=self._look, stream=stream)
        nonce = secrets.token_hex(8)
        self.mark, self.prompt = f"falcon-{nonce}", f"falcon-sudo-{nonce}:"
        self._machine, self._connection = machine, connection
        self._channel: paramiko.Channel
        self._preface = bytearray()
        self._prompts = 0
        self._failure: FalconError | None = None
        self._group = 0
        self._began = threading.Event()
        self._heard = time.monotonic()

    def open(self, line: str) -> None:
        """Start the command line on a channel of its own."""
        kind: type[MachineDied] = _NoChannel
        try:
            transport = self._connection.transport
            self._channel = transport.open_session(timeout=LOGIN_TIMEOUT_S)
            kind = MachineDied
            self._channel.exec_command(line)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise kind(
                f"the connection to {self._machine.name} takes no commands", _words(error)
            ) from None
        threading.Thread(target=self._attend, name="falcon-ssh", daemon=True).start()

    def settle(self, stdin: Input) -> _SshProcess:
        """Wait until the command itself has begun, then feed it; raises when it cannot begin."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._began.wait(0.2):
            self._look()
            if time.monotonic() > deadline:
                self._channel.close()
                raise FalconError(
                    f"a command on {self._machine.name} did not start in {START_TIMEOUT_S:g} s",
                    self._preface.decode(errors="replace").strip(),
                )
        self._look()
        threading.Thread(target=self._write_all, args=(stdin,), daemon=True).start()
        return self

    def cancel(self) -> None:
        """Kill it, and let who waits for it get `Cancelled`."""
        self._failure = Cancelled(f"{self._machine.name}: interrupted")
        with suppress(FalconError):
            self._kill_there()

    def _look(self) -> None:
        if self._failure:
            raise self._failure
        if self._exit_status is None:
            self._machine._check_health(self._connection)

    def _kill_there(self) -> None:
        if self._group:
            self._machine.kill_group(self._connection, self._group)
        else:
            self._channel.close()

    # -- the threads that serve it ---------------------------------------------------

    def _attend(self) -> None:
        readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in readers:
            reader.start()
        status = self._channel.recv_exit_status()  # -1: killed, or the connection went
        self._heard = time.monotonic()
        # What it wrote last may come after its status; a program that it left behind
        # may keep the pipes open for ever.
        while any(reader.is_alive() for reader in readers):
            if time.monotonic() - self._heard > DRAIN_S:
                break
            time.sleep(0.01)
        self._channel.close()
        if not self._group and not self._failure:
            self._failure = self._no_start(status)
        if not self._failure and (status >= 0 or _is_alive(self._connection)):
            # paramiko has no number for a shell that was killed.
            self.finish(status if status >= 0 else KILLED)
        self._began.set()

    def _read_output(self) -> None:
        while data := self._channel.recv(CHUNK):
            self._heard = time.monotonic()
            self.feed(0, data)

    def _read_errors(self) -> None:
        while data := self._channel.recv_stderr(CHUNK):
            self._heard = time.monotonic()
            if self._group:
                self.feed(1, data)
            else:
                self._preface += data
                self._read_preface()

    def _read_preface(self) -> None:
        """Look for sudo's prompt and for the mark in what came on stderr so far."""
        _, mark, rest = self._preface.partition(self.mark.encode() + b" ")
        number, newline, errors = rest.partition(b"\n")
        if mark and newline:
            self._group = int(number)
            self._began.set()
            if errors:
                self.feed(1, bytes(errors))
        elif self._preface.count(self.prompt.encode()) > self._prompts:
            self._prompts += 1
            if self._prompts > 1:
                self._fail(f"sudo on {self._machine.name} does not accept the password")
                return
            assert self._machine.access.sudo_password is not None
            with suppress(OSError):
                self._channel.sendall(self._machine.access.sudo_password.encode() + b"\n")

    def _fail(self, what: str, why: str = "", todo: str = "") -> None:
        self._failure = FalconError(what, why, todo)
        self._channel.close()

    def _no_start(self, status: int) -> FalconError:
        """Why a command that ended had not begun."""
        text = self._preface.decode(errors="replace").replace(self.prompt, "").strip()
        last = text.splitlines()[-1] if text else f"status {status}"
        if not _is_alive(self._connection):
            return MachineDied(f"the connection to {self._machine.name} was lost", last)
        if "password is required" in text or "terminal is required" in text:
            return FalconError(
                f"sudo on {self._machine.name} wants a password",
                todo="give it with --ask-password, or in $FALCON_SUDO_PASSWORD",
            )
        return FalconError(f"{self._machine.name} runs no commands as root for us", last)

    def _write_all(self, stdin: Input) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):  # it may not want it all
            for data in chunks(stdin, CHUNK):
                self._channel.sendall(data)
            self._channel.shutdown_write()


# ---- connections --------------------------------------------------------------------


def _ssh_config(files: Sequence[Path]) -> paramiko.SSHConfig:
    """What ``files`` say, and those that they include, which paramiko passes over."""
    config = paramiko.SSHConfig()
    for file in files:
        whole = file.expanduser().absolute()
        config.parse(_lines(whole, whole.parent))
    return config


def _lines(file: Path, base: Path) -> Iterator[str]:
    """The lines of a configuration, included ones in their place; ``base`` is where these are."""
    block = "Host *"
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        keyword, *values = line.replace("=", " ", 1).split(maxsplit=1) or [""]
        if keyword.lower() != "include":
            block = line if keyword.lower() in ("host", "match") else block
            yield line
            continue
        for pattern in shlex.split(" ".join(values)):
            whole = base / Path(pattern).expanduser()
            for included in sorted(Path("/").glob(str(whole.relative_to("/")))):
                yield from _lines(included, base)
        yield block  # the last one of what was included is over


def _chain(connection: fabric.Connection) -> Iterator[fabric.Connection]:
    """A connection and those it goes through."""
    hop: fabric.Connection | str | None = connection
    while isinstance(hop, fabric.Connection):
        yield hop
        hop = hop.gateway


def _check_keys(connection: fabric.Connection) -> None:
    """Make a connection check host keys as ssh does; fabric would accept any."""
    client = connection.client
    client.set_missing_host_key_policy(_Refuse())
    named = connection.ssh_config.get("userknownhostsfile", "")
    files = [Path(word).expanduser() for word in shlex.split(named)]
    if not files:
        files = [Path.home() / ".ssh" / name for name in ("known_hosts", "known_hosts2")]
    for file in (*files, SYSTEM_KNOWN_HOSTS):
        if file.is_file():
            client.load_system_host_keys(str(file))


def _watch(connection: fabric.Connection) -> None:
    """Notice within `DEAD_AFTER_S` that the other end of a connection is gone."""
    for hop in _chain(connection):
        hop.transport.set_keepalive(KEEPALIVE_S)
        if isinstance(hop.transport.sock, socket.socket):
            milliseconds = int(DEAD_AFTER_S * 1000)
            hop.transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _is_alive(connection: fabric.Connection) -> bool:
    return all(
        hop.transport is not None and hop.transport.is_active() for hop in _chain(connection)
    )


def _close(connection: fabric.Connection) -> None:
    for hop in _chain(connection):
        with suppress(OSError, EOFError, paramiko.SSHException):
            hop.close()


def _ask(connection: fabric.Connection, line: str) -> str:
    """The last line that a simple command prints."""
    _stdin, stdout, _stderr = connection.client.exec_command(line, timeout=START_TIMEOUT_S)
    try:
        lines = stdout.read().decode(errors="replace").strip().splitlines()
    except OSError as error:
        raise HostUnreachable("a command was not answered", _words(error)) from None
    return lines[-1] if lines else ""


def _words(error: BaseException) -> str:
    """An error's own words, in one line, without Python's decoration."""
    if isinstance(error, NoValidConnectionsError):
        error = next(iter(error.errors.values()))
    if isinstance(error, TimeoutError) and not error.args:
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return (
            error.strerror if error.errno is None or error.errno < 0 else os.strerror(error.errno)
        )
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
