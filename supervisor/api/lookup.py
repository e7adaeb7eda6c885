"""Finding what a request names, and answering in JSON lines. Raises aiohttp's HTTP errors."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.state import StateError


def find(engine: Engine, name: str, project: str | None) -> Entry:
    """The instance of a name: its id, its container name, its service, a prefix of its id.

    Of several instances of one service, the first is meant. 404 with the nearest name, 409 if what is meant
    may be of several projects. What `compose run` made has no name of a service.
    """
    return _find(engine, name, project)[0]


def _find(engine: Engine, name: str, project: str | None) -> list[Entry]:
    """All instances of a name, of one service, by number. Raises as `find`."""
    entries = [entry for entry in engine.entries.values() if project in (None, entry.stored.project)]
    for matches in (
        [e for e in entries if name in (e.instance.id, e.stored.name)],
        [e for e in entries if e.stored.spec.name == name and not e.stored.spec.one_off],
        [e for e in entries if len(name) >= 4 and e.instance.id.startswith(name)],
    ):
        if len({(e.stored.project, e.stored.spec.name) for e in matches}) == 1:
            return sorted(matches, key=lambda e: (e.stored.number, e.stored.created_wall))
        if matches:
            names = ", ".join(sorted(e.stored.name for e in matches))
            raise web.HTTPConflict(text=f"cannot tell which {name} is meant: {names}; add -p PROJECT")
    known = {e.stored.name for e in entries} | {e.stored.spec.name for e in entries}
    near = difflib.get_close_matches(name, sorted(known), 1)
    where = f" in project {project}" if project else ""
    advice = f"did you mean {near[0]}?" if near else "`shipkeeper ps -a` lists what is there"
    raise web.HTTPNotFound(text=f"no such service: {name}{where}; {advice}")


def find_here(engine: Engine, request: web.Request) -> Entry:
    """The instance of the path's {name}, within ?project."""
    return find(engine, request.match_info["name"], request.query.get("project"))


def select(engine: Engine, names: Iterable[str], project: str | None) -> list[Entry]:
    """Those named, with all instances of a service, or all of the project but what `compose run` made; each
    once, by name."""
    wanted = list(names)
    if not wanted:
        found = [
            e
            for e in engine.entries.values()
            if project in (None, e.stored.project) and not e.stored.spec.one_off
        ]
    else:
        found = list({e.instance.id: e for name in wanted for e in _find(engine, name, project)}.values())
    return sorted(found, key=lambda e: (e.stored.project, e.stored.spec.name, e.stored.number, e.stored.name))


async def stored(engine: Engine) -> None:
    """Wait until the database has what was decided; not on a full disk, which the daemon says itself."""
    with contextlib.suppress(StateError):
        await engine.stored()


def flag(request: web.Request, name: str) -> bool:
    """Docker's booleans: absent, 0 and false are false."""
    return request.query.get(name, "").lower() not in ("", "0", "false")


def seconds(request: web.Request, name: str) -> float | None:
    """A number of the query; 400 if it is none."""
    text = request.query.get(name)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"cannot use {name}={text}: it is no number") from None


def nanoseconds(request: web.Request, name: str) -> int | None:
    """A whole number of the query; 400 if it is none."""
    text = request.query.get(name)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"cannot use {name}={text}: it is no whole number") from None


def filters(request: web.Request) -> dict[str, list[str]]:
    """?filters in either form of Docker's, {name: [values]} and {name: {value: true}}; 400 if in neither."""
    try:
        given = json.loads(request.query.get("filters") or "{}")
        return {name: [str(value) for value in values] for name, values in given.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise web.HTTPBadRequest(text=f"cannot read the filters: {error}") from error


async def body(request: web.Request, nothing: bytes = b"") -> dict[str, Any]:
    """The JSON object of a request; 400 if it has none. nothing: what an empty body stands for."""
    try:
        document = json.loads(await request.read() or nothing)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"cannot read the request: {error}") from error
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(text="cannot read the request: it is no JSON object")
    return document


async def stream(request: web.Request) -> web.StreamResponse:
    """An answer of JSON lines, begun."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    return response


async def send(response: web.StreamResponse, *documents: Any) -> None:
    """Some of its lines."""
    await response.write(b"".join(json.dumps(document).encode() + b"\n" for document in documents))
