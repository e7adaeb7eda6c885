"""Running a process inside a service, by Docker's exec endpoints: create, start, resize, inspect.

`start` hijacks the connection as Docker does: after `101 UPGRADED` it is a raw stream. With a terminal that
is its bytes, else frames [stream, 0, 0, 0, length as 4 bytes] of stdout (1) and stderr (2); what the client
sends is stdin, and its half-close is the end of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import struct
import termios
from typing import Any

from aiohttp import web

from supervisor.api.lookup import find_here
from supervisor.core.signals import signal_number
from supervisor.core.state import Running
from supervisor.daemon.app import Daemon
from supervisor.daemon.execs import ExecError, ExecSession
from supervisor.daemon.plans import ExecRequest

_BLOCK = 65536
_DRAIN_S = 0.25


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """Docker's /exec resource."""
    handlers = _Handlers(daemon)
    return [
        web.post("/containers/{name}/exec", handlers.create),
        web.post("/exec/{id}/start", handlers.start),
        web.post("/exec/{id}/resize", handlers.resize),
        web.post("/exec/{id}/kill", handlers.kill),
        web.get("/exec/{id}/json", handlers.inspect),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._terminals: dict[str, int] = {}  # by exec id: the pty's master
        self._sizes: dict[str, tuple[int, int]] = {}  # of those that have not begun

    async def create(self, request: web.Request) -> web.Response:
        entry = find_here(self._daemon.engine, request)
        phase = entry.instance.phase
        if not isinstance(phase, Running):
            raise web.HTTPConflict(
                text=f"cannot exec in {entry.stored.name}: it is not running; see `shipkeeper why"
                f" {entry.stored.name}`"
            )
        if phase.paused:
            raise web.HTTPConflict(text=f"cannot exec in {entry.stored.name}: it is paused; unpause it first")
        document = await _json(request)
        wanted = _request(document)
        process = await asyncio.to_thread(self._daemon.plans.exec_process, entry.stored, wanted)
        session = self._daemon.execs.create(entry.instance.id, entry.stored.name, entry.instance.run, process)
        match document.get("ConsoleSize"):
            case [int(height), int(width)] if 0 <= height <= 0xFFFF and 0 <= width <= 0xFFFF:
                self._sizes[session.id] = height, width
        return web.json_response({"Id": session.id}, status=201)

    async def start(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        detach = bool((await _json(request)).get("Detach"))
        if session.begun:
            raise web.HTTPConflict(text=f"cannot start exec {session.id[:12]}: it was started already")
        try:
            fds = await self._daemon.execs.start(session)
        except ExecError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        if detach:
            for fd in fds:
                os.close(fd)
            return web.Response()
        if session.process.tty:
            self._terminals[session.id] = fds[0]
            self._resize(fds[0], *self._sizes.pop(session.id, (0, 0)))
        try:
            return await _hijack(request, session, fds)
        finally:
            self._terminals.pop(session.id, None)
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)

    async def resize(self, request: web.Request) -> web.Response:
        session = self._session(request)
        master = self._terminals.get(session.id)
        if master is None:
            raise web.HTTPConflict(text=f"cannot resize exec {session.id[:12]}: it has no terminal open")
        try:
            self._resize(master, int(request.query["h"]), int(request.query["w"]))
        except (KeyError, ValueError, struct.error) as error:
            raise web.HTTPBadRequest(text="cannot resize: give h and w, 0 to 65535") from error
        return web.Response()

    @staticmethod
    def _resize(master: int, height: int, width: int) -> None:
        if height and width:
            with contextlib.suppress(OSError):
                fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def kill(self, request: web.Request) -> web.Response:
        session = self._session(request)
        name = request.query.get("signal", "KILL")
        number = signal_number(name)
        if number is None:
            raise web.HTTPBadRequest(text=f"cannot signal exec {session.id[:12]}: no signal {name!r}")
        self._daemon.execs.signal(session, number)
        return web.Response(status=204)

    async def inspect(self, request: web.Request) -> web.Response:
        session = self._session(request)
        return web.json_response(
            {
                "ID": session.id,
                "Running": session.begun and not session.ended.is_set(),
                "ExitCode": session.exit_code,
                "Pid": session.pid,
                "ContainerID": session.instance,
                "ProcessConfig": {
                    "tty": session.process.tty,
                    "entrypoint": session.process.argv[0],
                    "arguments": session.process.argv[1:],
                },
            }
        )

    def _session(self, request: web.Request) -> ExecSession:
        exec_id = request.match_info["id"]
        session = self._daemon.execs.find(exec_id)
        if session is None:
            raise web.HTTPNotFound(text=f"no such exec: {exec_id[:12]}; the daemon may have been restarted")
        return session


async def _json(request: web.Request) -> dict[str, Any]:
    text = await request.read()
    try:
        document = json.loads(text) if text else {}
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"cannot read the request: {error}") from error
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(text="cannot read the request: it is no JSON object")
    return document


