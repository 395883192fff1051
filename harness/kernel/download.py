# SPDX-License-Identifier: GPL-2.0-only
"""Fetch a file over HTTP, go on where the last try stopped, check its SHA-256.

In: an address and the digest expected. Out: the file, complete and checked, or
a ``FalconError`` that says whether the network or the content was wrong.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from harness.errors import FalconError
from harness.kernel.cache import file_sha256
from harness.kernel.progress import Bar

CHUNK_BYTES = 1 << 18
SILENCE_S = 30.0


def download(url: str, sha256: str, target: Path) -> Path:
    """Make ``target`` the file at ``url`` whose digest is ``sha256``; returns it.

    What has been received stays in ``target.part``, so that a broken transfer
    resumes. A resumed file that proves wrong is fetched once more from the start.
    """
    if target.exists() and file_sha256(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    _receive(url, part)
    found = file_sha256(part)
    if found != sha256 and resumed:
        part.unlink()
        _receive(url, part)
        found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise FalconError(
            f"{target.name} has the wrong checksum",
            f"SHA-256 is {found}, expected {sha256}",
            "the file was deleted; try again or name a source with --source",
        )
    return part.rename(target)


def _receive(url: str, part: Path) -> None:
    """Append to ``part`` what it still lacks of ``url``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_S) as reply:
            if reply.status != http.client.PARTIAL_CONTENT:
                have = 0
            _copy(reply, part, have)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is lacking; the checksum has the last word
        raise FalconError(f"cannot fetch {url}", f"the server says {error}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise FalconError(f"cannot fetch {url}", str(reason), "run it again to resume") from None


def _copy(reply: http.client.HTTPResponse, part: Path, have: int) -> None:
    length = reply.headers.get("Content-Length")
    total = have + int(length) if length else None
    with (
        part.open("ab" if have else "wb") as file,
        Bar(f"fetching {part.stem}", total, done=have, in_bytes=True) as bar,
    ):
        while chunk := reply.read(CHUNK_BYTES):
            file.write(chunk)
            bar.advance(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")
