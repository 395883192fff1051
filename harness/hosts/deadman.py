# SPDX-License-Identifier: GPL-2.0-only
"""A host that boots a kernel for the first time reboots unless somebody confirms it.

In: a `Host`. Out: a unit on it that waits, in the one-shot boot alone, for `CONFIRMED`. A
kernel that runs but has no network cannot be confirmed, so the old one comes back.
"""

from __future__ import annotations

from harness.hosts.host import Host

NAME = "falcon-trial.service"
UNIT = f"/etc/systemd/system/{NAME}"
CONFIRMED = "/run/falcon/confirmed"
TEXT = """\
# By Falcon's install-kernel, for one boot.
[Unit]
Description=Reboot unless this kernel is confirmed in {seconds} s
ConditionKernelCommandLine=falcon.trial
DefaultDependencies=no

[Service]
ExecStart=/bin/sh -c 'sleep {seconds}; [ -e {confirmed} ] || systemctl --force reboot'

[Install]
WantedBy=sysinit.target
"""


def arm(host: Host, seconds: float) -> None:
    """Let the one-shot boot end after ``seconds`` unless it is confirmed; needs systemd."""
    if not host.has("systemctl"):
        return
    host.write(UNIT, TEXT.format(seconds=round(seconds), confirmed=CONFIRMED))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", NAME)


def confirm(host: Host) -> None:
    """This boot may stay."""
    host.write(CONFIRMED, "")


def remove(host: Host) -> None:
    """Take the unit back, whether it runs or not."""
    if host.exists(UNIT):
        host.try_run("systemctl", "disable", "--now", NAME)
        host.remove(UNIT)
        host.run("systemctl", "daemon-reload")
