"""What services wrote: {name, stamp_ns, stream, text, partial} a line; `marker` where a run begins or ends.

`/containers/{name}/logs` is of one instance, `/logs` of those named (?name=...) or of a whole ?project.
Docker's clients get frames of an instance's logs instead, without marks, and to its end where they follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from supervisor.api.dockers import frame, is_dockers, stamp_ns
from supervisor.api.lookup import find_here, flag, nanoseconds, select, send, stored, stream
from supervisor.core.exits import describe
from supervisor.core.state import Running
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry, Published
from supervisor.daemon.outcomes import is_down
from supervisor.daemon.prestart import hooks_of
from supervisor.runtime import logs
from supervisor.runtime.logfollow import Follower
from supervisor.runtime.logmarks import RunMarker, interleave, merge, within
from supervisor.runtime.logs import LogRecord

_BATCH = 500
Line = dict[str, Any]


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """The two addresses of logs."""
    handlers = _Handlers(daemon)
    return [
        web.get("/logs", handlers.several),
        web.get("/containers/{name}/logs", handlers.one),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def one(self, request: web.Request) -> web.StreamResponse:
        entry = find_here(self._daemon.engine, request)
        if is_dockers(request):
            return await self._frames(request, entry)
        return await self._answer(request, [entry], None)

    async def _frames(self, request: web.Request, entry: Entry) -> web.StreamResponse:
        """?follow ?stdout ?stderr ?since ?until ?timestamps ?tail."""
        tty = entry.stored.spec.tty
        wanted = {name for name in ("stdout", "stderr") if flag(request, name)}
        if not wanted:
            raise web.HTTPBadRequest(text="Bad parameters: you must choose at least one stream")
        last = _tail(request)
        since, until = stamp_ns(request, "since"), stamp_ns(request, "until")
        kind = "raw-stream" if tty else "multiplexed-stream"
        response = web.StreamResponse(headers={"Content-Type": f"application/vnd.docker.{kind}"})
        await response.prepare(request)

        async def show(lines: list[Line]) -> None:
            shown = [
                frame(line, tty=tty, stamps=flag(request, "timestamps"))
                for line in lines
                if line["stream"] == "tty" or line["stream"] in wanted
            ]
            if shown:
                await response.write(b"".join(shown))

        if flag(request, "follow") and not is_down(entry.instance):
            async for line in followed(self._daemon, [entry], None, tail=last, since_ns=since):
                if until is not None and line["stamp_ns"] > until:
                    break
                await show([line])
                # A mark comes after the lines of its run.
                if line.get("marker") and is_down(entry.instance) and " ended: " in line["text"]:
                    break
        else:
            await stored(self._daemon.engine)
            lines = _history(self._daemon, [entry], last, since, until)
            while batch := await asyncio.to_thread(lambda: list(itertools.islice(lines, _BATCH))):
                await show(batch)
        await response.write_eof()
        return response

    async def several(self, request: web.Request) -> web.StreamResponse:
        names = request.query.getall("name", [])
        project = request.query.get("project")
        if not names and project is None:
            raise web.HTTPBadRequest(text="cannot read logs: name services or a project")
        entries = select(self._daemon.engine, names, project)
        return await self._answer(request, entries, None if names else project)

    async def _answer(
        self, request: web.Request, entries: list[Entry], project: str | None
    ) -> web.StreamResponse:
        entries = [each for entry in entries for each in (*hooks_of(self._daemon.engine, entry), entry)]
        last = _tail(request)
        since, until = nanoseconds(request, "since"), nanoseconds(request, "until")
        response: web.StreamResponse

        async def begin() -> None:
            nonlocal response
            response = await stream(request)

        if flag(request, "follow"):
            # The answer begins when nothing that is written from then on can be missed.
            following = followed(self._daemon, entries, project, tail=last, since_ns=since, begun=begin)
            async for line in following:
                if until is not None and line["stamp_ns"] > until:
                    break
                await send(response, line)
        else:
            await begin()
            await stored(self._daemon.engine)
            lines = _history(self._daemon, entries, last, since, until)
            while batch := await asyncio.to_thread(lambda: list(itertools.islice(lines, _BATCH))):
                await send(response, *batch)
        await response.write_eof()
        return response


def _tail(request: web.Request) -> int | None:
    tail = request.query.get("tail", "all")
    if tail not in ("all", "-1") and not tail.isdigit():
        raise web.HTTPBadRequest(text=f'cannot read logs: tail {tail!r} is neither "all" nor a number')
    return int(tail) if tail.isdigit() else None


def _history(
    daemon: Daemon, entries: list[Entry], tail: int | None, since: int | None, until: int | None
) -> Iterator[Line]:
    """All of it in time order. The marks are looked up now, the files are read as they are asked for."""
    sources: list[Iterator[LogRecord | RunMarker]] = []
    for entry in entries:
        name, path = entry.stored.name, daemon.paths.instance(entry.instance.id).log
        records = logs.read(name, path, tail=tail, since_ns=since, until_ns=until)
        first = list(itertools.islice(records, 1))
        marks = [
            m for m in within(_markers(daemon, entry), first, tail, since) if not until or m.stamp_ns <= until
        ]
        sources.append(interleave(itertools.chain(first, records), marks))
    return (_line(record) for record in merge(*sources))


async def followed(
    daemon: Daemon,
    entries: list[Entry],
    project: str | None,
    *,
    tail: int | None = None,
    since_ns: int | None = None,
    begun: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Line]:
    """History, then what comes, until cancelled.

    begun: called when all that is written from then on will come. With `project` also of its instances that
    are made later, but for what `compose run` makes.
    """
    follower = Follower()
    known = {entry.instance.id for entry in entries}
    early: list[Published] = []
    """What happens while the history is read."""
    reading = True

    def on_event(event: Published) -> None:
        if reading:
            early.append(event)
            return
        made = daemon.engine.entries.get(event.instance) if event.action == "create" else None
        if made is not None and made.stored.spec.one_off:
            return
        wanted = made is not None and (
            made.stored.spec.hook_of in known or (project is not None and event.project == project)
        )
        if made is not None and wanted:
            known.add(event.instance)
            entry = made
            with contextlib.suppress(OSError):
                follower.add(event.name, _made(daemon, entry), tail=None)
        elif event.action == "destroy":
            known.discard(event.instance)
            follower.remove(event.name)
        elif event.instance in known and event.action in ("start", "die"):
            follower.mark(_marker(event.name, event.run, event.action, event.wall, event.why))

    daemon.engine.subscribers.add(on_event)
    try:
        for entry in entries:
            path, marks = _made(daemon, entry), _markers(daemon, entry)
            name = entry.stored.name

            def add(name: str = name, path: str = path, marks: list[RunMarker] = marks) -> None:
                follower.add(name, path, tail=tail, since_ns=since_ns, markers=marks)

            await asyncio.to_thread(add)
        reading = False
        for event in early:
            on_event(event)
        if begun is not None:
            await begun()
        async for record in follower:
            yield _line(record)
    finally:
        daemon.engine.subscribers.discard(on_event)
        follower.close()


def _made(daemon: Daemon, entry: Entry) -> str:
    """Path of the log. Its directory may not be there yet: it is made with the first launch."""
    files = daemon.paths.instance(entry.instance.id)
    Path(files.base).mkdir(0o711, parents=True, exist_ok=True)
    return files.log


def _markers(daemon: Daemon, entry: Entry) -> list[RunMarker]:
    """Where the stored runs, and the one that runs, began and ended."""
    name = entry.stored.name
    marks = []
    for run in daemon.database.runs(entry.instance.id):
        if run.started_wall is not None:
            marks.append(_marker(name, run.run, "start", run.started_wall, ""))
        marks.append(_marker(name, run.run, "die", run.ended_wall, describe(run.ending)))
    if isinstance(entry.instance.phase, Running) and entry.started_wall is not None:
        marks.append(_marker(name, entry.instance.run, "start", entry.started_wall, ""))
    return sorted(marks, key=lambda mark: mark.stamp_ns)


def _marker(name: str, run: int, action: str, wall: float, why: str) -> RunMarker:
    ends = action == "die"
    text = f"run {run} ended: {why}" if ends else f"run {run} began"
    return RunMarker(name, int(wall * 1e9), text, ends)


def _line(record: LogRecord | RunMarker) -> Line:
    if isinstance(record, RunMarker):
        return {
            "name": record.instance,
            "stamp_ns": record.stamp_ns,
            "stream": "",
            "text": record.text,
            "partial": False,
            "marker": True,
        }
    return {
        "name": record.instance,
        "stamp_ns": record.stamp_ns,
        "stream": record.stream,
        "text": record.text.decode("utf-8", "surrogateescape"),
        "partial": record.partial,
    }
