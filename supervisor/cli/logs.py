"""The verb `logs`."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.context import (
    INDEX,
    NAMES,
    USAGE,
    Context,
    fail,
    in_project,
    instance_name,
    project_option,
)
from supervisor.cli.logview import LogView, wants_colour
from supervisor.cli.times import parse_time_ns


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, over restarts and rotations.")
@click.option("-n", "--tail", default="all", show_default=True, help="Only the last so many lines of each.")
@click.option("--since", help="Only from then on: 10m, 2026-01-02T15:04:05Z, 1767366245.")
@click.option("--until", help="Only until then.")
@click.option("-t", "--timestamps", is_flag=True, help="With the time of each line.")
@click.option("--no-log-prefix", is_flag=True, help="Exactly what was written: no names, no marks.")
@click.option("--no-color", is_flag=True, help="No colours (as NO_COLOR=1).")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@INDEX
@project_option
@NAMES
@click.pass_obj
def logs(
    context: Context,
    follow: bool,
    tail: str,
    since: str | None,
    until: str | None,
    timestamps: bool,
    no_log_prefix: bool,
    no_color: bool,
    form: str,
    index: int | None,
    names: tuple[str, ...],
) -> None:
    """Show what services wrote, merged in time order; marks show where a run ended and the next began.

    Without NAMES: all of the project.
    """
    if index is not None:
        names = tuple(instance_name(context, name, index) for name in names)
    query: dict[str, Any] = {"tail": tail, "follow": 1 if follow else None, "name": list(names) or None}
    now_ns = time.time_ns()
    for word, text in (("since", since), ("until", until)):
        if text is not None:
            try:
                query[word] = parse_time_ns(text, now_ns)
            except ValueError as error:
                fail(USAGE, f"cannot use --{word}: {error}")
    view = LogView(
        sys.stdout.buffer,
        colour=not no_color and wants_colour(sys.stdout),
        prefix=not no_log_prefix,
        stamps=timestamps,
        marks=not no_log_prefix,
    )

    def ask(project: str | None) -> None:
        for line in context.client.stream("GET", "/logs", {**query, "project": project}):
            if form == "json":
                output.print_json(line)
            else:
                view.show(line)

    with contextlib.suppress(KeyboardInterrupt):
        in_project(context, ask, names)
