"""Which network namespace something is in."""

from __future__ import annotations

import fcntl
import os

_SIOCGSKNS = 0x894C  # linux/sockios.h, Linux 4.9


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
