"""`up` in the foreground: the output of the services here, and Ctrl-C stops them.

Where a daemon runs, this is a client of it; where none does, the supervisor runs in this process until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

from supervisor.api.logs import followed
from supervisor.api.metrics import serve_metrics
from supervisor.api.server import serve
from supervisor.cli import output
from supervisor.cli.bringing import Ready
from supervisor.cli.client import Client
from supervisor.cli.host import until_signal
from supervisor.cli.journal import Journal
from supervisor.cli.logview import LogView, wants_colour
from supervisor.core.model import Project
from supervisor.core.reconcile import container_name
from supervisor.daemon.app import Daemon
from supervisor.daemon.settings import Settings


def _view() -> LogView:
    return LogView(sys.stdout.buffer, colour=wants_colour(sys.stdout))


async def run_foreground(settings: Settings, ready: Ready) -> None:
    """Host the supervisor here; SIGINT and SIGTERM stop everything in order, and end it."""
    ended, project = until_signal(), ready.project
    view = _view()
    report = Journal(settings).report
    daemon = Daemon(settings, report)
    await daemon.start()
    tasks: list[asyncio.Task[None]] = []
    try:
        async with serve(daemon), serve_metrics(daemon, report):
            bring_up = asyncio.create_task(_bring_up(daemon, ready, view))
            tasks = [bring_up, asyncio.create_task(_show(daemon, project, view))]
            await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                for task in tasks:
                    if task.done():
                        task.result()  # an error of it ends us
                await asyncio.wait([ended, tasks[1]], return_when=asyncio.FIRST_COMPLETED)
            view.say("stopping; what is slow is waited for")
            bring_up.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await bring_up
    finally:
        await daemon.stop(services=True)
        for task in tasks:
            task.cancel()


async def _bring_up(daemon: Daemon, ready: Ready, view: LogView) -> None:
    resolved = await daemon.projects.resolve(ready.project, ready.contents)
    async for operation, outcome in daemon.projects.up(resolved, ready.contents, ready.options):
        if operation.verb != "keep":
            view.say(f"{operation.name}: {outcome}")
    view.say(f"{ready.project.name} is up; Ctrl-C stops it")


async def _show(daemon: Daemon, project: Project, view: LogView) -> None:
    entries = daemon.projects.entries(project.name)
    async for line in followed(daemon, entries, project.name, tail=0):
        if _is_attached(project, line["name"]):
            view.show(line)


def _is_attached(project: Project, name: str) -> bool:
    """Whether the output of an instance is shown: not that of services with `attach: false`."""
    number = name.rpartition("-")[2]
    number = number if number.isdecimal() else "1"
    return not any(
        container_name(project.name, spec, int(number)) == name
        for spec in project.services
        if not spec.attach
    )


def attach(client: Client, project: Project, grace_s: float | None = None) -> None:
    """Show what the services of a project write under the daemon, until Ctrl-C; then stop them."""
    view = _view()
    try:
        for line in client.stream("GET", "/logs", {"project": project.name, "follow": 1, "tail": 0}):
            if _is_attached(project, line["name"]):
                view.show(line)
    except KeyboardInterrupt:
        view.say("stopping; Ctrl-C again leaves them running")
        names = [service.name for service in project.services]
        body = json.dumps({"project": project.name, "names": names, "grace_s": grace_s}).encode()
        progress = output.Progress(sys.stderr)
        for line in client.stream("POST", "/services/stop", body=body):
            if "waiting_s" in line:
                progress.say(f"waiting for {line['name']}, {line['waiting_s']:.0f} s of {line['of_s']:g} s")
            else:
                progress.clear()
                view.say(f"{line['name']}: {line.get('outcome') or line['error']}")
