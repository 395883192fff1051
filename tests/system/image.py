# SPDX-License-Identifier: GPL-2.0-only
"""A Debian server's disk: debootstrap, ext4, GRUB, systemd, sshd, Debian's own kernel.

In: the recipe in this file. Out: `Image` in the cache, named by the recipe: a raw disk,
of which every test boots a copy-on-write layer, and the keys to get in. Made by the
distribution's tools: files by debootstrap and in a chroot, the boot loader by the server
itself when it boots for the first time.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from server import Server

from harness import tools
from harness.console import note
from harness.errors import FalconError
from harness.kernel import cache
from harness.kernel.process import output
from harness.kernel.progress import duration
from harness.paths import RESULTS, cache_dir

# Part of every image's name: raise it when what is done below with the rest changes.
RECIPE = "1"
RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = (
    "linux-image-amd64",
    "grub-pc",
    "openssh-server",
    "systemd-sysv",
    "dbus",
    "python3",
    "sudo",
    "ifupdown",
    "iproute2",
    "initramfs-tools",
    "procps",
)
DISK_BYTES = 3 << 30
PARTITION_OFFSET = 1 << 20
ROOT_UUID = "fa1c0000-0000-4000-8000-000000000001"
# ``admin`` may use sudo with this password, ``deploy`` without one.
ADMIN, DEPLOY, PASSWORD = "admin", "deploy", "correct horse"
NEEDED = ("debootstrap", "mke2fs", "sfdisk", "qemu-img", "qemu-system-x86_64", "ssh-keygen")

# An emulated timer that comes late on a busy host must not panic the kernel at its start.
ARGUMENTS = "console=ttyS0 net.ifnames=0 no_timer_check"

FILES = {
    "etc/hostname": "server\n",
    "etc/hosts": "127.0.0.1 localhost server\n",
    "etc/fstab": f"UUID={ROOT_UUID} / ext4 defaults 0 1\n",
    "etc/network/interfaces": (
        "auto lo eth0\niface lo inet loopback\n"
        "iface eth0 inet static\n    address 10.0.2.15/24\n    gateway 10.0.2.2\n"
    ),
    "etc/default/grub": (
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\n"
        f'GRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="{ARGUMENTS}"\n'
        'GRUB_TERMINAL=serial\nGRUB_SERIAL_COMMAND="serial"\nGRUB_DISABLE_OS_PROBER=true\n'
    ),
    # What its disk needs and no more: the emulated server packs it anew for every kernel.
    "etc/initramfs-tools/conf.d/small": "MODULES=list\nCOMPRESS=gzip\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    # Debian's kernel would load drivers for all that the emulated CPU is said to have.
    "etc/modprobe.d/small.conf": "".join(
        f"blacklist {name}\n"
        for name in ("ahci", "kvm", "kvm_amd", "kvm_intel", "powernow_k8", "i2c_i801", "lpc_ich")
    ),
    f"etc/sudoers.d/{ADMIN}": f"{ADMIN} ALL=(ALL) ALL\n",
    f"etc/sudoers.d/{DEPLOY}": f"{DEPLOY} ALL=(ALL) NOPASSWD: ALL\n",
    # An emulated server is slow to start a session.
    "etc/ssh/sshd_config.d/slow.conf": "LoginGraceTime 300\nUseDNS no\n",
    "etc/systemd/journald.conf.d/kept.conf": "[Journal]\nStorage=persistent\nSyncIntervalSec=5s\n",
    "etc/systemd/system.conf.d/slow.conf": "[Manager]\nDefaultTimeoutStartSec=10min\n",
}
SETUP = f"""\
set -e
for user in {ADMIN} {DEPLOY}; do
    useradd --create-home --shell /bin/bash $user
    echo "$user:{PASSWORD}" | chpasswd
