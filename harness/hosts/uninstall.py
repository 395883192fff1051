# SPDX-License-Identifier: GPL-2.0-only
"""A host back to its distribution's kernel, as if Falcon had never been there.

In: a host. Out: no kernel package of ours, GRUB's default as it was before the first of
them, and the host on another kernel. A host that has none of ours is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import FalconError
from harness.hosts import deadman, panics
from harness.hosts.fleet import Reporter
from harness.hosts.grub import STATE, Grub
from harness.hosts.host import SLOW_TIMEOUT_S, Host
from harness.machine.base import MachineDied
from harness.machine.ssh import SshMachine

PATTERN = "linux-image-*-falcon.*"
PREFIX = "linux-image-"
MODULES, DOCUMENTS = "/lib/modules", "/usr/share/doc"
# dpkg's flag of a package that it removes only if it is forced to.
CUT_OFF = "reinstreq"


@dataclass(frozen=True)
class Uninstalled:
    """The kernels that were removed, and the one that runs now."""

    removed: tuple[str, ...]
    running: str
    rebooted: bool


def packages(host: Host) -> tuple[str, ...]:
    """The releases whose packages of ours are on the host, whole or in part."""
    form = "${Package} ${db:Status-Status}\\n"
    status, text = host.try_run("dpkg-query", "--show", f"--showformat={form}", PATTERN)
    lines = [line.split() for line in text.splitlines()] if status == 0 else []
    return tuple(
        name.removeprefix(PREFIX) for name, state in lines if state not in ("not-installed",)
    )


def purge(host: Host, release: str) -> None:
    """Remove a kernel's package, and what depmod made for its initramfs, which dpkg leaves.

    Of a package that was cut off while it was unpacked dpkg does not know the files.
    """
    name = f"{PREFIX}{release}"
    form = "${db:Status-Eflag}"
    if host.try_run("dpkg-query", "--show", f"--showformat={form}", name)[1].strip() == CUT_OFF:
        script = 'rm -rf "$1" "$2" /boot/*-"$0" /boot/*-"$0".*'
        host.run("sh", "-c", script, release, f"{MODULES}/{release}", f"{DOCUMENTS}/{name}")
    host.run(
        *("env", "DEBIAN_FRONTEND=noninteractive"),
        *("dpkg", "--force-remove-reinstreq", "--purge", name),
        timeout_s=SLOW_TIMEOUT_S,
    )
    script = 'rm -f "$0"/modules.* && if [ -d "$0" ]; then rmdir "$0" 2>/dev/null || :; fi'
    host.run("sh", "-c", script, f"{MODULES}/{release}")


def uninstall(machine: SshMachine, report: Reporter, *, boot_timeout_s: float) -> Uninstalled:
    """Boot another kernel if one of ours runs, then remove ours and what was set for them."""
    report("looking at the host")
    host = Host(machine)
    grub = Grub(host)
    ours = packages(host)
    running = host.machine.kernel_release()
    rebooted = running in ours
    if rebooted:
        running = _leave(machine, host, grub, report, ours, boot_timeout_s)
    for release in ours:
        report(f"removing {release}")
        purge(host, release)
    deadman.remove(host)
    panics.forget(host)
    grub.disarm()
    if grub.is_pinned:
        report("putting back GRUB's default")
        grub.unpin()
    return Uninstalled(ours, running, rebooted)


def _leave(
    machine: SshMachine,
    host: Host,
    grub: Grub,
    report: Reporter,
    ours: tuple[str, ...],
    boot_timeout_s: float,
) -> str:
    """Reboot into a kernel that stays; its release."""
    others = [
        entry.release
        for entry in grub.entries()
        if entry.release not in ours and not entry.is_recovery
    ]
    before = (host.read_json(STATE) or {}).get("release")
    if not others:
        raise FalconError(
            f"{machine.name} has no other kernel than ours",
            "GRUB has no other entry",
            "install the distribution's first",
        )
    target = before if before in others else others[0]
    report(f"rebooting into {target}")
    boot_id = host.boot_id()
    if grub.is_pinned:
        grub.set_default(target)
    else:
        grub.pin(target)
    machine.begin_reboot()
    try:
        machine.wait_for_boot(boot_id, boot_timeout_s)
    except MachineDied as error:
        raise FalconError(error.what, error.why, f"{target} is its default now") from None
    running = host.machine.kernel_release()
    if running in ours:
        raise FalconError(
            f"{machine.name} came back with {running}, not with {target}",
            "GRUB did not boot its default",
            "look at its boot menu",
        )
    return running
