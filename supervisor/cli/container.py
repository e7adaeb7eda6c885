"""The verbs `rename` and `container prune`: containers that belong to no project."""

from __future__ import annotations

import json

import click

from supervisor.cli import output
from supervisor.cli.context import Context, complete_names


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.argument("new")
@click.pass_obj
def rename(context: Context, name: str, new: str) -> None:
    """Call the container NAME by another name, NEW; also while it runs.

    For what `run` and `create` made: services of a project have the names that their Compose file says.
    """
    context.client.call("POST", f"/containers/{name}/rename", {"name": new})


@click.group()
def container() -> None:
    """Containers: prune; and run, create, attach, rename, rm and others as verbs of their own."""


@container.command()
@click.option("--filter", "filters", multiple=True, metavar="label=NAME[=VALUE]", help="Only those with it.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output."
)
@click.pass_obj
def prune(context: Context, filters: tuple[str, ...], force: bool, form: str) -> None:
    """Remove every container that is down, with what it wrote.

    Only what `run` and `create` made: what belongs to a project is `down`'s. Named volumes stay.
    """
    labels = []
    for text in filters:
        kind, _, value = text.partition("=")
        if kind != "label" or not value:
            raise click.UsageError(f"cannot filter by {text!r}: write label=NAME or label=NAME=VALUE")
        labels.append(value)
    if not force:
        click.confirm("Remove all containers that are down?", abort=True, err=True)
    query = {"filters": json.dumps({"label": labels})} if labels else {}
    removed = context.client.call("POST", "/containers/prune", query)["ContainersDeleted"]
    if form == "json":
        output.print_json({"removed": removed})
        return
    for each in removed:
        click.echo(each)
