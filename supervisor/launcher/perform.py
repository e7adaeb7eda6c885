"""Running a program in a new child: one loop over its rows, and the few things that are no single call.

Nothing is bound or imported at that time. A row that fails raises RowError; everything that is open after it
or at the end of the program is closed by the exec, or before it.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable
from typing import Any

from supervisor.kernel import mounts
from supervisor.kernel import syscalls as sc
from supervisor.launcher.program import NAMES, REGISTER, ROW

_FSCONFIG = NAMES.index("fsconfig")


class RowError(Exception):
    """What failed: the row, errno or 0, and what there is to say beyond the call itself."""

    def __init__(self, row: int, number: int, detail: str) -> None:
        super().__init__(row, number, detail)
        self.row = row
        self.number = number
        self.detail = detail


class Performer:
    """The state of one program on its way."""

    def __init__(self) -> None:
        self._empty = -1
        self._null_used = False
        special: dict[str, Callable[..., int]] = {
            "is_null": self._is_null,
            "make_directory": self._make_directory,
            "make_like": self._make_like,
            "make_new": self._make_new,
            "mask": self._mask,
            "write": self._write,
            "chown": self._chown,
            "host_tree": self._host_tree,
        }
        self._functions: list[Any] = [
            sc.CALLS[name][0] if name in sc.CALLS else special[name] for name in NAMES
        ]

    def run(self, rows: bytes, given: list[int]) -> list[int]:
        """The registers at the end; the first ones are given at the start. Raises RowError."""
        program = list(ROW.iter_unpack(rows))
        registers = [*given, *[-1] * len(program)]
        functions = self._functions
        at, end = 0, len(program)
        try:
            while at < end:
                function, into, tolerated, done, otherwise, a, b, c, d, e, f = program[at]
                if a <= REGISTER:
                    a = registers[REGISTER - a]
                if b <= REGISTER:
                    b = registers[REGISTER - b]
                if c <= REGISTER:
                    c = registers[REGISTER - c]
                if d <= REGISTER:
                    d = registers[REGISTER - d]
                result = functions[function](a, b, c, d, e, f)
                if result < 0:
                    number = sc.errno_now()
                    if not (number < 64 and tolerated >> number & 1):
                        said = _said(b) if function == _FSCONFIG else ""
                        raise RowError(at, number, said)
                    at += otherwise
                    continue
                if into >= 0:
                    registers[into] = result
                at += done
        except OSError as error:
            raise RowError(at, error.errno or 0, str(error.strerror)) from error
        return registers

    # --- what is no single call -----------------------------------------------------------------
    def _is_null(self, fd: int, *_: int) -> int:
        if not mounts.is_null(fd):
            raise OSError(0, "/dev/null of the host is not the null device")
        return 0

    def _make_directory(self, root: int, path: int, *_: int) -> int:
        return mounts.make_directory(root, _text(path))

    def _make_like(self, root: int, path: int, made: int, *_: int) -> int:
        make = mounts.make_directory if mounts.is_directory(made) else mounts.make_file
        return make(root, _text(path))

    def _make_new(self, parent: int, name: int, made: int, *_: int) -> int:
        """In a directory that only we know."""
        if mounts.is_directory(made):
            os.mkdir(ctypes.string_at(name), 0o755, dir_fd=parent)
        else:
            os.mknod(ctypes.string_at(name), stat.S_IFREG | 0o644, dir_fd=parent)
        return 0

    def _mask(self, root: int, path: int, null: int, *_: int) -> int:
        try:
            place = mounts.resolve(root, _text(path))
        except (FileNotFoundError, NotADirectoryError):
            return 0
        if mounts.is_directory(place):
            if self._empty < 0:
                flags = sc.MS_RDONLY | sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
                made = self._empty = mounts.file_system("tmpfs", flags, "nr_blocks=1,nr_inodes=1,mode=755")
            else:
                made = mounts.tree(self._empty, "")
        else:
            # The first is the copy itself; once it is in our namespace it can be copied again.
            made = mounts.tree(null, "") if self._null_used else null
            self._null_used = True
        mounts.attach(made, place)
        return 0

    def _write(self, path: int, value: int, *_: int) -> int:
        fd = os.open(_text(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, ctypes.string_at(value))
        finally:
            os.close(fd)
        return 0

    def _chown(self, root: int, path: int, uid: int, gid: int, mode: int, *_: int) -> int:
        place = mounts.resolve(root, _text(path), os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fchown(place, uid, gid)
            os.fchmod(place, mode)
        finally:
            os.close(place)
        return 0

    def _host_tree(self, path: int, recursive: int, pid: int, inode: int, *_: int) -> int:
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        host = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(host).st_ino != inode:
            raise OSError(0, "whoever asked for it is gone")
        sc.setns(host, sc.CLONE_NEWNS)
        try:
            return mounts.tree(sc.AT_FDCWD, _text(path), recursive=bool(recursive))
        finally:
            sc.setns(own, sc.CLONE_NEWNS)
            os.close(host)
            os.close(own)


def _text(address: int) -> str:
    return os.fsdecode(ctypes.string_at(address))


def _said(context: int) -> str:
    """What a file system says about its own error: one message per read, until ENODATA."""
    said = []
    try:
        while message := os.read(context, 1024):
            said.append(message.decode(errors="replace").rstrip())
    except OSError:
        pass
    return "; ".join(said)
