"""Projects: bring up a resolved model with streamed progress, plan, wait until all is up, take down."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from supervisor.api.lookup import flag, seconds, send, stream
from supervisor.core.model import Project
from supervisor.core.reconcile import DEFAULTS, Options
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry
from supervisor.daemon.outcomes import has_begun
from supervisor.daemon.state import StateError
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.translate import PlanError
from supervisor.runtime.volumes import VolumeError


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """Ours; Docker has no projects."""
    handlers = _Handlers(daemon)
    return [
        web.post("/projects/{project}/up", handlers.up),
        web.post("/projects/{project}/plan", handlers.plan),
        web.post("/projects/{project}/wait", handlers.wait),
        web.post("/projects/{project}/down", handlers.down),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def up(self, request: web.Request) -> web.StreamResponse:
        """Lines {operation, outcome}. ?timeout: seconds; then {"timeout": [names]}, and no more starts."""
        project, contents, options = await _project(request)
        # What is wrong now is the answer itself.
        project = await self._daemon.projects.resolve(project, contents)
        response = await stream(request)
        try:
            async with asyncio.timeout(seconds(request, "timeout")):
                async for operation, outcome in self._daemon.projects.up(project, contents, options):
                    await send(response, {**msgspec.to_builtins(operation), "outcome": outcome})
        except TimeoutError:
            entries = [] if options.start == "none" else self._daemon.projects.entries(project.name)
            late = [entry.stored.name for entry in entries if not has_begun(entry.instance)]
            await send(response, {"timeout": late})
        except (PlanError, PrepareError, StateError, VolumeError) as error:
            await send(response, {"error": str(error)})
        await response.write_eof()
        return response

    async def plan(self, request: web.Request) -> web.Response:
        project, contents, options = await _project(request)
        project = await self._daemon.projects.resolve(project, contents)
        plan = self._daemon.projects.plan(project, options)
        return web.json_response([msgspec.to_builtins(op) for op in plan.operations])

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """Until each of ?service (or all) is up, or will not come up: lines {name, up, outcome}.

        ?timeout: seconds. The last line is {"timeout": [names]} if some have come to nothing by then.
        """
        project = request.match_info["project"]
        services = request.query.getall("service", [])
        entries = [
            entry
            for entry in self._daemon.projects.entries(project)
            if not services or entry.stored.spec.name in services
        ]
        response = await stream(request)
        tasks = {asyncio.create_task(self._daemon.projects.settled(entry)): entry for entry in entries}
        waiting = set(tasks)
        try:
            async with asyncio.timeout(seconds(request, "timeout")):
                while waiting:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        await send(response, _settled(tasks[task], task.result()))
        except TimeoutError:
            await send(response, {"timeout": sorted(tasks[task].stored.name for task in waiting)})
        finally:
            for task in waiting:
                task.cancel()
        await response.write_eof()
        return response

    async def down(self, request: web.Request) -> web.StreamResponse:
        """JSON lines {name, outcome} as things go. ?service: only these, and what depends on them."""
        project = request.match_info["project"]
        response = await stream(request)
        try:
            async for name, error in self._daemon.projects.down(
                project,
                services=request.query.getall("service", []),
                volumes=flag(request, "volumes"),
                grace_s=seconds(request, "t"),
            ):
                line = {"name": name, "error": error} if error else {"name": name, "outcome": "removed"}
                await send(response, line)
        except (PrepareError, StateError, VolumeError) as error:
            await send(response, {"error": str(error)})
        await response.write_eof()
        return response


def _settled(entry: Entry, outcome: tuple[bool, str]) -> dict[str, Any]:
    return {"name": entry.stored.name, "up": outcome[0], "outcome": outcome[1]}


class _Beside(msgspec.Struct):
    """What is in a request beside the fields of its project. contents: see `core.grants`, in base64."""

    contents: dict[str, bytes] = {}
    options: Options = DEFAULTS


async def _project(request: web.Request) -> tuple[Project, dict[str, bytes], Options]:
    body = await request.read()
    try:
        project = msgspec.json.decode(body, type=Project)
        beside = msgspec.json.decode(body, type=_Beside)
    except msgspec.MsgspecError as error:
        raise web.HTTPBadRequest(text=f"cannot read the project: {error}") from error
    if project.name != request.match_info["project"]:
        raise web.HTTPBadRequest(text="cannot bring up the project: its name is not the one of the path")
    return project, beside.contents, beside.options
