# SPDX-License-Identifier: GPL-2.0-only
"""Kernels onto and off several hosts: looked at and installed at once, built one by one.

In: hosts, a series and its source. Out: an `Outcome` for each host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import FalconError
from harness.hosts import fleet, install, uninstall
from harness.hosts.fleet import Outcome, Reporter
from harness.hosts.install import Installed, Wanted
from harness.hosts.uninstall import Uninstalled
from harness.kernel.package import Package, build_package
from harness.kernel.series import Series
from harness.kernel.source import Source
from harness.machine.ssh import Access, SshMachine

OWN = "host"


@dataclass(frozen=True)
class Choice:
    """What to install. ``config``: `OWN`, or fragments of kernel-configs/ by commas.

    ``localmodconfig``: of the host's modules only those that are loaded. ``timeout_s``: how
    long a host may take to come back. ``jobs``: compiler processes; None: as a build has.
    """

    series: Series
    source: Source
    config: str
    localmodconfig: bool
    timeout_s: float
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.localmodconfig and self.config != OWN:
            raise FalconError(
                "--localmodconfig is for the host's own configuration", todo="leave out --config"
            )

    def package(self, wanted: Wanted) -> Package:
        """Build the package for a host, or take it from the cache."""
        fragments = () if self.config == OWN else tuple(self.config.split(","))
        return build_package(
            self.series, self.source, base=wanted.base, fragments=fragments, jobs=self.jobs
        )


def install_on(hosts: Sequence[str], access: Access, choice: Choice) -> list[Outcome[Installed]]:
    """Install on all of them; a host that fails at any step is out, the others go on."""

    def look(machine: SshMachine, report: Callable[[str], None]) -> Wanted:
        return install.look(
            machine,
            report,
            config=choice.config == OWN,
            localmodconfig=choice.localmodconfig,
        )

    looked = fleet.on_each(hosts, access, look)
    packages: dict[str, Package] = {}
    failed: dict[str, Outcome[Installed]] = {}
    for outcome in looked:
        try:
            if outcome.error is not None:
                raise outcome.error
            assert outcome.value is not None
            packages[outcome.host] = choice.package(outcome.value)
        except FalconError as error:
            failed[outcome.host] = Outcome(outcome.host, error=error)

    def put(machine: SshMachine, report: Reporter) -> Installed:
        package = packages[machine.name]
        return install.install(machine, report, package, boot_timeout_s=choice.timeout_s)

    done = {o.host: o for o in fleet.on_each(list(packages), access, put)} if packages else {}
    return [failed.get(host) or done[host] for host in hosts]


def uninstall_on(
    hosts: Sequence[str], access: Access, timeout_s: float
) -> list[Outcome[Uninstalled]]:
    """Remove our kernels from all of them."""

    def work(machine: SshMachine, report: Reporter) -> Uninstalled:
        return uninstall.uninstall(machine, report, boot_timeout_s=timeout_s)

    return fleet.on_each(hosts, access, work)


def installed(done: Installed) -> str:
    """For a table."""
    return f"runs {done.release}" + ("" if done.rebooted else ", as before")


def uninstalled(done: Uninstalled) -> str:
    """For a table."""
    removed = f"removed {', '.join(done.removed)}" if done.removed else "had none of ours"
    return f"{removed}; runs {done.running}"
