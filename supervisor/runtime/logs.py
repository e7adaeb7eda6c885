"""Reading the log of an instance: history, from the end or from a time. `logfollow` goes on from there.

Files are those of the log writer (`launcher.logformat`): `<log>` and its rotated `<log>.1`, `<log>.2` ...
A reader needs no lock: it opens newest first, so that a rotation meanwhile can show it a file twice (which
is noticed) but never hide one. Pieces of one line are joined; an end of run is not in the files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from supervisor.launcher import logformat
from supervisor.launcher.logformat import MAX_RECORD_BYTES, Piece

MAX_JOINED_BYTES = 1024 * 1024
"""A line longer than this comes as several records, all but the last `partial`."""

_BLOCK = 256 * 1024
_ROUND_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line. `partial`: the line goes on in the next record of the same stream (or was not ended yet)."""

    instance: str
    stamp_ns: int
    stream: str
    text: bytes
    partial: bool = False


@dataclass(slots=True)
class _Joiner:
    """Puts the pieces of lines together, per stream, within MAX_JOINED_BYTES."""

    instance: str
    pending: dict[str, tuple[int, list[bytes], int]] = field(default_factory=dict)

    def add(self, piece: Piece) -> LogRecord | None:
        """The record that this piece completes, if any. Its stamp is that of its first piece."""
        stamp_ns, parts, size = self.pending.pop(piece.stream, (piece.stamp_ns, [], 0))
        if piece.final and not parts:
            return LogRecord(self.instance, stamp_ns, piece.stream, piece.text)
        parts.append(piece.text)
        size += len(piece.text)
        if piece.final or size > MAX_JOINED_BYTES:
            return LogRecord(self.instance, stamp_ns, piece.stream, b"".join(parts), not piece.final)
        self.pending[piece.stream] = (stamp_ns, parts, size)
        return None

    def flush(self) -> list[LogRecord]:
        """What is unfinished, as partial records."""
        records = [
            LogRecord(self.instance, stamp_ns, stream, b"".join(parts), True)
            for stream, (stamp_ns, parts, _) in self.pending.items()
        ]
        self.pending.clear()
        return records


