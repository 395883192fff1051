# SPDX-License-Identifier: GPL-2.0-only
"""memcached, the paper's data caching: a server, and a client that measures every answer.

In: two endpoints (`Endpoint`), how many processes and connections, what share of gets.
Out: `Operations`. The client is a program of its own, `memcached_client`, because its
processes belong into the client's namespace.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.workload import memcached_client
from harness.workload.memcached_client import Job, Operations
from harness.workload.program import Program
from harness.workload.udpflow import Endpoint

PORT = 11211
# The paper's: four threads, objects of 550 bytes.
THREADS, VALUE_BYTES = 4, 550


class Server(Program):
    """A memcached at an endpoint; it listens when the constructor returns.

    ``memory_mib`` for items. ``cpus``: the only ones it may run on.
    """

    def __init__(
        self,
        at: Endpoint,
        *,
        threads: int = THREADS,
        memory_mib: int = 64,
        max_connections: int = 1024,
        port: int = PORT,
        cpus: Collection[int] = (),
    ):
        listen = f"[{at.ip}]" if ":" in at.ip else at.ip
        options = {"-l": listen, "-p": port, "-t": threads, "-m": memory_mib, "-c": max_connections}
        # As root: another user's process the kernel would not end when we die.
        given = [word for pair in {**options, "-u": "root"}.items() for word in pair]
        super().__init__(at.namespace, "memcached", *given, cpus=cpus)
        self.at, self.port = at, port
        self.wait_until_it_listens(at, port)

    def store(self, key: str, value: bytes) -> None:
        """Set a key."""
        with self.at.namespace.call(memcached_client.connect, self.at.ip, self.port) as sock:
            memcached_client.store(sock, {key.encode(): value})


class Client(Program):
    """Asks a server for ``seconds``, from ``processes`` with ``connections`` each.

    Every connection asks again when it was answered, so as many operations are under way.
    ``get_share`` of them are gets, the others sets. ``cpus``: the only ones it may run on.
    """

    def __init__(
        self,
        source: Namespace,
        to_ip: str,
        *,
        processes: int,
        connections: int,
        seconds: float,
        get_share: float = 0.9,
        value_bytes: int = VALUE_BYTES,
        keys: int = 10_000,
        port: int = PORT,
        cpus: Collection[int] = (),
    ):
        job = Job(to_ip, port, processes, connections, seconds, get_share, value_bytes, keys)
        program = (sys.executable, "-m", memcached_client.__name__, job.to_json())
        super().__init__(source, *program, cpus=cpus)
        self.name = "the memcached client"
        self._seconds = seconds

    def wait(self) -> Operations:
        """Wait until the time is over."""
        return parse(self.wait_until_ended(self._seconds))


def parse(text: str) -> Operations:
    """What a client's report says; raises what went wrong."""
    try:
        return Operations.from_json(text)
    except ValueError:
        why = text.strip()[-300:] or "it said nothing"
        raise FalconError("the memcached client failed", why) from None
