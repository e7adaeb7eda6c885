"""The output of a step, from the log that the log writer keeps of it, as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable

from supervisor.launcher import logformat
from supervisor.launcher.logformat import MAX_RECORD_BYTES
from supervisor.runtime.watching import WRITTEN, Watching

_BLOCK = 256 * 1024


class OutputReader:
    """Reads one log from its beginning. Needs a running loop; close it."""

    def __init__(self, path: str, output: Callable[[bytes, bool], None]) -> None:
        """path: of the log, whose directory exists. output: bytes, and whether of stderr."""
        self._path = path
        self._output = output
        self._fd = -1
        self._rest = b""
        self._inotify = Watching()
        self._inotify.watch(os.path.dirname(path), WRITTEN)
        self._inotify.listen(self._woken)

    def close(self) -> None:
        """What was not read is lost."""
        self._inotify.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> None:
        """Everything that is there."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return
        while data := os.read(self._fd, _BLOCK):
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()[-4 * MAX_RECORD_BYTES :]
            for line in lines:
                piece = logformat.decode(line)
                if piece is not None:
                    self._output(piece.text + (b"\n" if piece.final else b""), piece.stream == "stderr")

    def _woken(self) -> None:
        self._inotify.read()
        self.read()
