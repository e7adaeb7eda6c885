"""Directories below which the launcher sees what is mounted later: shared mounts of themselves.

The launcher has a mount namespace of its own, a slave of ours, and / may not be shared. So such a directory
is one from before the launcher is started; it lives as long as the host is up, or until `unshare`.
"""

from __future__ import annotations

import contextlib
import os

from supervisor.kernel import syscalls as sc
from supervisor.runtime.hostmounts import mounts_here


def share(directory: str) -> str:
    """Make a directory such a mount, and itself where missing; its real path. Idempotent. Raises OSError."""
    os.makedirs(directory, 0o700, exist_ok=True)
    real = os.path.realpath(directory)
    if not _is_mount(real):
        sc.mount(real, real, None, sc.MS_BIND)
    sc.mount("none", real, None, sc.MS_SHARED)
    return real


def unshare(directory: str) -> None:
    """The opposite, once nothing is in it. Idempotent. Raises OSError."""
    real = os.path.realpath(directory)
    while _is_mount(real):
        sc.umount2(real, sc.MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(real)


def _is_mount(real: str) -> bool:
    """By the table: one of the same device as what is above it, too."""
    return any(mount.target == real for mount in mounts_here())
