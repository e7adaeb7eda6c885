"""Descriptors 0, 1 and 2 of a new process, in the child: pipes and the null device, or a pty of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from supervisor.kernel import mounts
from supervisor.kernel import syscalls as sc
from supervisor.launcher.steps import StepError

# asm-generic/ioctls.h
_TIOCSPTLCK, _TIOCGPTN, _TIOCGPTPEER = 0x4004_5431, 0x8004_5430, 0x5441
_TIOCSCTTY = 0x540E


def use_pipes(given: tuple[int, int, int], uid: int) -> None:
    """What is given, as 0, 1 and 2; -1 is the null device of the root. Raises OSError, StepError."""
    null = _null() if -1 in given else -1
    # Above 2 first, so that no dup2 overwrites one that is still needed.
    high = [fcntl.fcntl(fd if fd >= 0 else null, fcntl.F_DUPFD_CLOEXEC, 3) for fd in given]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
        if given[number] >= 0:
            os.fchown(number, uid, -1)  # so that /dev/stdout can be opened by its user (runc)


def use_pty(uid: int, channel: socket.socket, *, console: bool) -> None:
    """A pty of the container's own devpts; its slave is 0..2, controlling terminal and /dev/console.

    The master goes through the channel. Raises OSError, StepError.
    """
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if os.fstat(master).st_rdev != os.makedev(5, 2):
        raise StepError("stdio", 0, "/dev/pts/ptmx is not the pty multiplexer")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, b"\0\0\0\0"))[0]
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    os.fchown(slave, uid, -1)
    if console:
        _bind_console(number)
    socket.send_fds(channel, [b'["tty"]'], [master])
    slave = fcntl.fcntl(slave, fcntl.F_DUPFD_CLOEXEC, 3)
    for target in range(3):
        os.dup2(slave, target)
    fcntl.ioctl(0, _TIOCSCTTY, 0)


def _bind_console(number: int) -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = mounts.make_file(root, "/dev/console")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return  # a /dev that was given read-only, without the file: Docker cannot have one either
    made = mounts.tree(sc.AT_FDCWD, f"/dev/pts/{number}")
    mounts.attach(made, place)


def _null() -> int:
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not mounts.is_null(fd):
        raise StepError("stdio", 0, "/dev/null of the new root is not the null device")
    return fd
