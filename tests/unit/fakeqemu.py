# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU without a virtual machine: a script that takes QEMU's command line.

It runs the guest's real init on the descriptor given for the agent, so that
everything but the kernel is the real thing, in milliseconds. The kernel
command line says what else happens: ``fake.console=TEXT`` is printed,
``fake.silent`` never greets, ``fake.exit=N`` ends with status N,
``fake.aborts=FILE`` aborts as many times as FILE has lines, taking one each time.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from harness.machine import initramfs

SCRIPT = """\
#!{python} -S
import os, re, sys, time

words = dict(word.partition("=")[::2] for word in sys.argv[sys.argv.index("-append") + 1].split())
agent = int(re.search(r"id=agent,fd=(\\d+)", " ".join(sys.argv)).group(1))
for line in words.get("fake.console", "booting").split("|"):
    print(line.replace("_", " "), flush=True)
if lines := open(words["fake.aborts"]).readlines() if "fake.aborts" in words else []:
    open(words["fake.aborts"], "w").writelines(lines[1:])
    print("qemu: Assertion failed", flush=True)
    os.abort()
if "fake.exit" in words:
    sys.exit(int(words["fake.exit"]))
if "fake.silent" in words:
    time.sleep(60)
os.dup2(agent, 0)
os.execv("{init}", ["init"])
"""


def install(directory: Path) -> Path:
    """Write the fake into ``directory``; returns the program."""
    program = directory / "fake-qemu"
    program.write_text(SCRIPT.format(python=sys.executable, init=initramfs.build_init()))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
