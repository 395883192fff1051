# SPDX-License-Identifier: GPL-2.0-only
"""A patched kernel onto a host that must never be lost.

In: a host, a `Package`. Out: the host runs that kernel, proven by its release, its Falcon
and its build ID, and boots it by default; or a `FalconError`, and it boots what it did::

    look ─▶ copy ─▶ pin the running kernel ─▶ install ─▶ arm one boot ─▶ reboot ─▶ verify
      │       │              │                    │            │           │          │
      ▼       ▼              ▼                    ▼            ▼           ▼          ▼
    nothing done      unpinned again      package removed  disarmed    old kernel boots by
                                                                       itself; disarmed

    verified: the new kernel is pinned, the entry for one boot removed, and a panic or an
    oops does again what it did under the old kernel
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from harness.errors import FalconError
from harness.hosts import deadman, failure, panics
from harness.hosts.copying import copy
from harness.hosts.failure import Story
from harness.hosts.fleet import Reporter
from harness.hosts.grub import Grub
from harness.hosts.host import MIB, SLOW_TIMEOUT_S, Facts, Host
from harness.hosts.uninstall import purge
from harness.kernel.config import Base
from harness.kernel.package import Package
from harness.machine.base import MachineDied
from harness.machine.ssh import SshMachine

PLACE = "/var/tmp"
ARCHITECTURE = "x86_64"
# Beside what the package holds: an initramfs, as large as the running kernel's is, and room.
SPARE_BYTES = 32 * MIB
# A share of the copy after which a host without a terminal says how far it is.
TOLD_EVERY = 0.25


@dataclass(frozen=True)
class Wanted:
    """A host's part in what is to be built: its configuration, and its loaded modules."""

    facts: Facts
    base: Base | None


@dataclass(frozen=True)
class Installed:
    """A host that runs ``release``; ``before`` is the kernel it ran until then."""

    release: str
    before: str
    rebooted: bool


@dataclass(frozen=True)
class _Before:
    """What a host had of ours: a pinned default (``pinned``: see `Grub`), this very kernel."""

    pinned: str | None
    kernel: bool


def look(
    machine: SshMachine, report: Callable[[str], None], *, config: bool, localmodconfig: bool
) -> Wanted:
    """See whether a kernel can be installed there, and what it is to be built from.

    ``config``: take the host's own; ``localmodconfig``: of its modules only the loaded ones.
    """
    report("looking at the host")
    host = Host(machine)
    facts = host.facts()
    _check(facts, Grub(host))
    if not config:
        return Wanted(facts, None)
    modules = host.run("lsmod") if localmodconfig else None
    return Wanted(facts, Base(host.kernel_config(facts.release), modules))


def _check(facts: Facts, grub: Grub) -> None:
    if facts.architecture != ARCHITECTURE:
        raise FalconError(
            f"the host is a {facts.architecture}", f"kernels are built for {ARCHITECTURE} alone"
        )
    if facts.installs != "dpkg":
        raise FalconError(
            "the host does not take Debian packages",
            f"its packages are {facts.installs}",
            "only hosts with dpkg are supported",
        )
    if facts.secure_boot:
        raise FalconError(
            "the host would not boot the kernel",
            "Secure Boot is on, and a kernel of your own is not signed",
            "switch Secure Boot off in its firmware",
        )
    grub.check()


def install(
    machine: SshMachine, report: Reporter, package: Package, *, boot_timeout_s: float
) -> Installed:
    """Install, boot and verify ``package``, and make it the default only then."""
    host = Host(machine)
    grub = Grub(host)
    facts = host.facts()
    _check(facts, grub)
    if facts.release == package.release and not _doubts(host, package):
        report(f"runs {package.release} already")
        _keep(host, grub, package)
        return Installed(package.release, facts.release, rebooted=False)
    before = _Before(grub.pinned, host.exists(f"/boot/vmlinuz-{package.release}"))
    _put_on_disk(host, grub, report, package, facts, before)
    try:
        report("arming one boot of it")
        grub.arm(package.release)
        deadman.arm(host, boot_timeout_s)
        panics.remember(host)
        report(f"rebooting; {facts.release} stays the default meanwhile")
    except BaseException:
        _take_back(host, grub, package, before)
        raise
    _boot(machine, report, package, facts, boot_timeout_s)
    _verify(machine, host, grub, report, package, facts, boot_timeout_s)
    report.remark(f"runs {package.release}, which is its default now")
    return Installed(package.release, facts.release, rebooted=True)


# ---- before the reboot ------------------------------------------------------------------


