# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's control channel, by the qemu.qmp library, for callers without asyncio.

In: a connected socket to QEMU's monitor. Out: the answers to QMP commands.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

from qemu.qmp import QMPClient, QMPError

from harness.errors import FalconError

ANSWER_TIMEOUT_S = 10.0


class Monitor:
    """One QMP session with its own event loop."""

    def __init__(self, sock: socket.socket):
        self._runner = asyncio.Runner()
        self._client = QMPClient("falcon")
        self._call(self._client.connect(sock))

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Run a QMP command and return its answer; `FalconError` when QEMU refuses."""
        return self._call(self._client.execute(command, arguments))

    def close(self) -> None:
        with suppress(QMPError, EOFError, OSError):  # QEMU may be gone already
            self._runner.run(self._client.disconnect())
        self._runner.close()

    def _call(self, coroutine: Any) -> object:
        async def bounded() -> object:
            return await asyncio.wait_for(coroutine, ANSWER_TIMEOUT_S)

        try:
            return self._runner.run(bounded())
        except (QMPError, EOFError, OSError, TimeoutError) as error:
            raise FalconError("QEMU's monitor did not answer", str(error) or "timeout") from None
