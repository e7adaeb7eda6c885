"""What happens, as it happens: JSON lines with Docker's actions, and why."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from supervisor.api.lookup import send, stream
from supervisor.api.views import stamp
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Published

_BUFFER = 10_000  # a client that does not read loses what comes then, and is told how many


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """The resource of this module."""

    async def events(request: web.Request) -> web.StreamResponse:
        """?project narrows."""
        project = request.query.get("project")
        response = await stream(request)
        queue: asyncio.Queue[Published] = asyncio.Queue(_BUFFER)
        lost = 0

        def enqueue(event: Published) -> None:
            nonlocal lost
            if project in (None, event.project):
                with contextlib.suppress(asyncio.QueueFull):
                    queue.put_nowait(event)
                    return
                lost += 1

        daemon.engine.subscribers.add(enqueue)
        try:
            while True:
                event = await queue.get()
                line = {
                    "time": stamp(event.wall),
                    "Action": event.action,
                    "id": event.instance,
                    "name": event.name,
                    "project": event.project,
                    "service": event.service,
                    "run": event.run,
                    "why": event.why,
                }
                if lost:
                    line["lost"], lost = lost, 0
                await send(response, line)
        finally:
            daemon.engine.subscribers.discard(enqueue)

    return [web.get("/events", events)]
