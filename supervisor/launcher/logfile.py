"""The file of one instance on the writing side: opening, sizes, rotation by rename.

`<log>` is written, `<log>.1` is the newest rotated one; `max_files` counts them all. A reader that
follows keeps its descriptor: a rotated file only changes its name.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict

_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class LogFile:
    """A log that may be open or not; `Files` decides. Its directory is made if it is missing."""

    __slots__ = ("fd", "max_files", "max_size_bytes", "path")

    def __init__(self, path: str, max_size_bytes: int, max_files: int) -> None:
        self.path = path
        self.max_size_bytes = max_size_bytes
        self.max_files = max(1, max_files)
        self.fd = -1

    def close(self) -> None:
        """Close the descriptor if there is one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def rotate(self) -> None:
        """Move the file aside and drop the oldest. Ends with the file closed. Raises OSError.

        Killed between two renames it leaves a gap; names move up only as far as the first gap, so that
        doing it again loses no file.
        """
        self.close()
        if self.max_files == 1:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            return
        names = [self.path, *(f"{self.path}.{i}" for i in range(1, self.max_files))]
        gap = next((i for i, name in enumerate(names) if i and not os.path.lexists(name)), len(names) - 1)
        for i in range(gap, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(names[i - 1], names[i])


class Files:
    """The open log files, at most `limit` of them; the one unused for longest is closed first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[str, LogFile] = OrderedDict()

    def stat(self, file: LogFile) -> os.stat_result:
        """Open the file if need be, and again if it was deleted. Raises OSError."""
        if file.fd >= 0:
            found = os.fstat(file.fd)
            if found.st_nlink:
                self._open.move_to_end(file.path)
                return found
            file.close()
        try:
            file.fd = os.open(file.path, _OPEN_FLAGS, 0o640)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(file.path), 0o750, exist_ok=True)
            file.fd = os.open(file.path, _OPEN_FLAGS, 0o640)
        self._open[file.path] = file
        self._open.move_to_end(file.path)
        while len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return os.fstat(file.fd)

    def drop(self, file: LogFile) -> None:
        """Close the file and forget it."""
        file.close()
        self._open.pop(file.path, None)
