# SPDX-License-Identifier: GPL-2.0-only
"""The host's end of the command channel.

In: a connected stream socket whose other end is ``guest/Kind.c``, whose header
describes the frames. Out: `Process` objects fed by one reader thread, and the
time the guest was last heard of.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import count
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from harness.errors import FalconError
from harness.machine.base import Input, Process, chunks

# A send or receive that blocks wakes this often to look at the machine's health.
POLL_S = 1.0
CHUNK = 65536
HEADER = struct.Struct(">IIB")
WINDOW = struct.Struct(">HH")


class Kind(IntEnum):
    """The kinds of frames: ``enum frame_kind`` in guest/Kind.h."""

    START = 1
    INPUT = 2
    RESIZE = 3
    KILL = 4
    HELLO = 16
    OUTPUT = 17
    ERRORS = 18
    EXIT = 19
    BEAT = 20


class Frame(NamedTuple):
    kind: int
    id: int
    payload: bytes


def pack(kind: Kind, command_id: int, payload: bytes = b"") -> bytes:
    """One frame as the bytes that carry it."""
    return HEADER.pack(len(payload), command_id, kind) + payload


def start_request(
    argv: Sequence[str],
    cwd: str | Path | None,
    env: Mapping[str, str] | None,
    window: tuple[int, int] = (0, 0),
) -> bytes:
    """The payload of a START frame; ``window`` is (rows, columns), (0, 0) without a terminal."""
    if not argv:
        raise FalconError("there is no command to run")
    strings = [str(cwd or Path.cwd()), *argv]
    strings += [f"{name}={value}" for name, value in (env or {}).items()]
    if any("\0" in string for string in strings):
        raise FalconError("a command holds a NUL byte", "the kernel could not pass it on")
    text = b"".join(string.encode() + b"\0" for string in strings)
    return WINDOW.pack(*window) + struct.pack(">I", len(argv)) + text


class FrameReader:
    """Cuts a byte stream into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take ``data``, return the frames completed by it."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= HEADER.size:
            length, command_id, kind = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append(Frame(kind, command_id, bytes(self._buffer[HEADER.size : end])))
            del self._buffer[:end]
        return frames


class TtyProcess(Process):
    """A command on a terminal of its own: its input stays open."""

    def __init__(self, argv: Sequence[str], send: Callable[[Kind, bytes], None], **kwargs: Any):
        super().__init__(argv, **kwargs)
        self._send = send

    def write(self, data: bytes) -> None:
        """Type ``data``."""
        self._send(Kind.INPUT, data)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command the size of the user's window."""
        self._send(Kind.RESIZE, WINDOW.pack(rows, columns))


class Channel:
    """Starts commands in the guest and hands their output to `Process` objects."""

    def __init__(self, sock: socket.socket, health: Callable[[], None] = lambda: None):
        sock.settimeout(POLL_S)
        self._socket = sock
        self._health = health
        self._processes: dict[int, Process] = {}
        self._ids = count(1)
        self._sending = Lock()
        self.release = ""  # the guest's kernel, once it has greeted
        self.greeted = Event()
        self.ended = Event()  # the other end is gone
        self.last_heard = time.monotonic()
        self._reader = Thread(target=self._read, name="falcon-channel", daemon=True)
        self._reader.start()

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
    ) -> Process:
        """See `Machine.start`."""
        command_id = next(self._ids)
        process = Process(
            argv,
            kill=lambda: self._send(Kind.KILL, command_id),
            health=self._health,
            stream=stream,
        )
        self._announce(command_id, process, start_request(argv, cwd, env))
        if isinstance(stdin, int):  # may take for ever
            Thread(target=self._pump_input, args=(command_id, stdin), daemon=True).start()
        else:
            self._send_input(command_id, stdin)
        return process

    def start_on_tty(
        self, argv: Sequence[str], *, rows: int, columns: int, env: Mapping[str, str] | None = None
    ) -> TtyProcess:
        """Start ``argv`` on a terminal of that size; its output goes to our stdout."""
        command_id = next(self._ids)
        process = TtyProcess(
            argv,
            lambda kind, payload: self._send(kind, command_id, payload),
            kill=lambda: self._send(Kind.KILL, command_id),
            health=self._health,
            stream=True,
        )
        self._announce(command_id, process, start_request(argv, None, env, (rows, columns)))
        return process

    def close(self) -> None:
        self._socket.close()

    def _send_input(self, command_id: int, stdin: Input) -> None:
        for data in chunks(stdin, CHUNK):
            self._send(Kind.INPUT, command_id, data)
        self._send(Kind.INPUT, command_id)  # an empty frame is the end of the input

    def _pump_input(self, command_id: int, stdin: int) -> None:
        with suppress(FalconError):  # whoever waits for the command is told, too
            self._send_input(command_id, stdin)

    def _announce(self, command_id: int, process: Process, request: bytes) -> None:
        self._processes[command_id] = process  # before the guest can answer
        self._send(Kind.START, command_id, request)

    def _send(self, kind: Kind, command_id: int, payload: bytes = b"") -> None:
        unsent = memoryview(pack(kind, command_id, payload))
        with self._sending:
            while unsent:
                try:
                    unsent = unsent[self._socket.send(unsent) :]
                except TimeoutError:
                    self._health()
                except OSError as error:
                    self.ended.set()
                    self._health()  # says better what happened, if the machine died
                    raise FalconError("the guest's command channel is closed", str(error)) from None

    def _read(self) -> None:
        reader = FrameReader()
        while True:
            try:
                data = self._socket.recv(CHUNK)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            self.last_heard = time.monotonic()
            for frame in reader.feed(data):
                self._take(frame)
        self.ended.set()

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.HELLO:
            self.release = frame.payload.decode()
            self.greeted.set()
        elif frame.kind == Kind.OUTPUT:
            self._processes[frame.id].feed(0, frame.payload)
        elif frame.kind == Kind.ERRORS:
            self._processes[frame.id].feed(1, frame.payload)
        elif frame.kind == Kind.EXIT:
            self._processes.pop(frame.id).finish(int.from_bytes(frame.payload, "big"))
