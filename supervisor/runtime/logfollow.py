"""Following logs: what is written from now on, in time order, with the marks of runs that begin and end."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from supervisor.runtime.logmarks import RunMarker, interleave, position, within
from supervisor.runtime.logs import Cursor, LogRecord
from supervisor.runtime.watching import WRITTEN, Watching

_PARTIAL_PAUSE_S = 0.2
_LATE_S = 0.1  # how long after a death its last lines may come


class Follower:
    """Follows any number of logs; instances may be added and removed while it runs.

    `async for record in follower` never ends by itself. Woken by inotify: nothing runs while nothing is
    written. An unfinished line (a prompt) is shown as a partial record after 0.2 s. Needs a running loop.
    """

    def __init__(self) -> None:
        """Raises OSError where inotify instances are used up."""
        self._inotify = Watching()
        self._cursors: dict[str, Cursor] = {}
        self._watches: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._backlog: list[LogRecord | RunMarker] = []
        self._ready: deque[LogRecord | RunMarker] = deque()
        self._ends: dict[str, tuple[RunMarker, asyncio.TimerHandle]] = {}
        self._between: set[str] = set()  # a run has ended, and the next has not begun, as far as we were told
        self._held: dict[str, tuple[list[LogRecord], asyncio.TimerHandle]] = {}
        self._inotify.listen(self._wake.set)

    def add(
        self,
        instance: str,
        path: str,
        *,
        tail: int | None = 0,
        since_ns: int | None = None,
        markers: Iterable[RunMarker] = (),
    ) -> None:
        """Follow one more log, after its history (tail=None: all of it, which is then held in memory).

        markers: of its runs until now; those before the first line that is shown are left out.
        The directory of `path` must exist (FileNotFoundError); the file need not. Reads the disk; before the
        first iteration it may be called from a thread.
        """
        cursor = Cursor(instance, path)
        self._watches[instance] = self._inotify.watch(os.path.dirname(path), WRITTEN)
        self._cursors[instance] = cursor
        history = list(cursor.history(tail=tail, since_ns=since_ns))
        self._backlog += interleave(history, within(markers, history, tail, since_ns))
        self._wake.set()

    def mark(self, marker: RunMarker) -> None:
        """A run has just begun or ended. Its end is held back until its last lines are sure to be there.

        Lines that come between an end and a beginning are held back, too: they may be the next run's, and we
        are told of that only then.
        """
        self._release(marker.instance, marker.stamp_ns)
        if marker.ends:
            self._between.add(marker.instance)
            timer = asyncio.get_running_loop().call_later(_LATE_S, self._release, marker.instance)
            self._ends[marker.instance] = (marker, timer)
            return
        self._between.discard(marker.instance)
        self._backlog.append(marker)
        self._wake.set()

    def holds(self, instance: str) -> bool:
        """Whether it has lines that wait for the beginning of a run."""
        return instance in self._held

    def _hold(self, instance: str, records: list[LogRecord]) -> None:
        """Until its next run has begun, but not for long: it may be that there is none."""
        if instance in self._held:
            self._held[instance][0].extend(records)
        elif records:
            timer = asyncio.get_running_loop().call_later(_LATE_S, self._release, instance)
            self._held[instance] = (list(records), timer)

    def _release(self, instance: str, before_ns: int | None = None) -> None:
        """Let the end of a run go, in front of the beginning of the next one if there is one already.

        And the lines that were held back: their stamps say where they stand.
        """
        last_ns = 0
        if instance in self._held:
            records, timer = self._held.pop(instance)
            timer.cancel()
            last_ns = records[-1].stamp_ns
            self._backlog += records
            self._wake.set()
        if instance in self._ends:
            marker, timer = self._ends.pop(instance)
            timer.cancel()
            late_ns = (
                max(marker.stamp_ns + int(_LATE_S * 1e9), last_ns) if before_ns is None else before_ns - 1
            )
            self._backlog.append(replace(marker, behind_ns=late_ns))
            self._wake.set()

    def remove(self, instance: str) -> None:
        """Stop following; what was written until now may be lost to the reader. Unknown is no error."""
        cursor = self._cursors.pop(instance, None)
        if cursor is None:
            return
        cursor.close()
        self._release(instance)
        self._between.discard(instance)
        number = self._watches.pop(instance)
        if number not in self._watches.values():
            self._inotify.unwatch(number)

    def close(self) -> None:
        """End following. Call it in the loop that made it."""
        for instance in list(self._cursors):
            self.remove(instance)
        self._inotify.close()

    async def __aiter__(self) -> AsyncIterator[LogRecord | RunMarker]:
        """Records in time order within each wake-up."""
        changed = set(self._cursors)
        while True:
            records, self._backlog = self._backlog, []  # what was written before a mark is read before it
            more = False
            for instance in changed & self._cursors.keys():
                fresh = self._cursors[instance].fresh()
                more = more or bool(fresh)
                if instance in self._between:
                    self._hold(instance, fresh)
                else:
                    records += fresh
            # Kept until they are taken: a caller may leave its loop and come back.
            self._ready.extend(sorted(records, key=position))
            while self._ready:
                yield self._ready.popleft()
            if not more:
                changed = await self._changes()

    async def _changes(self) -> set[str]:
        """Wait for a change; the instances that it may concern."""
        while True:
            waiting = [cursor for cursor in self._cursors.values() if cursor.has_unfinished]
            try:
                async with asyncio.timeout(_PARTIAL_PAUSE_S if waiting else None):
                    await self._wake.wait()
            except TimeoutError:
                for cursor in waiting:
                    self._backlog += cursor.unfinished()
                return set()
            self._wake.clear()
            numbers = {event.watch for event in self._inotify.read()}
            if self._backlog or -1 in numbers:
                return set(self._cursors)
            changed = {instance for instance, number in self._watches.items() if number in numbers}
            if changed:
                return changed
