"""Verbs that change what runs: start, stop, restart, kill, rm, pause, unpause; and wait."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.context import (
    FAILED,
    NAMES,
    NOT_MET,
    TIMED_OUT,
    TIMEOUT,
    Context,
    code_of,
    complete_names,
    in_project,
    project_option,
    project_options,
)
from supervisor.cli.errors import ApiError


def act(context: Context, verb: str, names: tuple[str, ...], **more: object) -> None:
    """One verb on those named, or on the whole project; all are tried, and the exit code is the worst."""
    scope = context.scope(names)
    if context.dry_run:
        preview(context, verb, names, scope)
        return
    lines = list(_results(context, verb, names, scope, more))
    ambiguous = [line for line in lines if line.get("status") == 409 and "is meant" in line["error"]]
    if ambiguous and scope is None:
        lines = [line for line in lines if line not in ambiguous]
        here = context.project_name()
        lines += _results(context, verb, tuple(line["name"] for line in ambiguous), here, more)
    worst = 0
    for line in lines:
        if "error" in line:
            output.print_error(line["error"])
            worst = max(worst, code_of(line["status"]))
        elif line["outcome"].startswith("restarting"):
            worst = max(worst, FAILED)
    if not lines:
        output.print_error(f"nothing of the project {scope} is there; `shipkeeper up -d` brings it up")
    if worst:
        sys.exit(worst)


def preview(context: Context, verb: str, names: tuple[str, ...], scope: str | None) -> None:
    """Which instances it would be, in Compose's words."""
    for view in context.client.call("GET", "/containers/json", {"all": 1, "project": scope}):
        if view["OneOff"] and not names:
            continue
        if not names or not {view["Name"], view["Service"], view["Id"]}.isdisjoint(names):
            click.echo(f"DRY-RUN MODE -  Container {view['Name']}  {verb}")


def _results(
    context: Context, verb: str, names: tuple[str, ...], scope: str | None, more: dict[str, object]
) -> list[dict[str, Any]]:
    """The last word on each; successes and slow ones are told as they come."""
    body = json.dumps({"names": names, "project": scope, **{k: v for k, v in more.items() if v is not None}})
    found = []
    progress = output.Progress(sys.stderr)
    for line in context.client.stream("POST", f"/services/{verb}", body=body.encode()):
        if "waiting_s" in line:
            progress.say(f"waiting for {line['name']}, {line['waiting_s']:.0f} s of {line['of_s']:g} s")
            continue
        progress.clear()
        found.append(line)
        if "outcome" in line:
            click.echo(f"{line['name']}: {line['outcome']}")
    progress.clear()
    return found


@click.command()
@click.option("--wait", "wait_up", is_flag=True, help="Return when they are up, as `up --wait` does.")
@click.option("--wait-timeout", type=float, help="Give up waiting after so many seconds, with exit code 124.")
@project_options
@NAMES
@click.pass_obj
def start(context: Context, wait_up: bool, wait_timeout: float | None, names: tuple[str, ...]) -> None:
    """Start what is down, in the order of dependencies; the counters begin anew.

    Without NAMES: all of the project. What runs is left alone.
    """
    began = time.monotonic()
    act(context, "start", names)
    if wait_up and not context.dry_run:
        from supervisor.cli.bringing import wait_for

        base = f"/projects/{context.project_name()}"
        wait_for(context.client, base, list(names), began, wait_timeout, "text")


@click.command()
@TIMEOUT
@click.option("--for", "hold", help="Start it again after this time: 30m, 1h30m.")
@project_options
@NAMES
@click.pass_obj
def stop(context: Context, timeout: float | None, hold: str | None, names: tuple[str, ...]) -> None:
    """Stop services, dependents first: stop signal, grace, SIGKILL.

    A stop holds until the next start of the supervisor or the host, as Docker does, and then the restart
    policy decides (`unless-stopped` and `on-failure` stay stopped); or, with --for, for a time.
    """
    hold_s = None
    if hold is not None:
        from supervisor.compose.units import duration_ns

        try:
            hold_s = duration_ns(hold) / 1e9
        except ValueError as error:
            raise click.UsageError(f"--for {hold}: {error}") from error
    act(context, "stop", names, grace_s=timeout, hold_s=hold_s)


@click.command()
@click.option("--no-deps", is_flag=True, help="Only them, not what depends on them with `restart: true`.")
@TIMEOUT
@project_options
@NAMES
@click.pass_obj
def restart(context: Context, no_deps: bool, timeout: float | None, names: tuple[str, ...]) -> None:
    """Stop and start; starts what is down, and does not wait for a backoff."""
    act(context, "restart", names, grace_s=timeout, alone=no_deps)


@click.command()
@click.option("-s", "--signal", "signame", default="KILL", show_default=True, help="Name or number.")
@project_options
@NAMES
@click.pass_obj
def kill(context: Context, signame: str, names: tuple[str, ...]) -> None:
    """Signal the main process. A signal that does not end it is no stop.

    One that does end it is a stop by you, as with Docker: it is not started again.
    """
    act(context, "kill", names, signal=signame)


@click.command()
@project_options
@NAMES
@click.pass_obj
def pause(context: Context, names: tuple[str, ...]) -> None:
    """Freeze every process of a service, in memory as it is."""
    act(context, "pause", names)


@click.command()
@project_options
@NAMES
@click.pass_obj
def unpause(context: Context, names: tuple[str, ...]) -> None:
    """Let a frozen service run on."""
    act(context, "unpause", names)


@click.command()
@click.option("-f", "--force", is_flag=True, help="Kill it first if it runs.")
@click.option("-s", "--stop", "stop_first", is_flag=True, help="Stop it first if it runs.")
@click.option("-v", "--volumes", is_flag=True, help="Their anonymous volumes, too.")
@project_option
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@click.pass_obj
def rm(context: Context, force: bool, stop_first: bool, volumes: bool, names: tuple[str, ...]) -> None:
    """Remove services that are down, with what they wrote. Volumes stay, without -v anonymous ones as well.

    As with Docker, -f is --force here; a Compose file is named in front of the verb.
    """
    if stop_first:
        act(context, "stop", names)
    act(context, "remove", names, force=force, volumes=volumes)


@click.command()
@click.option(
    "--condition",
    type=click.Choice(["not-running", "next-exit", "up"]),
    default="not-running",
    show_default=True,
    help="What to wait for. up: it runs, or has given up.",
)
@click.option("--timeout", type=float, help="Give up after so many seconds, with exit code 124.")
@project_options
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@click.pass_obj
def wait(context: Context, condition: str, timeout: float | None, names: tuple[str, ...]) -> None:
    """Wait for the end of the current run of each; print its exit code, as docker wait does.

    With --condition up: wait until it runs; exit code 3 if it will not.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    for name in names:

        def ask(project: str | None, name: str = name) -> Any:
            left_s = None if deadline is None else max(0.001, deadline - time.monotonic())
            query = {"project": project, "condition": condition}
            return context.client.call("POST", f"/containers/{name}/wait", query, timeout_s=left_s)

        try:
            ended = in_project(context, ask, names)
        except TimeoutError:
            output.print_error(f"{name}: not {condition} within {timeout:g} s")
            sys.exit(TIMED_OUT)
        except ApiError as error:
            output.print_error(str(error))
            sys.exit(code_of(error.status))
        if condition == "up":
            if not ended["Running"]:
                output.print_error(f"{name} will not come up; see `shipkeeper why {name}`")
                sys.exit(NOT_MET)
            click.echo(f"{name}: running")
        else:
            click.echo(str(ended["StatusCode"]))
