# SPDX-License-Identifier: GPL-2.0-only
"""Network namespaces that die with us.

In: a label for error messages. Out: a `Namespace`, in which links are made,
files read and programs started. It has no name in ``/run/netns``: a thread of
this process lives in it, and when that thread ends, or the process is killed,
the kernel removes the namespace with all its devices. Nothing can be left
behind, and there is nothing to sweep up.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from harness.closing import Closing
from harness.errors import FalconError

T = TypeVar("T")

# linux/sched.h, linux/mount.h
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
# NETNSA_NSID_NOT_ASSIGNED of linux/net_namespace.h, unsigned.
UNKNOWN_NSID = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)


def _system_call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def _enter_new_namespace() -> None:
    """Put the calling thread into a network namespace of its own.

    It gets its own mount namespace, too: /sys/class/net shows the devices of
    the namespace that mounted it.
    """
    _system_call("unshare", CLONE_NEWNET | CLONE_NEWNS)
    _mount_own_sysfs()


def _mount_own_sysfs() -> None:
    """Needs a mount namespace of this thread's own."""
    _system_call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    try:
        _system_call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)
    except OSError as error:
        if error.errno != errno.EBUSY:  # it is this namespace's there already
            raise


def enter(fd: int) -> None:
    """Put the calling thread into the network namespace that ``fd`` is open on."""
    _system_call("setns", fd, CLONE_NEWNET)


class Namespace(Closing):
    """A network namespace of ours, one that is there (`existing`), or the `current` one.

    All work in it is done by its one thread, so `call` only short things;
    sockets and processes made there stay in the namespace wherever they go.
    """

    def __init__(self, label: str, enter: Callable[[], None] = _enter_new_namespace):
        self.label = label
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"netns-{label}")
        try:
            self._ip, self.fd = self.call(self._open, enter)
        except OSError as error:
            self._thread.shutdown()
            raise FalconError(
                f"cannot make the network namespace {label}", str(error), "run as root"
            ) from None

    @classmethod
    def current(cls) -> Namespace:
        """The namespace this process runs in; closing it removes nothing."""
        return cls("current", enter=lambda: None)

    @classmethod
    def existing(cls, label: str, path: Path, inode: int) -> Namespace:
        """The namespace that the file ``path`` stands for; closing it removes nothing.

        Raises `FalconError` when it is gone, or another with another ``inode`` is there.
        """

        def join() -> None:
            fd = os.open(path, os.O_RDONLY)
            try:
                if os.fstat(fd).st_ino != inode:
                    raise FileNotFoundError(errno.ENOENT, "another is in its place", str(path))
                # Before the mounts: sysfs shows the devices of who mounted it.
                enter(fd)
            finally:
                os.close(fd)
            _system_call("unshare", CLONE_NEWNS)
            _mount_own_sysfs()

        try:
            return cls(label, enter=join)
        except FalconError as error:
            raise FalconError(
                f"cannot enter the network namespace {label}", error.why, "run as root"
            ) from None

    @staticmethod
    def _open(enter: Callable[[], None]) -> tuple[IPRoute, int]:
        enter()
        return IPRoute(), os.open(
            f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY
        )

    # -- running things in it ------------------------------------------------

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``function`` in the namespace and return what it returns."""
        return self._thread.submit(function, *args, **kwargs).result()

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, for use by any thread."""
        return self.call(socket.socket, family, kind, protocol)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program in the namespace; ``options`` are `subprocess.Popen`'s."""
        return self.call(subprocess.Popen, argv, text=True, **options)

    # -- its files ------------------------------------------------------------

    def read(self, path: str) -> str:
        """The text of a file as seen from inside: /sys/class/net, /proc/sys/net."""
        return self.call(Path(path).read_text, encoding="ascii")

    def write(self, path: str, text: str) -> None:
        """Write such a file; raises `OSError` when the kernel refuses."""
        self.call(Path(path).write_text, text, encoding="ascii")

    def exists(self, path: str) -> bool:
        """True when such a file or directory is there."""
        return self.call(Path(path).exists)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory as seen from inside, sorted."""
        return sorted(self.call(os.listdir, path))

    def read_proc_net(self, name: str) -> str:
        """The text of ``/proc/net/<name>`` of this namespace."""
        # /proc/net is the main thread's; ours is under thread-self.
        return self.read(f"/proc/thread-self/net/{name}")

    # -- its devices -----------------------------------------------------------

    def ip(self, noun: str, verb: str, **arguments: Any) -> list[Any]:
        """One rtnetlink request in pyroute2's words: ``ip("link", "set", index=3, mtu=9000)``."""
        try:
            return list(self.call(getattr(self._ip, noun), verb, **arguments) or ())
        except NetlinkError as error:
            words = " ".join(f"{key} {value}" for key, value in arguments.items())
            raise FalconError(
                f"`ip {noun} {verb} {words}` failed in namespace {self.label}",
                os.strerror(error.code) if error.code > 0 else str(error),
            ) from error

    def index(self, device: str) -> int:
        """The ifindex of ``device``; raises `FalconError` when there is none."""
        found = self.call(self._ip.link_lookup, ifname=device)
        if not found:
            raise FalconError(f"namespace {self.label} has no device {device}")
        return found[0]

    def has(self, device: str) -> bool:
        """True when there is such a device."""
        return bool(self.call(self._ip.link_lookup, ifname=device))

    def devices(self) -> tuple[str, ...]:
        """The names of all devices in it, the loopback included."""
        return tuple(link.get("ifname") for link in self.ip("link", "dump"))

    def delete(self, device: str) -> None:
        """Remove a device."""
        self.ip("link", "del", index=self.index(device))

    def nsid(self, fd: int) -> int | None:
        """What this namespace's devices call the namespace that ``fd`` is open on.

        None when none of them has ever had to do with it.
        """
        number: int = self.call(self._ip.get_netnsid, fd=fd)["nsid"]
        return None if number in (-1, UNKNOWN_NSID) else number

    def route_to(self, address: str) -> Any:
        """The route that packets for ``address`` take, in pyroute2's form; None without one."""
        try:
            return next(iter(self.call(self._ip.route, "get", dst=address)), None)
        except NetlinkError:
            return None

    def way_to(self, address: str) -> int | None:
        """The index of the device by which packets for ``address`` leave; None without a route."""
        route = self.route_to(address)
        found: int | None = route.get("oif") if route else None
        return found

    # -- its end -----------------------------------------------------------------

    def close(self) -> None:
        """Leave it; the kernel removes it once no process and no socket is left in it."""
        if self.fd < 0:
            return
        self.call(self._ip.close)
        os.close(self.fd)
        self.fd = -1
        self._thread.shutdown()
