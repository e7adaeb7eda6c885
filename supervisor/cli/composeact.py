"""Verbs of `compose` that change containers of a project otherwise than the plain ones: kill, rm, wait."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.act import act
from supervisor.cli.bringing import create_project
from supervisor.cli.composeps import project_views
from supervisor.cli.context import FAILED, NAMES, Context, complete_names, fail
from supervisor.cli.project import (
    asked_of,
    chosen_options,
    down,
    image_options,
    recreate_options,
)


@click.command()
@recreate_options
@image_options
@click.option("-y", "--yes", is_flag=True, help="Accepted: nothing is asked.")
@NAMES
@click.pass_obj
def create(
    context: Context,
    /,
    names: tuple[str, ...],
    force_recreate: bool,
    no_recreate: bool,
    remove_orphans: bool,
    yes: bool,
    **images_and_scale: Any,
) -> None:
    """Make what is not there or has changed, and start nothing; `start` does."""
    del yes
    options = chosen_options(
        force_recreate=force_recreate, no_recreate=no_recreate, remove_orphans=remove_orphans
    )
    create_project(context, asked_of(names, options, dry_run=context.dry_run, **images_and_scale))


@click.command()
@click.option("--remove-orphans", is_flag=True, help="Remove what the files do not have any more.")
@click.option("-s", "--signal", "signame", default="SIGKILL", show_default=True, help="Name or number.")
@NAMES
@click.pass_obj
def kill(context: Context, remove_orphans: bool, signame: str, names: tuple[str, ...]) -> None:
    """Signal the containers that run. One that ends by it is not started again, as with Docker."""
    running = [view["Name"] for view in project_views(context, names, everything=False)]
    if running:
        act(context, "kill", tuple(running), signal=signame)
    if remove_orphans:
        known = {spec.name for spec in context.load().all_services}
        views = project_views(context, everything=True)
        orphans = [view["Name"] for view in views if view["Service"] not in known]
        if orphans:
            act(context, "remove", tuple(orphans), force=True)


@click.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-s", "--stop", "stop_first", is_flag=True, help="Stop them first.")
@click.option("-v", "--volumes", is_flag=True, help="Their anonymous volumes, too.")
@click.option("-a", "--all", "_everything", is_flag=True, hidden=True, help="Of old; changes nothing.")
@NAMES
@click.pass_obj
def rm(
    context: Context, force: bool, stop_first: bool, volumes: bool, _everything: bool, names: tuple[str, ...]
) -> None:
    """Remove the containers that are down, with what they wrote.

    Volumes stay, without -v anonymous ones as well.
    """
    if stop_first:
        running = [view["Name"] for view in project_views(context, names, everything=False)]
        if running:
            act(context, "stop", tuple(running))
    views = project_views(context, names, everything=True)
    stopped = [view["Name"] for view in views if view["State"]["Status"] in ("created", "exited", "dead")]
    if context.dry_run and stop_first:
        stopped = [view["Name"] for view in views]
    if not stopped:
        output.print_error("no stopped containers")
        return
    if not force and not context.dry_run:
        click.confirm(f"Going to remove {', '.join(stopped)}. Are you sure?", abort=True)
    act(context, "remove", tuple(stopped), volumes=volumes)


@click.command()
@click.option("--down-project", is_flag=True, help="Take the project down when the first of them ends.")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@click.pass_context
def wait(ctx: click.Context, down_project: bool, names: tuple[str, ...]) -> None:
    """Wait until the containers of the services NAMES have ended; the exit code is that of the last of them.

    With --down-project it is that of the first, and the project is taken down then.
    """
    context: Context = ctx.obj
    views = project_views(context, names, everything=False)
    if not views:
        fail(FAILED, f'no containers for project "{context.project_name()}" run')
    client = context.client
    code = 0
    pool = ThreadPoolExecutor(len(views))
    asked = {
        pool.submit(
            client.call, "POST", f"/containers/{view['Id']}/wait", {"condition": "not-running"}
        ): view["Name"]
        for view in views
    }
    for ended in as_completed(asked):
        code = _told(asked[ended], ended.result())
        if down_project:
            break
    pool.shutdown(wait=False, cancel_futures=True)
    if down_project:
        ctx.invoke(down)  # which ends those that are waited for still
    sys.exit(code)


def _told(name: str, answer: dict[str, Any]) -> int:
    code = int(answer["StatusCode"])
    click.echo(f'container "{name}" exited with status code {code}')
    return code
