"""Marks of runs among the lines of a log: where each began and ended, and which lines stand before an end.

A line is stamped when it is read from the pipe, which may be after its writer's death was seen. So a stamp
does not say which run a line is of; what stands before the beginning of the next run is of the run before.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from supervisor.runtime.logs import LogRecord


@dataclass(frozen=True, slots=True)
class RunMarker:
    """A line that no service wrote: where a run began or, with `ends`, ended. `text` is what is shown.

    behind_ns: it stands behind lines with this stamp, though it is older itself.
    """

    instance: str
    stamp_ns: int
    text: str
    ends: bool = False
    behind_ns: int = 0


def position(record: LogRecord | RunMarker) -> int:
    """What lines and marks are sorted by."""
    return record.stamp_ns if isinstance(record, LogRecord) else max(record.stamp_ns, record.behind_ns)


def within(
    markers: Iterable[RunMarker], records: Iterable[LogRecord], tail: int | None, since_ns: int | None
) -> list[RunMarker]:
    """The marks that belong to what is shown: none from before its first line, where lines were cut off."""
    first = since_ns
    if tail is not None:
        begin = next(iter(records), None)
        if begin is None:
            return []
        first = begin.stamp_ns
    return [marker for marker in markers if first is None or marker.stamp_ns >= first]


def interleave(records: Iterable[LogRecord], markers: Iterable[RunMarker]) -> Iterator[LogRecord | RunMarker]:
    """One instance's lines with its marks, both in the order of their stamps.

    The end of a run stands behind its last line.
    """
    waiting = list(markers)
    last_ns = 0

    def due(before_ns: int | None) -> Iterator[RunMarker]:
        """The marks up to the last beginning before a moment; None: all."""
        count = len(waiting)
        while count and before_ns is not None and not _begins_before(waiting[count - 1], before_ns):
            count -= 1
        for marker in waiting[:count]:
            yield replace(marker, behind_ns=last_ns) if marker.ends else marker
        del waiting[:count]

    for record in records:
        yield from due(record.stamp_ns)
        last_ns = record.stamp_ns
        yield record
    yield from due(None)


def _begins_before(marker: RunMarker, stamp_ns: int) -> bool:
    return not marker.ends and marker.stamp_ns <= stamp_ns


def merge(*sources: Iterable[LogRecord | RunMarker]) -> Iterator[LogRecord | RunMarker]:
    """Several logs, each in time order, as one in time order. Earlier sources win a tie."""
    return heapq.merge(*sources, key=position)
