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


class Inputs:
    """Asks the launcher of `adopted`, and waits for the next one while there is none."""

    def __init__(self) -> None:
        self._send: Callable[[protocol.Request], None] = lambda _: None
        self._take_fds: Callable[[str], list[int]] = lambda _: []
        self._there = asyncio.Event()
        self._asked: dict[str, asyncio.Future[int | None]] = {}

    def adopted(self, send: Callable[[protocol.Request], None], take_fds: Callable[[str], list[int]]) -> None:
        """A launcher knows all runs from here on; asked before, it would say that it has no such run."""
        self._send, self._take_fds = send, take_fds
        self._there.set()

    async def get(self, instance: str, run: int) -> int:
        """A descriptor of that run's stdin or terminal, the caller's; -1 where it has none or is gone.

        A launcher that has just died is waited for.
        """
        for _ in range(_TRIES):
            if (found := await self._ask(instance, run)) is not None:
                return found
        return -1

    async def _ask(self, instance: str, run: int) -> int | None:
        """None: nobody answered."""
        key = secrets.token_hex(16)
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._there.wait()
                self._asked[key] = answer
                self._send(protocol.Input(key, instance, run))
                return await answer
        except TimeoutError:
            return None
        finally:
            self._asked.pop(key, None)

    def end(self, instance: str, run: int) -> None:
        """Close a stdin: its reader comes to the end when those who got a descriptor have closed it, too."""
        self._send(protocol.EndInput(instance, run))

    def on_launcher(self, event: protocol.InputGiven) -> None:
        """What the launcher gives. What nobody waits for any more is closed."""
        fds = self._take_fds(event.key)
        answer = self._asked.get(event.key)
        if answer is not None and not answer.done():
            answer.set_result(fds.pop(0) if fds else -1)
        for fd in fds:
            os.close(fd)

    def lost(self) -> None:
        """The launcher died: nobody answers."""
        self._there.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)


def resize(terminal: int, height: int, width: int) -> None:
    """Of a pty, by its master; 0 says nothing. A terminal that is gone is no error. Raises struct.error."""
    if height and width:
        size = struct.pack("HHHH", height, width, 0, 0)
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
