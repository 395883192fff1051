# SPDX-License-Identifier: GPL-2.0-only
"""Kernel packages that are of no use, out of one that is: `PANICS` at boot, or is `DEAF`.

In: a good `Package`. Out: the same kernel under another release, with a script in its
initramfs that spoils the boots of that release alone. No second build.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from harness.kernel import cache
from harness.kernel.package import Package
from harness.kernel.process import output

SCRIPT = """\
#!/bin/sh
[ "$1" != prereqs ] || exit 0
# An initramfs has no grep.
read -r arguments </proc/cmdline
case $arguments in *"vmlinuz-{release} "*)
    echo "falcon system test: {what} on purpose" >/dev/kmsg
    {how}
esac
"""


@dataclass(frozen=True)
class Fault:
    """``suffix`` of the package's release; ``what`` the console says, ``how`` it is done."""

    suffix: str
    what: str
    how: str


PANICS = Fault("bad", "crashing", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
# It runs, and the network does not: /run goes over to the root file system with this in it.
DEAF = Fault(
    "deaf",
    "no network",
    "mkdir -p /run/systemd/system; ln -s /dev/null /run/systemd/system/networking.service",
)


def make(package: Package, fault: Fault, directory: Path) -> Package:
    """The broken package, in ``directory``."""
    release = f"{package.release}{fault.suffix}"
    root = directory / "broken"
    output(["dpkg-deb", "-R", package.file, root], "unpacking a package")
    for path in (root / "boot").iterdir():
        path.rename(path.with_name(path.name.replace(package.release, release)))
    for path in (root / "DEBIAN").iterdir():
        text = path.read_text().replace(package.release, release)
        path.write_text(text)
    (root / "DEBIAN/md5sums").unlink(missing_ok=True)
    # Named by the good one's release; two packages cannot have the same files.
    shutil.rmtree(root / "usr/share/doc", ignore_errors=True)
    modules = root / "lib/modules" / package.release
    if modules.exists():
        modules.rename(modules.with_name(release))
    script = root / f"usr/share/initramfs-tools/scripts/init-top/{release.replace('.', '-')}"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.format(release=release, what=fault.what, how=fault.how))
    script.chmod(0o755)
    file = directory / f"linux-image-{release}_1_amd64.deb"
    output(["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, file], "packing a package")
    shutil.rmtree(root)
    return replace(
        package,
        file=file,
        release=release,
        name=f"linux-image-{release}",
        sha256=cache.file_sha256(file),
    )
