"""/metrics, /healthz and /readyz for Prometheus and load balancers, on a TCP address of their own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from supervisor.daemon.app import Daemon, DaemonError
from supervisor.daemon.usage import usages
from supervisor.kernel import allocator

if TYPE_CHECKING:
    from supervisor.daemon.metrics import Snapshot

_AGAIN_S = 5.0


async def _collect(daemon: Daemon) -> bytes:
    """Reading cgroups and making the text happen in a thread: a scrape of many delays no restart."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(0)
    daemon.engine.measures.loop_lag.observe(loop.time() - before)
    places = [(entry.instance.id, entry.cgroup) for entry in daemon.engine.entries.values()]
    counted = await daemon.log_counts()
    named = await daemon.names.counters()
    used = await asyncio.to_thread(usages, daemon.cgroups, places)
    logs: dict[str, dict[str, tuple[int, int]]] = {}
    for name, stream, count, lost in [] if counted is None else counted.streams:
        logs.setdefault(str(name), {})[str(stream)] = int(count), int(lost)
    restarts = 0 if counted is None else counted.restarts
    # Loaded with the first scrape: the client library is large where nobody scrapes.
    await asyncio.to_thread(importlib.import_module, "supervisor.daemon.metrics")
    from supervisor.daemon.metrics import snapshot

    taken = snapshot(daemon.engine, time.time(), used, logs, restarts, named, daemon.names.lost)
    return await asyncio.to_thread(_text, taken)


def _text(taken: Snapshot) -> bytes:
    from supervisor.daemon.metrics import exposition

    text = exposition(taken)
    allocator.give_back()  # thousands of samples, until the next scrape
    return text


@contextlib.asynccontextmanager
async def serve_metrics(daemon: Daemon, report: Callable[[str], None]) -> AsyncIterator[None]:
    """Serve while the context lasts; not at all where the address is empty.

    An address that is taken is told, and tried again: services do not depend on it. Raises DaemonError for
    one that is none.
    """
    address = daemon.settings.metrics_address
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise DaemonError(f"cannot serve metrics at {address!r}: write HOST:PORT, or an empty text for none")

    async def metrics(_request: web.Request) -> web.Response:
        body = await _collect(daemon)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(
            text="ready\n" if daemon.ready else "starting\n", status=200 if daemon.ready else 503
        )

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    trying: asyncio.Task[None] | None = None
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        report(
            f"cannot serve metrics at {address}: {error.strerror}; trying again every {_AGAIN_S:g} s: end"
            " what has the port, or set SHIPKEEPER_METRICS_ADDRESS"
        )
        trying = asyncio.get_running_loop().create_task(
            _serve_at_last(runner, host.strip("[]"), int(port), report)
        )
    try:
        yield
    finally:
        if trying is not None:
            trying.cancel()
        await runner.cleanup()


async def _serve_at_last(runner: web.AppRunner, host: str, port: int, report: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(_AGAIN_S)
        with contextlib.suppress(OSError):
            await web.TCPSite(runner, host, port).start()
            report(f"metrics are served at {host}:{port} now")
            return
