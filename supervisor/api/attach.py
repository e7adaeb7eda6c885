"""Docker's attach: what an instance writes from now on (`stream`), with what it wrote before (`logs`).

The connection is as `api.hijack` says. It ends with the run, after the last byte of it was sent. What the
client sends is the instance's stdin or goes to its terminal, from when the run lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from pathlib import Path

from aiohttp import web

from supervisor.api.hijack import Connection, feed, hijacked
from supervisor.api.lookup import find_here, flag
from supervisor.core.state import Created, Resting, Running
from supervisor.core.streams import NUMBERS
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry
from supervisor.daemon.inputs import resize
from supervisor.daemon.outcomes import is_down
from supervisor.runtime.logbytes import LogBytes


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """Attach, and the size of a terminal."""
    handlers = _Handlers(daemon)
    return [
        web.post("/containers/{name}/attach", handlers.attach),
        web.post("/containers/{name}/resize", handlers.resize),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """?stream ?logs ?stdin ?stdout ?stderr."""
        entry = find_here(self._daemon.engine, request)
        wanted = {number for name, number in NUMBERS.items() if name != "tty" and flag(request, name)}
        wanted = wanted or {1, 2}
        files = self._daemon.paths.instance(entry.instance.id)
        Path(files.base).mkdir(0o711, parents=True, exist_ok=True)
        instance = entry.instance
        fresh = isinstance(instance.phase, Created)
        # Which run it is about is settled before the client hears from us: then it may start it.
        run = instance.run + 1 if isinstance(instance.phase, Created | Resting) else instance.run
        # Opened before the answer: what is written from the answer on is ours.
        output = LogBytes(files.log, from_start=fresh or flag(request, "logs"))
        readers = self._daemon.containers.readers.setdefault(entry.instance.id, [])
        readers.append(output.look)
        try:
            async with hijacked(request, tty=entry.stored.spec.tty) as connection:
                with contextlib.suppress(OSError):
                    stdin = flag(request, "stdin") and entry.stored.spec.stdin_open
                    await self._send(entry, run, connection, output, wanted, stdin=stdin)
            return connection.response
        finally:
            readers.remove(output.look)
            if not readers:
                self._daemon.containers.readers.pop(entry.instance.id, None)
            output.close()

    async def resize(self, request: web.Request) -> web.Response:
        """?h ?w. 409 where there is no terminal."""
        entry = find_here(self._daemon.engine, request)
        instance = entry.instance
        if not isinstance(instance.phase, Running) or not entry.stored.spec.tty:
            raise web.HTTPConflict(
                text=f"cannot resize the terminal of {entry.stored.name}: it is not running, or has none"
            )
        terminal = await self._daemon.inputs.get(instance.id, instance.run)
        try:
            if terminal >= 0:
                resize(terminal, int(request.query["h"]), int(request.query["w"]))
        except (KeyError, ValueError, struct.error) as error:
            raise web.HTTPBadRequest(text="cannot resize: give h and w, 0 to 65535") from error
        finally:
            if terminal >= 0:
                os.close(terminal)
        return web.Response()

    async def _send(
        self,
        entry: Entry,
        run: int,
        connection: Connection,
        output: LogBytes,
        wanted: set[int],
        *,
        stdin: bool,
    ) -> None:
        """Until the run has ended and all of it was sent, or the client is gone."""
        ended = asyncio.create_task(self._ended(entry, run))
        gone = asyncio.create_task(self._received(entry, run, connection, stdin=stdin))
        try:
            while True:
                over = ended.done()
                output.wake.clear()
                if data := output.read():
                    for name, piece in data:
                        if NUMBERS.get(name, 1) in wanted:
                            await connection.send(NUMBERS.get(name, 1), piece)
                    await asyncio.sleep(0)  # others have their turn; and the next file is opened in time
                    continue
                if over:
                    await self._held_newlines(entry, connection, output, wanted)
                    return
                if gone.done():
                    return
                await self._held_newlines(entry, connection, output, wanted)
                woken = asyncio.create_task(output.wake.wait())
                await asyncio.wait({woken, ended, gone}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        finally:
            ended.cancel()
            gone.cancel()

    async def _ended(self, entry: Entry, run: int) -> None:
        """That run has ended, and its output is in the file."""
        engine = self._daemon.engine
        await engine.until(
            entry, lambda i: i.run > run or (i.run == run and i.last is not None and is_down(i))
        )
        await self._daemon.containers.drained(entry)

    async def _held_newlines(
        self, entry: Entry, connection: Connection, output: LogBytes, wanted: set[int]
    ) -> None:
        """Send held newlines that are the program's own: they count among the bytes that it wrote."""
        if not output.held:
            return
        counted = await self._daemon.log_counts()
        wrote = {
            str(stream): count
            for instance, stream, count, _ in (counted.streams if counted is not None else ())
            if instance == entry.instance.id
        }
        for name in sorted(output.held):
            if wrote.get(name) != output.counted.get(name, 0):
                output.release(name)
                if NUMBERS.get(name, 1) in wanted:
                    await connection.send(NUMBERS.get(name, 1), b"\n")

    async def _received(self, entry: Entry, run: int, connection: Connection, *, stdin: bool) -> None:
        """Pass on what the client sends, until it is gone.

        A half-close alone is the end of what it sends, and no more: Docker's client does so without stdin.
        """
        if stdin:
            await self._feed(entry, run, connection)
        while await connection.incoming.read(65536):
            pass
        await connection.outgoing.wait_closed()

    async def _feed(self, entry: Entry, run: int, connection: Connection) -> None:
        """moby, container/stream: the end of it closes a stdin that is for one client, and no terminal."""
        instance, spec, inputs = entry.instance.id, entry.stored.spec, self._daemon.inputs
        await self._daemon.engine.until(
            entry, lambda i: i.run > run or (i.run == run and isinstance(i.phase, Running | Resting))
        )
        fd = await inputs.get(instance, run)
        if fd < 0:
            return
        with contextlib.suppress(OSError):  # it reads no more
            await feed(connection.incoming, fd)
        if spec.stdin_once and not spec.tty:
            inputs.end(instance, run)
