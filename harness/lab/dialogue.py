# SPDX-License-Identifier: GPL-2.0-only
"""How a program of the lab's on another machine is spoken to: a line of JSON at a time.

In: what it is to be, as JSON on its command line, then commands on stdin. Out: a line when
it is ready, and an answer on stdout to each command; see `harness.lab.remote` for who asks. ::

    {"ready": true, ...}
    {"do": "mode", "name": ..., "load": ...} -->
                                      <--  {"number": 0}

A `FalconError` ends it, told on stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from harness.errors import FalconError

Fields = dict[str, Any]


def answers(
    ready: Fields, do: Callable[[Fields], Fields], commands: Iterator[str]
) -> Iterator[str]:
    """The lines that it prints: it is ``ready``, then what it has to say to each command."""
    yield json.dumps({"ready": True, **ready})
    for number, line in enumerate(commands):
        yield json.dumps({**do(json.loads(line)), "number": number})


def carry_out(deeds: dict[str, Callable[..., Fields]], command: Fields) -> Fields:
    """Do what ``command`` says, which is one of ``deeds``, with the rest of it as arguments."""
    arguments = dict(command)
    return deeds[arguments.pop("do")](**arguments)


def serve(program: Callable[[Fields, Iterator[str]], Iterator[str]]) -> int:
    """Be this program: what it is comes first, then the commands on stdin; the exit status."""
    try:
        for line in program(json.loads(sys.argv[1]), sys.stdin):
            print(line, flush=True)
    except FalconError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0