done
authorize() {{
    for user in {ADMIN} {DEPLOY}; do mkdir -m 700 /home/$user/.ssh; done
    tee /home/{ADMIN}/.ssh/authorized_keys >/home/{DEPLOY}/.ssh/authorized_keys
    for user in {ADMIN} {DEPLOY}; do chown -R $user: /home/$user/.ssh; done
}}
mkdir -p /var/log/journal
rm -f /etc/machine-id
systemd-machine-id-setup
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
update-initramfs -u -k all
"""
FIRST_BOOT = "grub-install /dev/vda && update-grub && grub-editenv /boot/grub/grubenv create"


@dataclass(frozen=True)
class Image:
    """``disk``: never written to. ``key`` lets in; ``known_hosts`` has the server's."""

    disk: Path
    key: Path
    host_key: str


def get() -> Image:
    """The image, from the cache or made now: some ten minutes under emulation."""
    tools.require(*NEEDED)
    recipe = [RECIPE, RELEASE, MIRROR, *PACKAGES, str(DISK_BYTES), ROOT_UUID, SETUP, FIRST_BOOT]
    home = cache_dir() / "servers" / cache.digest([*recipe, *FILES, *FILES.values()])
    with cache.lock("servers"):
        if not home.exists():
            with cache.publish(home) as empty:
                _make(empty)
    return Image(home / "disk.raw", home / "id", (home / "host_key.pub").read_text().strip())


def _make(home: Path) -> None:
    note("making the server's disk: debootstrap")
    for name in ("id", "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", home / name]
        output(command, "making a key")
    with tempfile.TemporaryDirectory(dir=home, prefix="root-") as directory:
        root = Path(directory) / "root"
        _debootstrap(root)
        _configure(root, home)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy2((root / name).resolve(), home / name)
        _write_disk(root, home / "disk.raw")
    note("making the server's disk: first boot")
    image = Image(home / "disk.raw", home / "id", (home / "host_key.pub").read_text().strip())
    boot = {"kernel": home / "vmlinuz", "initrd": home / "initrd.img"}
    arguments = f"root=UUID={ROOT_UUID} {ARGUMENTS}"
    console = RESULTS / "system-image-console.log"
    with Server(
        image.disk, image.key, image.host_key, console=console, append=arguments, **boot
    ) as server:
        with server.machine(DEPLOY) as machine:
            machine.run(["sh", "-c", FIRST_BOOT], check=True, timeout_s=1800)
            machine.run(["sh", "-c", "apt-get clean; sync"], check=True)
        server.power_off()
        note(f"the server booted in {duration(server.boot_s)}")
    for name in ("vmlinuz", "initrd.img"):
        (home / name).unlink()


def _debootstrap(root: Path) -> None:
    # What it mounts in there is gone with it, however it ends: never removed as files. Not
    # with --fork: that waits for debootstrap and takes no signal, not ours when we die either.
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase"]
    command += [f"--include={','.join(PACKAGES)}", RELEASE, root, MIRROR]
    output(command, "debootstrap")


def _configure(root: Path, home: Path) -> None:
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for user in (ADMIN, DEPLOY):
        (root / f"etc/sudoers.d/{user}").chmod(0o440)
    for old in (root / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    for suffix in ("", ".pub"):
        shutil.copy2(home / f"host_key{suffix}", root / f"etc/ssh/ssh_host_ed25519_key{suffix}")
    script = SETUP + f"echo '{(home / 'id.pub').read_text().strip()}' | authorize\n"
    output(["chroot", root, "sh", "-c", script], "setting up the server's files")


def _write_disk(root: Path, disk: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    start = PARTITION_OFFSET // 512
    output(["sfdisk", "-q", disk], "partitioning", stdin=f"start={start}, type=83, bootable\n")
    blocks = (DISK_BYTES - PARTITION_OFFSET) // 4096
    command = ["mke2fs", "-q", "-t", "ext4", "-U", ROOT_UUID, "-d", root, "-b", "4096"]
    command += ["-E", f"offset={PARTITION_OFFSET}", disk, str(blocks)]
    output(command, "writing the file system")


def layer(image: Image, directory: Path) -> Path:
    """A disk with the image's content; what is written goes to a file in ``directory``."""
    disk = directory / "disk.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image.disk, "-F", "raw", disk]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FalconError("cannot make a disk", done.stderr)
    return disk
