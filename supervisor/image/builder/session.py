"""One build under way: its directory beside the store, what it numbers and tells, and its end.

`<store>/build/underway/<id>` has what is not yet a layer; whoever builds holds it (`kernel.locks.claim`).
What a kill left there the next build or prune removes, and what it kept in memory:
`/dev/shm/shipkeeper-<id>` (secrets, sockets).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from supervisor.image.builder import progress
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.writing import StoppedError
from supervisor.kernel import locks

T = TypeVar("T")
_MEMORY = "/dev/shm"  # noqa: S108 - in a directory that only root may enter


@dataclass(slots=True)
class Vertex:
    """A step as people see it; made by `Session.vertex`."""

    number: int
    tell: Callable[[progress.Event], None]
    cached: bool = False
    code: int | None = None

    def note(self, text: str) -> None:
        """One line about it."""
        self.tell(progress.Note(self.number, text))

    def output(self, data: bytes, stderr: bool) -> None:
        """What its process wrote."""
        self.tell(progress.Output(self.number, data, stderr))


@dataclass(slots=True)
class Session:
    """See the module. Used from one event loop; made by `begin`, ended by `end`."""

    place: str
    memory: str
    tell: Callable[[progress.Event], None]
    _lock: int
    stopped: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _names: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def begin(cls, store_root: str, tell: Callable[[progress.Event], None]) -> Session:
        """Make its directory, and remove what was cut off. Raises OSError."""
        parent = _parent(store_root)
        os.makedirs(parent, 0o700, exist_ok=True)
        Path(f"{store_root}/build").chmod(0o711)
        sweep(store_root)
        name = secrets.token_hex(8)
        lock = locks.claim(parent, name)
        return cls(f"{parent}/{name}", _memory_of(name), tell, lock)

    def end(self) -> None:
        """Remove everything of it."""
        shutil.rmtree(self.memory, ignore_errors=True)
        shutil.rmtree(self.place, ignore_errors=True)
        os.close(self._lock)

    def directory(self, kind: str = "d") -> str:
        """A new empty directory on the store's file system, mode 0755 whatever the umask is."""
        path = f"{self.place}/{kind}{next(self._names)}"
        os.mkdir(path)
        Path(path).chmod(0o755)
        return path

    def in_memory(self) -> str:
        """A new path in a directory of memory that only root may enter."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.memory, 0o700)
        return f"{self.memory}/{next(self._names)}"

    async def thread(self, work: Callable[[], T]) -> T:
        """Run what blocks. A cancelled task waits for its end, which `stopped` brings near."""
        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.stopped.set()
            with contextlib.suppress(BaseException):
                await task
            raise
        except StoppedError:
            raise asyncio.CancelledError from None

    @contextlib.asynccontextmanager
    async def vertex(self, name: str) -> AsyncIterator[Vertex]:
        """A step from begin to end."""
        vertex = Vertex(next(self._numbers), self.tell)
        began = time.monotonic()
        self.tell(progress.Started(vertex.number, name))
        error, cancelled = "", False
        try:
            yield vertex
        except asyncio.CancelledError:
            error, cancelled = "cancelled", True
            raise
        except Exception as problem:
            error = str(problem)
            raise
        finally:
            seconds = time.monotonic() - began
            self.tell(progress.Ended(vertex.number, seconds, vertex.cached, error, cancelled))


def sweep(store_root: str) -> None:
    """Remove what killed builds left. Raises OSError."""
    parent = _parent(store_root)
    if not os.path.isdir(parent):
        return
    for name in locks.unclaimed(parent):
        shutil.rmtree(_memory_of(name.lstrip(".")), ignore_errors=True)
        shutil.rmtree(f"{parent}/{name}", ignore_errors=True)


def _parent(store_root: str) -> str:
    return f"{store_root}/build/underway"


def _memory_of(name: str) -> str:
    return f"{_MEMORY}/shipkeeper-{name}"


def failed(error: OSError, what: str) -> BuildError:
    """A call of the system that was refused, for the user."""
    where = f": {error.filename}" if error.filename else ""
    hint = "; free some space, `shipkeeper image prune` does" if error.errno in (28, 122) else ""
    return BuildError(f"cannot {what}: {error.strerror or error}{where}{hint}")
