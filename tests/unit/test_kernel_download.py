# SPDX-License-Identifier: GPL-2.0-only
"""Downloads against a server of our own: resumed, checked, and clear when wrong."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from harness.errors import FalconError
from harness.kernel.download import download

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``CONTENT``; ``breaks_after`` bytes it hangs up, once."""

    breaks_after: int | None = None
    honours_ranges = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.starts: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}/linux-6.12.7.tar.xz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range") if self.server.honours_ranges else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.server.starts.append(start)
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(body[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server, tmp_path):
    target = tmp_path / "down" / "file"
    for _ in range(2):
        assert download(server.url, SHA256, target).read_bytes() == CONTENT
    assert server.starts == [0]
    assert list(target.parent.iterdir()) == [target]


def test_a_broken_transfer_resumes_where_it_stopped(server, tmp_path):
    server.breaks_after = 300_000
    with pytest.raises(FalconError, match="run it again to resume"):
        download(server.url, SHA256, tmp_path / "file")
    kept = (tmp_path / "file.part").stat().st_size
    assert 0 < kept <= 300_000
    assert download(server.url, SHA256, tmp_path / "file").read_bytes() == CONTENT
    assert server.starts == [0, kept]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.honours_ranges = False
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(server.url, SHA256, tmp_path / "file").read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(server.url, SHA256, tmp_path / "file").read_bytes() == CONTENT
    assert server.starts == [len(CONTENT)]


def test_a_stale_part_is_fetched_anew(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"of another file")
    assert download(server.url, SHA256, tmp_path / "file").read_bytes() == CONTENT
    assert server.starts == [15, 0]


def test_a_wrong_checksum_names_both_and_leaves_nothing(server, tmp_path):
    with pytest.raises(FalconError, match=f"SHA-256 is {SHA256}, expected {'0' * 64}"):
        download(server.url, "0" * 64, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_offline_says_what_could_not_be_fetched(tmp_path):
    with pytest.raises(FalconError, match=r"cannot fetch http://127\.0\.0\.1:9/x: .*refused"):
        download("http://127.0.0.1:9/x", SHA256, tmp_path / "file")
