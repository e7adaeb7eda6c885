"""Verbs on volumes: volume ls, inspect, create, rm, prune."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.context import TABLE_OR_JSON, Context, code_of
from supervisor.cli.errors import ApiError
from supervisor.cli.pairs import filter_query, pair


@click.group()
def volume() -> None:
    """Volumes: what lasts when a container goes."""


@volume.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="dangling=BOOL (nobody uses it), label=NAME[=VALUE], name=PART.",
)
@TABLE_OR_JSON
@click.pass_obj
def list_(context: Context, quiet: bool, filters: tuple[str, ...], form: str) -> None:
    """List the volumes."""
    found = context.client.call("GET", "/volumes", filter_query(filters))["Volumes"]
    if quiet:
        for each in found:
            click.echo(each["Name"])
    elif form == "json":
        for each in found:
            output.print_json(each)
    else:
        rows = [[each["Driver"], each["Name"], ", ".join(each["UsedBy"]) or "-"] for each in found]
        click.echo(output.table(["DRIVER", "VOLUME NAME", "USED BY"], rows))


@volume.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def inspect(context: Context, names: tuple[str, ...]) -> None:
    """Show all there is to know of volumes, as JSON."""
    found, code = [], 0
    for name in names:
        try:
            found.append(context.client.call("GET", f"/volumes/{name}"))
        except ApiError as error:
            output.print_error(str(error))
            code = code_of(error.status)
    click.echo(json.dumps(found, indent=2))
    sys.exit(code)


@volume.command()
@click.argument("name", default="")
@click.option("-d", "--driver", default="local", help="There is local only.")
@click.option(
    "-o", "--opt", "options", multiple=True, metavar="NAME=VALUE", help="type, o and device, as for mount(8)."
)
@click.option("--label", "labels", multiple=True, metavar="NAME[=VALUE]")
@click.pass_obj
def create(
    context: Context, name: str, driver: str, options: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    """Make a volume, and print its name; one at random without NAME. One that is there stays as it is."""
    document = {
        "Name": name,
        "Driver": driver,
        "DriverOpts": dict(pair(text) for text in options),
        "Labels": dict(pair(text) for text in labels),
    }
    made = context.client.call("POST", "/volumes/create", body=json.dumps(document).encode())
    click.echo(made["Name"])


@volume.command()
@click.option("-f", "--force", is_flag=True, help="One that is not there is no error.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(context: Context, force: bool, names: tuple[str, ...]) -> None:
    """Remove volumes with their data. One that a container uses, running or not, stays."""
    code = 0
    for name in names:
        try:
            context.client.call("DELETE", f"/volumes/{name}", {"force": 1 if force else None})
            click.echo(name)
        except ApiError as error:
            output.print_error(str(error))
            code = code_of(error.status)
    sys.exit(code)


@volume.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Named ones, too, not only anonymous ones.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", help="label=, label!=.")
@click.pass_obj
def prune(context: Context, everything: bool, force: bool, filters: tuple[str, ...]) -> None:
    """Remove the volumes that no container uses, running or not."""
    from supervisor.cli.tables import size

    query = filter_query((*filters, "all=true") if everything else filters)
    if not force and sys.stdin.isatty():
        which = "all" if everything else "anonymous"
        click.confirm(f"Remove {which} volumes that nobody uses, with their data?", abort=True)
    done: Any = context.client.call("POST", "/volumes/prune", query)
    for name in done["VolumesDeleted"]:
        click.echo(name)
    click.echo(f"reclaimed {size(done['SpaceReclaimed'])}")
