"""Verbs of `compose` that only look at containers of a project: images, port, top, events, volumes."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.composeps import project_views
from supervisor.cli.context import (
    FAILED,
    INDEX,
    NAMES,
    TABLE_OR_JSON,
    USAGE,
    Context,
    complete_names,
    fail,
    instance_name,
)
from supervisor.cli.errors import ApiError
from supervisor.cli.tables import duration, size
from supervisor.cli.templates import TemplateError, rendered
from supervisor.cli.times import parse_time_ns

Json = dict[str, Any]


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@TABLE_OR_JSON
@NAMES
@click.pass_obj
def images(context: Context, quiet: bool, form: str, names: tuple[str, ...]) -> None:
    """List the images that the containers of the project were made of."""
    # What reads the store is imported only here.
    from supervisor.cli.images import opened
    from supervisor.core.reference import parse_reference
    from supervisor.image.store import NotFoundError

    views = [view for view in project_views(context, names, everything=True) if view["ImageID"]]
    rows = []
    with opened(context) as store:
        for view in views:
            reference = parse_reference(view["Image"])
            row = {
                "ID": view["ImageID"],
                "ContainerName": view["Name"],
                "Repository": reference.familiar_name,
                "Tag": reference.tag or "<none>",
                "Platform": "",
                "Size": 0,
                "Created": "",
            }
            with contextlib.suppress(NotFoundError):
                found = store.find(view["ImageID"])
                config = found.config
                row |= {
                    "Platform": f"{config.os}/{config.architecture}",
                    "Size": found.size_bytes,
                    "Created": config.created,
                }
            rows.append(row)
    if quiet:
        for image_id in dict.fromkeys(row["ID"] for row in rows):
            click.echo(image_id.removeprefix("sha256:"))
    elif form == "json":
        click.echo(json.dumps(rows))
    else:
        head = ["CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED"]
        click.echo(output.table(head, [_image_row(row) for row in rows]))


def _image_row(row: Json) -> list[str]:
    ago = "N/A"
    if row["Created"]:
        moment = datetime.fromisoformat(row["Created"])
        ago = f"{duration((datetime.now(UTC) - moment).total_seconds())} ago"
    return [
        row["ContainerName"],
        row["Repository"],
        row["Tag"],
        row["Platform"],
        row["ID"][7:19],
        size(row["Size"]),
        ago,
    ]


@click.command()
@INDEX
@click.option(
    "--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True, help="Of PRIVATE_PORT."
)
@click.argument("service", shell_complete=complete_names)
@click.argument("private_port", type=int, required=False)
@click.pass_obj
def port(context: Context, index: int | None, protocol: str, service: str, private_port: int | None) -> None:
    """Where PRIVATE_PORT of SERVICE is published, or all of its ports.

    Exit code 1 where it is not published.
    """
    name = instance_name(context, service, index)
    view = context.client.call("GET", f"/containers/{name}/json", {"project": context.project_name()})
    ports: dict[str, list[dict[str, str]] | None] = view["NetworkSettings"]["Ports"]
    if private_port is None:
        for target, places in ports.items():
            for place in places or ():
                click.echo(f"{target} -> {_where(place)}")
        return
    bound = ports.get(f"{private_port}/{protocol}")
    if not bound:
        fail(FAILED, f"no port {private_port}/{protocol} for container {name}")
    else:
        click.echo(_where(bound[0]))


def _where(place: dict[str, str]) -> str:
    host = place["HostIp"]
    return f"{f'[{host}]' if ':' in host else host}:{place['HostPort']}"


@click.command()
@NAMES
@click.pass_obj
def top(context: Context, names: tuple[str, ...]) -> None:
    """The processes of the services of the project, with pids of the host."""
    head: list[str] = []
    rows: list[list[str]] = []
    for view in project_views(context, names, everything=False):
        if not view["State"]["Pid"]:
            continue
        with contextlib.suppress(ApiError):  # it has ended meanwhile
            found = context.client.call("GET", f"/containers/{view['Id']}/top")
            head = ["SERVICE", "#", *found["Titles"]]
            rows += [[view["Service"], str(view["Number"]), *process] for process in found["Processes"]]
    if rows:
        click.echo(output.table(head, rows))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line.")
@click.option("--since", help="Refused: what was before is not kept.")
@click.option("--until", help="End at that time: 2026-01-02T15:04:05Z.")
@NAMES
@click.pass_obj
def events(
    context: Context, as_json: bool, since: str | None, until: str | None, names: tuple[str, ...]
) -> None:
    """Print what happens to the containers of the project, or of the services NAMES, as it happens."""
    if since is not None:
        fail(USAGE, "cannot use --since: events are not kept; `shipkeeper why` and `logs` tell what was")
    end_ns = None
    if until is not None:
        try:
            end_ns = parse_time_ns(until, time.time_ns())
        except ValueError as error:
            fail(USAGE, f"cannot use --until: {error}")
    with contextlib.suppress(KeyboardInterrupt):
        if end_ns is not None:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, max(0.001, (end_ns - time.time_ns()) / 1e9))
        for event in context.client.stream("GET", "/events", {"project": context.project_name()}):
            if names and event["service"] not in names:
                continue
            click.echo(json.dumps(event_view(event)) if as_json else _event_line(event))
            sys.stdout.flush()


def event_view(event: Json) -> Json:
    """One event as `docker compose events --json` prints it."""
    return {
        "time": event["time"],
        "type": "container",
        "service": event["service"],
        "id": event["id"],
        "action": event["Action"],
        "attributes": {"name": event["name"], **({"why": event["why"]} if event["why"] else {})},
    }


def _event_line(event: Json) -> str:
    moment = datetime.fromisoformat(event["time"]).astimezone()
    attributes = ", ".join(f"{name}={value}" for name, value in event_view(event)["attributes"].items())
    return f"{moment:%Y-%m-%d %H:%M:%S.%f} container {event['Action']} {event['id']} ({attributes})"


@click.command()
@click.option("--format", "form", default="table", help="table, json, or a template: {{.Name}}.")
@click.option("-q", "--quiet", is_flag=True, help="Only the names.")
@NAMES
@click.pass_obj
def volumes(context: Context, form: str, quiet: bool, names: tuple[str, ...]) -> None:
    """List the volumes of the project, or of the services NAMES."""
    from supervisor.runtime.volumes import PROJECT_LABEL

    project = context.project_name()
    found = context.client.call("GET", "/volumes")["Volumes"]
    users = {view["Name"] for view in project_views(context, names, everything=True)}
    wanted = [
        volume
        for volume in found
        if users & set(volume["UsedBy"])
        or (not names and (volume["Labels"] or {}).get(PROJECT_LABEL) == project)
    ]
    if quiet:
        for volume in wanted:
            click.echo(volume["Name"])
        return
    rows = [
        {
            "Availability": "N/A",
            "Driver": volume["Driver"],
            "Group": "N/A",
            "Labels": ",".join(f"{name}={value}" for name, value in (volume["Labels"] or {}).items()),
            "Links": "N/A",
            "Mountpoint": volume["Mountpoint"],
            "Name": volume["Name"],
            "Scope": volume["Scope"],
            "Size": "N/A",
            "Status": "N/A",
        }
        for volume in wanted
    ]
    try:
        text = rendered(form, rows, {"Driver": "DRIVER", "Name": "VOLUME NAME"})
    except TemplateError as error:
        fail(USAGE, f"cannot print by --format {form!r}: {error}")
    click.echo(text, nl=bool(text))
