# SPDX-License-Identifier: GPL-2.0-only
"""A host gets a kernel, or keeps all that it had, whatever goes wrong on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakeserver import BUILD_ID, NEW, OLD, FakeServer, failing, refusing

from harness.errors import FalconError
from harness.hosts import copying, deadman, fleet, install, panics, rollout, status, uninstall
from harness.hosts.fleet import Reporter
from harness.hosts.grub import DROP_IN, TRIAL, Grub
from harness.hosts.host import Host
from harness.kernel import series
from harness.kernel.config import Base
from harness.kernel.package import Package
from harness.machine import MachineDied
from harness.machine.ssh import Access, Cancelled

PINNED = f"gnulinux-advanced-1234>gnulinux-{OLD}-advanced-1234"
PROMOTED = f"gnulinux-advanced-1234>gnulinux-{NEW}-advanced-1234"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    with FakeServer(tmp_path) as made:
        yield made


@pytest.fixture
def package(tmp_path: Path) -> Package:
    file = tmp_path / f"linux-image-{NEW}_1_amd64.deb"
    file.write_bytes(bytes(range(256)) * 5000)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Package(file, NEW, f"linux-image-{NEW}", BUILD_ID, sha256, 50_000)


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "RETRY_S", 0.0)
    monkeypatch.setattr(copying, "POLL_S", 0.01)


def put(server: FakeServer, package: Package) -> install.Installed:
    reporter = Reporter(server)  # type: ignore[arg-type]
    return install.install(server, reporter, package, boot_timeout_s=60)  # type: ignore[arg-type]


def look(server: FakeServer, **options: bool) -> install.Wanted:
    choices = {"config": True, "localmodconfig": False} | options
    return install.look(server, lambda _: None, **choices)  # type: ignore[arg-type]


def take_away(server: FakeServer) -> uninstall.Uninstalled:
    reporter = Reporter(server)  # type: ignore[arg-type]
    return uninstall.uninstall(server, reporter, boot_timeout_s=60)  # type: ignore[arg-type]


def assert_nothing_of_ours(server: FakeServer) -> None:
    """Not a file, not a variable, not an entry."""
    left = [name for name in server.snapshot() if "falcon" in name]
    assert [name for name in left if not name.startswith("var/lib/falcon")] == []
    assert "falcon" not in server.read("boot/grub/grub.cfg")
    assert server.read("var/lib/falcon/grub.json") == ""
    assert server.environment == {}


# ---- a good end ---------------------------------------------------------------------


def test_kernel_is_installed_booted_verified_and_only_then_the_default(
    server: FakeServer, package: Package
) -> None:
    at_reboot = {}

    def remember(argv: object) -> None:
        if argv == ("reboot",):
            at_reboot.update(server.environment)

    server.before = remember  # type: ignore[assignment]
    assert put(server, package) == install.Installed(NEW, OLD, rebooted=True)
    assert at_reboot == {"saved_entry": PINNED, "next_entry": "falcon-trial"}
    assert server.environment == {"saved_entry": PROMOTED}
    assert not (server.root / TRIAL.lstrip("/")).exists()
    assert not [name for name in server.snapshot() if name.startswith("var/tmp/")]
    server.power_on()  # by itself, ever after
    assert server.kernel_release() == NEW


def test_only_the_first_boot_reboots_on_a_panic(server: FakeServer, package: Package) -> None:
    put(server, package)
    assert "panic=" in server.arguments and "falcon.trial" in server.arguments
    server.power_on()
    assert "panic=" not in server.arguments and "falcon" not in server.arguments


def panics_of(server: FakeServer) -> dict[str, str]:
    return {name: server.sysctl(name) for name in panics.NAMES}


def test_boot_that_is_kept_panics_when_the_old_kernel_would_have(
    server: FakeServer, package: Package
) -> None:
    before = panics_of(server)
    assert before == {"panic": "60", "panic_on_oops": "0", "softlockup_panic": "0"}
    verified: dict[str, str] = {}

    def remember(argv: Sequence[str]) -> None:
        if "/sys/kernel/notes" in argv:
            verified.update(panics_of(server))

    server.before = remember
    put(server, package)
    assert verified == {"panic": "20", "panic_on_oops": "1", "softlockup_panic": "1"}
    assert "falcon.trial" in server.read("proc/cmdline")
    assert panics_of(server) == before
    assert server.read(panics.STATE.lstrip("/")) == ""


def test_kernels_without_one_of_the_settings(server: FakeServer, package: Package) -> None:
    def old_has_none(argv: Sequence[str]) -> None:
        if argv == ("reboot",):
            server.sysctls["softlockup_panic"] = "0"

    del server.sysctls["softlockup_panic"]
    (server.root / "proc/sys/kernel/softlockup_panic").unlink()
    server.before = old_has_none
    put(server, package)
    assert server.sysctl("softlockup_panic") == "0"
    take_away(server)

    def new_has_none(argv: Sequence[str]) -> None:
        if argv == ("reboot",):
            del server.sysctls["softlockup_panic"]
            (server.root / "proc/sys/kernel/softlockup_panic").unlink()

    server.before = new_has_none
    put(server, package)
    assert panics_of(server) == {"panic": "60", "panic_on_oops": "0", "softlockup_panic": ""}


def test_interrupted_install_that_is_verified_later_knows_the_settings(
    server: FakeServer, package: Package
) -> None:
    def lost(argv: Sequence[str]) -> None:
        if "/sys/kernel/notes" in argv:
            failing()(argv)

    server.before = lost
    with pytest.raises(MachineDied):
        put(server, package)
    assert server.sysctl("panic") == "20"
    server.before = lambda _: None
    put(server, package)
    assert panics_of(server) == {"panic": "60", "panic_on_oops": "0", "softlockup_panic": "0"}


def test_settings_of_a_boot_that_was_no_trial_are_left_alone(
    server: FakeServer, package: Package
) -> None:
    put(server, package)
    server.power_on()
    server.write("proc/sys/kernel/panic", "5\n")
    server.write(panics.STATE.lstrip("/"), '{"panic": "60"}')  # of a run that was cut off
    put(server, package)
    assert server.sysctl("panic") == "5" and server.read(panics.STATE.lstrip("/")) == ""


def test_again_it_reboots_nothing(server: FakeServer, package: Package) -> None:
    put(server, package)
    server.commands.clear()
    assert put(server, package) == install.Installed(NEW, NEW, rebooted=False)
    assert ("reboot",) not in server.commands
    assert server.environment == {"saved_entry": PROMOTED}


def test_default_of_the_administrators_comes_back_in_the_end(
    server: FakeServer, package: Package
) -> None:
    server.add_kernel("5.10.0-1-amd64")
    theirs = "gnulinux-advanced-1234>gnulinux-5.10.0-1-amd64-advanced-1234"
    server.run(["grub-set-default", theirs], check=True)
    put(server, package)
    take_away(server)
    assert server.environment == {"saved_entry": theirs}


# ---- a boot that fails ------------------------------------------------------------------


def test_panic_leaves_the_old_kernel_running_and_the_default(
    server: FakeServer, package: Package
) -> None:
    server.boots[NEW] = "panic"
    with pytest.raises(FalconError) as caught:
        put(server, package)
    assert f"{NEW} did not come up on server: it runs {OLD}" in str(caught.value)
    assert "it left no journal" in str(caught.value)
    assert f"Linux {OLD} is its default as before" in str(caught.value)
    assert server.kernel_release() == OLD
    assert server.environment == {"saved_entry": PINNED}
    server.power_on()
    assert server.kernel_release() == OLD
    assert not (server.root / TRIAL.lstrip("/")).exists()


def test_failed_boots_journal_is_shown(
    server: FakeServer, package: Package, capfd: pytest.CaptureFixture[str]
) -> None:
    server.boots[NEW] = "panic"
    before = server.read("proc/sys/kernel/random/boot_id").strip().replace("-", "")
    failed = "f" * 32
    boots = f" -2 {'0' * 32} Mon\n -1 {before} Mon\n  0 {failed} Mon\n"
    server.write("journal-listboots", boots)
    server.write(f"journal-boot={failed}", "[ 3.1] server kernel: Oops: all is lost\n")
    with pytest.raises(FalconError, match="the end of its journal is above"):
        put(server, package)
    assert "server:     [ 3.1] server kernel: Oops: all is lost" in capfd.readouterr().err


def test_host_that_never_comes_back_is_told_with_what_to_do(
    server: FakeServer, package: Package
) -> None:
    server.boots[NEW] = "hang"
    with pytest.raises(FalconError) as caught:
        put(server, package)
    assert "did not come back in 120 s: Connection timed out" in str(caught.value)
    assert f"Linux {OLD} is still its default: reset it, and it boots that" in str(caught.value)
    server._away = False
    server.power_on()  # somebody resets it
    assert server.kernel_release() == OLD


@pytest.mark.parametrize(
    ("fate", "doubt"), [("bare", "it has no net.core.falcon"), ("other", "its build ID is another")]
)
def test_kernel_that_is_not_the_patched_one_is_left_again(
    server: FakeServer, package: Package, fate: str, doubt: str
) -> None:
    server.boots[NEW] = fate
    with pytest.raises(FalconError, match=doubt):
        put(server, package)
    assert server.kernel_release() == OLD
    assert server.environment == {"saved_entry": PINNED}


def test_interrupt_while_it_boots_says_how_the_host_is(
    server: FakeServer, package: Package, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(argv: object) -> None:
        if argv == ("reboot",):
            server.cancel()

    server.before = interrupt  # type: ignore[assignment]
    with pytest.raises(Cancelled):
        put(server, package)
    assert f"once; {OLD} is still its default" in capfd.readouterr().err
    assert server.environment["saved_entry"] == PINNED


@pytest.mark.parametrize("words", [("/sys/kernel/notes",), ("grub-set-default", NEW)])
def test_connection_lost_while_it_is_verified_says_how_the_host_is(
    server: FakeServer,
    package: Package,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    server.before = failing(*words)
    with pytest.raises(MachineDied):
        put(server, package)
    told = capfd.readouterr().err
    assert f"it runs {NEW}, once; until that is verified {OLD} is its default" in told
    assert "Run install-kernel again to verify it" in told
    server.before = lambda _: None
    assert put(server, package) == install.Installed(NEW, NEW, rebooted=False)
    assert server.environment == {"saved_entry": PROMOTED}


def test_reboot_that_is_refused_says_how_the_host_is(
    server: FakeServer, package: Package, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(argv: Sequence[str]) -> None:
        if argv == ("reboot",):
            raise FalconError("Access denied")

    server.before = refuse
    with pytest.raises(FalconError, match="Access denied"):
        put(server, package)
    assert f"once; {OLD} is still its default" in capfd.readouterr().err
    assert server.environment["saved_entry"] == PINNED


def test_journal_that_cannot_be_read_keeps_nothing_armed(
    server: FakeServer, package: Package
) -> None:
    server.boots[NEW] = "panic"
    server.before = refusing("--list-boots")
    with pytest.raises(FalconError) as caught:
        put(server, package)
    assert f"{NEW} did not come up on server: it runs {OLD}" in str(caught.value)
    assert "its journal could not be read (it does not want to)" in str(caught.value)
    assert server.environment == {"saved_entry": PINNED}
    for path in (TRIAL, panics.STATE, deadman.UNIT):
        assert not (server.root / path.lstrip("/")).exists()


# ---- trouble before the reboot -----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("dpkg", "--install"),
        ("grub-reboot", "falcon-trial"),
        ("mkdir", "42_falcon"),
        ("systemctl", "enable"),
        ("panics.json",),
    ],
)
def test_whatever_fails_before_the_reboot_leaves_nothing(
    server: FakeServer, package: Package, words: tuple[str, ...]
) -> None:
    before = server.snapshot()
    server.before = refusing(*words)
    with pytest.raises(FalconError, match="it does not want to"):
        put(server, package)
    server.before = lambda _: None
    assert server.snapshot() == before
    assert_nothing_of_ours(server)
    assert ("reboot",) not in server.commands


def test_package_that_cannot_be_installed(server: FakeServer, package: Package) -> None:
    before = server.snapshot()
    server.break_program("dpkg")
    with pytest.raises(FalconError, match="No space left on device"):
        put(server, package)
    assert server.snapshot() == before


def test_package_that_is_cut_off_while_it_is_unpacked(server: FakeServer, package: Package) -> None:
    before = server.snapshot()
    server.break_program("unpacking")
    with pytest.raises(FalconError, match="dpkg"):
        put(server, package)
    assert server.snapshot() == before


def test_package_that_was_cut_off_can_be_uninstalled_or_installed(
    server: FakeServer, package: Package
) -> None:
    before = server.snapshot()
    server.break_program("unpacking")
    server.run(["dpkg", "--install", "x"])
    assert [name for name in server.snapshot() if name.endswith(".dpkg-new")]
    assert take_away(server) == uninstall.Uninstalled((NEW,), OLD, rebooted=False)
    assert server.snapshot() == before
    server.run(["dpkg", "--install", "x"])
    (server.root / "fail/unpacking").unlink()
    assert put(server, package).release == NEW


def test_grub_that_does_not_note_the_next_boot(server: FakeServer, package: Package) -> None:
    server.break_program("grub-reboot")
    with pytest.raises(FalconError, match="did not note what to boot next"):
        put(server, package)
    assert_nothing_of_ours(server)


def test_grub_that_does_not_read_our_file(server: FakeServer, package: Package) -> None:
    server.break_program("drop-in")
    with pytest.raises(FalconError, match="does not boot the entry it is told"):
        put(server, package)
    assert_nothing_of_ours(server)


def test_second_kernel_that_fails_leaves_the_first_as_it_is(
    server: FakeServer, package: Package, tmp_path: Path
) -> None:
    put(server, package)
    second = "6.12.8-falcon.4567cdef"
    server.boots[second] = "panic"
    server.write("package-release", second)
    other = Package(package.file, second, f"linux-image-{second}", BUILD_ID, package.sha256, 50_000)
    with pytest.raises(FalconError, match=f"it runs {NEW}"):
        put(server, other)
    assert server.environment == {"saved_entry": PROMOTED}
    take_away(server)
    assert_nothing_of_ours(server)
    assert server.kernel_release() == OLD


@pytest.mark.parametrize("words", [("dpkg", "--install"), ("grub-reboot", "falcon-trial")])
@pytest.mark.parametrize("release", [NEW, "6.12.8-falcon.4567cdef"])
def test_failure_leaves_a_kernel_of_ours_the_default_that_does_not_run(
    server: FakeServer, package: Package, release: str, words: tuple[str, ...]
) -> None:
    put(server, package)
    server.run(["grub-reboot", PINNED], check=True)
    server.power_on()
    server.run(["grub-editenv", "/boot/grub/grubenv", "unset", "next_entry"], check=True)
    assert server.kernel_release() == OLD
    before = server.snapshot()
    server.write("package-release", release)
    other = replace(package, release=release, name=f"linux-image-{release}")
    server.before = refusing(*words)
    with pytest.raises(FalconError, match="it does not want to"):
        put(server, other)
    assert server.snapshot() == before
    assert server.environment == {"saved_entry": PROMOTED}


# ---- what is looked at first --------------------------------------------------------------


def test_hosts_own_configuration_is_what_is_built_from(server: FakeServer) -> None:
    wanted = look(server)
    assert wanted.base is not None
    assert wanted.base.text == "CONFIG_OF_THE_SERVER=y\n" and wanted.base.modules is None
    assert "e1000" in (look(server, localmodconfig=True).base.modules or "")  # type: ignore[union-attr]
    assert look(server, config=False).base is None


def test_host_without_its_configuration(server: FakeServer) -> None:
    (server.root / f"boot/config-{OLD}").unlink()
    with pytest.raises(FalconError, match=r"neither /boot/config-.* nor /proc/config\.gz"):
        look(server)


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("architecture", "aarch64", "the host is a aarch64: kernels are built for x86_64 alone"),
        ("target-fs", "btrfs", "could not forget a one-shot entry .* is on btrfs"),
        ("target-abstraction", "lvm", "could not forget a one-shot entry .* is on lvm"),
        ("boot/grub/grub.cfg", "blscfg", "BLS"),
    ],
)
def test_host_that_will_not_do(server: FakeServer, path: str, text: str, complaint: str) -> None:
    server.write(path, text)
    with pytest.raises(FalconError, match=complaint):
        look(server)


def test_host_that_boots_by_something_else(server: FakeServer) -> None:
    (server.root / "boot/grub/grub.cfg").unlink()
    with pytest.raises(FalconError, match=r"does not boot by Debian's GRUB: it has no /boot/grub"):
        look(server)


def test_host_with_secure_boot(server: FakeServer) -> None:
    variable = server.root / (
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    )
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\0\0\0\x01")
    with pytest.raises(FalconError, match="Secure Boot is on"):
        look(server)
    variable.write_bytes(b"\x06\0\0\0\x00")
    look(server)


@pytest.mark.parametrize("packages", ["rpm", "nothing known"])
def test_host_without_dpkg(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, packages: str
) -> None:
    monkeypatch.setattr(Host, "has", lambda _self, program: program == packages)
    with pytest.raises(FalconError) as caught:
        look(server)
    assert str(caught.value) == (
        f"the host does not take Debian packages: its packages are {packages};"
        " only hosts with dpkg are supported"
    )


def test_disk_that_is_too_full_is_told_before_anything_is_copied(
    server: FakeServer, package: Package
) -> None:
    before = server.snapshot()
    server.write("free", f"{40 << 20}")
    with pytest.raises(FalconError) as caught:
        put(server, package)
    # One file system: what the package, the kernel and the initramfs need adds up.
    assert "the disk is too full: 82 MiB are needed in /var/tmp, /boot, /" in str(caught.value)
    assert "40 MiB are free on /dev/vda1" in str(caught.value)
    assert server.snapshot() == before


# ---- copying ----------------------------------------------------------------------------


def test_copying_goes_on_after_a_cut(server: FakeServer, package: Package) -> None:
    remote = f"/var/tmp/{package.file.name}"
    data = package.file.read_bytes()
    cuts = iter([400_000, 900_000])

    def cut(argv: object) -> None:
        if "cat >>" in " ".join(argv):  # type: ignore[arg-type]
            done = next(cuts, None)
            if done:
                server.write(f"{remote.lstrip('/')}.part", "").write_bytes(data[:done])
                raise_lost()

    def raise_lost() -> None:
        failing()(())

    server.before = cut  # type: ignore[assignment]
    told: list[int] = []
    copying.copy(Host(server), package.file, remote, package.sha256, told.append)
    assert (server.root / remote.lstrip("/")).read_bytes() == data
    assert min(told) >= 900_000  # what was there was not sent again
    assert not (server.root / f"{remote.lstrip('/')}.part").exists()


def test_copying_that_is_cut_again_and_again_keeps_what_came(
    server: FakeServer, package: Package
) -> None:
    remote = "/var/tmp/p.deb"
    server.write("var/tmp/p.deb.part", "").write_bytes(package.file.read_bytes()[:1_000_000])
    server.before = failing("cat >>")
    with pytest.raises(FalconError) as caught:
        copying.copy(Host(server), package.file, remote, package.sha256)
    assert "was cut off at 0 of 1 MiB: the connection to server was lost" in str(caught.value)
    assert "run it again: it goes on from there" in str(caught.value)
    assert len((server.root / "var/tmp/p.deb.part").read_bytes()) == 1_000_000


def test_part_of_something_else_is_not_built_upon(server: FakeServer, package: Package) -> None:
    server.write("var/tmp/p.deb.part", "rubbish" * 1000)
    copying.copy(Host(server), package.file, "/var/tmp/p.deb", package.sha256)
    assert (server.root / "var/tmp/p.deb").read_bytes() == package.file.read_bytes()


def test_part_that_is_too_long(server: FakeServer, package: Package) -> None:
    server.write("var/tmp/p.deb.part", "x" * 2_000_000)
    copying.copy(Host(server), package.file, "/var/tmp/p.deb", package.sha256)
    assert (server.root / "var/tmp/p.deb").read_bytes() == package.file.read_bytes()


def test_file_that_is_there_is_not_copied(server: FakeServer, package: Package) -> None:
    (server.root / "var/tmp/p.deb").write_bytes(package.file.read_bytes())
    copying.copy(Host(server), package.file, "/var/tmp/p.deb", package.sha256)
    assert not [argv for argv in server.commands if "cat >>" in " ".join(argv)]


def test_file_that_arrives_damaged(server: FakeServer, package: Package) -> None:
    with pytest.raises(FalconError, match="arrives damaged"):
        copying.copy(Host(server), package.file, "/var/tmp/p.deb", "0" * 64)
    assert not [name for name in server.snapshot() if name.startswith("var/tmp")]


def test_disk_that_fills_up_meanwhile_leaves_no_part(server: FakeServer, package: Package) -> None:
    (server.root / "var/tmp/p.deb.part").symlink_to("/dev/full")
    with pytest.raises(FalconError, match=r"cannot copy .*: .*No space left on device"):
        copying.copy(Host(server), package.file, "/var/tmp/p.deb", package.sha256)
    assert not (server.root / "var/tmp/p.deb.part").is_symlink()


# ---- uninstalling -----------------------------------------------------------------------


def test_uninstalled_the_host_is_as_it_was(server: FakeServer, package: Package) -> None:
    before = server.snapshot()
    put(server, package)
    assert take_away(server) == uninstall.Uninstalled((NEW,), OLD, rebooted=True)
    assert server.snapshot() == before
    assert server.kernel_release() == OLD


def test_what_depmod_made_goes_with_the_kernel_and_nothing_else_does(
    server: FakeServer, package: Package
) -> None:
    modules = server.root / "lib/modules"
    server.write(f"lib/modules/{OLD}/modules.dep", "")
    put(server, package)
    assert (modules / NEW / "modules.dep").exists()
    take_away(server)
    assert [path.name for path in modules.iterdir()] == [OLD]
    assert (modules / OLD / "modules.dep").exists()
    server.write(f"lib/modules/{NEW}/updates/of-somebody-else.ko", "")
    put(server, package)
    take_away(server)
    left = [path for path in (modules / NEW).rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["of-somebody-else.ko"]


def test_uninstalling_after_a_failed_boot_needs_no_reboot(
    server: FakeServer, package: Package
) -> None:
    before = server.snapshot()
    server.boots[NEW] = "panic"
    with pytest.raises(FalconError):
        put(server, package)
    server.commands.clear()
    assert take_away(server) == uninstall.Uninstalled((NEW,), OLD, rebooted=False)
    assert ("reboot",) not in server.commands
    assert server.snapshot() == before


def test_uninstalling_nothing_changes_nothing(server: FakeServer) -> None:
    before = server.snapshot()
    assert take_away(server) == uninstall.Uninstalled((), OLD, rebooted=False)
    assert server.snapshot() == before


def test_host_with_no_other_kernel_keeps_ours(server: FakeServer, package: Package) -> None:
    put(server, package)
    (server.root / f"boot/vmlinuz-{OLD}").unlink()
    server.run(["update-grub"], check=True)
    with pytest.raises(FalconError, match="has no other kernel than ours"):
        take_away(server)
    assert server.kernel_release() == NEW and (server.root / f"boot/vmlinuz-{NEW}").exists()


def test_old_kernel_that_does_not_come_back_leaves_ours_installed(
    server: FakeServer, package: Package
) -> None:
    put(server, package)
    server.boots[OLD] = "hang"
    with pytest.raises(FalconError, match=f"did not come back .* {OLD} is its default now"):
        take_away(server)
    assert (server.root / f"boot/vmlinuz-{NEW}").exists()


# ---- several hosts ----------------------------------------------------------------------


def test_host_that_fails_at_any_step_is_out_and_the_others_go_on(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["good", "arm", "unbuildable", "panics"]
    servers = {name: FakeServer(tmp_path, name) for name in names}
    servers["arm"].write("architecture", "aarch64")
    servers["unbuildable"].write(f"boot/config-{OLD}", "CONFIG_UNBUILDABLE=y\n")
    servers["panics"].boots[NEW] = "panic"

    def build(*_: object, base: Base, **__: object) -> Package:
        if "UNBUILDABLE" in base.text:
            raise FalconError("it does not compile")
        return package

    monkeypatch.setattr(fleet, "SshMachine", lambda name, _access: servers[name])
    monkeypatch.setattr(rollout, "build_package", build)
    choice = rollout.Choice(series.load(), None, rollout.OWN, False, 60)  # type: ignore[arg-type]
    done = rollout.install_on(names, Access(), choice)
    assert [outcome.host for outcome in done] == names
    assert done[0].value == install.Installed(NEW, OLD, rebooted=True)
    complaints = ["the host is a aarch64", "it does not compile", f"{NEW} did not come up"]
    for outcome, complaint in zip(done[1:], complaints, strict=True):
        assert complaint in str(outcome.error)
    assert [("reboot",) in servers[name].commands for name in names] == [True, False, False, True]
    removed = rollout.uninstall_on(["good", "panics"], Access(), 60)
    assert [outcome.value.removed for outcome in removed if outcome.value] == [(NEW,), (NEW,)]


# ---- status -----------------------------------------------------------------------------


def status_of(server: FakeServer) -> status.Status:
    return status.look(server, lambda _: None)  # type: ignore[arg-type]


def test_status_before_and_after(server: FakeServer, package: Package) -> None:
    assert status_of(server) == status.Status(OLD, "", OLD, (), ())
    put(server, package)
    assert status_of(server) == status.Status(NEW, "0", NEW, (NEW,), ())
    take_away(server)
    assert status_of(server) == status.Status(OLD, "", OLD, (), ())


def test_status_tells_what_a_cut_off_install_left(server: FakeServer, package: Package) -> None:
    server.write("package-release", NEW)
    server.run(["dpkg", "--install", "x"], check=True)
    grub = Grub(Host(server))
    grub.pin(OLD)
    grub.arm(NEW)
    found = status_of(server)
    assert found.default == OLD and found.ours == (NEW,)
    assert found.leftovers == ("one boot of a new kernel is armed",)
    assert server.read(DROP_IN.lstrip("/"))
