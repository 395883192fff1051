# SPDX-License-Identifier: GPL-2.0-only
"""A Debian server in a directory: real shell, real files, played GRUB, dpkg and boots.

In: a directory; which kernels boot, and how. Out: a machine as `SshMachine` is one. Its
commands run here, for real, with their absolute paths put below the directory; the programs
that would change a real machine are small scripts that keep their state there, too.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.errors import FalconError
from harness.machine import LocalMachine, MachineDied, Process
from harness.machine.base import Input
from harness.machine.ssh import Cancelled

OLD, NEW = "6.1.0-48-amd64", "6.12.7-falcon.0123abcd"
BUILD_ID = "c0ffee" * 6 + "beef"
ROOTED = re.compile(r"(?<![\w.$}])/(?=(?:boot|etc|lib|proc|run|sys|var|firmware)\b)")

COMMON = '#!/bin/sh\nroot={root}\necho "$(basename "$0") $*" >>$root/log\n'
PROGRAMS = {
    "uname": "case $1 in -r) cat $root/release;; -m) cat $root/architecture;; esac",
    "df": 'echo x; echo "/dev/vda1 1 1 $(cat $root/free) 1% /"',
    "lsmod": "echo Module; echo e1000 1 0",
    "sync": ":",
    "update-grub": """
mkdir -p $root/boot/grub
[ ! -e $root/fail/update-grub ] || { echo "no space" >&2; exit 1; }
default=0
grep -qs '^GRUB_DEFAULT=saved' $root/etc/default/grub.d/falcon.cfg && default='${saved_entry}'
[ ! -e $root/fail/drop-in ] || default=0
menuentry() { # title id release arguments
    echo "menuentry '$1' --class gnu \\$menuentry_id_option '$2' {"
    echo "    insmod gzio"
    echo "    if [ x\\$feature = xy ]; then"
    echo "        search --set=root 1234"
    echo "    fi"
    echo "    linux /boot/vmlinuz-$3 root=UUID=1234 ro $4"
    echo "    initrd /boot/initrd.img-$3"
    echo "}"
}
{
    echo 'if [ "${next_entry}" ] ; then'
    echo '   set default="${next_entry}"'
    echo 'else'
    echo "   set default=\\"$default\\""
    echo 'fi'
    set -- $(ls $root/boot | sed -n 's/^vmlinuz-//p' | sort -rV)
    menuentry "Debian GNU/Linux" gnulinux-simple-1234 $1 quiet
    echo "submenu 'Advanced options' \\$menuentry_id_option 'gnulinux-advanced-1234' {"
    for release; do
        menuentry "Linux $release" gnulinux-$release-advanced-1234 $release quiet
        menuentry "Linux $release (recovery)" gnulinux-$release-recovery-1234 $release single
    done
    echo '}'
    [ ! -x $root/etc/grub.d/42_falcon ] || sh $root/etc/grub.d/42_falcon
} >$root/boot/grub/grub.cfg
""",
    "grub-editenv": """
env=$1; shift
touch $env
case $1 in
create) : >$env;;
list) cat $env;;
unset) sed -i "/^$2=/d" $env;;
esac""",
    "grub-set-default": """
[ ! -e $root/fail/grub-set-default ] || { echo "cannot write" >&2; exit 1; }
sed -i /^saved_entry=/d $root/boot/grub/grubenv
echo "saved_entry=$1" >>$root/boot/grub/grubenv""",
    "grub-reboot": """
[ ! -e $root/fail/grub-reboot ] || exit 0
sed -i /^next_entry=/d $root/boot/grub/grubenv; echo "next_entry=$1" >>$root/boot/grub/grubenv""",
    "grub-probe": 'cat $root/$(echo "$1" | tr -d - | tr = -)',
    # A package's file has its error flag in it, if there is one.
    "dpkg": """
forced=
[ "$1" != --force-remove-reinstreq ] || { forced=yes; shift; }
case $1 in
--install)
    [ ! -e $root/fail/dpkg ] || { echo "dpkg: error: No space left on device" >&2; exit 1; }
    release=$(cat $root/package-release)
    mkdir -p $root/lib/modules/$release  # as mkinitramfs does, by depmod
    if [ -e $root/fail/unpacking ]; then
        echo reinstreq >$root/packages/linux-image-$release
        touch $root/boot/config-$release $root/boot/vmlinuz-$release.dpkg-new
        touch $root/lib/modules/$release/a.ko $root/lib/modules/$release/b.ko.dpkg-new
        kill -9 $$
    fi
    : >$root/packages/linux-image-$release
    touch $root/boot/vmlinuz-$release
    touch $root/lib/modules/$release/modules.dep $root/lib/modules/$release/modules.alias.bin
    update-grub;;
