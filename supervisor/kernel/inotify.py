"""inotify(7): be told of changes in directories, instead of looking again and again."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

MODIFY = 0x2
OPEN = 0x20
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
Q_OVERFLOW = 0x4000
IGNORED = 0x8000
ONLYDIR = 0x0100_0000

_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class Event(NamedTuple):
    """One change. `watch` is -1 with Q_OVERFLOW: events were lost, look at everything."""

    watch: int
    mask: int
    name: str


class Inotify:
    """An inotify instance, non-blocking, close-on-exec. `fileno()` is readable when events wait."""

    def __init__(self) -> None:
        """Raises OSError, EMFILE where fs.inotify.max_user_instances is used up."""
        self._fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error("inotify_init1()", "raise fs.inotify.max_user_instances")

    def fileno(self) -> int:
        """The descriptor, owned by this object."""
        return int(self._fd)

    def watch(self, path: str, mask: int) -> int:
        """Watch a path; the same one twice gives the same number. Raises OSError."""
        number = int(_libc.inotify_add_watch(self._fd, os.fsencode(path), mask))
        if number < 0:
            raise _error(f"inotify_add_watch({path})", "raise fs.inotify.max_user_watches")
        return number

    def unwatch(self, number: int) -> None:
        """Stop watching; a watch that is gone already is no error. An IGNORED event follows."""
        _libc.inotify_rm_watch(self._fd, number)

    def read(self) -> list[Event]:
        """The events that wait, possibly none; never blocks. Raises OSError."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        events, at = [], 0
        while at < len(data):
            number, mask, _, size = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            events.append(Event(number, mask, os.fsdecode(data[at : at + size].rstrip(b"\0"))))
            at += size
        return events

    def close(self) -> None:
        """Close the descriptor; twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _error(call: str, hint: str) -> OSError:
    number = ctypes.get_errno()
    why = os.strerror(number)
    return OSError(number, f"cannot {call}: {why}" + (f"; {hint}" if number in (24, 28) else ""))
