# SPDX-License-Identifier: GPL-2.0-only
"""The harness on a host, for as long as it is needed there.

In: a `Machine`, which files and which of our Python packages. Out: a directory on the host
in which ``python3`` runs ``harness`` modules. It is gone with the context, and also when
this program is killed or the connection is cut: a keeper there removes it as soon as its
input ends. The host needs Python 3.11 and nothing else; the packages must be pure Python, or
do without what is compiled of them.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from harness.closing import Closing
from harness.errors import FalconError
from harness.machine.base import Input, Machine, Process
from harness.paths import PROJECT

PLACE = "/var/tmp"
SITE = "site"
PYTHON = "python3"
OLDEST_PYTHON = (3, 11)
START_TIMEOUT_S, UNPACK_TIMEOUT_S, ASK_TIMEOUT_S = 60.0, 600.0, 300.0
# In a session of its own: it must outlive the commands' group to clean up after it.
KEEPER = 'd=$(mktemp -d "$0/falcon.XXXXXXXX") || exit; echo "$d"; cat >/dev/null; rm -rf "$d"'
IGNORED = ("__pycache__", ".pyc")
# What is compiled of a package that has the same in Python.
DISPENSABLE = {"markupsafe": "markupsafe/_speedups."}
# Programs that the harness would compile, which takes a compiler.
TOOLS = "cache/tools"


class Payload(Closing):
    """Files of the project and packages of our environment on ``machine``.

    ``files``: paths within the project, directories with all that is in them.
    ``packages``: names of installed distributions; what they need comes along.
    """

    def __init__(self, machine: Machine, files: Sequence[str], packages: Sequence[str]):
        self._machine = machine
        self._opened = ExitStack()
        self.directory = ""
        try:
            _check_python(machine)
            self.directory = self._keep()
            data = archive(files, packages)
            unpack = ["tar", "-xzf", "-", "-C", self.directory]
            machine.run(unpack, stdin=data, check=True, cwd="/", timeout_s=UNPACK_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def _keep(self) -> str:
        theirs, ours = os.pipe()
        self._opened.callback(os.close, theirs)
        keeper = self._machine.start(
            ["setsid", "--wait", "sh", "-c", KEEPER, PLACE], cwd="/", stdin=theirs
        )
        self._opened.callback(self._let_go, keeper, ours)
        keeper.wait_for("\n", START_TIMEOUT_S)
        return keeper.stdout.strip()

    @staticmethod
    def _let_go(keeper: Process, ours: int) -> None:
        os.close(ours)
        with suppress(FalconError):  # a connection that is gone ends its input, too
            keeper.wait(START_TIMEOUT_S)

    @property
    def environment(self) -> dict[str, str]:
        """What Python needs there to find all of it."""
        site = f"{self.directory}/{SITE}"
        return {"PYTHONPATH": f"{self.directory}:{site}", "FALCON_CACHE": f"{self.directory}/cache"}

    def add_tool(self, program: Path) -> None:
        """Put a program where the harness there finds it instead of compiling it."""
        directory = f"{self.directory}/{TOOLS}"
        self._machine.run(["mkdir", "-p", directory], check=True, cwd="/")
        self._machine.put(program, f"{directory}/{program.name}")

    def python(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
    ) -> Process:
        """Start ``python3 WORDS`` there, in the payload's directory."""
        return self._machine.start(
            [PYTHON, *words],
            cwd=self.directory,
            env={**self.environment, **(env or {})},
            stdin=stdin,
            stream=stream,
        )

    def ask(self, module: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run a module that takes a line of JSON and prints one; its answer.

        An answer with "error" is raised as the `FalconError` it was there.
        """
        words = ["-m", module, json.dumps(request)]
        done = self.python(*words).wait(ASK_TIMEOUT_S, check=True)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if "error" in answer:
            raise FalconError(*answer["error"])
        return answer

    def close(self) -> None:
        self._opened.close()


def _check_python(machine: Machine) -> None:
    done = machine.run([PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], cwd="/")
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if done.exit_status != 0:
        raise FalconError("the host has no Python", "python3 does not run", "install python3 there")
    version = tuple(map(int, done.stdout.split()))
    if version < OLDEST_PYTHON:
        found = ".".join(map(str, version))
        raise FalconError(f"the host's Python is {found}", f"{oldest} or newer is needed")


def archive(files: Sequence[str], packages: Sequence[str]) -> bytes:
    """A compressed tar with ``files`` of the project, and with ``packages`` below `SITE`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3) as tar:
        for name in files:
            tar.add(PROJECT / name, name, filter=_wanted)
        for source, name in sorted(_of_packages(packages).items(), key=lambda item: item[1]):
            tar.add(source, f"{SITE}/{name}", recursive=False, filter=_wanted)
    return buffer.getvalue()


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return None if member.name.endswith(IGNORED) else member


def _of_packages(names: Sequence[str]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for distribution in _with_needs(names):
        dispensable = DISPENSABLE.get(distribution.name.lower())
        for file in distribution.files or ():
            if dispensable and str(file).startswith(dispensable):
                continue
            path = Path(str(distribution.locate_file(file)))
            inside = not str(file).startswith("..") and path.is_file()
            if path.suffix == ".so" and inside:
                raise FalconError(
                    f"{distribution.name} cannot go to a host", "it is not pure Python"
                )
            if inside and not str(file).endswith(IGNORED):
                found[path] = str(file)
    return found


def _with_needs(names: Sequence[str]) -> Iterator[importlib.metadata.Distribution]:
    """The distributions and all that they require here, each once."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        yield distribution
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
