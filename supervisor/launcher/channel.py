"""Hearing what a child tells over its channel until its exec. See `launcher.child` for what it may say."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from supervisor.launcher.loop import Loop
from supervisor.launcher.runs import Child

_MAX_FDS = 32


class Told(NamedTuple):
    """One message, and its descriptors, which the hearer owns."""

    words: list[Any]
    fds: list[int]

    def close(self) -> None:
        """Nobody wants the descriptors."""
        for fd in self.fds:
            os.close(fd)


def hear(child: Child, loop: Loop) -> Iterator[Told | None]:
    """Everything that is there. None at the end of the channel, which is closed then; never twice."""
    while child.channel is not None:
        try:
            data, fds, _, _ = socket.recv_fds(child.channel, 65536, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if data:
            yield Told(json.loads(data), list(fds))
            continue
        loop.unwatch(child.channel.fileno())
        child.channel.close()
        child.channel = None
        yield None
