"""Verbs of a whole project: up, down."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any, NoReturn

import click

from supervisor.cli import output
from supervisor.cli.client import Client
from supervisor.cli.context import (
    FAILED,
    NOT_MET,
    TIMED_OUT,
    TIMEOUT,
    USAGE,
    Context,
    complete_names,
    fail,
    project_options,
)
from supervisor.cli.errors import UnreachableError


@click.command()
@click.option("-d", "--detach", is_flag=True, help="Return when everything has been started.")
@click.option("--wait", "wait_up", is_flag=True, help="Return when everything is up (implies --detach).")
@click.option("--wait-timeout", type=float, help="Give up waiting after so many seconds, with exit code 124.")
@click.option(
    "--build", "rebuild", is_flag=True, help="Build the images of services that have `build` first."
)
@click.option("--no-build", is_flag=True, help="Build nothing, also where an image is missing.")
@click.option(
    "--pull",
    "pull_policy",
    type=click.Choice(["always", "missing", "never"]),
    help="Pull images always, where they are missing, or never; instead of each service's `pull_policy`.",
)
@click.option(
    "-V",
    "--renew-anon-volumes",
    is_flag=True,
    help="What is recreated gets new anonymous volumes, and the old ones go.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to print plan and progress: json is one document a line.",
)
@project_options
@click.argument("services", nargs=-1, shell_complete=complete_names)
@click.pass_obj
def up(
    context: Context,
    detach: bool,
    wait_up: bool,
    wait_timeout: float | None,
    rebuild: bool,
    no_build: bool,
    pull_policy: str | None,
    renew_anon_volumes: bool,
    dry_run: bool,
    form: str,
    services: tuple[str, ...],
) -> None:
    """Bring the project up, or SERVICES and what they depend on. What has not changed is not touched.

    Without -d the output of the services is shown, and Ctrl-C stops them. Where no daemon runs, the
    supervisor itself runs here until then.

    What has `build` and no image is built first, by this command itself.

    A service waits for what it depends on as `depends_on` says; one that may not start tells why.

    Up is: healthy; without a healthcheck, running for a second; or ended well where it is not to be started
    again.
    """
    if rebuild and no_build:
        fail(USAGE, "cannot build and not build: --build and --no-build exclude each other")
    loaded = context.load(services)
    project = loaded.project
    if not no_build and any(source.build is not None for source in loaded.sources.values()):
        from supervisor.cli.buildservices import build_first

        if not build_first(context, loaded, everything=rebuild, only_tell=dry_run, form=form):
            return
    if any(spec.rootfs.kind == "image" for spec in project.services):
        from supervisor.cli.pulling import pull_first

        if not pull_first(context, loaded, policy=pull_policy, only_tell=dry_run, form=form):
            return
    from supervisor.cli.grants import collect, request_body

    project, contents = collect(project, loaded.variables)
    body = request_body(project, contents)
    base = f"/projects/{project.name}"
    client = context.client
    detach = detach or wait_up
    renewing = {"renew_volumes": 1 if renew_anon_volumes else None}
    try:
        if dry_run:
            for operation in client.call("POST", f"{base}/plan", body=body):
                if form == "json":
                    output.print_json(operation)
                else:
                    click.echo(f"{operation['verb']:8} {operation['name']}: {operation['cause']}")
            return
        began = time.monotonic()
        query = {**renewing, "timeout": wait_timeout if wait_up else None}
        failed = _progress(client.stream("POST", f"{base}/up", query, body), form, wait_timeout)
    except UnreachableError:
        if detach or dry_run:
            raise
        import asyncio

        from supervisor.cli.foreground import run_foreground

        asyncio.run(run_foreground(context.settings, project, contents))
        return
    names = [service.name for service in project.services]
    if wait_up:
        left_s = None if wait_timeout is None else max(0.0, wait_timeout - (time.monotonic() - began))
        _wait(client, base, names, left_s, wait_timeout, form)
    elif failed:
        sys.exit(FAILED)
    elif not detach:
        from supervisor.cli.foreground import attach

        attach(client, project)


_FAILURES = ("restarting", "exited: could not", "not started", "not recreated")


def _progress(lines: Iterable[Any], form: str, timeout_s: float | None) -> bool:
    """Tell what came of each operation; whether some failed."""
    failed = False
    for line in lines:
        if "timeout" in line:
            _too_late(line["timeout"], timeout_s)
        outcome = line.get("outcome", "")
        failed = failed or "error" in line or outcome.startswith(_FAILURES) or "post_start hook" in outcome
        if form == "json":
            output.print_json(line)
        elif "error" in line:
            output.print_error(line["error"])
        else:
            because = f" ({line['cause']})" if line["verb"] == "recreate" else ""
            click.echo(f"{line['name']}: {line['outcome']}{because}")
    return failed


def _too_late(names: list[str], timeout_s: float | None) -> NoReturn:
    output.print_error(f"not up within {timeout_s or 0:g} s: {', '.join(names)}")
    sys.exit(TIMED_OUT)


def _wait(
    client: Client, base: str, names: list[str], left_s: float | None, timeout_s: float | None, form: str
) -> None:
    """left_s: of `timeout_s`, which was asked for."""
    down = False
    query = {"service": names, "timeout": left_s}
    for line in client.stream("POST", f"{base}/wait", query):
        if "timeout" in line:
            _too_late(line["timeout"], timeout_s)
        down = down or not line["up"]
        if form == "json":
            output.print_json(line)
        elif line["up"]:
            click.echo(f"{line['name']}: up")
        else:
            output.print_error(f"{line['name']} did not come up: {line['outcome']}")
    if down:
        sys.exit(NOT_MET)


@click.command()
@click.option("-v", "--volumes", is_flag=True, help="Its named and anonymous volumes too.")
@TIMEOUT
@project_options
@click.pass_obj
def down(context: Context, volumes: bool, timeout: float | None) -> None:
    """Stop and remove everything of the project, dependents first; volumes stay without -v."""
    name = context.project_name()
    query = {"volumes": 1 if volumes else None, "t": timeout}
    gone = failed = False
    for line in context.client.stream("POST", f"/projects/{name}/down", query):
        gone = True
        if "error" in line:
            output.print_error(line["error"])
            failed = True
        else:
            click.echo(f"{line['name']}: {line['outcome']}")
    if not gone:
        output.print_error(f"nothing of the project {name} is there")
    if failed:
        sys.exit(FAILED)
