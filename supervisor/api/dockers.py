"""What Docker's own clients get otherwise than ours: they put the version of the API before the path.

Rows of `docker ps`, and logs as frames. Sources: the Engine API, ContainerList and ContainerLogs; its client.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from supervisor.api.lookup import filters
from supervisor.api.netviews import port_rows, settings_view
from supervisor.api.views import instance_view
from supervisor.core import streams
from supervisor.core.labels import has_label
from supervisor.core.state import Created, Resting, Running
from supervisor.daemon.engine import Entry
from supervisor.daemon.networks import Networks

Json = dict[str, Any]
_UNITS = (("week", 604_800), ("day", 86_400), ("hour", 3600), ("minute", 60))


def is_dockers(request: web.Request) -> bool:
    """Whether a request is of one of Docker's clients, or of somebody who speaks as they do."""
    return "api_version" in request.match_info


def row_view(entry: Entry, networks: Networks, *, now_s: float, now_wall: float) -> Json:
    """A row of `docker ps`."""
    stored, spec = entry.stored, entry.stored.spec
    state = instance_view(entry, None, now_s=now_s, now_wall=now_wall)["State"]
    labels = dict(spec.labels)
    if stored.project:
        labels |= {
            "com.docker.compose.project": stored.project,
            "com.docker.compose.service": spec.name,
            "com.docker.compose.container-number": str(stored.number),
        }
    return {
        "Id": entry.instance.id,
        "Names": [f"/{stored.name}"],
        "Image": spec.rootfs.path or "",
        "ImageID": spec.rootfs.image_id,
        "Command": " ".join(spec.argv()),
        "Created": int(stored.created_wall),
        "Ports": port_rows(spec, networks.bindings(entry.instance.id)),
        "Labels": labels,
        "State": state["Status"],
        "Health": entry.instance.health,
        "Status": _status(entry, state["Status"], state["ExitCode"], now_wall),
        "HostConfig": {"NetworkMode": spec.network_mode},
        "NetworkSettings": {"Networks": network_settings(entry, networks)["Networks"]},
        "Mounts": [],
    }


def network_settings(entry: Entry, networks: Networks) -> Json:
    """NetworkSettings of an instance."""
    instance = entry.instance.id
    return settings_view(
        networks.endpoints.get(instance),
        networks.records,
        networks.bindings(instance),
        entry.stored.spec,
        networks.path(instance),
    )


def _status(entry: Entry, word: str, code: int, now_wall: float) -> str:
    """In Docker's words: `Up 3 minutes`, `Exited (1) 2 hours ago`."""
    ended = entry.last_run.ended_wall if entry.last_run is not None else now_wall
    match entry.instance.phase:
        case Running():
            up = f"Up {_ago(now_wall - (entry.started_wall or now_wall))}"
            if word == "paused":
                return f"{up} (Paused)"
            health = entry.instance.health
            # Docker's words: `(health: starting)`, `(healthy)`
            return f"{up} ({'health: ' if health == 'starting' else ''}{health})" if health else up
        case Created():
            return "Created"
        case Resting():
            return f"Exited ({code}) {_ago(now_wall - ended)} ago"
        case _ if word == "restarting":
            return f"Restarting ({code}) {_ago(now_wall - ended)} ago"
        case _:
            return word.capitalize()


def _ago(seconds: float) -> str:
    """docker/go-units, HumanDuration, less exact."""
    if seconds < 1:
        return "Less than a second"
    for unit, length in _UNITS:
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{int(seconds)} second{'s' if int(seconds) > 1 else ''}"


def wanted_by(request: web.Request, row: Json) -> bool:
    """Whether ?filters lets a row through. Raises HTTPBadRequest for a filter that there is not."""
    try:
        # One value of each name is enough, but labels count all.
        return all(_passes(row, name, values) for name, values in filters(request).items())
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"cannot read the filters: {error}") from error


def _passes(row: Json, name: str, values: list[str]) -> bool:
    match name:
        case "name":
            return any(value.strip("^$/") in row["Names"][0] for value in values)
        case "id":
            return any(row["Id"].startswith(value) for value in values)
        case "status":
            return row["State"] in values
        case "health":
            return (row["Health"] or "none") in values
        case "label":
            return all(has_label(row["Labels"], value) for value in values)
        case _:
            raise ValueError(f"there are name, id, status, health and label, and not {name}")


def frame(line: Json, *, tty: bool, stamps: bool) -> bytes:
    """One line of a log as Docker sends it: in a frame of its stream, bare where it came from a terminal."""
    text = line["text"].encode("utf-8", "surrogateescape") + (b"" if line["partial"] else b"\n")
    if stamps:
        seconds, nanoseconds = divmod(line["stamp_ns"], 1_000_000_000)
        when = datetime.fromtimestamp(seconds, UTC)
        text = f"{when:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z ".encode() + text
    if tty:
        return bytes(text)
    return streams.frame(streams.NUMBERS.get(line["stream"], 1), bytes(text))


def stamp_ns(request: web.Request, name: str) -> int | None:
    """Docker's times of a query: seconds, with a fraction or without. Raises HTTPBadRequest."""
    text = request.query.get(name)
    if text in (None, "", "0"):
        return None
    assert text is not None
    seconds, _, fraction = text.partition(".")
    try:
        return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        raise web.HTTPBadRequest(text=f"cannot use {name}={text}: write seconds since 1970") from None
