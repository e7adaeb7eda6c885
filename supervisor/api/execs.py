"""Running a process inside a service, by Docker's exec endpoints: create, start, resize, inspect.

`start` hijacks the connection as Docker does: after `101 UPGRADED` it is a raw stream. With a terminal that
is its bytes, else frames [stream, 0, 0, 0, length as 4 bytes] of stdout (1) and stderr (2); what the client
sends is stdin, and its half-close is the end of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from typing import Any

from aiohttp import web

from supervisor.api.hijack import Bridge, Connection, hijacked
from supervisor.api.lookup import body, find_here
from supervisor.core.signals import signal_number
from supervisor.core.state import Running
from supervisor.daemon.app import Daemon
from supervisor.daemon.execs import ExecError, ExecSession
from supervisor.daemon.inputs import resize
from supervisor.daemon.plans import ExecRequest


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
        document = await body(request, b"{}")
        wanted = _request(document)
        process = await asyncio.to_thread(self._daemon.plans.exec_process, entry.stored, wanted)
        session = self._daemon.execs.create(entry.instance.id, entry.stored.name, entry.instance.run, process)
        match document.get("ConsoleSize"):
            case [int(height), int(width)] if 0 <= height <= 0xFFFF and 0 <= width <= 0xFFFF:
                self._sizes[session.id] = height, width
        return web.json_response({"Id": session.id}, status=201)

    async def start(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        detach = bool((await body(request, b"{}")).get("Detach"))
        if session.begun:
            raise web.HTTPConflict(text=f"cannot start exec {session.id[:12]}: it was started already")
        if detach:
            try:
                fds = await self._daemon.execs.start(session)
            except ExecError as error:
                raise web.HTTPBadRequest(text=str(error)) from error
            for fd in fds:
                os.close(fd)
            return web.Response()
        # The answer's head goes first, as Docker's does: a client may lose what comes in one piece with it.
        async with hijacked(request, tty=session.process.tty) as connection:
            try:
                fds = await self._daemon.execs.start(session)
            except ExecError as error:
                await connection.say(f"{error}\n")
            else:
                await self._bridge(session, connection, fds)
        return connection.response

    async def _bridge(self, session: ExecSession, connection: Connection, fds: list[int]) -> None:
        if session.process.tty:
            self._terminals[session.id] = fds[0]
            resize(fds[0], *self._sizes.pop(session.id, (0, 0)))
        try:
            await Bridge(connection, session.ended).run(fds)
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
            resize(master, int(request.query["h"]), int(request.query["w"]))
        except (KeyError, ValueError, struct.error) as error:
            raise web.HTTPBadRequest(text="cannot resize: give h and w, 0 to 65535") from error
        return web.Response()

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
