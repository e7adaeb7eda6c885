"""`up` in the foreground without a daemon: the supervisor runs in this process until then."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from supervisor.api.logs import followed
from supervisor.api.metrics import serve_metrics
from supervisor.api.netviews import port_rows
from supervisor.api.server import serve
from supervisor.cli.attachedup import LAST_LINES_S, make_view
from supervisor.cli.bringing import Ready
from supervisor.cli.following import Ending, Shown, Wish, is_shown, listening
from supervisor.cli.host import until_signal
from supervisor.cli.journal import Journal
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry, Published
from supervisor.daemon.outcomes import rests
from supervisor.daemon.settings import Settings


class _Hosted:
    """What an attached `up` knows of the project, in the process that supervises it."""

    def __init__(self, daemon: Daemon, ready: Ready, wish: Wish) -> None:
        self._daemon = daemon
        self._ready = ready
        self._wish = wish
        self._view = make_view(wish)
        self._shown = Shown()
        self._looked = asyncio.Event()
        self._listening = asyncio.Event()
        self._brought = False
        self._known = {_run(entry) for entry in self._members() if rests(entry.instance)}
        """Runs that had ended before, or whose end has been judged."""
        self.ending = Ending(wish)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.say = self._view.say

    async def bring_up(self) -> None:
        """As the daemon does it, when no output can be missed any more."""
        ready = self._ready
        await self._listening.wait()
        resolved = await self._daemon.projects.resolve(ready.project, ready.contents)
        async for operation, outcome in self._daemon.projects.up(resolved, ready.contents, ready.options):
            if operation.verb != "keep":
                self.say(f"{operation.name}: {outcome}")
        networks = self._daemon.networks
        views = [
            {
                "Name": entry.stored.name,
                "Ports": port_rows(entry.stored.spec, networks.bindings(entry.instance.id)),
            }
            for entry in self._members()
        ]
        for name, places in listening(views):
            self.say(f"{name}: listens on {places}")
        self.say(f"{ready.project.name} is up; Ctrl-C stops it")
        self._brought = True
        self._look()
        if self._wish.watch is not None and not self.over.done():
            watch = self._wish.watch
            threading.Thread(target=lambda: watch(self.say), daemon=True).start()

    async def show(self) -> None:
        """What the services write, until cancelled."""
        project = self._ready.project
        entries = self._daemon.projects.members(project.name)

        async def begun() -> None:
            self._listening.set()

        async for line in followed(self._daemon, entries, project.name, tail=0, begun=begun):
            if is_shown(self._wish, project, line["name"]):
                self._view.show(line)
            self._shown.line(line)
            self._looked.set()

    def on_event(self, event: Published) -> None:
        """Of the engine: it may be over now."""
        if event.action == "die" and event.project == self._ready.project.name:
            # Not from within the step that ended it: that is still being carried out.
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Judge what has ended for good, in the order of its end; whether it is over now."""
        counting = [e for e in self._members() if self._wish.counts(e.stored.spec.name)]
        ended = [e for e in counting if rests(e.instance) and _run(e) not in self._known]
        for entry in sorted(ended, key=lambda e: 0.0 if e.last_run is None else e.last_run.ended_wall):
            self._known.add(_run(entry))
            if self.ending.ended(entry.stored.spec.name, _code(entry)):
                self.say("aborting, as a container has ended")
                self._end()
        if self._brought and all(rests(entry.instance) for entry in counting):
            self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _members(self) -> list[Entry]:
        names = {spec.name for spec in self._ready.project.services}
        members = self._daemon.projects.members(self._ready.project.name)
        return [entry for entry in members if entry.stored.spec.name in names]

    async def last_lines(self) -> None:
        """Wait until those of all that is down were shown."""
        for entry in self._members():
            if is_shown(self._wish, self._ready.project, entry.stored.name) and rests(entry.instance):
                self._shown.died(entry.stored.name, entry.instance.run)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LINES_S):
                while not self._shown.complete:
                    self._looked.clear()
                    await self._looked.wait()

    def stopped(self) -> None:
        """All was stopped: by that the service whose exit code counts may have ended."""
        for entry in self._members():
            if entry.stored.spec.name == self._wish.code_from and _run(entry) not in self._known:
                self.ending.ended(entry.stored.spec.name, _code(entry))


def _run(entry: Entry) -> tuple[str, int]:
    return entry.instance.id, entry.instance.run


def _code(entry: Entry) -> int:
    return 0 if entry.instance.last is None else entry.instance.last.code


async def run_foreground(settings: Settings, ready: Ready, wish: Wish) -> int:
    """Host the supervisor here until all services have ended, or SIGINT or SIGTERM; then all is stopped in
    order. The exit code of the command."""
    ended = until_signal()
    report = Journal(settings).report
    daemon = Daemon(settings, report)
    coming = frozenset((ready.project.name, name) for name in ready.names)
    await daemon.start(coming)
    tasks: list[asyncio.Task[None]] = []
    hosted = _Hosted(daemon, ready, wish)
    daemon.engine.subscribers.add(hosted.on_event)
    try:
        async with serve(daemon), serve_metrics(daemon, report):
            bring_up = asyncio.create_task(hosted.bring_up())
            tasks = [bring_up, asyncio.create_task(hosted.show())]
            await asyncio.wait([ended, hosted.over, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                for task in tasks:
                    if task.done():
                        task.result()  # an error of it ends us
                await asyncio.wait([ended, hosted.over, tasks[1]], return_when=asyncio.FIRST_COMPLETED)
            if ended.done() or hosted.ending.aborted:
                hosted.say("stopping; what is slow is waited for")
            else:
                await hosted.last_lines()
            bring_up.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await bring_up
    finally:
        await daemon.stop(services=True)
        if hosted.ending.aborted:
            await hosted.last_lines()
        for task in tasks:
            task.cancel()
    hosted.stopped()
    return hosted.ending.code
