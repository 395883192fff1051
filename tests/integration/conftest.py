# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the integration tests, which run on a patched host, as root.

Anywhere else all of them are skipped, and say why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rig import KernelLog, Rig, own_files

from harness.errors import FalconError
from harness.overlay import falcon
from harness.overlay.cpus import CpuPlan, online_cpus
from harness.overlay.keeper import Keeper
from harness.overlay.plan import Plan
from harness.overlay.topology import one_machine

HERE = Path(__file__).parent
# An emulated CPU may stand still while packets for it come in.
BACKLOG = 10_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = ""
    if not falcon.is_present():
        reason = f"this kernel, {os.uname().release}, is not patched with Falcon"
    elif os.geteuid() != 0:
        reason = "the integration tests need root"
    elif len(online_cpus()) < 6:
        reason = f"{len(online_cpus())} CPUs are online, 6 are needed"
    if reason:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def kept() -> Iterator[None]:
    """What is the host's own comes back, also if no fixture runs any more."""
    try:
        keeper = Keeper(own_files())
    except FalconError as error:
        pytest.exit(str(error), returncode=1)
    with keeper:
        yield


@pytest.fixture(scope="session", autouse=True)
def long_queues(kept: None) -> None:
    """Room for what comes in while a CPU stands still."""
    falcon.write_sysctl("netdev_max_backlog", BACKLOG)


@pytest.fixture(scope="session")
def cpus() -> CpuPlan:
    """The first CPU for the sender, the last for the receiver, stages between."""
    return CpuPlan.of(online_cpus())


@pytest.fixture(scope="session")
def rig_for(cpus: CpuPlan) -> Iterator[Callable[[Plan], Rig]]:
    """Makes rigs by plan; each is built once and removed at the end."""
    built: dict[Plan, Rig] = {}
    with ExitStack() as opened:

        def rig(plan: Plan) -> Rig:
            if plan not in built:
                built[plan] = Rig(opened.enter_context(one_machine(plan)), cpus)
            return built[plan]

        yield rig


@pytest.fixture
def rig(rig_for: Callable[[Plan], Rig]) -> Rig:
    """The rig most tests use: one container a host, IPv4 inside and outside."""
    return rig_for(Plan())


@pytest.fixture(autouse=True)
def untouched_settings() -> Iterator[None]:
    """Every test finds Falcon off and the settings as they were at boot."""
    with falcon.preserved():
        falcon.write_sysctl("falcon", 0)
        yield


@pytest.fixture(autouse=True)
def no_splat() -> Iterator[None]:
    """No test may make the kernel complain."""
    log = KernelLog()
    yield
    splats = log.splats()
    log.close()
    assert not splats, "the kernel complained:\n" + "\n\n".join(splats)
