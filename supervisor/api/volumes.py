"""Docker's /volumes: list, create, inspect, remove, prune. Source: the Engine API, Volume."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from supervisor.api.lookup import body, filters, flag
from supervisor.api.views import stamp
from supervisor.core.labels import has_label
from supervisor.daemon.app import Daemon
from supervisor.daemon.volumes import NoVolumeError, VolumeInUseError
from supervisor.runtime.volumes import VolumeError, VolumeRecord, volume_bytes

Json = dict[str, Any]
_LIST_FILTERS = ("dangling", "label", "name", "driver")
_PRUNE_FILTERS = ("all", "label", "label!")


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """The resource of this module."""
    handlers = _Handlers(daemon)
    return [
        web.get("/volumes", _told(handlers.index)),
        web.post("/volumes/create", _told(handlers.create)),
        web.post("/volumes/prune", _told(handlers.prune)),
        web.get("/volumes/{name}", _told(handlers.inspect)),
        web.delete("/volumes/{name}", _told(handlers.remove)),
    ]


def _told(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler whose errors have Docker's status codes."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except NoVolumeError as error:
            raise web.HTTPNotFound(text=str(error)) from error
        except VolumeInUseError as error:
            raise web.HTTPConflict(text=str(error)) from error
        except VolumeError as error:
            raise web.HTTPBadRequest(text=str(error)) from error

    return handle


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._volumes = daemon.volumes

    async def index(self, request: web.Request) -> web.Response:
        """?filters as Docker's. ?size adds what each takes on the disk."""
        wanted = _filters(request, _LIST_FILTERS)
        users = self._volumes.users()
        found = [r for r in await self._volumes.records() if _wanted(r, r.name in users, wanted)]
        rows = [self._view(record, users.get(record.name, [])) for record in found]
        for row in rows if flag(request, "size") else ():
            size = await asyncio.to_thread(volume_bytes, row["Name"], self._daemon.paths)
            row["UsageData"] = {"Size": size, "RefCount": len(row["UsedBy"])}
        return web.json_response({"Volumes": rows, "Warnings": None})

    async def create(self, request: web.Request) -> web.Response:
        document = await body(request, b"{}")
        driver = document.get("Driver") or "local"
        if driver != "local":
            raise VolumeError(f"cannot create volume: there is no driver {driver!r}, only local")
        try:
            labels = [(str(k), str(v)) for k, v in (document.get("Labels") or {}).items()]
            options = [(str(k), str(v)) for k, v in (document.get("DriverOpts") or {}).items()]
        except AttributeError as error:
            raise web.HTTPBadRequest(
                text=f"cannot create volume: a field has the wrong form: {error}"
            ) from error
        record = await self._volumes.create(str(document.get("Name") or ""), labels, options)
        return web.json_response(self._view(record, []), status=201)

    async def inspect(self, request: web.Request) -> web.Response:
        record = await self._volumes.find(request.match_info["name"])
        return web.json_response(self._view(record, self._volumes.users().get(record.name, [])))

    async def remove(self, request: web.Request) -> web.Response:
        """?force: one that is not there is no error. One in use is, in any case."""
        name = request.match_info["name"]
        if not await self._volumes.remove(name) and not flag(request, "force"):
            raise NoVolumeError(f"no such volume: {name}; `shipkeeper volume ls` lists what is there")
        return web.Response(status=204)

    async def prune(self, request: web.Request) -> web.Response:
        """Anonymous ones that nobody uses; with the filter all=true named ones, too."""
        wanted = _filters(request, _PRUNE_FILTERS)
        everything = any(value.lower() in ("1", "true") for value in wanted.get("all", []))
        chosen = [
            record
            for record in await self._volumes.records()
            if (everything or record.anonymous)
            and _labelled(record, wanted.get("label", []))
            and not any(_labelled(record, [label]) for label in wanted.get("label!", []))
        ]
        gone, freed = await self._volumes.prune(chosen)
        return web.json_response({"VolumesDeleted": gone, "SpaceReclaimed": freed})

    def _view(self, record: VolumeRecord, users: list[str]) -> Json:
        """Docker's, and who uses it."""
        return {
            "Name": record.name,
            "Driver": "local",
            "Mountpoint": self._volumes.mountpoint(record),
            "CreatedAt": stamp(record.created_wall),
            "Labels": dict(record.labels) or None,
            "Options": dict(record.options) or None,
            "Scope": "local",
            "UsedBy": users,
        }


def _filters(request: web.Request, known: tuple[str, ...]) -> dict[str, list[str]]:
    given = filters(request)
    for name in given:
        if name not in known:
            raise web.HTTPBadRequest(text=f"cannot filter volumes by {name}: one of {', '.join(known)}")
    return given


def _wanted(record: VolumeRecord, used: bool, given: dict[str, list[str]]) -> bool:
    dangling = [value.lower() in ("1", "true") for value in given.get("dangling", [])]
    names, drivers = given.get("name", []), given.get("driver", [])
    return (
        all(wanted != used for wanted in dangling)
        and (not names or any(name in record.name for name in names))
        and (not drivers or "local" in drivers)
        and _labelled(record, given.get("label", []))
    )


def _labelled(record: VolumeRecord, labels: list[str]) -> bool:
    """All of these: NAME or NAME=VALUE."""
    own = dict(record.labels)
    return all(has_label(own, label) for label in labels)