def _put_on_disk(
    host: Host, grub: Grub, report: Reporter, package: Package, facts: Facts, before: _Before
) -> None:
    """Copy and install; on failure all is as it was."""
    size = package.file.stat().st_size
    remote = f"{PLACE}/{package.file.name}"
    initrd = host.size(f"/boot/initrd.img-{facts.release}")
    host.need_space(
        [
            (PLACE, size),
            ("/boot", initrd + SPARE_BYTES),
            ("/", package.installed_kib * 1024),
        ]
    )
    report(f"copying {package.file.name} ({size / MIB:.0f} MiB)")
    copy(host, package.file, remote, package.sha256, _telling(report, size))
    try:
        report(f"pinning {facts.release} as the default")
        grub.pin(facts.release)
        report("installing the package")
        host.run(
            *("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--install", remote),
            timeout_s=SLOW_TIMEOUT_S,
        )
    except BaseException:
        _take_back(host, grub, package, before)
        raise
    finally:
        with suppress(FalconError):
            host.remove(remote)


def _telling(report: Reporter, size: int) -> Callable[[int], None]:
    told = 0.0

    def on_bytes(done: int) -> None:
        nonlocal told
        if done < size and done >= (told + TOLD_EVERY) * size:
            told = done / size
            report(f"copied {done / MIB:.0f} of {size / MIB:.0f} MiB")

    return on_bytes


def _take_back(host: Host, grub: Grub, package: Package, before: _Before) -> None:
    """Undo all that was done on the host before its reboot, as far as it lets us."""
    steps: list[Callable[[], object]] = [
        lambda: deadman.remove(host),
        grub.disarm,
        lambda: panics.forget(host),
    ]
    if not before.kernel:
        steps.append(lambda: purge(host, package.release))
    steps.append(lambda: grub.put_back(before.pinned))
    for step in steps:
        with suppress(FalconError):  # the trouble that led here is what is told
            step()


# ---- the boot ---------------------------------------------------------------------------


def _boot(
    machine: SshMachine, report: Reporter, package: Package, facts: Facts, timeout_s: float
) -> None:
    try:
        machine.begin_reboot()
        machine.wait_for_boot(facts.boot_id, timeout_s + timeout_s)
    except MachineDied as error:
        raise FalconError(
            error.what,
            error.why,
            f"Linux {facts.release} is still its default: reset it, and it boots that",
        ) from None
    except FalconError:
        report.remark(
            f"it boots {package.release} now or next, once; {facts.release} is still its default."
            " Run install-kernel again to verify it"
        )
        raise


def _doubts(host: Host, package: Package) -> str:
    """Why the running kernel is not ``package``'s; "" when it is."""
    release = host.machine.kernel_release()
    if release != package.release:
        return f"it runs {release}"
    if not host.falcon():
        return "it has no net.core.falcon"
    if package.build_id not in host.kernel_notes():
        return "its build ID is another"
    return ""


def _verify(
    machine: SshMachine,
    host: Host,
    grub: Grub,
    report: Reporter,
    package: Package,
    facts: Facts,
    timeout_s: float,
) -> None:
    """Keep the new kernel; `FalconError` unless it runs, and the host runs, or boots, the old."""
    try:
        report("verifying it")
        doubts = _doubts(host, package)
        if not doubts:
            deadman.confirm(host)
            _keep(host, grub, package)
            return
    except FalconError:
        report.remark(
            f"it runs {package.release}, once; until that is verified {facts.release} is its"
            " default, and boots next. Run install-kernel again to verify it"
        )
        raise
    release = host.machine.kernel_release()
    boot_id = host.boot_id()
    # First of all: a host that answers slowly may have no time for its journal.
    deadman.remove(host)
    grub.disarm()
    panics.forget(host)
    story = _story(host, facts)
    for line in story.lines:
        report.remark(f"    {line}")
    if release != facts.release:
        report("going back to the old kernel")
        machine.begin_reboot()
        machine.wait_for_boot(boot_id, timeout_s)
    raise FalconError(
        f"{package.release} did not come up on {machine.name}: {doubts}",
        story.summary,
        f"Linux {facts.release} is its default as before; ./inv uninstall-kernel removes the new",
    )


def _story(host: Host, facts: Facts) -> Story:
    """What is known of the failed boot; never a reason to hide that it failed."""
    try:
        return failure.story(host, facts.boot_id)
    except FalconError as error:
        return Story(f"its journal could not be read ({error})")


def _keep(host: Host, grub: Grub, package: Package) -> None:
    """Make the kernel that runs the default, and its first boot one like any other."""
    if not grub.is_pinned:
        grub.pin(package.release)
    grub.set_default(package.release)
    deadman.remove(host)
    grub.disarm()
    panics.restore(host)
