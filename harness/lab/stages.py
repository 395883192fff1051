# SPDX-License-Identifier: GPL-2.0-only
"""What part of the receive path a kernel function belongs to.

In: the name of a function. Out: its group, one of ``stages.toml``. A function that several
stages run, such as netif_receive_skb(), is in one group all the same: which stage
ran it is told by the CPU, where stages run on CPUs of their own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

# Idle CPUs, and those that spin for a lock whose holder the host does not run just now.
IDLE, WAITING, OTHER = "idle", "waiting", "other"
_LIST = Path(__file__).with_name("stages.toml")


@cache
def _groups() -> dict[str, str]:
    """The group of each beginning of a name."""
    listed = tomllib.loads(_LIST.read_text(encoding="utf-8"))
    return {prefix: name for name, entry in listed.items() for prefix in entry["prefixes"]}


@cache
def group(function: str) -> str:
    """The group of a function: that of the longest beginning of its name that is listed."""
    known = _groups()
    for end in range(len(function), 0, -1):
        if function[:end] in known:
            return known[function[:end]]
    return OTHER


@cache
def names() -> tuple[str, ...]:
    """All groups, in the order they are shown in."""
    return (*dict.fromkeys(_groups().values()), OTHER)


def by_group(counts: Mapping[str, int]) -> dict[str, int]:
    """Instructions by group, from instructions by function; groups without any are left out."""
    sums = dict.fromkeys(names(), 0)
    for name, count in counts.items():
        sums[group(name)] += count
    return {name: count for name, count in sums.items() if count}


def work(counts: Mapping[str, int]) -> int:
    """Instructions without those of idle CPUs and of CPUs that wait for others."""
    return sum(count for name, count in counts.items() if group(name) not in (WAITING, IDLE))