class _File:
    """One open file of a log."""

    __slots__ = ("fd", "key", "size")

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        found = os.fstat(self.fd)
        self.key = (found.st_dev, found.st_ino)
        self.size = found.st_size

    def close(self) -> None:
        os.close(self.fd)

    def lines(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """(offset after the line, line without newline) of every whole line between two offsets."""
        at, rest = start, b""
        while at < end:
            data = os.pread(self.fd, min(_BLOCK, end - at), at)
            if not data:
                return
            base = at - len(rest)
            at += len(data)
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            if len(rest) > 4 * MAX_RECORD_BYTES:
                rest = b""  # no log line is that long: garbage after a power cut
            for line in lines:
                base += len(line) + 1
                yield base, line

    def stamp_after(self, offset: int) -> tuple[int, int] | None:
        """(offset, stamp) of the first line that starts at or after `offset`."""
        start = offset
        if offset:
            start = offset - 1
        skip = offset > 0
        for after, line in self.lines(start, self.size):
            if skip:
                skip = False
                continue
            piece = logformat.decode(line)
            if piece is not None:
                return after - len(line) - 1, piece.stamp_ns
        return None

    def seek(self, since_ns: int) -> int:
        """Offset before which every line is older, found by halving; stamps are assumed to grow."""
        low, high = 0, self.size
        while high - low > _BLOCK:
            middle = (low + high) // 2
            found = self.stamp_after(middle)
            if found is None or found[1] >= since_ns:
                high = middle
            else:
                low = found[0]
        return low

    def tail(self, count: int) -> tuple[int, int]:
        """(offset, line ends seen): more than `count` ends of lines follow the offset, or it is 0."""
        at, seen = self.size, 0
        while at > 0 and seen <= count:
            start = max(0, at - _BLOCK)
            data = os.pread(self.fd, at - start, start)
            seen += sum(data.count(b" %b F " % s) for s in (b"stdout", b"stderr", b"tty"))
            if seen > count:
                # The mark can also stand in somebody's text: count exactly before trusting it.
                seen = sum(
                    1 for _, line in self.lines(self._line_start(start), self.size) if _ends_line(line)
                )
            at = start
        return self._line_start(max(0, at - _BLOCK)) if at else 0, seen

    def _line_start(self, offset: int) -> int:
        if offset == 0:
            return 0
        for after, _ in self.lines(offset, self.size):
            return after
        return self.size


def _ends_line(line: bytes) -> bool:
    piece = logformat.decode(line)
    return piece is not None and piece.final


def _open_all(path: str) -> list[_File]:
    """Every file of a log, oldest first; none if there is none. The caller closes them."""
    files: list[_File] = []
    seen: set[tuple[int, int]] = set()
    number = 0
    missing = 0
    while missing < 2:  # a rotation under way leaves a gap of one
        name = f"{path}.{number}" if number else path
        number += 1
        try:
            file = _File(name)
        except FileNotFoundError:
            missing += 1
            continue
        missing = 0
        if file.key in seen:
            file.close()
            continue
        seen.add(file.key)
        files.append(file)
    files.reverse()
    return files


def read(
    instance: str,
    path: str,
    *,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
) -> Iterator[LogRecord]:
    """The log of one instance, oldest first. A log that does not exist is empty.

    tail: at most the last so many lines. since_ns, until_ns: wall clock, both inclusive. Reads only the
    blocks it needs; memory is bounded by MAX_JOINED_BYTES and `tail`. Raises OSError.
    """
    cursor = Cursor(instance, path)
    try:
        yield from cursor.history(tail=tail, since_ns=since_ns, until_ns=until_ns)
        yield from cursor.unfinished(since_ns=since_ns, until_ns=until_ns)
    finally:
        cursor.close()


class Cursor:
    """A place in the log of one instance, kept across rotations. Owns one descriptor at most; close it."""

    def __init__(self, instance: str, path: str) -> None:
        """No effect yet. `path`: of the file that is written; it need not exist."""
        self.instance = instance
        self.path = path
        self._joiner = _Joiner(instance)
        self._file: _File | None = None
        self._at = 0

    def history(
        self, *, tail: int | None = None, since_ns: int | None = None, until_ns: int | None = None
    ) -> Iterator[LogRecord]:
        """See `read`. Once exhausted, `fresh` goes on exactly behind it (unfinished lines are kept)."""
        files = _open_all(self.path)
        try:
            if not files:
                return
            first, start = self._start(files, tail, since_ns)
            records = self._records(files, first, start)
            wanted = (
                record
                for record in records
                if (since_ns is None or record.stamp_ns >= since_ns)
                and (until_ns is None or record.stamp_ns <= until_ns)
            )
            yield from wanted if tail is None else deque(wanted, maxlen=tail)
            self._file = files.pop()
        finally:
            for file in files:
                file.close()

    def _start(self, files: list[_File], tail: int | None, since_ns: int | None) -> tuple[int, int]:
        """Index of the file and offset to begin at: not after the first record that is wanted."""
        first, start = 0, 0
        if since_ns is not None:
            for index in range(len(files) - 1, -1, -1):
                found = files[index].stamp_after(0)
                if found is not None and found[1] < since_ns:
                    # A little earlier, so that a line in several pieces has its beginning.
                    first, start = index, max(0, files[index].seek(since_ns) - _BLOCK)
                    start = files[index]._line_start(start)  # noqa: SLF001 - same module
                    break
        elif tail is not None:
            missing = tail
            for index in range(len(files) - 1, -1, -1):
                first = index
                start, seen = files[index].tail(missing)
                missing -= seen
                if missing < 0:
                    break
        return first, start

    def _records(self, files: list[_File], first: int, start: int) -> Iterator[LogRecord]:
        for file in files[first:]:
            self._at = start
            for after, line in file.lines(start, file.size):
                self._at = after
                piece = logformat.decode(line)
                record = self._joiner.add(piece) if piece is not None else None
                if record is not None:
                    yield record
            start = 0

    def fresh(self) -> list[LogRecord]:
        """What was written since the last call, up to about 1 MiB (then call again)."""
        records: list[LogRecord] = []
        budget = _ROUND_BYTES
        while budget > 0:
            if self._file is None:
                try:
                    self._file, self._at = _File(self.path), 0
                except FileNotFoundError:
                    break
            newest = self._is_newest(self._file)  # asked first: a rotated file is not written any more
            size = os.fstat(self._file.fd).st_size
            if size < self._at:
                self._at = 0  # emptied by hand
            end = min(size, self._at + budget)
            before = self._at
            for after, line in self._file.lines(self._at, end):
                self._at = after
                piece = logformat.decode(line)
                record = self._joiner.add(piece) if piece is not None else None
                if record is not None:
                    records.append(record)
            budget -= max(end - before, 1)
            if end < size:
                if self._at == before and end - before >= MAX_RECORD_BYTES:
                    self._at = end  # garbage without an end
                break
            if newest:
                break
            self._step()
        return records

    def unfinished(self, since_ns: int | None = None, until_ns: int | None = None) -> list[LogRecord]:
        """Take out the lines without an end, as partial records; what follows is a record of its own."""
        return [
            record
            for record in self._joiner.flush()
            if (since_ns is None or record.stamp_ns >= since_ns)
            and (until_ns is None or record.stamp_ns <= until_ns)
        ]

    @property
    def has_unfinished(self) -> bool:
        """Whether `unfinished` would give anything."""
        return bool(self._joiner.pending)

    def _is_newest(self, file: _File) -> bool:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return True  # between two names, or removed: the next change tells
        return (found.st_dev, found.st_ino) == file.key

    def _step(self) -> None:
        """On to the file that was begun after ours; if ours is rotated away, to the oldest there is."""
        assert self._file is not None
        files = _open_all(self.path)
        index = next((i for i, file in enumerate(files) if file.key == self._file.key), -1)
        if index + 1 < len(files):
            self._file.close()
            self._file, self._at = files.pop(index + 1), 0
        for file in files:
            file.close()

    def close(self) -> None:
        """Close the descriptor; twice is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None
