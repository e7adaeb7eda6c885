"""Digests of files, kept between builds, so that a rebuild reads no file that is as it was.

On the disk, one table beside the store: (device, inode, size, times of content and of attributes) to sha256.
It is a cache: lost or damaged, files are read again. Several builds may write it; the last one wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable

import msgspec

from supervisor.kernel.files import replace_file

_CHUNK_BYTES = 1024 * 1024
_MOST = 200_000
_SETTLED_NS = 20_000_000
"""A file that was changed so shortly before it was read could change again within one tick of its time."""

Key = tuple[int, int, int, int, int]


class FileDigests:
    """See the module. May be used by several threads."""

    def __init__(self, path: str) -> None:
        """Nothing is read before it is needed."""
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[Key, bytes] | None = None
        self._fresh: dict[Key, bytes] = {}
        self.files_read = 0
        """How many files had to be read."""

    def digest(self, status: os.stat_result, open_it: Callable[[], int]) -> bytes:
        """The sha256 of a regular file. open_it: gives a descriptor, which is closed here. Raises OSError."""
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        found = self._table().get(key)
        if found is None:
            found = self._read(open_it())
            settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
            with self._lock:
                self._table()[key] = found  # within one build it stays what it was
                if settled:
                    self._fresh[key] = found
        return found

    def save(self) -> None:
        """Keep what is new. Raises OSError."""
        if not self._fresh:
            return
        table = {**self._load(), **self._fresh}
        kept = list(table.items())[-_MOST:]
        os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
        replace_file(self._path, msgspec.msgpack.encode(kept))
        self._fresh.clear()

    def _read(self, fd: int) -> bytes:
        self.files_read += 1
        digest = hashlib.sha256()
        try:
            while data := os.read(fd, _CHUNK_BYTES):
                digest.update(data)
        finally:
            os.close(fd)
        return digest.digest()

    def _table(self) -> dict[Key, bytes]:
        if self._known is None:
            self._known = self._load()
        return self._known

    def _load(self) -> dict[Key, bytes]:
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError), open(self._path, "rb") as file:
            return dict(msgspec.msgpack.decode(file.read(), type=list[tuple[Key, bytes]]))
        return {}
