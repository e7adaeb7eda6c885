"""The nursery: a process that first processes are cloned from, so that the launcher itself hardly ever forks.

After a fork each page that the parent touches costs a fault, and mostly a copy. Of a Python process that is
most of its memory, once for every launch and again at the next death. The nursery touches next to nothing.
What it clones is a child of the launcher (CLONE_PARENT), and gets everything else from the launcher itself,
over the channel that it is born with (`launcher.spare`). It decides nothing and ends with the launcher.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import struct
from typing import NamedTuple, NoReturn

from supervisor.kernel import process
from supervisor.kernel import syscalls as sc
from supervisor.launcher import child, spare
from supervisor.launcher.program import Arena

_ANSWER = struct.Struct("=ii")  # errno or 0, pid
_PATIENCE_S = 10
_DYING_MS = 1000


class NurseryError(Exception):
    """It is no more, or does not answer. Whoever it may have cloned ends when its channel is closed."""


class Nursery(NamedTuple):
    """The launcher's side."""

    pid: int
    pidfd: int
    channel: socket.socket

    def clone(self, far: socket.socket, cgroup_fd: int) -> int:
        """Have a process cloned that waits at `far` for what it is to become; its pid.

        cgroup_fd: where it is born, or -1. Raises NurseryError, OSError (of the clone).
        """
        fds = [far.fileno(), cgroup_fd] if cgroup_fd >= 0 else [far.fileno()]
        try:
            self.channel.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            answer = self.channel.recv(_ANSWER.size)
        except OSError as error:
            raise NurseryError(str(error.strerror)) from error
        if len(answer) != _ANSWER.size:
            raise NurseryError("it has died")
        number, pid = _ANSWER.unpack(answer)
        if number:
            raise OSError(number, os.strerror(number))
        return int(pid)

    def close(self) -> None:
        """It ends, and is reaped if that is soon; else as every stranger."""
        self.channel.close()
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        # One that had not come to close what it was forked with still holds the launcher's lock.
        dead = select.poll()
        dead.register(self.pidfd, select.POLLIN)
        dead.poll(_DYING_MS)
        os.close(self.pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def make(arena: Arena, common: child.Common) -> Nursery:
    """Fork one; with all signals blocked, as they stay in it. Raises OSError."""
    channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # One that is stopped from outside must not stop the launcher for ever.
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _PATIENCE_S, 0))
        pid, pidfd = process.clone(0)
        if pid == 0:
            _serve(far, arena, common)
    except BaseException:
        channel.close()
        raise
    finally:
        far.close()
    return Nursery(pid, pidfd, channel)


def _serve(channel: socket.socket, arena: Arena, common: child.Common) -> NoReturn:
    """In the nursery. Never returns."""
    try:
        sc.close_all_but([channel.fileno()])
        gc.disable()
        gc.freeze()
        with contextlib.suppress(OSError, ValueError):  # for people only
            words = process.own_command()
            start = words[: words.index("-m") + 1]
            process.show_as([*start, "supervisor.launcher.nursery", *words[words.index("--run-dir") :]])
        space = socket.CMSG_SPACE(2 * 4)
        while True:
            said, ancillary, _, _ = channel.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
            if not said:
                os._exit(0)
            fds = memoryview(ancillary[0][2]).cast("i").tolist()
            answer = _clone(fds, arena, common)
            for fd in fds:
                os.close(fd)
            channel.send(answer)
    finally:
        os._exit(128)


def _clone(fds: list[int], arena: Arena, common: child.Common) -> bytes:
    try:
        pid, pidfd = process.clone(child.NAMESPACES, cgroup_fd=fds[1] if len(fds) > 1 else -1, sibling=True)
    except OSError as error:
        return _ANSWER.pack(error.errno or errno.EIO, 0)
    if pid == 0:
        spare.wait(socket.socket(fileno=fds[0]), arena, common)
    os.close(pidfd)
    return _ANSWER.pack(0, pid)
