# SPDX-License-Identifier: GPL-2.0-only
"""Web serving: nginx with two small pages, and wrk that asks for them.

In: two endpoints (`Endpoint`), a page's size; for the page `CACHED` a memcached, which
holds it as the paper's web server holds its sessions. Out: `Served`. It is an analogue
of the paper's Elgg, whose PHP and database it does not have.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness.errors import FalconError
from harness.overlay.netns import Namespace
from harness.workload import memcached
from harness.workload.latency import Latencies
from harness.workload.program import Program
from harness.workload.udpflow import Endpoint

PORT = 8080
# A file that nginx sends, and a page that nginx gets from memcached for each request.
STATIC, CACHED = "/static", "/cached"
KEY = "page"
CONFIGURATION = "nginx.conf.j2"
REPORT_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, kw_only=True)
class Served(Latencies):
    """What a client got in ``seconds``. ``requests`` were answered, with whatever status.

    ``bad_statuses``: answers that were an error (400 and above). ``timeouts``: answers that took
    longer than the client's ``timeout_s``.
    """

    requests: int
    seconds: float
    bytes: int
    connect_errors: int
    read_errors: int
    write_errors: int
    timeouts: int
    bad_statuses: int

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def errors(self) -> int:
        """All that went wrong."""
        socket_errors = self.connect_errors + self.read_errors + self.write_errors
        return socket_errors + self.timeouts + self.bad_statuses


class Server(Program):
    """An nginx at an endpoint; it listens when the constructor returns.

    ``page_bytes`` long are `STATIC` and, with a ``cache`` in which to keep it, `CACHED`.
    ``connections``: how many clients at once. ``cpus``: the only ones it may run on.
    """

    def __init__(
        self,
        at: Endpoint,
        *,
        page_bytes: int,
        cache: memcached.Server | None = None,
        workers: int = 1,
        connections: int = 512,
        port: int = PORT,
        cpus: Collection[int] = (),
    ):
        page = b"x" * page_bytes
        if cache:
            cache.store(KEY, page)
        with ExitStack() as opened:
            directory = Path(
                opened.enter_context(tempfile.TemporaryDirectory(prefix="falcon-nginx-"))
            )
            (directory / "pages").mkdir()
            (directory / "pages" / STATIC[1:]).write_bytes(page)
            configuration = directory / "nginx.conf"
            configuration.write_text(
                configure(
                    directory=directory,
                    listen=authority(at.ip, port),
                    cache=authority(cache.at.ip, cache.port) if cache else None,
                    workers=workers,
                    connections=connections,
                ),
                encoding="utf-8",
            )
            given = ("-e", "stderr", "-p", directory, "-c", configuration)
            super().__init__(at.namespace, "nginx", *given, cpus=cpus)
            self._directory = opened.pop_all()
        self.wait_until_it_listens(at, port)

    def close(self) -> None:
        """End it with all its processes, and remove its files."""
        try:
            super().close()
        finally:
            self._directory.close()


class Client(Program):
    """Asks for a page over ``connections`` for ``seconds``; each asks again when it was answered.

    At least one connection for each of the ``threads``. ``cpus``: the only ones it may run on.
    """

    def __init__(
        self,
        source: Namespace,
        to_ip: str,
        *,
        connections: int,
        seconds: int,
        threads: int = 1,
        page: str = STATIC,
        timeout_s: int = 2,
        port: int = PORT,
        cpus: Collection[int] = (),
    ):
        options = {
            "--threads": threads,
            "--connections": connections,
            "--duration": f"{seconds}s",
            "--timeout": f"{timeout_s}s",
            "--script": REPORT_SCRIPT,
        }
        given = [word for pair in options.items() for word in pair]
        url = f"http://{authority(to_ip, port)}{page}"
        super().__init__(source, "wrk", "--latency", *given, url, cpus=cpus)
        self._seconds = seconds

    def wait(self) -> Served:
        """Wait until the time is over."""
        return parse(self.wait_until_ended(self._seconds))


def authority(ip: str, port: int) -> str:
    """Address and port as a URL has them."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def configure(
    *, directory: Path, listen: str, cache: str | None, workers: int, connections: int
) -> str:
    """nginx's configuration."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(CONFIGURATION).render(
        directory=directory,
        listen=listen,
        cache=cache,
        workers=workers,
        connections=connections,
        static=STATIC,
        cached=CACHED,
        key=KEY,
    )


def parse(text: str) -> Served:
    """What wrk's report says, in its last line; raises what went wrong."""
    lines = text.strip().splitlines()
    try:
        served = Served(**json.loads(lines[-1]))
    except (IndexError, ValueError):
        why = lines[0] if lines else "it said nothing"
        raise FalconError("wrk failed", why) from None
    if not served.requests:
        raise FalconError("wrk got no answer", f"{served.errors} errors in {served.seconds:.1f} s")
    return served
