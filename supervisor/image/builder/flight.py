"""One build makes a step, the others that need the same one wait for it and take its layer.

A lock file for each key of a step, held while the step is made: between the builds of one process as between
processes, for a lock of flock(2) is the open file's. The kernel lets go of it with the process, so a build
that is killed or cancelled, or whose step fails, leaves the step to the next one that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from supervisor.kernel.locks import try_lock

_FIRST_WAIT_S = 0.01
_LONGEST_WAIT_S = 0.2


@contextlib.asynccontextmanager
async def alone(parent: str, key: str, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold the lock of a key; `tell` hears once if that takes waiting. Cancelling ends the wait at once.

    Locks are tried again and again: a thread that sleeps in flock(2) could not be cancelled. Raises OSError.
    """
    os.makedirs(parent, 0o700, exist_ok=True)
    path = f"{parent}/{key}"
    wait_s = 0.0
    while (lock := _try(path)) is None:
        if not wait_s:
            tell("another build is making this step; waiting for it")
        wait_s = min(wait_s * 2 or _FIRST_WAIT_S, _LONGEST_WAIT_S)
        await asyncio.sleep(wait_s)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # before it is let go: who waits sees that it is not the path's any more
        os.close(lock)


def _try(path: str) -> int | None:
    """The lock, or None while somebody has it."""
    lock = try_lock(path)
    if lock is None:
        return None
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock), os.stat(path)):
            return lock
    os.close(lock)
    return None
