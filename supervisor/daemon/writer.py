"""Storing what the engine decides, without making it wait for a disk.

What is marked in one turn of the event loop is one transaction, in a thread of its own, in the order of the
marks (two, where something is removed that has just ended); exit records are acknowledged when they are
stored. A disk that is full is said and tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from supervisor.core.state import Instance
from supervisor.daemon.measures import Measures
from supervisor.daemon.state import Changes, RunRecord, StateDatabase, StateError, Stored

_RETRY_S = 1.0
End = tuple[str, RunRecord]


@dataclass(slots=True)
class _Marked:
    """What waits to be stored. The state of an instance is looked up when it is stored: the newest counts."""

    new: dict[str, Stored] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    ends: list[End] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.ends or self.removed)

    def postponed(self) -> list[str]:
        """Take out the removals of what has an end here: they are for the next transaction."""
        ended = {instance_id for instance_id, _ in self.ends}
        later = [instance_id for instance_id in self.removed if instance_id in ended]
        self.removed = [instance_id for instance_id in self.removed if instance_id not in ended]
        return later

    def before(self, later: _Marked) -> _Marked:
        """This, which could not be stored, and what came after it."""
        return _Marked(
            {**self.new, **later.new},
            self.changed | later.changed,
            self.ends + later.ends,
            self.removed + later.removed,
        )


class StateWriter:
    """See the module. All methods belong to the event loop.

    current: the states of those of these instances that are still there, and when the run of each that runs
    began by the wall clock. stored: told of ends that are safe.
    """

    def __init__(
        self,
        database: StateDatabase,
        current: Callable[[Iterable[str]], list[tuple[Instance, float | None]]],
        stored: Callable[[list[End]], None],
        report: Callable[[str], None],
        measures: Measures,
    ) -> None:
        self._database = database
        self._current = current
        self._on_stored = stored
        self._report = report
        self._measures = measures
        self._marked = _Marked()
        self._thread = ThreadPoolExecutor(1, "state")
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._closed = False

    # --- marking --------------------------------------------------------------------------------
    def new(self, stored: Stored) -> None:
        """An instance that the database does not have."""
        self._marked.new[stored.instance.id] = stored
        self._soon()

    def changed(self, instance_id: str) -> None:
        """Its state is another one."""
        self._marked.changed.add(instance_id)
        self._soon()

    def ended(self, instance_id: str, record: RunRecord) -> None:
        """A run has ended; its instance has changed, too."""
        self._marked.ends.append((instance_id, record))
        self.changed(instance_id)

    def removed(self, instance_id: str) -> None:
        """It is not there any more.

        An end of it that waits is stored first, for only then it is acknowledged: a launcher that still keeps
        the record would bring the instance back.
        """
        self._marked.removed.append(instance_id)
        self._marked.new.pop(instance_id, None)
        self._soon()

    # --- storing --------------------------------------------------------------------------------
    async def flushed(self) -> None:
        """Wait until all that is marked now is stored. Raises StateError if the next try fails."""
        if not self._marked and self._task is None:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._soon()
        await future

    async def close(self) -> None:
        """Store what is left, unless that fails; afterwards nothing is stored any more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while (self._marked or self._waiting) and await self._try():
            pass
        self._thread.shutdown()

    def _soon(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._marked or self._waiting:
                if not await self._try():
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._task = None

    async def _try(self) -> bool:
        """One transaction; whether it was stored."""
        marked = self._marked
        self._marked = _Marked(removed=marked.postponed())
        waiting, self._waiting = self._waiting, []
        current = self._current(marked.changed)
        changes = Changes(
            new=tuple(marked.new.values()),
            instances=tuple(instance for instance, _ in current),
            began=tuple((instance.id, instance.run, wall) for instance, wall in current if wall is not None),
            ends=tuple(marked.ends),
            removed=tuple(marked.removed),
        )
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._database.apply, changes)
        try:
            # A transaction that is under way is not given up: what becomes of it must be known.
            await asyncio.shield(writing)
        except Exception as error:  # noqa: BLE001 - whatever it is: what was decided is not given up
            self._failed(marked, waiting, error)
            return False
        except asyncio.CancelledError:
            try:
                await writing
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(marked, waiting, error)
            else:
                self._succeeded(changes, waiting)
            raise
        self._succeeded(changes, waiting)
        return True

    def _failed(self, marked: _Marked, waiting: list[asyncio.Future[None]], error: Exception) -> None:
        self._marked = marked.before(self._marked)
        self._measures.state_write_failures += 1
        known = error if isinstance(error, StateError) else StateError(f"cannot store the state: {error!r}")
        self._report(f"{known}; trying again in {_RETRY_S:g} s")
        for future in waiting:
            if not future.done():
                future.set_exception(known)

    def _succeeded(self, changes: Changes, waiting: list[asyncio.Future[None]]) -> None:
        self._measures.state_written_wall = time.time()
        self._on_stored(list(changes.ends))
        if {instance_id for instance_id, _ in changes.ends}.intersection(self._marked.removed):
            self._waiting = waiting + self._waiting  # the removals that were postponed are theirs, too
            return
        for future in waiting:
            if not future.done():
                future.set_result(None)
