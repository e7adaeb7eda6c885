"""The descriptors of one launch or exec: which are the child's, which stay ours, and who closes them when."""

from __future__ import annotations

import os
import socket

from supervisor.kernel.cgroups import Cgroup
from supervisor.launcher.steps import StepError


def cgroups_of(cgroup: Cgroup, fds: Descriptors) -> tuple[list[int], int]:
    """Its v1 parts, to write into, and the directory of its v2 part."""
    fds.stage = "cgroup"
    return fds.theirs_all(cgroup.open_v1()), fds.their(cgroup.open_v2())


def moves(v1: list[int], v2: int, fds: Descriptors) -> list[int]:
    """Where a process writes itself in that was not born in the v2 part."""
    if v2 < 0:
        return v1
    fds.stage = "cgroup"
    return [*v1, fds.their(os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=v2))]


def stdio_of(
    fds: Descriptors, *, tty: bool, stdin: bool, open_stdin: bool
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """What the child is given, and our ends. stdin: make that pipe, whether the child reads it or not."""
    fds.stage = "stdio"
    if tty:
        return (-1, -1, -1), (-1, -1, -1)
    reading = end = -1
    if stdin:
        reading, end = fds.pipe(ours_reads=False)
    out, stdout = fds.pipe(ours_reads=True)
    err, stderr = fds.pipe(ours_reads=True)
    return (reading if open_stdin else -1, out, err), (end, stdout, stderr)


class Descriptors:
    """Of one launch: theirs are closed at the end, ours only if it fails. An OSError becomes a StepError."""

    def __init__(self) -> None:
        self.stage = ""
        self._theirs: list[int] = []
        self._ours: list[int] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for fd in self._theirs:
            os.close(fd)
        if self._sockets:
            self._sockets[1].close()
        if error is None:
            return
        for fd in self._ours:
            os.close(fd)
        if self._sockets:
            self._sockets[0].close()
        if isinstance(error, OSError):
            where = f": {error.filename}" if error.filename else ""
            raise StepError(self.stage, error.errno or 0, f"{error.strerror}{where}") from error

    def their(self, fd: int) -> int:
        """Theirs, if it is one."""
        if fd >= 0:
            self._theirs.append(fd)
        return fd

    def theirs_all(self, fds: list[int]) -> list[int]:
        """All of them theirs."""
        self._theirs += fds
        return fds

    def pipe(self, *, ours_reads: bool) -> tuple[int, int]:
        """(theirs, ours)."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ours, theirs = (reading, writing) if ours_reads else (writing, reading)
        self._theirs.append(theirs)
        self._ours.append(ours)
        return theirs, ours

    def channel(self) -> tuple[socket.socket, socket.socket]:
        """(ours, theirs)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets = [ours, theirs]
        ours.setblocking(False)
        return ours, theirs
