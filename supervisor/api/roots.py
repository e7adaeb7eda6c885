"""The root of an instance for a request: of its process where it runs, mounted for the request where not."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from supervisor.core.state import Waiting
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry, Process
from supervisor.daemon.outcomes import is_down
from supervisor.runtime.rootfiles import hidden_devices
from supervisor.runtime.rootview import (
    NotYetError,
    read_only,
    root_alone,
    root_of_plan,
    root_of_process,
)

T = TypeVar("T")
_LOOK_S = 0.01
_LOOKS = 500


@dataclass(frozen=True, slots=True)
class View:
    """root: a descriptor of it. hidden: see `write_tar`."""

    root: int
    hidden: frozenset[int] = frozenset()


async def in_root(daemon: Daemon, entry: Entry, work: Callable[[View], T], *, writable: bool = False) -> T:
    """Call `work` in a thread with the root of an instance and its volumes. Raises HTTPConflict, OSError."""
    for _ in range(_LOOKS):
        process = entry.process
        if process is not None and process.pidfd >= 0:
            try:
                return await asyncio.to_thread(_of_process, process, work)
            except (NotYetError, ProcessLookupError):
                pass  # it begins, or it ends: both are quickly over
            except FileNotFoundError:
                if Path(f"/proc/{process.pid}/ns").exists():
                    raise
        elif is_down(entry.instance) or (isinstance(entry.instance.phase, Waiting) and not writable):
            if writable and entry.stored.spec.read_only:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return await asyncio.to_thread(_of_plan, daemon, entry, work, writable)
        await asyncio.sleep(_LOOK_S)
    raise web.HTTPConflict(
        text=f"cannot copy files of {entry.stored.name}: it is between two runs; try again, or stop it first"
    )


async def in_root_alone(daemon: Daemon, entry: Entry, work: Callable[[int], T]) -> T:
    """Call `work`, in a thread, with the root as its layers are; what is mounted in it is not there."""

    def make() -> T:
        with daemon.plans.looked_at(entry.stored) as steps:
            root = root_alone(steps)
        return root_of_plan(read_only([root]), daemon.paths.root_mountpoint, work)

    return await asyncio.to_thread(make)


def _of_process(process: Process, work: Callable[[View], T]) -> T:
    with root_of_process(process.pid, process.pidfd) as root:
        hidden = hidden_devices(Path(f"/proc/{process.pid}/mountinfo").read_text())
        return work(View(root, hidden))


def _of_plan(daemon: Daemon, entry: Entry, work: Callable[[View], T], writable: bool) -> T:
    with daemon.plans.looked_at(entry.stored) as steps:
        wanted = steps if writable else read_only(steps)
        return root_of_plan(
            wanted, daemon.paths.root_mountpoint, lambda root: work(View(root)), writable=writable
        )
