# SPDX-License-Identifier: GPL-2.0-only
"""GRUB on a host: which kernel boots next, which one ever after, and one try.

In: a `Host`. Out: changes that fail on the safe side. The kernel that ran when we came is
pinned as the default before another is installed; the other one gets an entry of its own for
one boot, which GRUB forgets as it takes it (``next_entry``); only a kernel that was seen to
run becomes the default. See docs/decisions/0062.

Files of ours on the host: `DROP_IN`, which makes GRUB boot the saved entry, `TRIAL`, which
makes the entry for one boot, and `STATE`, what there was before.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from harness.errors import FalconError
from harness.hosts.host import SLOW_TIMEOUT_S, Host

CONFIG, ENVIRONMENT = "/boot/grub/grub.cfg", "/boot/grub/grubenv"
DROP_IN = "/etc/default/grub.d/falcon.cfg"
TRIAL = "/etc/grub.d/42_falcon"
STATE = "/var/lib/falcon/grub.json"
TRIAL_ID = "falcon-trial"
PROGRAMS = ("update-grub", "grub-reboot", "grub-set-default", "grub-editenv", "grub-probe")
# GRUB cannot write its environment there, so it would take the one-shot entry at every boot.
UNWRITABLE = ("btrfs", "zfs")
# Of the try alone: a panic, an oops or a lock-up ends in a reboot, which is the old kernel's.
TRIAL_WORD = "falcon.trial"
TRIAL_ARGUMENTS = f"panic=20 oops=panic softlockup_panic=1 {TRIAL_WORD}"

DROP_IN_TEXT = """\
# By Falcon's install-kernel; uninstall-kernel removes it. The saved entry is booted, so
# that a kernel is the default only once it was seen to run.
GRUB_DEFAULT=saved
GRUB_SAVEDEFAULT=false
"""
TRIAL_TEXT = """\
#!/bin/sh
# By Falcon's install-kernel, for one boot.
exec tail -n +4 "$0"
{entry}
"""

_OPEN = re.compile(
    r"""^\s*(?P<kind>menuentry|submenu)\s+(?P<title>'(?:[^']|'\\'')*'|"[^"]*").*\{\s*$"""
)
_ID = re.compile(r"""(?:\$menuentry_id_option|--id)\s+'?([^'\s]+)'?""")
_KERNEL = re.compile(r"^\s*linux(?:16|efi)?\s+\S*/vmlinuz-(\S+)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """A menu entry: its ``path`` as GRUB's programs take it, its kernel, and its text."""

    path: str
    release: str
    text: str

    @property
    def is_recovery(self) -> bool:
        return "-recovery-" in self.path or " single" in self.text


def parse(config: str) -> tuple[Entry, ...]:
    """The entries of a grub.cfg that boot a kernel, in its order."""
    entries: list[Entry] = []
    opened: list[tuple[str, str, int]] = []
    lines = config.splitlines()
    for number, line in enumerate(lines):
        start = _OPEN.match(line)
        if start:
            found = _ID.search(line)
            name = found[1] if found else start["title"].strip("'\"")
            opened.append((start["kind"], name, number))
        elif line.rstrip().endswith("{") and opened:
            opened.append(("block", "", number))
        elif line.strip() == "}" and opened:
            kind, _, begun = opened[-1]
            if kind == "menuentry":
                text = "\n".join(lines[begun : number + 1])
                kernel = _KERNEL.search(text)
                path = ">".join(name for kind, name, _ in opened if kind != "block")
                if kernel:
                    entries.append(Entry(path, kernel[1], text))
            opened.pop()
    return tuple(entries)


def trial_entry(entry: Entry) -> str:
    """The text of an entry that boots the same kernel once, and reboots if that panics."""
    head, body = entry.text.split("\n", 1)
    del head
    body = _KERNEL.sub(lambda match: f"{match[0]} {TRIAL_ARGUMENTS}", body, count=1)
    title = f"Falcon, first boot of {entry.release}"
    return f"menuentry '{title}' --id {TRIAL_ID} {{\n{body}"


class Grub:
    """A host's GRUB."""

    def __init__(self, host: Host):
        self._host = host

    # -- can it be relied on ---------------------------------------------------------

    def check(self) -> None:
        """Raise `FalconError` unless a one-shot entry is sure to be one here."""
        missing = [program for program in PROGRAMS if not self._host.has(program)]
        if missing or not self._host.exists(CONFIG):
            raise FalconError(
                "the host does not boot by Debian's GRUB",
                f"it has no {missing[0] if missing else CONFIG}",
                "a kernel can be installed there only by hand",
            )
        kind = self._host.run("grub-probe", "--target=fs", "/boot/grub").strip()
        layers = self._host.run("grub-probe", "--target=abstraction", "/boot/grub").split()
        if layers or kind in UNWRITABLE:
            raise FalconError(
                "GRUB could not forget a one-shot entry on the host",
                f"/boot/grub is on {' '.join(layers) or kind}, where GRUB does not write",
                "put /boot on a plain partition",
            )
        if "blscfg" in self._config():
            raise FalconError("the host's GRUB boots by BLS files", "that is not supported")

    # -- what it is set to ------------------------------------------------------------

    def entries(self) -> tuple[Entry, ...]:
        """Its entries that boot a kernel."""
        return parse(self._config())

    def entry(self, release: str) -> Entry:
        """The entry for one kernel; `FalconError` when there is none."""
        fitting = [
            entry
            for entry in self.entries()
            if entry.release == release and not entry.is_recovery and entry.path != TRIAL_ID
        ]
        # The first entry of all stays the newest kernel's, whichever that is: not named by it.
        fitting.sort(key=lambda entry: "-simple-" in entry.path)
        if not fitting:
            raise FalconError(f"GRUB on the host has no entry for Linux {release}")
        return fitting[0]

    def environment(self) -> dict[str, str]:
        """GRUB's variables that outlive a boot."""
        if not self._host.exists(ENVIRONMENT):
            return {}
        lines = self._host.run("grub-editenv", ENVIRONMENT, "list").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def is_pinned(self) -> bool:
        """Whether the default is the saved entry by our doing."""
        return self._host.exists(DROP_IN)

    @property
    def pinned(self) -> str | None:
        """The entry that is the default by our doing; None when none is."""
        return self.environment().get("saved_entry", "") if self.is_pinned else None

    def default_release(self) -> str:
        """The kernel that boots when nobody chooses; "" when that cannot be told."""
        entries = self.entries()
        wanted = self.environment().get("saved_entry", "") if self.is_pinned else ""
        if not wanted:
            setting = re.search(r'^\s*set default="([^"$]*)"', self._config(), re.MULTILINE)
            wanted = setting[1] if setting else ""
        if wanted in ("", "0"):
            return entries[0].release if entries else ""
        return next((entry.release for entry in entries if entry.path == wanted), "")

    # -- changing it ------------------------------------------------------------------

    def pin(self, release: str) -> None:
        """Make ``release`` the default whatever is installed; what was before is remembered."""
        path = self.entry(release).path
        if self._host.read(STATE) is None:
            saved = self.environment().get("saved_entry")
            self._host.write(STATE, json.dumps({"saved_entry": saved, "release": release}) + "\n")
        if not self._host.exists(ENVIRONMENT):
            self._host.run("grub-editenv", ENVIRONMENT, "create")
        self._host.run("grub-set-default", path)
        self._host.write(DROP_IN, DROP_IN_TEXT)
        self._update()
        if 'set default="${saved_entry}"' not in self._config():
            self.unpin()
            raise FalconError(
                "GRUB on the host does not boot the entry it is told",
                f"update-grub did not read {DROP_IN}",
                "set GRUB_DEFAULT=saved in /etc/default/grub by hand",
            )

    def set_default(self, release: str) -> None:
        """Make ``release`` the pinned default."""
        self._host.run("grub-set-default", self.entry(release).path)

    def arm(self, release: str) -> None:
        """Let the next boot, and that one alone, be ``release``'s."""
        text = trial_entry(self.entry(release))
        self._host.write(TRIAL, TRIAL_TEXT.format(entry=text), "755")
        self._update()
        if not any(entry.path == TRIAL_ID for entry in self.entries()):
            raise FalconError(f"GRUB on the host did not take the entry of {TRIAL}")
        self._host.run("grub-reboot", TRIAL_ID)
        if self.environment().get("next_entry") != TRIAL_ID:
            raise FalconError("GRUB on the host did not note what to boot next")
        self._host.run("sync")

    def disarm(self) -> None:
        """Take the entry for one boot back, used or not."""
        # GRUB takes the entry by storing an empty one.
        if self.environment().get("next_entry") in (TRIAL_ID, ""):
            self._host.run("grub-editenv", ENVIRONMENT, "unset", "next_entry")
        if self._host.exists(TRIAL):
            self._host.remove(TRIAL)
            self._update()

    def unpin(self) -> None:
        """Leave the default as it was before the first `pin`."""
        before = self._host.read_json(STATE)
        self._host.remove(DROP_IN)
        if before is not None:
            self._save(before.get("saved_entry"))
        self._update()
        self._host.remove(STATE)

    def put_back(self, pinned: str | None) -> None:
        """Leave the default as it was when `pinned` told this."""
        if pinned is None:
            self.unpin()
        else:
            self._save(pinned)

    def _save(self, entry: str | None) -> None:
        if entry:
            self._host.run("grub-set-default", entry)
        else:
            self._host.run("grub-editenv", ENVIRONMENT, "unset", "saved_entry")

    def _update(self) -> None:
        self._host.run("update-grub", timeout_s=SLOW_TIMEOUT_S)

    def _config(self) -> str:
        return self._host.read(CONFIG) or ""