def _request(document: dict[str, Any]) -> ExecRequest:
    argv = document.get("Cmd")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise web.HTTPBadRequest(text="cannot exec: Cmd is a list of words, the first of them a program")
    env = [str(pair).partition("=") for pair in document.get("Env") or []]
    return ExecRequest(
        argv=tuple(argv),
        env=tuple((name, value) for name, _, value in env),
        user=document.get("User") or None,
        cwd=document.get("WorkingDir") or None,
        tty=bool(document.get("Tty")),
        stdin=bool(document.get("AttachStdin")),
        privileged=bool(document.get("Privileged")),
    )


async def _hijack(request: web.Request, session: ExecSession, fds: list[int]) -> web.StreamResponse:
    """Take the connection over until the process has ended and all that it wrote is sent."""
    transport = request.transport
    if transport is None:
        raise web.HTTPBadRequest(text="cannot exec: the connection is closed")
    response = web.StreamResponse(
        status=101,
        reason="UPGRADED",
        headers={
            "Content-Type": "application/vnd.docker.raw-stream"
            if session.process.tty
            else "application/vnd.docker.multiplexed-stream",
            "Connection": "Upgrade",
            "Upgrade": "tcp",
        },
    )
    await response.prepare(request)
    # From here on the bytes are ours. aiohttp closes a connection at a half-close; asyncio's own does not.
    loop = asyncio.get_running_loop()
    former = transport.get_protocol()
    incoming = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(incoming, loop=loop)
    protocol.connection_made(transport)
    transport.set_protocol(protocol)
    outgoing = asyncio.StreamWriter(transport, protocol, incoming, loop)
    bridge = _Bridge(session, incoming, outgoing)
    try:
        await bridge.run(fds)
    finally:
        transport.set_protocol(former)
        response.force_close()
        transport.close()
    return response


class _Bridge:
    """Between the client's connection and the process's pipes, or its terminal."""

    def __init__(
        self, session: ExecSession, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter
    ) -> None:
        self._session = session
        self._incoming = incoming
        self._outgoing = outgoing
        self._idle: set[int] = set()  # outputs whose pump waits for more

    async def run(self, fds: list[int]) -> None:
        """fds: as `protocol.Exec` gives them; those that are used up are closed."""
        tty = self._session.process.tty
        outputs = [(os.dup(fds[0]), 0)] if tty else [(os.dup(fd), n) for n, fd in enumerate(fds[-2:], 1)]
        stdin = os.dup(fds[0]) if tty or len(fds) == 3 else -1
        if not tty:
            while fds:
                os.close(fds.pop())
        feeding = asyncio.create_task(self._feed(stdin))
        pumps = {asyncio.create_task(self._pump(fd, number)): fd for fd, number in outputs}
        ended = asyncio.create_task(self._session.ended.wait())
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
                head = struct.pack(">BxxxI", number, len(data)) if number else b""
                self._outgoing.write(head + data)
                await self._outgoing.drain()
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
        """What the client sends, until it has no more."""
        if fd < 0:
            await self._incoming.read(1)
            return
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(fd, "wb", 0)
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        try:
            while data := await self._incoming.read(_BLOCK):
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # nobody reads it any more
        finally:
            transport.close()
