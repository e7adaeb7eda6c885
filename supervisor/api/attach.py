"""Docker's attach: what an instance writes from now on (`stream`), with what it wrote before (`logs`).

The connection is as `api.hijack` says. It ends with the run, after the last byte of it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from aiohttp import web

from supervisor.api.hijack import Connection, hijacked
from supervisor.api.lookup import find_here, flag
from supervisor.core.state import Created, Resting
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry
from supervisor.daemon.projects import is_down
from supervisor.runtime.logbytes import LogBytes

_NUMBERS = {"stdout": 1, "tty": 1, "stderr": 2}


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """Attach."""
    return [web.post("/containers/{name}/attach", _Handlers(daemon).attach)]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """?stream ?logs ?stdout ?stderr."""
        entry = find_here(self._daemon.engine, request)
        wanted = {number for name, number in _NUMBERS.items() if name != "tty" and flag(request, name)}
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
                    await self._send(entry, run, connection, output, wanted)
            return connection.response
        finally:
            readers.remove(output.look)
            if not readers:
                self._daemon.containers.readers.pop(entry.instance.id, None)
            output.close()

    async def _send(
        self, entry: Entry, run: int, connection: Connection, output: LogBytes, wanted: set[int]
    ) -> None:
        """Until the run has ended and all of it was sent, or the client is gone."""
        ended = asyncio.create_task(self._ended(entry, run))
        gone = asyncio.create_task(self._gone(connection))
        try:
            while True:
                over = ended.done()
                output.wake.clear()
                if data := output.read():
                    for name, piece in data:
                        if _NUMBERS.get(name, 1) in wanted:
                            await connection.send(_NUMBERS.get(name, 1), piece)
                    await asyncio.sleep(0)  # others have their turn; and the next file is opened in time
                    continue
                if over:
                    await self._held_newlines(entry, connection, output, wanted)
                    return
                if gone.done():
                    return
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
        """Send a last newline if it is the program's own: it counts among the bytes that it wrote."""
        if not output.held:
            return
        counted = await self._daemon.log_counts()
        wrote = {
            str(stream): count
            for instance, stream, count, _ in (counted.streams if counted is not None else ())
            if instance == entry.instance.id
        }
        for name in sorted(output.held):
            if wrote.get(name) != output.counted.get(name, 0) and _NUMBERS.get(name, 1) in wanted:
                await connection.send(_NUMBERS.get(name, 1), b"\n")

    @staticmethod
    async def _gone(connection: Connection) -> None:
        """The client is gone. A half-close alone says nothing: Docker's client does so without stdin."""
        while await connection.incoming.read(65536):
            pass
        await connection.outgoing.wait_closed()
