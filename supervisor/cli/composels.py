"""Verbs of `compose` that need no file here: ls, version."""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from typing import Any

import click

from supervisor import __version__
from supervisor.cli import output
from supervisor.cli.context import TABLE_OR_JSON, Context

Json = dict[str, Any]
_DOWN = ("exited", "created", "dead")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those of which nothing runs, too.")
@click.option("--filter", "filters", multiple=True, metavar="name=PATTERN", help="Only those of such a name.")
@click.option("-q", "--quiet", is_flag=True, help="Only the names.")
@TABLE_OR_JSON
@click.pass_obj
def ls(context: Context, everything: bool, filters: tuple[str, ...], quiet: bool, form: str) -> None:
    """List the projects of this host."""
    patterns = [_pattern(text) for text in filters]
    rows = []
    for found in context.client.call("GET", "/projects"):
        states = [state for state in found["States"] if everything or state not in _DOWN]
        if states and (not patterns or any(fnmatch.fnmatch(found["Name"], each) for each in patterns)):
            files = ",".join(found["ConfigFiles"]) or "N/A"
            rows.append({"Name": found["Name"], "Status": status_words(states), "ConfigFiles": files})
    if quiet:
        for row in rows:
            click.echo(row["Name"])
    elif form == "json":
        click.echo(json.dumps(rows))
    else:
        click.echo(output.table(["NAME", "STATUS", "CONFIG FILES"], [list(row.values()) for row in rows]))


def _pattern(text: str) -> str:
    name, _, value = text.partition("=")
    if name != "name" or not value:
        raise click.UsageError(f"cannot filter by {text!r}: write name=PATTERN")
    return value


def status_words(states: list[str]) -> str:
    """Compose's: exited(1), running(2)."""
    return ", ".join(f"{state}({count})" for state, count in sorted(Counter(states).items()))


@click.command()
@click.option(
    "-f", "--format", "form", type=click.Choice(["pretty", "json"]), default="pretty", help="What to print."
)
@click.option("--short", is_flag=True, help="Only the number.")
def version(form: str, short: bool) -> None:
    """Print the version of this command."""
    if short:
        click.echo(__version__)
    elif form == "json":
        output.print_json({"version": __version__})
    else:
        click.echo(version_words())


def version_words() -> str:
    """As `docker compose version` says it, so that nobody takes it for that."""
    return f"Shipkeeper Compose version {__version__}"
