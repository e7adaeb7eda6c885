"""The supervisor in this process, as the daemon."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from supervisor.api.metrics import serve_metrics
from supervisor.api.server import serve
from supervisor.cli.grants import ContentsError, collect
from supervisor.cli.journal import Journal
from supervisor.core.model import Project
from supervisor.core.reconcile import Options
from supervisor.daemon.app import Daemon
from supervisor.daemon.settings import Settings
from supervisor.daemon.state import StateError
from supervisor.daemon.systemd import SystemdError, is_ending, notify, watchdog_s
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.translate import PlanError
from supervisor.runtime.volumes import VolumeError


async def run_daemon(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. The services run on, unless systemd is ending their unit as well."""
    ended = until_signal()
    log = Journal(settings)
    # What hangs for longer than the watchdog bears is ended by SIGABRT: then say where it was.
    faulthandler.enable()
    notify("STATUS=starting")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # they are read after the start anyway
    daemon = Daemon(settings, log.report)
    await daemon.start()
    daemon.engine.subscribers.add(log.event)
    reading: set[asyncio.Task[None]] = set()

    def read_projects() -> None:
        task = loop.create_task(_bring_up_files(daemon, log.report))
        reading.add(task)
        task.add_done_callback(reading.discard)

    services = False
    try:
        async with serve(daemon), serve_metrics(daemon, log.report):
            loop.add_signal_handler(signal.SIGHUP, read_projects)
            notify("READY=1", "STATUS=supervising; see `shipkeeper ps`")
            if not ended.done():
                read_projects()
            interval_s = watchdog_s(os.environ, os.getpid())
            while not ended.done():
                await asyncio.wait([ended], timeout=interval_s)
                notify("WATCHDOG=1")
            notify("STOPPING=1")
            daemon.projects.cut_off()
            for task in reading:
                task.cancel()
            services = await _services_end_too(settings, log.report)
    finally:
        await daemon.stop(services=services)


async def _services_end_too(settings: Settings, report: Callable[[str], None]) -> bool:
    """Whether the services are to be stopped with the daemon. Where systemd cannot be asked they live on."""
    if not settings.services_unit:
        return False
    try:
        return await is_ending(settings.services_unit)
    except SystemdError as error:
        report(f"{error}; the services are left running")
        return False


async def _bring_up_files(daemon: Daemon, report: Callable[[str], None]) -> None:
    """Each file of the projects directory is a project of its own; a bad one is told and the others go on.

    Only new and changed services are started: for the others their policies have decided.
    """
    from supervisor import compose

    good = True
    taken: dict[str, Path] = {}
    projects: list[tuple[Path, Project, dict[str, bytes]]] = []
    for path in sorted(Path(daemon.settings.projects_dir).glob("*.y*ml")):
        try:
            project, contents = await asyncio.to_thread(_load, path)
            if (other := taken.setdefault(project.name, path)) != path:
                good = False
                report(f"cannot bring up {path}: {other} is the project {project.name}, too; rename one")
                continue
            projects.append((path, project, contents))
        except compose.ComposeErrors as error:
            good = False
            for problem in error.problems:
                report(f"cannot bring up {path}: {problem}")
        except ContentsError as error:
            good = False
            report(f"cannot bring up {path}: {error}")
    # Beside each other: in one, a service may have to wait for another for a long time.
    brought = await asyncio.gather(*(_bring_up(daemon, *one, report) for one in projects))
    good = good and all(brought)
    daemon.engine.measures.reloaded(ok=good, wall=time.time())


async def _bring_up(
    daemon: Daemon, path: Path, project: Project, contents: dict[str, bytes], report: Callable[[str], None]
) -> bool:
    """Whether it could be done."""
    try:
        resolved = await daemon.projects.resolve(project, contents)
        async for operation, outcome in daemon.projects.up(resolved, contents, Options(start="new")):
            if operation.verb == "orphan":  # what became of the others is told by their events
                report(f"{operation.name}: {outcome}")
    except (PlanError, PrepareError, StateError, VolumeError) as error:
        report(f"cannot bring up {path}: {error}")
        return False
    return True


def _load(path: Path) -> tuple[Project, dict[str, bytes]]:
    """A file of the projects directory: its own `name:`, or that of the file; and what `collect` found.

    Raises ComposeErrors, ContentsError.
    """
    from supervisor import compose

    env = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    loaded = compose.load_project(
        [str(path)], project_name=None, project_dir=None, env=env, default_name=path.stem
    )
    return collect(loaded.project, loaded.variables)


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
