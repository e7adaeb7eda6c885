"""Verbs that only look: ps, inspect, why, top, stats, events."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from typing import Any

import click

from supervisor.cli import output, tables
from supervisor.cli.context import (
    NAMES,
    TABLE_OR_JSON,
    Context,
    complete_names,
    in_project,
    project_option,
    project_options,
)
from supervisor.cli.errors import ApiError

_STATS_EVERY_S = 1.0


def _views(context: Context, names: tuple[str, ...], *, everything: bool) -> list[dict[str, Any]]:
    """Instances with what they use: of the names, of the project that -p or -f names, or all."""
    query = {
        "all": 1 if everything else None,
        "usage": 1,
        "project": context.project_name() if context.is_scoped else None,
    }
    views: list[dict[str, Any]] = context.client.call("GET", "/containers/json", query)
    if not names:
        return views
    wanted = [v for v in views if v["Name"] in names or v["Service"] in names or v["Id"] in names]
    for name in names:
        if not any(name in (v["Name"], v["Service"], v["Id"]) for v in wanted):
            # The daemon says best what it does not know; what is down is shown with -a.
            context.client.call("GET", f"/containers/{name}/json", {"project": query["project"]})
    return wanted


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those that are down too.")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@TABLE_OR_JSON
@project_options
@NAMES
@click.pass_obj
def ps(context: Context, everything: bool, quiet: bool, form: str, names: tuple[str, ...]) -> None:
    """List service instances, of all projects or of the one named by -p or -f.

    CPU is of one processor, on average since the run began, as ps(1) has it; `stats` shows the moment.
    """
    views = _views(context, names, everything=everything)
    if quiet:
        for view in views:
            click.echo(view["Id"])
    elif form == "json":
        for view in views:
            output.print_json(tables.ps_json(view))
    elif not views:
        more = "" if everything else "; `shipkeeper ps -a` shows what is down"
        output.print_error(f"nothing is running{more}")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(tables.ps_table(views, width))


@click.command()
@click.option("--format", "form", type=click.Choice(["json"]), default="json", help="What to print.")
@project_options
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@click.pass_obj
def inspect(context: Context, form: str, names: tuple[str, ...]) -> None:
    """Everything about service instances, as one JSON list, with Docker's names of fields."""
    del form  # the only one; named so that scripts may say it

    def ask(project: str | None) -> list[Any]:
        return [
            context.client.call("GET", f"/containers/{name}/json", {"project": project}) for name in names
        ]

    click.echo(json.dumps(in_project(context, ask, names), indent=2))


@click.command()
@click.option("-n", "--tail", default="5", show_default=True, help="Lines of its output to show.")
@TABLE_OR_JSON
@project_options
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@click.pass_obj
def why(context: Context, tail: str, form: str, names: tuple[str, ...]) -> None:
    """Tell the story of the last runs: what ended them, what was decided, what comes next."""
    for number, name in enumerate(names):

        def ask(project: str | None, name: str = name) -> tuple[dict[str, Any], list[str]]:
            query = {"project": project}
            told = context.client.call("GET", f"/containers/{name}/runs", query)
            path = f"/containers/{name}/logs"
            records = context.client.stream("GET", path, {**query, "tail": tail})
            return told, [record["text"] for record in records if not record.get("marker")]

        told, lines = in_project(context, ask, names)
        if form == "json":
            output.print_json({**told, "LastLines": lines})
        else:
            click.echo("\n" * bool(number) + tables.story(told["Instance"], told["Runs"], lines))


@click.command()
@TABLE_OR_JSON
@project_options
@NAMES
@click.pass_obj
def top(context: Context, form: str, names: tuple[str, ...]) -> None:
    """The processes of services, with pids of the host. RSS is in KiB."""
    chosen = [view for view in _views(context, names, everything=False) if view["State"]["Pid"]]
    for view in chosen:
        with contextlib.suppress(ApiError):  # it has ended meanwhile
            found = context.client.call("GET", f"/containers/{view['Id']}/top")
            if form == "json":
                output.print_json({"Name": view["Name"], **found})
            else:
                click.echo(f"{view['Name']}\n{output.table(found['Titles'], found['Processes'])}\n")
    if not chosen:
        output.print_error("nothing is running")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those that are down, too, with nothing.")
@click.option("--no-stream", is_flag=True, help="Once, not again and again.")
@click.option("--no-trunc", is_flag=True, hidden=True, help="Accepted: nothing is cut.")
@TABLE_OR_JSON
@project_options
@NAMES
@click.pass_obj
def stats(
    context: Context, everything: bool, no_stream: bool, no_trunc: bool, form: str, names: tuple[str, ...]
) -> None:
    """What services use now: CPU over a second (100 % is one processor), memory, threads."""
    del no_trunc
    screen = sys.stdout.isatty() and form == "table" and not no_stream
    with contextlib.suppress(KeyboardInterrupt):
        before, at = _views(context, names, everything=everything), time.monotonic()
        while True:
            time.sleep(_STATS_EVERY_S)
            now, then = _views(context, names, everything=everything), at
            at = time.monotonic()
            rows = tables.stats_rows(before, now, at - then)
            before = now
            if form == "json":
                for row in rows:
                    output.print_json(row)
            else:
                click.echo(("\x1b[H\x1b[2J" if screen else "") + tables.stats_table(rows))
            if no_stream:
                return


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line (as --format json).")
@TABLE_OR_JSON
@project_option
@click.pass_obj
def events(context: Context, as_json: bool, form: str) -> None:
    """Print what happens, as it happens: create, start, die, oom, kill, stop, restart, pause, destroy,
    health_status.
    """
    with contextlib.suppress(KeyboardInterrupt):
        for event in context.client.stream("GET", "/events", {"project": context.project}):
            if as_json or form == "json":
                output.print_json(event)
            else:
                click.echo(f"{event['time']} {event['Action']} {event['name']} {event['why']}".rstrip())
            sys.stdout.flush()
