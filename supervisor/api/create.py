"""Docker's create: a container by its document, as an instance that belongs to no project."""

from __future__ import annotations

import json

from aiohttp import web

from supervisor.api.createnet import RefusedError
from supervisor.api.createspec import mount_volumes, read_spec
from supervisor.daemon.app import Daemon
from supervisor.daemon.containers import NameTakenError
from supervisor.daemon.images import NoImageError
from supervisor.runtime.translate import PlanError


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """POST /containers/create."""

    async def create(request: web.Request) -> web.Response:
        """?name: at random without."""
        try:
            document = json.loads(await request.read())
            spec, volumes = read_spec(document), mount_volumes(document)
            entry = await daemon.containers.create(
                spec,
                request.query.get("name", "").removeprefix("/"),
                volumes,
                publish_all=bool((document.get("HostConfig") or {}).get("PublishAllPorts")),
            )
        except NoImageError as error:
            raise web.HTTPNotFound(text=str(error)) from error
        except NameTakenError as error:
            raise web.HTTPConflict(text=str(error)) from error
        except (ValueError, RefusedError, PlanError) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return web.json_response({"Id": entry.instance.id, "Warnings": []}, status=201)

    return [web.post("/containers/create", create)]
