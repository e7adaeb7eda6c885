"""One verb on several services: all are tried, in dependency order, and each tells what came of it.

`POST /services/{verb}` with {"names": [...], "project": ...}; no names means all of the project. The answer
is JSON lines: {"name", "outcome"}, {"name", "error", "status"}, or, while something is slow, {"name",
"waiting_s", "of_s"}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
from aiohttp import web

from supervisor.api.containers import freeze, kill, remove
from supervisor.api.lookup import select, send, stored, stream
from supervisor.core.exits import signal_name
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry
from supervisor.daemon.outcomes import is_down, outcome
from supervisor.daemon.state import StateError
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.volumes import VolumeError

_TELL_EVERY_S = 1.0


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be done to which services. Only what the verb needs is looked at."""

    names: list[str] = []
    project: str | None = None
    grace_s: float | None = None
    hold_s: float | None = None
    signal: str = "KILL"
    force: bool = False
    volumes: bool = False
    alone: bool = False


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """The resource of this module."""
    return [web.post("/services/{verb}", _Handlers(daemon).act)]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def act(self, request: web.Request) -> web.StreamResponse:
        verb = request.match_info["verb"]
        try:
            wanted = msgspec.json.decode(await request.read(), type=Request)
        except msgspec.MsgspecError as error:
            raise web.HTTPBadRequest(text=f"cannot {verb}: {error}") from error
        if not wanted.names and wanted.project is None:
            raise web.HTTPBadRequest(text=f"cannot {verb}: name services or a project")
        unknown: list[tuple[str, web.HTTPException]] = []
        entries: list[Entry] = []
        for name in wanted.names:
            try:
                entries += [
                    e for e in select(self._daemon.engine, [name], wanted.project) if e not in entries
                ]
            except web.HTTPException as error:
                unknown.append((name, error))
        if not wanted.names:
            entries = select(self._daemon.engine, [], wanted.project)
        work = self._work(verb, entries, wanted)
        response = await stream(request)
        for name, refusal in unknown:
            await send(response, {"name": name, "error": refusal.text, "status": refusal.status})
        await self._tell(response, entries, work)
        await response.write_eof()
        return response

    def _work(self, verb: str, entries: list[Entry], wanted: Request) -> dict[str, asyncio.Task[str]]:
        """A task for each instance, by its id; what it returns is the outcome."""
        match verb:
            case "start":
                return self._together(entries, self._start(entries))
            case "stop":
                return self._together(entries, self._stop(entries, wanted), "stopped")
            case "restart":
                again = self._daemon.projects.restart(entries, wanted.grace_s, alone=wanted.alone)
                return self._together(entries, again)
            case "kill":
                return self._each(entries, lambda entry: self._kill(entry, wanted.signal))
            case "pause" | "unpause":
                return self._each(entries, lambda entry: self._freeze(entry, paused=verb == "pause"))
            case "remove":
                return self._each(entries, lambda entry: self._remove(entry, wanted))
            case _:
                raise web.HTTPNotFound(text=f"no such verb: {verb}")

    @staticmethod
    def _each(entries: list[Entry], act: Any) -> dict[str, asyncio.Task[str]]:
        return {entry.instance.id: asyncio.ensure_future(act(entry)) for entry in entries}

    def _together(
        self, entries: list[Entry], all_of_them: Awaitable[None], result: str = ""
    ) -> dict[str, asyncio.Task[str]]:
        """One operation that keeps the order; its instances are done when it is."""
        whole = asyncio.ensure_future(all_of_them)

        async def one(entry: Entry) -> str:
            await asyncio.shield(whole)
            return result or outcome(entry)

        return {entry.instance.id: asyncio.ensure_future(one(entry)) for entry in entries}

    async def _start(self, entries: list[Entry]) -> None:
        await self._daemon.projects.start(entries)

    async def _stop(self, entries: list[Entry], wanted: Request) -> None:
        await self._daemon.projects.stop(entries, grace_s=wanted.grace_s, hold_s=wanted.hold_s)
        await stored(self._daemon.engine)

    async def _kill(self, entry: Entry, name: str) -> str:
        return f"sent {signal_name(kill(self._daemon, entry, name))}"

    async def _freeze(self, entry: Entry, *, paused: bool) -> str:
        await freeze(self._daemon, entry, paused=paused)
        return "paused" if paused else "running"

    async def _remove(self, entry: Entry, wanted: Request) -> str:
        await remove(self._daemon, entry, force=wanted.force, volumes=wanted.volumes)
        return "removed"

    async def _tell(
        self, response: web.StreamResponse, entries: list[Entry], work: dict[str, asyncio.Task[str]]
    ) -> None:
        names = {task: entry for entry in entries for task in [work[entry.instance.id]]}
        waiting = set(names)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=_TELL_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            for task in sorted(done, key=lambda task: names[task].stored.name):
                await send(response, {"name": names[task].stored.name, **_result(task)})
            for task in () if done else sorted(waiting, key=lambda task: names[task].stored.name):
                entry = names[task]
                if not is_down(entry.instance):
                    passed = loop.time() - began
                    line = {"name": entry.stored.name, "waiting_s": round(passed, 1)}
                    await send(response, {**line, "of_s": entry.instance.stop_grace_s})


def _result(task: asyncio.Task[str]) -> dict[str, Any]:
    try:
        return {"outcome": task.result()}
    except web.HTTPException as error:
        return {"error": error.text, "status": error.status}
    except (PrepareError, StateError, VolumeError) as error:
        return {"error": str(error), "status": 500}
