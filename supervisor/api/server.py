"""The HTTP API on a unix socket: Docker's resources and answers where Docker has them, projects beside them.

Errors are `{"message": ...}` with Docker's status codes. A name is an id, a unique prefix of one, a container
name, or a service name where only one instance has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from supervisor import __version__
from supervisor.api.views import instance_view, run_view, stamp
from supervisor.core import events as ev
from supervisor.core.exits import signal_name
from supervisor.core.model import Project
from supervisor.core.signals import signal_number
from supervisor.core.state import Created, Resting, Running
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry, Published, boottime_s
from supervisor.daemon.projects import is_down
from supervisor.daemon.state import StateError
from supervisor.runtime import logs
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.translate import PlanError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The handlers, over one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def application(self) -> web.Application:
        """Routes and error handling."""
        app = web.Application(middlewares=[_errors], client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.get("/_ping", self.ping),
                web.get("/version", self.version),
                web.get("/events", self.events),
                web.get("/containers/json", self.containers),
                web.get("/containers/{name}/json", self.inspect),
                web.get("/containers/{name}/runs", self.runs),
                web.get("/containers/{name}/logs", self.logs),
                web.post("/containers/{name}/start", self.start),
                web.post("/containers/{name}/stop", self.stop),
                web.post("/containers/{name}/restart", self.restart),
                web.post("/containers/{name}/kill", self.kill),
                web.post("/containers/{name}/pause", self.pause),
                web.post("/containers/{name}/unpause", self.unpause),
                web.post("/containers/{name}/wait", self.wait),
                web.delete("/containers/{name}", self.remove),
                web.post("/projects/{project}/up", self.up),
                web.post("/projects/{project}/plan", self.plan),
                web.post("/projects/{project}/down", self.down),
                web.post("/projects/{project}/stop", self.stop_project),
            ]
        )
        return app

    # --- reading --------------------------------------------------------------------------------
    async def ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def version(self, _request: web.Request) -> web.Response:
        return web.json_response({"Version": __version__, "Pid": os.getpid()})

    async def containers(self, request: web.Request) -> web.Response:
        everything = request.query.get("all", "") not in ("", "0", "false", "False")
        project = request.query.get("project")
        entries = [
            entry
            for entry in self._daemon.engine.entries.values()
            if (everything or not is_down(entry.instance)) and project in (None, entry.stored.project)
        ]
        entries.sort(key=lambda entry: entry.stored.name)
        return web.json_response([self._view(entry) for entry in entries])

    async def inspect(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        view = self._view(entry)
        view["Spec"] = msgspec.to_builtins(entry.stored.spec)
        view["LogPath"] = self._log(entry)
        return web.json_response(view)

    async def runs(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        self._daemon.engine.flush()
        records = self._daemon.database.runs(entry.instance.id)
        return web.json_response({"Instance": self._view(entry), "Runs": [run_view(r) for r in records]})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """JSON lines {stamp_ns, stream, text, partial}; with follow=1 until the client goes."""
        entry = self._entry(request)
        tail = request.query.get("tail", "all")
        if tail != "all" and not tail.isdigit():
            raise web.HTTPBadRequest(text=f'cannot read logs: tail {tail!r} is neither "all" nor a number')
        since = _number(request, "since")
        until = _number(request, "until")
        last = None if tail == "all" else int(tail)
        path = self._log(entry)
        response = await _stream(request)
        if request.query.get("follow") == "1":
            async for record in logs.follow({entry.stored.name: path}, tail=last, since_ns=since):
                await _send(response, _log_line(record))
            return response
        for record in await asyncio.to_thread(
            lambda: list(logs.read(entry.stored.name, path, tail=last, since_ns=since, until_ns=until))
        ):
            await _send(response, _log_line(record))
        await response.write_eof()
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = await _stream(request)
        queue: asyncio.Queue[Published] = asyncio.Queue(10_000)

        def enqueue(event: Published) -> None:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(event)

        self._daemon.engine.subscribers.add(enqueue)
        try:
            while True:
                event = await queue.get()
                await _send(
                    response,
                    {
                        "time": stamp(event.wall),
                        "Action": event.action,
                        "id": event.instance,
                        "name": event.name,
                        "project": event.project,
                        "service": event.service,
                        "why": event.why,
                    },
                )
        finally:
            self._daemon.engine.subscribers.discard(enqueue)

    # --- acting ---------------------------------------------------------------------------------
    async def start(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        if not is_down(entry.instance):
            return web.Response(status=304)
        await self._daemon.projects.start([entry])
        return web.json_response(self._view(entry))

    async def stop(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        await self._daemon.projects.stop(
            [entry], grace_s=_number(request, "t"), hold_s=_number(request, "for")
        )
        self._daemon.engine.flush()
        return web.json_response(self._view(entry))

    async def restart(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        run = entry.instance.run
        self._daemon.engine.post(entry.instance.id, ev.RestartRequested(_number(request, "t")))
        await self._daemon.engine.until(
            entry, lambda i: (i.run > run and isinstance(i.phase, Running | Resting)) or is_down(i)
        )
        return web.json_response(self._view(entry))

    async def kill(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        if is_down(entry.instance):
            raise web.HTTPConflict(text=f"cannot kill {entry.stored.name}: it is not running")
        name = request.query.get("signal", "KILL")
        number = signal_number(name)
        if number is None:
            raise web.HTTPBadRequest(text=f"cannot kill {entry.stored.name}: no signal {name!r}")
        self._daemon.engine.post(entry.instance.id, ev.KillRequested(number))
        return web.json_response({"Signal": signal_name(number)})

    async def pause(self, request: web.Request) -> web.Response:
        return await self._freeze(request, paused=True)

    async def unpause(self, request: web.Request) -> web.Response:
        return await self._freeze(request, paused=False)

    async def _freeze(self, request: web.Request, *, paused: bool) -> web.Response:
        entry = self._entry(request)
        phase = entry.instance.phase
        word = "pause" if paused else "unpause"
        if not isinstance(phase, Running) or phase.paused == paused:
            state = self._view(entry)["State"]["Status"]
            raise web.HTTPConflict(text=f"cannot {word} {entry.stored.name}: it is {state}")
        self._daemon.engine.post(entry.instance.id, ev.PauseRequested(paused))
        await self._daemon.engine.until(
            entry, lambda i: not isinstance(i.phase, Running) or i.phase.paused == paused
        )
        return web.json_response(self._view(entry))

    async def wait(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        run = entry.instance.run
        if isinstance(entry.instance.phase, Created):
            await self._daemon.engine.until(entry, lambda i: i.run > run)
        await self._daemon.engine.until(
            entry, lambda i: i.run > run or (not isinstance(i.phase, Running) and i.last is not None)
        )
        last = entry.instance.last
        return web.json_response({"StatusCode": 0 if last is None else last.code})

    async def remove(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        if not is_down(entry.instance):
            if request.query.get("force") != "1":
                raise web.HTTPConflict(
                    text=f"cannot remove {entry.stored.name}: it is running; stop it first, or use --force"
                )
            await self._daemon.projects.stop([entry], grace_s=0)
        await self._daemon.projects.remove(entry)
        return web.Response(status=204)

    # --- projects -------------------------------------------------------------------------------
    async def up(self, request: web.Request) -> web.StreamResponse:
        project = await self._project(request)
        self._daemon.projects.plan(project)
        response = await _stream(request)
        try:
            async for operation, outcome in self._daemon.projects.up(project):
                await _send(response, {**msgspec.to_builtins(operation), "outcome": outcome})
        except (PlanError, PrepareError, StateError) as error:
            await _send(response, {"error": str(error)})
        await response.write_eof()
        return response

    async def plan(self, request: web.Request) -> web.Response:
        plan = self._daemon.projects.plan(await self._project(request))
        return web.json_response([msgspec.to_builtins(op) for op in plan.operations])

    async def down(self, request: web.Request) -> web.Response:
        volumes = request.query.get("volumes") == "1"
        project = request.match_info["project"]
        return web.json_response(await self._daemon.projects.down(project, volumes=volumes))

    async def stop_project(self, request: web.Request) -> web.Response:
        entries = self._daemon.projects.entries(request.match_info["project"])
        await self._daemon.projects.stop(entries, grace_s=_number(request, "t"))
        return web.json_response([entry.stored.name for entry in entries])

    # --- inside ---------------------------------------------------------------------------------
    async def _project(self, request: web.Request) -> Project:
        try:
            project = msgspec.json.decode(await request.read(), type=Project)
        except msgspec.MsgspecError as error:
            raise web.HTTPBadRequest(text=f"cannot read the project: {error}") from error
        if project.name != request.match_info["project"]:
            raise web.HTTPBadRequest(text="cannot bring up the project: its name is not the one of the path")
        return project

    def _entry(self, request: web.Request) -> Entry:
        name = request.match_info["name"]
        project = request.query.get("project")
        entries = [
            entry for entry in self._daemon.engine.entries.values() if project in (None, entry.stored.project)
        ]
        for matches in (
            [e for e in entries if name in (e.instance.id, e.stored.name)],
            [e for e in entries if e.stored.spec.name == name],
            [e for e in entries if len(name) >= 4 and e.instance.id.startswith(name)],
        ):
            if len(matches) == 1:
                return matches[0]
            if len(matches) > 1:
                names = ", ".join(sorted(e.stored.name for e in matches))
                raise web.HTTPConflict(text=f"cannot tell which {name} is meant: {names}; add -p PROJECT")
        raise web.HTTPNotFound(text=f"cannot find {name}: no such service; `shipkeeper ps -a` lists them")

    def _view(self, entry: Entry) -> dict[str, Any]:
        last = self._daemon.database.runs(entry.instance.id, last=1)
        return instance_view(entry, last[0] if last else None, now_s=boottime_s(), now_wall=time.time())

    def _log(self, entry: Entry) -> str:
        return self._daemon.paths.instance(entry.instance.id).log


@contextlib.asynccontextmanager
async def serve(daemon: Daemon) -> AsyncIterator[None]:
    """Serve the API at the socket while the context lasts: for root and the API group only."""
    runner = web.AppRunner(Api(daemon).application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    path = daemon.paths.api_socket
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, path).start()
    finally:
        os.umask(before)
    with contextlib.suppress(KeyError):
        os.chown(path, 0, grp.getgrnam(daemon.settings.api_group).gr_gid)
        Path(path).chmod(0o660)
    try:
        yield
    finally:
        await runner.cleanup()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return web.json_response({"message": error.text}, status=error.status)
    except (PlanError, PrepareError, StateError) as error:
        return web.json_response({"message": str(error)}, status=500)


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    return response


async def _send(response: web.StreamResponse, document: dict[str, Any]) -> None:
    await response.write(json.dumps(document).encode() + b"\n")


def _log_line(record: logs.LogRecord | logs.RunMarker) -> dict[str, Any]:
    if isinstance(record, logs.RunMarker):
        return {"stamp_ns": record.stamp_ns, "stream": "", "text": record.text, "partial": False}
    return {
        "stamp_ns": record.stamp_ns,
        "stream": record.stream,
        "text": record.text.decode("utf-8", "surrogateescape"),
        "partial": record.partial,
    }


def _number(request: web.Request, name: str) -> Any:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return int(text) if name in ("since", "until") else float(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"cannot use {name}={text}: it is no number") from None
