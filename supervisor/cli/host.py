"""The supervisor in this process, as the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from supervisor.api.metrics import serve_metrics
from supervisor.api.server import serve
from supervisor.daemon.app import Daemon
from supervisor.daemon.settings import Settings
from supervisor.daemon.state import StateError
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.translate import PlanError


def reporter(settings: Settings) -> Callable[[str], None]:
    """Lines for the operator: JSON for a journal, words for a terminal."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not os.isatty(2))
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    log = structlog.get_logger()

    def report(text: str) -> None:
        log.warning(text)

    return report


def notify(state: str) -> None:
    """sd_notify(3): tell systemd, if it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def run_daemon(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; the services run on."""
    ended = until_signal()
    report = reporter(settings)
    daemon = Daemon(settings, report)
    await daemon.start()
    loop = asyncio.get_running_loop()
    reading: list[asyncio.Task[None]] = []

    def read_projects() -> None:
        reading[:] = [task for task in reading if not task.done()]
        reading.append(loop.create_task(_bring_up_files(daemon, report)))

    loop.add_signal_handler(signal.SIGHUP, read_projects)
    try:
        async with serve(daemon), serve_metrics(daemon):
            notify("READY=1")
            read_projects()
            interval = float(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
            while not ended.done():
                await asyncio.wait([ended], timeout=interval or None)
                notify("WATCHDOG=1")
            notify("STOPPING=1")
    finally:
        await daemon.stop(services=False)


async def _bring_up_files(daemon: Daemon, report: Callable[[str], None]) -> None:
    """Each file of the projects directory is a project of its own; a bad one is told and the others go on.

    Only new and changed services are started: for the others their policies have decided.
    """
    from supervisor import compose

    good = True
    for path in sorted(Path(daemon.settings.projects_dir).glob("*.y*ml")):
        try:
            name = compose.normalize_project_name(path.stem)
            named = os.environ | {"COMPOSE_PROJECT_NAME": name}
            project = (
                await asyncio.to_thread(
                    compose.load_project, [str(path)], project_name=None, project_dir=None, env=named
                )
            ).project
            async for operation, outcome in daemon.projects.up(project, start_down=False):
                if operation.verb not in ("keep", "start"):
                    report(f"{operation.verb} {operation.name}: {outcome}")
        except compose.ComposeErrors as error:
            good = False
            for problem in error.problems:
                report(f"cannot bring up {path}: {problem}")
        except (PlanError, PrepareError, StateError) as error:
            good = False
            report(f"cannot bring up {path}: {error}")
    daemon.engine.measures.reloaded(ok=good, wall=time.time())


def until_signal() -> asyncio.Future[None]:
    """Done at SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def on_signal() -> None:
        if not ended.done():
            ended.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return ended
