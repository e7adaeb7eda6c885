"""The bytes that a service writes, in order, from the log that the log writer keeps of them, as they come.

What `attach` sends. It stands on the files and not on the pipes, so a client that is slow or gone slows
nobody down: files that are rotated away meanwhile are kept open, and so are read to their end.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator

from supervisor.launcher.logformat import MAX_RECORD_BYTES, STAMP_BYTES
from supervisor.runtime.watching import WRITTEN, Watching

_BLOCK = 256 * 1024


class LogBytes:
    """Follows one log. Needs a running loop; close it.

    A newline that an empty piece brings is held back until more of its stream comes: it may be the log
    writer's own, which ends an unfinished line when the stream has ended (`held`).
    """

    def __init__(self, path: str, *, from_start: bool) -> None:
        """path: of the log, whose directory exists. from_start: its history, too. Raises OSError."""
        self._path = path
        self._files: deque[tuple[int, tuple[int, int]]] = deque()
        self._newest: tuple[int, int] | None = None
        self._rest = b""
        self._midline: dict[bytes, bool] = {}
        self.held: set[str] = set()
        self.counted: dict[str, int] = {"stdout": 0, "stderr": 0, "tty": 0}
        self.wake = asyncio.Event()
        self._inotify = Watching()
        self._inotify.watch(os.path.dirname(path), WRITTEN)
        self.look()
        if not from_start and self._files:
            while len(self._files) > 1:
                os.close(self._files.popleft()[0])
            os.lseek(self._files[0][0], 0, os.SEEK_END)
        self._inotify.listen(self._woken)

    def close(self) -> None:
        """What was not read is lost to the reader; the log has it."""
        self._inotify.close()
        while self._files:
            os.close(self._files.popleft()[0])

    def _woken(self) -> None:
        self._inotify.read()
        self.look()
        self.wake.set()

    def look(self) -> bool:
        """Open every file that is newer than those we have, before it can be rotated away; were there any?"""
        found: list[tuple[int, tuple[int, int]]] = []
        number = 0
        while True:
            try:
                path = f"{self._path}.{number}" if number else self._path
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                if number:
                    break
                number += 1
                continue
            status = os.fstat(fd)
            key = status.st_dev, status.st_ino
            if key == self._newest:
                os.close(fd)
                break
            if any(key == other for _, other in found):
                os.close(fd)
            else:
                found.append((fd, key))
            number += 1
        if found:
            self._files.extend(reversed(found))
            self._newest = found[0][1]
        return bool(found)

    def read(self) -> list[tuple[str, bytes]]:
        """Some of what is there, (stream, bytes) in order; empty when there is no more."""
        while self._files or self.look():
            data = os.read(self._files[0][0], _BLOCK)
            if data:
                lines = (self._rest + data).split(b"\n")
                self._rest = lines.pop()[-4 * MAX_RECORD_BYTES :]
                return list(self._joined(lines))
            if len(self._files) == 1:
                if not self.look():
                    return []
                continue  # it may have been written to until it was rotated
            os.close(self._files.popleft()[0])
            self._rest = b""
        return []

    def release(self, name: str) -> None:
        """The newline that was held of a stream is its own, and was sent."""
        self.held.discard(name)
        self.counted[name] = self.counted.get(name, 0) + 1

    def _joined(self, lines: list[bytes]) -> Iterator[tuple[str, bytes]]:
        """The bytes of some lines of the file, those of one stream that follow each other in one piece."""
        current, out = b"", bytearray()
        for line in lines:
            fields = line.split(b" ", 3)
            if len(fields) != 4 or len(fields[0]) != STAMP_BYTES:
                continue  # a torn write after a power cut
            _, stream, tag, text = fields
            if stream != current:
                if out:
                    yield self._sent(current, bytes(out))
                    out.clear()
                current = stream
            if stream.decode() in self.held:
                self.held.discard(stream.decode())
                out += b"\n"
            out += text
            if tag == b"F":
                if not text and self._midline.get(stream):
                    self.held.add(stream.decode())
                else:
                    out += b"\n"
            self._midline[stream] = tag != b"F"
        if out:
            yield self._sent(current, bytes(out))

    def _sent(self, stream: bytes, data: bytes) -> tuple[str, bytes]:
        name = stream.decode()
        self.counted[name] = self.counted.get(name, 0) + len(data)
        return name, data
