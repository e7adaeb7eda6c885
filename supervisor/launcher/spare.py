"""A spare: a process in namespaces of its own that waits to be told which run's first process it is to be.

It is any service's: what it is to become comes with the order. That it is there already saves a launch the
clone and the copying of every page that its first steps touch; one spare costs a few megabytes, however many
services there are. It stays in the launcher's cgroup until then, and goes when the launcher goes.
"""

from __future__ import annotations

import marshal
import os
import socket
from typing import NamedTuple, NoReturn

from supervisor.kernel import process
from supervisor.kernel import syscalls as sc
from supervisor.launcher import child
from supervisor.launcher.ahead import Ahead
from supervisor.launcher.assemble import assemble_ahead
from supervisor.launcher.order import from_bytes
from supervisor.launcher.perform import Performer
from supervisor.launcher.program import Arena, Program

_ORDER_BYTES = 150_000
"""A larger one does not go through the socket at once; then the launch does without a spare."""
_MAX_FDS = 32


class Spare(NamedTuple):
    """The launcher's side. It owns both descriptors."""

    pid: int
    pidfd: int
    channel: socket.socket
    ahead: Ahead

    def send(
        self,
        order: bytes,
        seccomp: bytes | None,
        cgroups: list[int],
        stdio: tuple[int, int, int],
        roots: list[int],
    ) -> bool:
        """Have it become that; False if it cannot. The descriptors are as in `child.Given`, and stay ours."""
        message = marshal.dumps((len(cgroups), [fd >= 0 for fd in stdio], order, seccomp))
        if len(message) > _ORDER_BYTES:
            return False
        try:
            socket.send_fds(self.channel, [message], [*cgroups, *(fd for fd in stdio if fd >= 0), *roots])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of it; it ends."""
        self.channel.close()
        os.close(self.pidfd)


def wait(
    channel: socket.socket, arena: Arena, common: child.Common, ahead: Ahead, program: Program
) -> NoReturn:
    """In the new process: make what can be made, wait for the order, carry it out. Never returns."""
    try:
        sc.close_all_but([channel.fileno()])
        registers = Performer().run(program.rows, [])
        tops = [registers[place] for place in program.results]
        child.prepare(ahead, common)
        buffer = bytearray(_ORDER_BYTES)
        size, ancillary, _, _ = channel.recvmsg_into(
            [buffer], socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
        if size == 0:
            os._exit(0)
        cgroups, places, packed, seccomp = marshal.loads(buffer)  # noqa: S302 - the launcher's
        order = from_bytes(packed)
        fds = list(memoryview(ancillary[0][2]).cast("i")) if ancillary else []
        left = iter(fds[cgroups:])
        first, second, third = (next(left) if there else -1 for there in places)
        roots = [*left, *(tops if order.ahead else [])]
        arena.load(order.data)
        given = child.Given(channel, fds[:cgroups], (first, second, third), roots)
        child.launch(order, seccomp, given, common)
    finally:
        os._exit(128)


def make(arena: Arena, common: child.Common, ahead: Ahead, place: str) -> Spare:
    """Clone one; with all signals blocked. `place`: an empty directory. Raises OSError, StepError."""
    program = assemble_ahead(ahead, place, arena.address)
    arena.load(program.data)
    channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.setblocking(False)
        pid, pidfd = process.clone(child.NAMESPACES)
        if pid == 0:
            wait(far, arena, common, ahead, program)
    except BaseException:
        channel.close()
        raise
    finally:
        far.close()
    return Spare(pid, pidfd, channel, ahead)
