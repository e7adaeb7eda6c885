"""What runs read from: a stdin's write end, or a terminal's master, asked of the launcher when needed.

The daemon keeps neither of them: whoever asked owns what it got, and the launcher's own is what keeps a stdin
open until its end is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import struct
import termios
from collections.abc import Callable

from supervisor.launcher import protocol

_ANSWER_S = 2.0  # a launcher of before there was such a request does not answer
_TRIES = 3
_RETRY_S = 0.5


class Inputs:
    """`send` and `take_fds` are the launcher client's, set with every connection to one."""

    def __init__(self) -> None:
        self.send: Callable[[protocol.Request], None] = lambda _: None
        self.take_fds: Callable[[str], list[int]] = lambda _: []
        self._asked: dict[str, asyncio.Future[int | None]] = {}

    async def get(self, instance: str, run: int) -> int:
        """A descriptor of that run's stdin or terminal, the caller's; -1 where it has none or is gone.

        A launcher that has just died is waited for.
        """
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_RETRY_S)
            if (found := await self._ask(instance, run)) is not None:
                return found
        return -1

    async def _ask(self, instance: str, run: int) -> int | None:
        """None: nobody answered."""
        key = secrets.token_hex(16)
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        self.send(protocol.Input(key, instance, run))
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._asked[key]

    def end(self, instance: str, run: int) -> None:
        """Close a stdin: its reader comes to the end when those who got a descriptor have closed it, too."""
        self.send(protocol.EndInput(instance, run))

    def on_launcher(self, event: protocol.InputGiven) -> None:
        """What the launcher gives. What nobody waits for any more is closed."""
        fds = self.take_fds(event.key)
        answer = self._asked.get(event.key)
        if answer is not None and not answer.done():
            answer.set_result(fds.pop(0) if fds else -1)
        for fd in fds:
            os.close(fd)

    def lost(self) -> None:
        """The launcher died: nobody answers."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)


def resize(terminal: int, height: int, width: int) -> None:
    """Of a pty, by its master; 0 says nothing. A terminal that is gone is no error. Raises struct.error."""
    if height and width:
        size = struct.pack("HHHH", height, width, 0, 0)
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
