"""Network namespaces that outlive their processes: made, kept by a bind mount of their file, entered, let go.

They are entered by one thread of a process only, so that the others stay where they are; whoever makes or
enters one does it in a thread that does nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from supervisor.kernel import syscalls as sc

_OWN = "/proc/thread-self/ns/net"
_SIOCGSKNS = 0x894C  # linux/sockios.h, Linux 4.9


def names(directory: str) -> list[str]:
    """Files of namespaces in a directory."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def is_kept(path: str) -> bool:
    """Whether that file stands for a namespace: after a reboot it does not any more."""
    try:
        return os.stat(path).st_dev == os.stat(_OWN).st_dev
    except OSError:
        return False


def of_file(path: str) -> int:
    """The inode of the network namespace that a file is bound to; 0 if there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def of_socket(fd: int) -> int:
    """The inode of the network namespace of a socket; 0 if the kernel does not tell."""
    try:
        namespace = fcntl.ioctl(fd, _SIOCGSKNS)
    except OSError:
        return 0
    try:
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)


def create(path: str) -> None:
    """Make a namespace that the file `path` keeps. In a thread of its own; raises OSError."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sc.unshare(sc.CLONE_NEWNET)
        try:
            sc.mount(_OWN, path, None, sc.MS_BIND)
        finally:
            sc.setns(home, sc.CLONE_NEWNET)
    finally:
        os.close(home)


def remove(path: str) -> None:
    """Keep it no longer: it goes with its last process. Idempotent. Raises OSError."""
    while True:
        try:
            sc.umount2(path, sc.MNT_DETACH)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                break
            raise
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_all(directory: str) -> None:
    """Keep none of those in a directory. Raises OSError."""
    for name in names(directory):
        remove(f"{directory}/{name}")


def enter(path: str) -> None:
    """This thread goes into that namespace, to stay. Raises OSError."""
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sc.setns(there, sc.CLONE_NEWNET)
    finally:
        os.close(there)


@contextlib.contextmanager
def entered(path: str) -> Iterator[int]:
    """This thread is in that namespace meanwhile; a descriptor of it. Raises OSError."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sc.setns(there, sc.CLONE_NEWNET)
            try:
                yield there
            finally:
                sc.setns(home, sc.CLONE_NEWNET)
        finally:
            os.close(there)
    finally:
        os.close(home)


def read_sysctl(name: str) -> str:
    """A value below /proc/sys/net of this thread's namespace. Dots of interface names stay: write slashes."""
    with open(f"/proc/sys/net/{name}") as file:
        return file.read().strip()


def write_sysctl(name: str, value: str) -> None:
    """Set one. Raises OSError."""
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(value)


def has_sysctl(name: str) -> bool:
    """Whether there is such a value: a kernel without IPv6 has none of its."""
    return os.path.exists(f"/proc/sys/net/{name}")
