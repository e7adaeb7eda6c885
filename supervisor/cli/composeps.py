"""`compose ps`: the containers of the project of the files here, in the columns of `docker compose ps`."""

from __future__ import annotations

from typing import Any

import click

from supervisor.cli import tables
from supervisor.cli.context import NAMES, UNKNOWN, USAGE, Context, fail
from supervisor.cli.templates import TemplateError, rendered

Json = dict[str, Any]
_STATES = ("paused", "restarting", "removing", "running", "dead", "created", "exited")
_COLUMNS = {
    "Name": "NAME",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "Service": "SERVICE",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
}
_COMMAND_CHARACTERS = 20


def project_views(context: Context, names: tuple[str, ...] = (), *, everything: bool) -> list[Json]:
    """Containers of the project, of these services or of all; what `run` made only with `everything`.

    Ends the command where a name is that of no service.
    """
    query = {"all": 1 if everything or names else None, "project": context.project_name()}
    views = [
        v for v in context.client.call("GET", "/containers/json", query) if everything or not v["OneOff"]
    ]
    known = {view["Service"] for view in views}
    for name in names:
        if name not in known and name not in {each.name for each in context.load().all_services}:
            fail(UNKNOWN, f"no such service: {name}")
    wanted = [view for view in views if not names or view["Service"] in names]
    return wanted if everything else [view for view in wanted if _is_up(view)]


def _is_up(view: Json) -> bool:
    return view["State"]["Status"] in ("running", "paused", "restarting")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="What is down, and what `run` made, too.")
@click.option("--filter", "filters", multiple=True, metavar="status=STATUS", help="Only those.")
@click.option(
    "--format", "form", default="table", help="table, json, 'table TEMPLATE', or a template: {{.Name}}."
)
@click.option("--no-trunc", is_flag=True, help="Whole commands.")
@click.option("--orphans/--no-orphans", default=True, help="What the files do not have any more, too.")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--services", is_flag=True, help="Only the names of the services.")
@click.option(
    "--status", "states", multiple=True, type=click.Choice(_STATES), help="Only those in this state."
)
@NAMES
@click.pass_obj
def ps(
    context: Context,
    everything: bool,
    filters: tuple[str, ...],
    form: str,
    no_trunc: bool,
    orphans: bool,
    quiet: bool,
    services: bool,
    states: tuple[str, ...],
    names: tuple[str, ...],
) -> None:
    """List the containers of the project, or of the services NAMES.

    \b
    Fields of a template: ID Name Names Image Command Project Service State Status Health ExitCode CreatedAt
    RunningFor Ports Publishers Labels
    """
    wanted = {*states, *(_state(text) for text in filters)}
    views = project_views(context, names, everything=everything or bool(wanted))
    if wanted:
        views = [view for view in views if view["State"]["Status"] in wanted]
    if not orphans:
        known = {spec.name for spec in context.load().all_services}
        views = [view for view in views if view["Service"] in known]
    if services:
        lines = sorted({view["Service"] for view in views})
        click.echo("\n".join(lines), nl=bool(lines))
        return
    if quiet:
        for view in views:
            click.echo(view["Id"])
        return
    try:
        text = rendered(form, [row(view, whole=no_trunc or form == "json") for view in views], _COLUMNS)
    except TemplateError as error:
        fail(USAGE, f"cannot print by --format {form!r}: {error}")
    click.echo(text, nl=bool(text))


def _state(text: str) -> str:
    name, _, value = text.partition("=")
    if name != "status" or value not in _STATES:
        raise click.UsageError(f"cannot filter by {text!r}: write status= and one of {', '.join(_STATES)}")
    return value


def row(view: Json, *, whole: bool) -> Json:
    """One container as `docker compose ps` shows it. whole: of its command, too."""
    state = view["State"]
    command = " ".join(view["Command"])
    if not whole and len(command) > _COMMAND_CHARACTERS:
        command = f"{command[: _COMMAND_CHARACTERS - 1]}…"
    return {
        "Command": f'"{command}"',
        "CreatedAt": view["Created"],
        "ExitCode": state["ExitCode"],
        "Health": state.get("Health", {}).get("Status", ""),
        "ID": view["Id"] if whole else view["Id"][:12],
        "Image": view["Image"],
        "Labels": ",".join(f"{name}={value}" for name, value in view["Labels"].items()),
        "Name": view["Name"],
        "Names": view["Name"],
        "Ports": tables.ports_words(view, both=False),
        "Project": view["Project"],
        "Publishers": [
            {
                "URL": port.get("IP", ""),
                "TargetPort": port["PrivatePort"],
                "PublishedPort": port.get("PublicPort", 0),
                "Protocol": port["Type"],
            }
            for port in view.get("Ports") or ()
        ],
        "RunningFor": f"{tables.duration(tables.since(view['Created']))} ago",
        "Service": view["Service"],
        "State": state["Status"],
        "Status": tables.status_words(view),
    }
