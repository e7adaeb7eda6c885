"""A process in namespaces of its own that waits to be told which run's first process it is to be.

It is any service's: what it is to become comes with the order. A *spare* is one that is made before there is
an order. That saves a launch the clone, the copying of every page that its first steps touch, and the part
of a root that is the same for most (`launcher.ahead`). One spare costs a few megabytes, however many services
there are. It stays in the launcher's cgroup until then, and goes when the launcher goes.
"""

from __future__ import annotations

import marshal
import os
import socket
from typing import NamedTuple, NoReturn

from supervisor.kernel import syscalls as sc
from supervisor.launcher import child
from supervisor.launcher.ahead import NOTHING, Ahead
from supervisor.launcher.assemble import assemble_ahead
from supervisor.launcher.order import from_bytes
from supervisor.launcher.perform import Performer
from supervisor.launcher.program import Arena

_ORDER_BYTES = 150_000
"""A larger one does not go through the socket at once; then the launcher clones by itself."""
_MAX_FDS = 32


class Spare(NamedTuple):
    """The launcher's side. It owns both descriptors. ahead: what it has made of a root."""

    pid: int
    pidfd: int
    channel: socket.socket
    ahead: Ahead = NOTHING

    def prepare(self, ahead: Ahead, place: str, arena: Arena) -> Spare:
        """Have it make that, over the empty directory `place`. Raises OSError, StepError."""
        program = assemble_ahead(ahead, place, arena.address)
        caps = None if ahead.caps is None else list(ahead.caps)
        self.channel.send(marshal.dumps((program.rows, program.data, program.results, caps)))
        return self._replace(ahead=ahead)

    def send(
        self,
        order: bytes,
        seccomp: bytes | None,
        cgroups: list[int],
        stdio: tuple[int, int, int],
        roots: list[int],
    ) -> bool:
        """Have it become that; False if it cannot. The descriptors are as in `child.Given`, and stay ours."""
        message = marshal.dumps((len(cgroups), [fd >= 0 for fd in stdio], order, seccomp, None))
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


def fits(order: bytes, seccomp: bytes | None) -> bool:
    """Whether `Spare.send` can send them."""
    return len(order) + len(seccomp or b"") + 1024 <= _ORDER_BYTES


def wait(channel: socket.socket, arena: Arena, common: child.Common) -> NoReturn:
    """In the new process: make what is to be made ahead, wait for the order, carry it out. Never returns."""
    try:
        sc.close_all_but([channel.fileno()])
        tops: list[int] = []
        buffer = bytearray(_ORDER_BYTES)
        while True:
            size, ancillary, _, _ = channel.recvmsg_into(
                [buffer], socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
            if size == 0:
                os._exit(0)
            message = marshal.loads(buffer)  # noqa: S302 - the launcher's
            if len(message) == 4:
                rows, data, results, caps = message
                arena.load(data)
                registers = Performer().run(rows, [])
                tops = [registers[place] for place in results]
                child.prepare(caps, common)
                continue
            cgroups, places, packed, seccomp, _ = message
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
