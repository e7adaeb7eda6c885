"""Verbs about the supervisor itself: daemon, doctor, completion, version."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

from supervisor import __version__
from supervisor.cli import output
from supervisor.cli.context import FAILED, TABLE_OR_JSON, Context
from supervisor.cli.errors import UnreachableError
from supervisor.daemon.settings import LOG_FORMATS, LOG_LEVELS, Settings


@click.command()
@click.option("--projects-dir", help="Compose files that are brought up (SHIPKEEPER_PROJECTS_DIR).")
@click.option("--api-group", help="Group that may use the API (SHIPKEEPER_API_GROUP).")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="How much to tell (SHIPKEEPER_LOG_LEVEL).")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="auto: by terminal.")
@click.pass_obj
def daemon(context: Context, /, **given: str | None) -> None:
    """Run the supervisor. SIGTERM leaves the services running, and the next one adopts them; SIGHUP reads
    the projects again."""
    from supervisor.cli.service import become

    changes: dict[str, Any] = {name: text for name, text in given.items() if text is not None}
    become(replace(context.settings, **changes))


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="What to print.")
@click.pass_obj
def version(context: Context, form: str) -> None:
    """Print the version of this command, and of the daemon if one answers."""
    try:
        running = context.client.call("GET", "/version")["Version"]
    except UnreachableError:
        running = None
    if form == "json":
        output.print_json({"Client": __version__, "Daemon": running})
        return
    click.echo(f"shipkeeper {__version__}")
    if running not in (None, __version__):
        output.print_error(
            f"the daemon is {running}: `systemctl restart shipkeeper` brings it to this version"
        )


def _stored_ids(settings: Settings) -> list[str]:
    """Instances in the database; none where there is no database yet."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{settings.paths.database}?mode=ro", uri=True) as database:
            return [str(row[0]) for row in database.execute("SELECT id FROM instance")]
    except sqlite3.Error:
        return []


@click.command()
@click.option(
    "--fix",
    "mending",
    is_flag=True,
    help="First remove what dead supervisors left in the kernel.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="SUPERVISOR",
    help="With --fix: what this one left, by its name in the line of the check.",
)
@TABLE_OR_JSON
@click.pass_obj
def doctor(context: Context, form: str, mending: bool, only: tuple[str, ...]) -> None:
    """Check this host for everything that is needed; say how to mend what is missing.

    Supervisors that were killed and not started again may have left links, rules of nftables, mounts, empty
    cgroups and a resolver. They are found whatever their directories are, and --fix removes them. Nothing
    of a living supervisor is touched, no service is ended, and nothing is removed that a service has written.

    The exit code is 1 if a check fails.
    """
    from supervisor.runtime.doctor import run_checks, worst

    if only and not mending:
        raise click.UsageError("--only says what --fix is to remove; add --fix")
    if mending:
        _fix(context, form, only)
    try:
        known = frozenset(view["Id"] for view in context.client.call("GET", "/containers/json", {"all": 1}))
    except UnreachableError:
        known = frozenset(_stored_ids(context.settings))
    checks = run_checks(context.settings.paths, known, context.settings.paths.own_cgroup)
    for check in checks:
        if form == "json":
            output.print_json(
                {"name": check.name, "status": check.status, "detail": check.detail, "remedy": check.remedy}
            )
        else:
            remedy = f"\n       -> {check.remedy}" if check.remedy and check.status != "ok" else ""
            click.echo(f"{check.status:5}  {check.name}: {check.detail}{remedy}")
    if worst(checks) == "fail":
        sys.exit(FAILED)


def _fix(context: Context, form: str, only: tuple[str, ...]) -> None:
    from supervisor.runtime.doctor import fix

    try:
        paths = context.settings.paths
        for remnant, problem in fix(paths, only or None, paths.own_cgroup):
            if form == "json":
                output.print_json(
                    {"removed": remnant.kind, "name": remnant.name, "of": remnant.whose, "problem": problem}
                )
            elif problem:
                output.print_error(f"cannot remove {remnant.kind} {remnant.name}: {problem}")
            else:
                click.echo(f"removed {remnant.kind} {remnant.name} of {remnant.whose}")
    except OSError as error:
        output.print_error(
            f"cannot tell which supervisors live: {error.strerror or error}; nothing is removed"
        )


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell; it completes verbs, options and the services that there are.

    \b
    bash:  shipkeeper completion bash > /etc/bash_completion.d/shipkeeper
    zsh:   shipkeeper completion zsh > "${fpath[1]}/_shipkeeper"
    fish:  shipkeeper completion fish > ~/.config/fish/completions/shipkeeper.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    root = ctx.find_root().command
    click.echo(found(root, {}, "shipkeeper", "_SHIPKEEPER_COMPLETE").source())
