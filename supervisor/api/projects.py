"""Projects: bring up a resolved model with streamed progress, plan, wait until all is up, take down."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from supervisor.api.lookup import flag, seconds, send, stream
from supervisor.core.model import Project
from supervisor.core.reconcile import DEFAULTS, Options
from supervisor.core.state import docker_state
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
        web.get("/projects", handlers.index),
        web.post("/projects/{project}/up", handlers.up),
        web.post("/projects/{project}/plan", handlers.plan),
        web.post("/projects/{project}/wait", handlers.wait),
        web.post("/projects/{project}/down", handlers.down),
        web.post("/projects/{project}/run", handlers.run),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def index(self, _request: web.Request) -> web.Response:
        """Projects that have instances, with the states of these; not counting what `compose run` made."""
        found: dict[str, list[Entry]] = {}
        for entry in self._daemon.engine.entries.values():
            if entry.stored.project and not entry.stored.spec.one_off:
                found.setdefault(entry.stored.project, []).append(entry)
        files = self._daemon.projects.files
        return web.json_response(
            [
                {
                    "Name": name,
                    "WorkingDir": entries[-1].stored.working_dir,
                    "ConfigFiles": await asyncio.to_thread(files.known, name),
                    "States": sorted(docker_state(entry.instance) for entry in entries),
                }
                for name, entries in sorted(found.items())
            ]
        )

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
            entries = [] if options.start == "none" else self._daemon.projects.members(project.name)
            late = [entry.stored.name for entry in entries if not has_begun(entry.instance)]
            await send(response, {"timeout": late})
        except (PlanError, PrepareError, StateError, VolumeError) as error:
            await send(response, {"error": str(error)})
        await response.write_eof()
        return response

    async def run(self, request: web.Request) -> web.Response:
        """Make a one-off instance of the only service of the project in the body: {"Id"}, as Docker's create.

        Its name is its container_name.
        """
        project, contents, _ = await _project(request)
        if len(project.services) != 1 or not project.services[0].one_off:
            raise web.HTTPBadRequest(
                text="cannot make a one-off instance: the project has to be of one service"
            )
        project = await self._daemon.projects.resolve(project, contents)
        entry = await self._daemon.projects.one_off(project, contents)
        return web.json_response({"Id": entry.instance.id, "Name": entry.stored.name}, status=201)

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
            for entry in self._daemon.projects.members(project)
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
