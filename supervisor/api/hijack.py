"""A connection that becomes a raw stream after its answer's head, as Docker's attach and exec have it.

With a terminal the stream is its bytes, else frames of stdout and stderr (`core.streams`). What the client
sends is stdin, and its half-close the end of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from supervisor.core.streams import frame

_BLOCK = 65536
_DRAIN_S = 0.25


@dataclass(frozen=True, slots=True)
class Connection:
    """The raw stream. response: what the handler returns in the end."""

    tty: bool
    incoming: asyncio.StreamReader
    outgoing: asyncio.StreamWriter
    response: web.StreamResponse

    async def send(self, number: int, data: bytes) -> None:
        """Some output of a stream; returns when the client keeps up. Raises OSError when it is gone."""
        self.outgoing.write(data if self.tty else frame(number, data))
        await self.outgoing.drain()

    async def say(self, text: str) -> None:
        """A message of ours, on stderr where there is one; a client that is gone misses nothing."""
        with contextlib.suppress(OSError):
            await self.send(2, text.replace("\n", "\r\n").encode() if self.tty else text.encode())


@contextlib.asynccontextmanager
async def hijacked(request: web.Request, *, tty: bool) -> AsyncIterator[Connection]:
    """Take a connection over; it is closed when the context ends."""
    transport = request.transport
    if transport is None:
        raise web.HTTPBadRequest(text="cannot exec: the connection is closed")
    kind = "raw-stream" if tty else "multiplexed-stream"
    headers = {"Content-Type": f"application/vnd.docker.{kind}", "Connection": "Upgrade", "Upgrade": "tcp"}
    response = web.StreamResponse(status=101, reason="UPGRADED", headers=headers)
    await response.prepare(request)
    # From here on the bytes are ours. aiohttp closes a connection at a half-close; asyncio's own does not.
    loop = asyncio.get_running_loop()
    former = transport.get_protocol()
    incoming = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(incoming, loop=loop)
    protocol.connection_made(transport)
    transport.set_protocol(protocol)
    outgoing = asyncio.StreamWriter(transport, protocol, incoming, loop)
    try:
        yield Connection(tty, incoming, outgoing, response)
    finally:
        transport.set_protocol(former)
        response.force_close()
        transport.close()


class Bridge:
    """Between the client's connection and the process's pipes, or its terminal."""

    def __init__(self, connection: Connection, ended: asyncio.Event) -> None:
        """ended: set when the process has."""
        self._connection = connection
        self._incoming = connection.incoming
        self._ended = ended
        self._idle: set[int] = set()  # outputs whose pump waits for more

    async def run(self, fds: list[int]) -> None:
        """fds: as `protocol.Exec` gives them; those that are used up are closed."""
        tty = self._connection.tty
        outputs = [(os.dup(fds[0]), 0)] if tty else [(os.dup(fd), n) for n, fd in enumerate(fds[-2:], 1)]
        stdin = os.dup(fds[0]) if tty or len(fds) == 3 else -1
        if not tty:
            while fds:
                os.close(fds.pop())
        feeding = asyncio.create_task(self._feed(stdin))
        pumps = {asyncio.create_task(self._pump(fd, number)): fd for fd, number in outputs}
        ended = asyncio.create_task(self._ended.wait())
        try:
            # A terminal whose client went away is hung up, as sshd does it.
            waiting: set[asyncio.Task[Any]] = {ended, *([feeding] if tty else [])}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(pumps)
        finally:
            for task in (feeding, ended, *pumps):
                task.cancel()
            await asyncio.gather(feeding, ended, *pumps, return_exceptions=True)

    async def _drain(self, pumps: dict[asyncio.Task[None], int]) -> None:
        """Send what is left. A child of it may hold its pipes open for ever: quiet is the end, too."""
        while running := {pump: fd for pump, fd in pumps.items() if not pump.done()}:
            await asyncio.wait(running, timeout=_DRAIN_S)
            waiting = [fd for pump, fd in running.items() if not pump.done()]
            if self._idle.issuperset(waiting) and not select.select(waiting, [], [], 0)[0]:
                return

    async def _pump(self, fd: int, number: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(fd, "rb", 0)
        )
        try:
            while data := await self._more(fd, reader):
                await self._connection.send(number, data)
        except OSError:
            return  # the end of a terminal, or the client went away
        finally:
            transport.close()

    async def _more(self, fd: int, reader: asyncio.StreamReader) -> bytes:
        self._idle.add(fd)
        try:
            return await reader.read(_BLOCK)
        finally:
            self._idle.discard(fd)

    async def _feed(self, fd: int) -> None:
        if fd < 0:
            await self._incoming.read(1)
            return
        with contextlib.suppress(OSError):  # nobody reads it any more
            await feed(self._incoming, fd)


async def feed(incoming: asyncio.StreamReader, fd: int) -> None:
    """Write what the client sends, until it has no more; fd is closed then. Raises OSError."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(fd, "wb", 0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        while data := await incoming.read(_BLOCK):
            writer.write(data)
            await writer.drain()
    finally:
        transport.close()
