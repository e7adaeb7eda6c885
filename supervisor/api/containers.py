"""One service instance at a time, by Docker's container endpoints; for Docker's clients and for scripts."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
from aiohttp import web

from supervisor.api.dockers import is_dockers, network_settings, row_view, wanted_by
from supervisor.api.lookup import filters, find_here, flag, seconds, stored
from supervisor.api.netviews import port_rows
from supervisor.api.views import (
    config_view,
    instance_view,
    process_titles,
    process_view,
    run_view,
    stats_view,
)
from supervisor.core import events as ev
from supervisor.core.exits import SpawnFailure, describe, signal_name
from supervisor.core.lifecycle import ends_waiting
from supervisor.core.signals import signal_number
from supervisor.core.state import Created, Running, Waiting
from supervisor.daemon.app import Daemon
from supervisor.daemon.containers import NO_PROJECT, NameTakenError
from supervisor.daemon.engine import Entry, boottime_s
from supervisor.daemon.outcomes import is_down, rests
from supervisor.daemon.usage import host_memory_bytes, processes, usages
from supervisor.kernel.usage import Usage
from supervisor.runtime.translate import PlanError


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """Docker's /containers resource, without logs and exec."""
    handlers = _Handlers(daemon)
    return [
        web.get("/containers/json", handlers.index),
        web.get("/containers/{name}/json", handlers.inspect),
        web.get("/containers/{name}/runs", handlers.runs),
        web.get("/containers/{name}/top", handlers.top),
        web.get("/containers/{name}/stats", handlers.stats),
        web.post("/containers/{name}/start", handlers.start),
        web.post("/containers/{name}/stop", handlers.stop),
        web.post("/containers/{name}/restart", handlers.restart),
        web.post("/containers/{name}/kill", handlers.kill),
        web.post("/containers/{name}/pause", handlers.pause),
        web.post("/containers/{name}/unpause", handlers.unpause),
        web.post("/containers/{name}/wait", handlers.wait),
        web.post("/containers/{name}/rename", handlers.rename),
        web.post("/containers/prune", handlers.prune),
        web.delete("/containers/{name}", handlers.remove),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._engine = daemon.engine

    # --- reading --------------------------------------------------------------------------------
    async def index(self, request: web.Request) -> web.Response:
        """?all, ?project; ?usage adds what each uses. Hooks are listed as long as they run."""
        # As Docker has it, a filter by status looks among all.
        everything = flag(request, "all") or (
            is_dockers(request) and "status" in request.query.get("filters", "")
        )
        project = request.query.get("project")
        entries = [
            entry
            for entry in self._engine.entries.values()
            if ((everything and not entry.stored.spec.hook_of) or not is_down(entry.instance))
            and project in (None, entry.stored.project)
        ]
        entries.sort(key=lambda entry: entry.stored.name)
        if is_dockers(request):
            times = {"now_s": boottime_s(), "now_wall": time.time()}
            rows = [row_view(entry, self._daemon.networks, **times) for entry in entries]
            return web.json_response([row for row in rows if wanted_by(request, row)])
        used: dict[str, Usage] = {}
        if flag(request, "usage"):
            places = [(entry.instance.id, entry.cgroup) for entry in entries]
            used = await asyncio.to_thread(usages, self._daemon.cgroups, places)
        networks = self._daemon.networks
        views = []
        for entry in entries:
            bindings = networks.bindings(entry.instance.id)
            views.append(self._view(entry, used.get(entry.instance.id)))
            views[-1]["Ports"] = port_rows(entry.stored.spec, bindings)
        return web.json_response(views)

    async def inspect(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        view = self._view(entry)
        view["Spec"] = msgspec.to_builtins(entry.stored.spec)
        view["Config"] = config_view(entry)
        if is_dockers(request):
            view["Name"] = f"/{view['Name']}"
            # What its clients look into without asking whether it is there.
            view |= {
                "Image": entry.stored.spec.rootfs.image_id,
                "Mounts": [],
            }
        view["NetworkSettings"] = network_settings(entry, self._daemon.networks)
        view["HostConfig"]["NetworkMode"] = entry.stored.spec.network_mode
        view["LogPath"] = self._daemon.paths.instance(entry.instance.id).log
        return web.json_response(view)

    async def runs(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        await stored(self._engine)
        records = self._daemon.database.runs(entry.instance.id)
        return web.json_response({"Instance": self._view(entry), "Runs": [run_view(r) for r in records]})

    async def top(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        if not entry.cgroup:
            raise web.HTTPConflict(
                text=f"cannot list the processes of {entry.stored.name}: it is not running"
            )
        rows = await asyncio.to_thread(processes, self._daemon.cgroups, entry.cgroup)
        return web.json_response(
            {"Titles": process_titles(), "Processes": [process_view(row, time.time()) for row in rows]}
        )

    async def stats(self, request: web.Request) -> web.Response:
        """One sample; Docker's clients get a stream of them only by asking again."""
        entry = find_here(self._engine, request)
        place = [(entry.instance.id, entry.cgroup)]
        used = await asyncio.to_thread(usages, self._daemon.cgroups, place)
        return web.json_response(
            stats_view(entry, used.get(entry.instance.id), host_memory_bytes(), time.time())
        )

    # --- acting ---------------------------------------------------------------------------------
    async def start(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        if not is_down(entry.instance):
            return web.Response(status=304)
        await self._daemon.projects.start([entry])
        last = entry.instance.last
        alone = entry.stored.project == NO_PROJECT or entry.stored.spec.one_off
        if alone and is_down(entry.instance) and isinstance(last, SpawnFailure):
            raise web.HTTPBadRequest(text=f"cannot start {entry.stored.name}: {describe(last)}")
        if alone and isinstance(entry.instance.phase, Created):
            raise web.HTTPConflict(text=f"cannot start {entry.stored.name}: {entry.instance.reason}")
        return web.json_response(self._view(entry))

    async def stop(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        await self._daemon.projects.stop(
            [entry], grace_s=seconds(request, "t"), hold_s=seconds(request, "for")
        )
        await stored(self._engine)
        return web.json_response(self._view(entry))

    async def restart(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        await self._daemon.projects.restart([entry], seconds(request, "t"))
        return web.json_response(self._view(entry))

    async def kill(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        number = kill(self._daemon, entry, request.query.get("signal", "KILL"))
        return web.json_response({"Signal": signal_name(number)})

    async def pause(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        await freeze(self._daemon, entry, paused=True)
        return web.json_response(self._view(entry))

    async def unpause(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        await freeze(self._daemon, entry, paused=False)
        return web.json_response(self._view(entry))

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """?condition: not-running (the default), next-exit, removed, or up (ours: running, or given up).

        The head of the answer goes at once: Docker's client starts what it waits for when it has that.
        """
        entry = find_here(self._engine, request)
        condition = request.query.get("condition") or "not-running"
        if condition not in ("not-running", "next-exit", "removed", "up"):
            raise web.HTTPBadRequest(
                text=f"cannot wait for {condition!r}: write not-running, next-exit, removed or up"
            )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await self._until(entry, condition)
        last = entry.instance.last
        up = isinstance(entry.instance.phase, Running)
        found = {"StatusCode": 0 if last is None else last.code, "Running": up}
        await response.write_eof(json.dumps(found).encode())
        return response

    async def _until(self, entry: Entry, condition: str) -> None:
        run = entry.instance.run
        match condition:
            case "not-running" | "next-exit" | "removed":
                if isinstance(entry.instance.phase, Created) or (
                    condition == "next-exit" and not isinstance(entry.instance.phase, Running)
                ):
                    await self._engine.until(entry, lambda i: i.run > run)
                    run = entry.instance.run
                await self._engine.until(
                    entry, lambda i: i.run > run or (not isinstance(i.phase, Running) and i.last is not None)
                )
                if condition == "removed":
                    await self._engine.gone(entry)
            case _:
                await self._engine.until(entry, lambda i: isinstance(i.phase, Running) or rests(i))

    async def rename(self, request: web.Request) -> web.Response:
        """?name."""
        entry = find_here(self._engine, request)
        try:
            self._daemon.containers.rename(entry, request.query.get("name", "").removeprefix("/"))
            await self._daemon.networks.reconnect(entry.stored)
            await self._daemon.memberships.settle()
        except NameTakenError as error:
            raise web.HTTPConflict(text=str(error)) from error
        except PlanError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        await stored(self._engine)
        return web.Response(status=204)

    async def prune(self, request: web.Request) -> web.Response:
        """?filters={"label": [...]}: those that are down and belong to no project."""
        given = filters(request)
        labels = tuple(given.pop("label", ()))
        if given:
            raise web.HTTPBadRequest(text=f"cannot filter by {', '.join(sorted(given))}: only by label")
        removed = await self._daemon.containers.prune(labels)
        await stored(self._engine)
        return web.json_response({"ContainersDeleted": removed, "SpaceReclaimed": 0})

    async def remove(self, request: web.Request) -> web.Response:
        entry = find_here(self._engine, request)
        await remove(self._daemon, entry, force=flag(request, "force"), volumes=flag(request, "v"))
        return web.Response(status=204)

    def _view(self, entry: Entry, used: Usage | None = None) -> dict[str, Any]:
        return view(entry, used)


def view(entry: Entry, used: Usage | None = None) -> dict[str, Any]:
    """An instance as it is now."""
    return instance_view(entry, used, now_s=boottime_s(), now_wall=time.time())


def kill(daemon: Daemon, entry: Entry, name: str) -> int:
    """Send a signal to the main process; its number. Raises HTTPConflict, HTTPBadRequest."""
    if is_down(entry.instance):
        raise web.HTTPConflict(text=f"cannot kill {entry.stored.name}: it is not running")
    number = signal_number(name)
    if number is None:
        raise web.HTTPBadRequest(text=f"cannot kill {entry.stored.name}: no signal {name!r}")
    if isinstance(entry.instance.phase, Waiting) and not ends_waiting(entry.instance, number):
        raise web.HTTPConflict(
            text=f"cannot send {signal_name(number)} to {entry.stored.name}: it waits for its restart, and"
            " nothing of it runs; `stop` ends the waiting"
        )
    daemon.engine.post(entry.instance.id, ev.KillRequested(number))
    return number


async def freeze(daemon: Daemon, entry: Entry, *, paused: bool) -> None:
    """Pause or go on; returns when it is so. Raises HTTPConflict."""
    phase = entry.instance.phase
    word = "pause" if paused else "unpause"
    if not isinstance(phase, Running) or phase.paused == paused:
        state = view(entry)["State"]["Status"]
        raise web.HTTPConflict(text=f"cannot {word} {entry.stored.name}: it is {state}")
    daemon.engine.post(entry.instance.id, ev.PauseRequested(paused))
    await daemon.engine.until(entry, lambda i: not isinstance(i.phase, Running) or i.phase.paused == paused)


async def remove(daemon: Daemon, entry: Entry, *, force: bool, volumes: bool) -> None:
    """Remove what is down, or with `force` what runs, too; with `volumes` its anonymous ones.

    Raises HTTPConflict.
    """
    if not is_down(entry.instance):
        if not force:
            raise web.HTTPConflict(
                text=f"cannot remove {entry.stored.name}: it is running; stop it first, or use --force"
            )
        await daemon.projects.stop([entry], grace_s=0)
    await daemon.projects.remove(entry, volumes=volumes)