--purge)
    if [ -s $root/packages/$2 ]; then  # it has neither scripts nor a list of its files yet
        [ -n "$forced" ] || { echo "$2 is in a very bad inconsistent state" >&2; exit 1; }
        rm $root/packages/$2
    else
        rm -f $root/boot/vmlinuz-${2#linux-image-} $root/packages/$2
        update-grub
    fi;;
esac""",
    "dpkg-query": """
for last; do :; done
case "$*" in
*Eflag*)
    [ -e $root/packages/$last ] || exit 1
    grep . $root/packages/$last || echo ok;;
*)
    for p in $(ls $root/packages); do
        [ -s $root/packages/$p ] && echo "$p half-installed" || echo "$p installed"
    done;;
esac""",
    "systemctl": ":",
    "journalctl": 'cat $root/journal-$(echo "$1" | tr -d -) 2>/dev/null',
}
MISSING_RPM = "#!/bin/sh\nexit 127\n"


class FakeServer(LocalMachine):
    """``boots``: by release, how a boot of it ends: "good", "panic", "hang", "bare" (without
    Falcon), "other" (another build). ``before``: called with each command's words, may raise.
    """

    def __init__(self, directory: Path, name: str = "server"):
        super().__init__()
        self.name, self.root = name, directory / name
        self.boots: dict[str, str] = {OLD: "good", NEW: "good"}
        self.before: Callable[[Sequence[str]], None] = lambda _argv: None
        self.commands: list[Sequence[str]] = []
        self.arguments = ""
        # What the administrator has set, in any boot whose arguments say nothing else.
        self.sysctls = {"panic": "60", "panic_on_oops": "0", "softlockup_panic": "0"}
        self._rebooting = False
        self._away = False
        self._cancelled = threading.Event()
        for place in ("boot/grub", "etc/default", "etc/grub.d", "proc/sys/net/core", "bin", "fail"):
            (self.root / place).mkdir(parents=True)
        for place in ("var/tmp", "sys/kernel", "proc/sys/kernel/random", "packages"):
            (self.root / place).mkdir(parents=True)
        for program, text in PROGRAMS.items():
            self.add_program(program, COMMON.format(root=self.root) + text.strip() + "\n")
        self.write("architecture", "x86_64\n")
        self.write("free", f"{10 << 30}\n")
        self.write("targetfs", "ext2\n").rename(self.root / "target-fs")
        self.write("target-abstraction", "\n")
        self.write("package-release", NEW + "\n")
        self.write(f"boot/vmlinuz-{OLD}", "")
        self.write(f"boot/initrd.img-{OLD}", "x" * 1000)
        self.write(f"boot/config-{OLD}", "CONFIG_OF_THE_SERVER=y\n")
        self.write("boot/grub/grubenv", "")
        self._come_up(OLD)
        self.run(["update-grub"], check=True)
        self.commands.clear()

    # -- for tests ------------------------------------------------------------------

    def write(self, path: str, text: str) -> Path:
        """Write a file of the server's."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def add_program(self, name: str, text: str) -> None:
        """Give it a program."""
        self.write(f"bin/{name}", text).chmod(0o755)

    def sysctl(self, name: str) -> str:
        """A setting of its kernel's; "" when that has none."""
        return self.read(f"proc/sys/kernel/{name}").strip()

    def read(self, path: str) -> str:
        """A file's text; "" without one."""
        file = self.root / path
        return file.read_text() if file.exists() else ""

    def break_program(self, name: str) -> None:
        """Let a program fail from now on."""
        self.write(f"fail/{name}", "")

    def add_kernel(self, release: str) -> None:
        """Install a kernel as a distribution does."""
        self.write(f"boot/vmlinuz-{release}", "")
        self.run(["update-grub"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """GRUB's."""
        return dict(line.split("=", 1) for line in self.read("boot/grub/grubenv").splitlines())

    def snapshot(self) -> dict[str, str]:
        """All that would decide how the server boots, or take room there."""
        places = ("boot", "etc", "var", "packages", "lib")
        files = [file for place in places for file in (self.root / place).rglob("*")]
        return {
            str(file.relative_to(self.root)): file.read_text() for file in files if file.is_file()
        }

    # -- booting ----------------------------------------------------------------------

    def power_on(self) -> None:
        """Boot as GRUB would."""
        environment = self.environment
        chosen = environment.get("next_entry", "")
        if chosen:  # GRUB empties it, and leaves it there
            taken = environment | {"next_entry": ""}
            self.write("boot/grub/grubenv", "".join(f"{n}={v}\n" for n, v in taken.items()))
        config = self.read("boot/grub/grub.cfg")
        if not chosen and 'set default="${saved_entry}"' in config:
            chosen = environment.get("saved_entry", "")
        name = chosen.split(">")[-1]
        start = config.find(f"'{name}' {{") if name else config.find("menuentry ")
        start = start if start >= 0 else config.find(f"--id {name} {{")
        found = re.compile(r"linux /boot/vmlinuz-(\S+)(.*)").search(config, max(start, 0))
        assert found and (start >= 0 or not name), f"GRUB has no {name}"
        release, self.arguments = found[1], found[2]
        fate = self.boots[release]
        if fate == "hang":
            self._away = True
        elif fate == "panic":
            assert "panic=" in self.arguments, "it would stand still for ever"
            self.power_on()
        else:
            self._come_up(release, fate)

    def _come_up(self, release: str, fate: str = "good") -> None:
        self._away = False
        self.write("proc/cmdline", f"vmlinuz-{release}{self.arguments}\n")
        given = dict(word.split("=", 1) for word in self.arguments.split() if "=" in word)
        if given.get("oops") == "panic":
            given["panic_on_oops"] = "1"
        for name, value in self.sysctls.items():
            self.write(f"proc/sys/kernel/{name}", f"{given.get(name, value)}\n")
        self.write("release", release + "\n")
        self.write("proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")
        sysctl = self.root / "proc/sys/net/core/falcon"
        sysctl.unlink(missing_ok=True)
        if "falcon" in release and fate != "bare":
            sysctl.write_text("0\n")
        notes = BUILD_ID if fate != "other" else "0" * 40
        (self.root / "sys/kernel/notes").write_bytes(b"GNU\0" + bytes.fromhex(notes))

    # -- what SshMachine has --------------------------------------------------------------

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Input = None,
        stream: bool = False,
    ) -> Process:
        if self._away:
            raise MachineDied(f"cannot reach {self.name}", "Connection timed out")
        self.commands.append(tuple(argv))
        self.before(argv)
        words = [ROOTED.sub(f"{self.root}/", word) for word in argv]
        words = [str(self.root) if word == "/" else word for word in words]
        path = f"{self.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # The words are looked up by env, so that the server's programs come first.
        command = ["env", f"PATH={path}", *words]
        return super().start(command, cwd=self.root, env=env, stdin=stdin, stream=stream)

    def check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"{self.name}: interrupted")

    def cancel(self) -> None:
        self._cancelled.set()

    def begin_reboot(self) -> None:
        self.commands.append(("reboot",))
        self.before(("reboot",))
        self._rebooting = True

    def wait_for_boot(self, before: str, timeout_s: float) -> None:
        self.check_cancelled()
        assert self._rebooting, "nobody told it to reboot"
        assert before == self.read("proc/sys/kernel/random/boot_id").strip()
        self._rebooting = False
        self.power_on()
        if self._away:
            raise MachineDied(
                f"{self.name} did not come back in {timeout_s:g} s", "Connection timed out"
            )


def failing(*words: str) -> Callable[[Sequence[str]], None]:
    """For `FakeServer.before`: the connection is lost as a command with ``words`` begins."""

    def look(argv: Sequence[str]) -> None:
        if all(any(word in given for given in argv) for word in words):
            raise MachineDied("the connection to server was lost", "while a command ran")

    return look


def refusing(*words: str) -> Callable[[Sequence[str]], None]:
    """The same, but with an error that no other connection mends."""

    def look(argv: Sequence[str]) -> None:
        if all(any(word in given for given in argv) for word in words):
            raise FalconError("it does not want to")

    return look
