"""Files held by flock(2), and directories that live as long as whoever holds the lock in them.

A lock is the open file's: it keeps the tasks of one process apart as it does processes, and the kernel lets
go of it with the process. So what a kill left is told from what somebody works in, without any record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

_LOCK = "lock"
_UNLOCKED_S = 60.0


def try_lock(path: str, how: int = fcntl.LOCK_EX, *, make: bool = True) -> int | None:
    """A descriptor that holds the file, for the caller to close; None while somebody else has it.

    how: LOCK_EX or LOCK_SH. make: make the file where it is missing. Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def claim(parent: str, name: str) -> int:
    """Make the directory `parent/name`, mode 0700, and hold its file `lock`: the caller closes that.

    The directory is removed before the lock is let go; what a kill left, `unclaimed` finds. Raises OSError.
    """
    # Under another name until it is locked, so that nobody takes it for left behind in between.
    new = f"{parent}/.{name}"
    os.mkdir(new, 0o700)
    lock = try_lock(f"{new}/{_LOCK}")
    assert lock is not None
    os.rename(new, f"{parent}/{name}")
    return lock


def unclaimed(parent: str) -> Iterator[str]:
    """The name of each directory in `parent` that nobody holds, held here until the next one is asked for.

    A directory that was cut off before it was locked has a dot before its name. Raises OSError.
    """
    for name in sorted(os.listdir(parent)):
        try:
            lock = try_lock(f"{parent}/{name}/{_LOCK}", make=False)
        except FileNotFoundError:
            # One with a dot somebody may be about to lock; of another a removal was cut off behind its lock.
            if not name.startswith(".") or _age_s(f"{parent}/{name}") > _UNLOCKED_S:
                yield name
            continue
        if lock is None:
            continue
        try:
            yield name
        finally:
            os.close(lock)


def _age_s(path: str) -> float:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - os.stat(path).st_mtime
    return 0.0
