"""The HTTP API on a unix socket: Docker's resources and answers where Docker has them, projects beside them.

Errors are `{"message": ...}` with Docker's status codes. Each resource is a module of this package.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from supervisor import __version__
from supervisor.api import (
    archive,
    attach,
    commit,
    containers,
    create,
    events,
    execs,
    logs,
    networks,
    projects,
    services,
    volumes,
)
from supervisor.daemon.app import Daemon
from supervisor.daemon.state import StateError
from supervisor.kernel.seccomp import SeccompError
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.translate import PlanError
from supervisor.runtime.volumes import VolumeError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_API_VERSION = "1.43"
_BODY_BYTES = 64 * 1024 * 1024
_VERSION = r"/v{api_version:1\.\d+}"


def application(daemon: Daemon) -> web.Application:
    """All resources over one daemon."""
    app = web.Application(middlewares=[_errors], client_max_size=_BODY_BYTES)
    routes = [web.get("/_ping", _ping), web.get("/version", _version)]
    for module in (
        create,
        attach,
        archive,
        commit,
        containers,
        services,
        projects,
        networks,
        logs,
        execs,
        events,
        volumes,
    ):
        routes += module.routes(daemon)
    # Docker's clients put the version of the API that they speak before every path.
    routes += [web.route(r.method, f"{_VERSION}{r.path}", r.handler) for r in routes]
    app.add_routes(routes)
    return app


async def _ping(_request: web.Request) -> web.Response:
    return web.Response(text="OK", headers={"Api-Version": _API_VERSION, "Ostype": "linux"})


async def _version(_request: web.Request) -> web.Response:
    return web.json_response(
        {
            "Version": __version__,
            "ApiVersion": _API_VERSION,
            "MinAPIVersion": "1.24",
            "Os": "linux",
            "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "KernelVersion": os.uname().release,
            "Pid": os.getpid(),
        }
    )


@contextlib.asynccontextmanager
async def serve(daemon: Daemon) -> AsyncIterator[None]:
    """Serve the API at the socket while the context lasts: for root and the API group only."""
    runner = web.AppRunner(application(daemon), access_log=None, shutdown_timeout=0.5)
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
        if request.match_info.http_exception is error:
            path = re.sub(r"^/v1\.\d+", "", request.path)
            return _message(f"cannot do {request.method} {path}: there is no such request here", error.status)
        return _message(error.text or "", error.status)
    except (PlanError, PrepareError, StateError, SeccompError, VolumeError) as error:
        return _message(str(error), 500)
    except ConnectionResetError:
        return web.Response(status=499)  # the client went away; nobody reads this


def _message(text: str, status: int) -> web.Response:
    """Docker's client looks for this type to the letter, else it shows the JSON to people."""
    body = json.dumps({"message": text}).encode()
    return web.Response(body=body, status=status, content_type="application/json")
