"""The command `shipkeeper`: options, verbs, exit codes.

Exit codes: 0 done; 1 the action failed for some service; 2 usage or a bad file; 4 no such service; 5 no
daemon.
Every error is one line and a next step, never a traceback.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor import __version__
from supervisor.cli import output
from supervisor.cli.client import ApiError, Client, UnreachableError
from supervisor.daemon.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from supervisor.compose import Loaded

_FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", help="What to print."
)


@dataclass(frozen=True, slots=True)
class Context:
    """What the options before the verb say."""

    files: tuple[str, ...]
    project: str | None
    profiles: tuple[str, ...]
    env_files: tuple[str, ...]
    settings: Settings

    @property
    def client(self) -> Client:
        return Client(self.settings.paths.api_socket)

    def load(self, services: tuple[str, ...] = ()) -> Loaded:
        """The project of the files, warnings told. Raises ComposeErrors."""
        from supervisor import compose

        files = list(self.files) or compose.find_files(str(Path.cwd()), os.environ)
        loaded = compose.load_project(
            files,
            project_name=self.project,
            project_dir=None,
            env=os.environ,
            env_files=self.env_files,
            profiles=self.profiles,
            services=services,
        )
        for warning in loaded.warnings:
            output.print_error(f"warning: {warning}")
        return loaded

    def project_name(self) -> str:
        """-p, or what the files say."""
        from supervisor import compose

        if self.project:
            return compose.normalize_project_name(self.project)
        return self.load().project.name


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--file", "files", multiple=True, help="A Compose file; several are merged.")
@click.option(
    "-p", "--project-name", "project", help="Name of the project (default: from the file or directory)."
)
@click.option("--profile", "profiles", multiple=True, help="Enable a profile.")
@click.option("--env-file", "env_files", multiple=True, help="Variables for the file, instead of .env.")
@click.option("--state-dir", help="State of the supervisor (SHIPKEEPER_STATE_DIR).")
@click.option("--run-dir", help="Its sockets (SHIPKEEPER_RUN_DIR).")
@click.pass_context
def cli(
    ctx: click.Context,
    files: tuple[str, ...],
    project: str | None,
    profiles: tuple[str, ...],
    env_files: tuple[str, ...],
    state_dir: str | None,
    run_dir: str | None,
) -> None:
    """Run isolated services from Compose files, restarted by Docker's exact rules."""
    settings = load_settings(os.environ, state_dir=state_dir, run_dir=run_dir)
    ctx.obj = Context(files, project, profiles, env_files, settings)


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(f"shipkeeper {__version__}")


@cli.command()
@click.pass_obj
def daemon(context: Context) -> None:
    """Run the supervisor. SIGTERM leaves the services running; the next one adopts them."""
    from supervisor.cli.host import run_daemon

    asyncio.run(run_daemon(context.settings))


@cli.command()
@click.option("-f", "--file", "files", multiple=True, help="As before the verb.")
@click.option("-d", "--detach", is_flag=True, help="Return when everything has been started.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.argument("services", nargs=-1)
@click.pass_obj
def up(
    context: Context, files: tuple[str, ...], detach: bool, dry_run: bool, services: tuple[str, ...]
) -> None:
    """Bring the project up. What has not changed is not touched.

    Without --detach and without a running daemon the supervisor runs here: Ctrl-C stops everything.
    """
    import msgspec

    if files:
        context = Context(files, context.project, context.profiles, context.env_files, context.settings)
    project = context.load(services).project
    body = msgspec.json.encode(project)
    base = f"/projects/{project.name}"
    try:
        if dry_run:
            for operation in context.client.call("POST", f"{base}/plan", body=body):
                click.echo(f"{operation['verb']:8} {operation['name']}: {operation['cause']}")
            return
        _progress(context.client.stream("POST", f"{base}/up", body=body))
    except UnreachableError:
        if detach or dry_run:
            raise
        from supervisor.cli.host import run_foreground

        asyncio.run(run_foreground(context.settings, project, click.echo))
        return
    if not detach:
        output.print_error(f"{project.name} runs under the daemon; `shipkeeper logs -f` follows its output")


def _progress(lines: Any) -> None:
    failed = False
    for line in lines:
        if "error" in line:
            output.print_error(line["error"])
            failed = True
            continue
        click.echo(f"{line['name']}: {line['outcome']}" + _because(line))
        failed = failed or line["outcome"].startswith(("restarting", "exited: could not"))
    if failed:
        sys.exit(1)


def _because(line: dict[str, str]) -> str:
    return f" ({line['cause']})" if line["verb"] == "recreate" else ""


@cli.command()
@click.option("-v", "--volumes", is_flag=True, help="Its named volumes too.")
@click.pass_obj
def down(context: Context, volumes: bool) -> None:
    """Stop and remove everything of the project; named volumes stay."""
    name = context.project_name()
    gone = context.client.call("POST", f"/projects/{name}/down", {"volumes": 1 if volumes else None})
    for container in gone:
        click.echo(f"{container}: removed")
    if not gone:
        output.print_error(f"nothing of the project {name} is there")


@cli.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those that are down too.")
@_FORMAT
@click.pass_obj
def ps(context: Context, everything: bool, form: str) -> None:
    """List service instances (of one project with -p or -f)."""
    project = context.project_name() if context.files or context.project else None
    query = {"all": 1 if everything else None, "project": project}
    views = context.client.call("GET", "/containers/json", query)
    if form == "json":
        for view in views:
            output.print_json(output.ps_json(view))
        return
    click.echo(
        output.table(["NAME", "SERVICE", "STATUS", "RESTARTS", "PID", ""], [output.ps_row(v) for v in views])
    )


def _each(names: tuple[str, ...], act: Callable[[str], Any]) -> None:
    """One call for each name; all are tried, and the exit code is the worst."""
    worst = 0
    for name in names:
        try:
            act(name)
            click.echo(name)
        except ApiError as error:
            output.print_error(str(error))
            worst = max(worst, 4 if error.status == 404 else 1)
    if worst:
        sys.exit(worst)


def _post(context: Context, name: str, verb: str, **query: object) -> Any:
    return context.client.call("POST", f"/containers/{name}/{verb}", {"project": context.project, **query})


@cli.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def start(context: Context, names: tuple[str, ...]) -> None:
    """Start what is down; the counters begin anew."""
    _each(names, lambda name: _post(context, name, "start"))


@cli.command()
@click.option("-t", "--timeout", type=float, help="Seconds of grace before SIGKILL.")
@click.option("--for", "hold", help="Start it again after this time: 30m, 1h30m.")
@click.argument("names", nargs=-1)
@click.pass_obj
def stop(context: Context, timeout: float | None, hold: str | None, names: tuple[str, ...]) -> None:
    """Stop services, or the whole project, dependents first."""
    hold_s = None
    if hold is not None:
        from supervisor.compose.units import duration_ns

        try:
            hold_s = duration_ns(hold) / 1e9
        except ValueError as error:
            raise click.UsageError(f"--for {hold}: {error}") from error
    if names:
        query = {"t": timeout, "for": hold_s}
        _each(names, lambda name: _post(context, name, "stop", **query))
        return
    if hold_s is not None:
        raise click.UsageError("--for needs the names of services")
    path = f"/projects/{context.project_name()}/stop"
    for name in context.client.call("POST", path, {"t": timeout}):
        click.echo(name)


@cli.command()
@click.option("-t", "--timeout", type=float, help="Seconds of grace before SIGKILL.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def restart(context: Context, timeout: float | None, names: tuple[str, ...]) -> None:
    """Stop and start; starts what is down."""
    _each(names, lambda name: _post(context, name, "restart", t=timeout))


@cli.command()
@click.option("-s", "--signal", "signame", default="KILL", show_default=True, help="Name or number.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def kill(context: Context, signame: str, names: tuple[str, ...]) -> None:
    """Signal the main process. A signal that does not end it is no stop."""
    _each(names, lambda name: _post(context, name, "kill", signal=signame))


@cli.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def pause(context: Context, names: tuple[str, ...]) -> None:
    """Freeze every process of a service."""
    _each(names, lambda name: _post(context, name, "pause"))


@cli.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def unpause(context: Context, names: tuple[str, ...]) -> None:
    """Let a frozen service run on."""
    _each(names, lambda name: _post(context, name, "unpause"))


@cli.command()
@click.option("--force", is_flag=True, help="Kill it first if it runs.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(context: Context, force: bool, names: tuple[str, ...]) -> None:
    """Remove services that are down, with what they wrote."""
    query = {"project": context.project, "force": 1 if force else None}
    _each(names, lambda name: context.client.call("DELETE", f"/containers/{name}", query))


@cli.command()
@click.argument("name")
@click.pass_obj
def wait(context: Context, name: str) -> None:
    """Wait for the end of the current run; print its exit code."""
    click.echo(str(_post(context, name, "wait")["StatusCode"]))


@cli.command()
@click.option("--format", "form", type=click.Choice(["json"]), default="json", help="What to print.")
@click.argument("name")
@click.pass_obj
def inspect(context: Context, form: str, name: str) -> None:
    """Everything about one service instance, as JSON."""
    del form  # the only one; named so that scripts may say it
    view = context.client.call("GET", f"/containers/{name}/json", {"project": context.project})
    click.echo(json.dumps(view, indent=2))


@cli.command()
@click.option("-n", "--tail", default="5", show_default=True, help="Lines of its output to show.")
@_FORMAT
@click.argument("name")
@click.pass_obj
def why(context: Context, tail: str, form: str, name: str) -> None:
    """Tell the story of the last runs: what ended them, what was decided, what comes next."""
    query = {"project": context.project}
    told = context.client.call("GET", f"/containers/{name}/runs", query)
    lines = [
        record["text"]
        for record in context.client.stream("GET", f"/containers/{name}/logs", {**query, "tail": tail})
    ]
    if form == "json":
        output.print_json({**told, "LastLines": lines})
    else:
        click.echo(output.story(told["Instance"], told["Runs"], lines))


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written (one service).")
@click.option("-n", "--tail", default="all", show_default=True, help="Only the last lines.")
@click.option("-t", "--timestamps", is_flag=True, help="With the time of each line.")
@click.option("--no-log-prefix", is_flag=True, help="Without the names.")
@click.argument("names", nargs=-1)
@click.pass_obj
def logs(
    context: Context, follow: bool, tail: str, timestamps: bool, no_log_prefix: bool, names: tuple[str, ...]
) -> None:
    """Show what services wrote, in time order."""
    query: dict[str, object] = {"all": 1, "project": context.project}
    if not names:
        query["project"] = context.project_name()
        names = tuple(view["Name"] for view in context.client.call("GET", "/containers/json", query))
    if follow and len(names) != 1:
        raise click.UsageError("--follow takes one service for now; name it")
    ask = {"project": context.project, "tail": tail, "follow": 1 if follow else None}

    def show(name: str, record: dict[str, Any]) -> None:
        prefix = "" if no_log_prefix else f"{name} | "
        stamp = f"{record['stamp_ns'] / 1e9:.6f} " if timestamps else ""
        text = record["text"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        click.echo(f"{prefix}{stamp}{text}", nl=not record["partial"])

    if follow:
        for record in context.client.stream("GET", f"/containers/{names[0]}/logs", ask):
            show(names[0], record)
        return
    found = [
        (record["stamp_ns"], name, record)
        for name in names
        for record in context.client.stream("GET", f"/containers/{name}/logs", ask)
    ]
    for _, name, record in sorted(found, key=lambda item: item[0]):
        show(name, record)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line.")
@click.pass_obj
def events(context: Context, as_json: bool) -> None:
    """Print what happens, as it happens."""
    for event in context.client.stream("GET", "/events"):
        if as_json:
            output.print_json(event)
        else:
            click.echo(f"{event['time']} {event['Action']} {event['name']} {event['why']}".rstrip())


@cli.command()
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", help="What to print.")
@click.option("-q", "--quiet", is_flag=True, help="Only check.")
@click.argument("services", nargs=-1)
@click.pass_obj
def config(context: Context, form: str, quiet: bool, services: tuple[str, ...]) -> None:
    """Check the files and print the resolved model."""
    from supervisor.compose import config_document, to_yaml

    document = config_document(context.load(services))
    if not quiet:
        click.echo(json.dumps(document, indent=2) if form == "json" else to_yaml(document).rstrip())


def _stored_ids(settings: Settings) -> list[str]:
    """Instances in the database; none where there is no database yet."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{settings.paths.database}?mode=ro", uri=True) as database:
            return [str(row[0]) for row in database.execute("SELECT id FROM instance")]
    except sqlite3.Error:
        return []


@cli.command()
@_FORMAT
@click.pass_obj
def doctor(context: Context, form: str) -> None:
    """Check this host for everything that is needed; say how to mend what is missing."""
    from supervisor.daemon.app import cgroup_base
    from supervisor.runtime.doctor import run_checks, worst

    try:
        known = frozenset(view["Id"] for view in context.client.call("GET", "/containers/json", {"all": 1}))
    except UnreachableError:
        known = frozenset(_stored_ids(context.settings))
    checks = run_checks(context.settings.paths, known, cgroup_base(context.settings.state_dir))
    for check in checks:
        if form == "json":
            output.print_json(
                {"name": check.name, "status": check.status, "detail": check.detail, "remedy": check.remedy}
            )
        else:
            remedy = f"\n       -> {check.remedy}" if check.remedy and check.status != "ok" else ""
            click.echo(f"{check.status:5}  {check.name}: {check.detail}{remedy}")
    if worst(checks) == "fail":
        sys.exit(1)


def main() -> None:
    """The entry point: every foreseen error is one line."""
    try:
        cli(standalone_mode=True)
    except SettingsError as error:
        output.print_error(str(error))
        sys.exit(2)
    except UnreachableError as error:
        output.print_error(str(error))
        sys.exit(5)
    except ApiError as error:
        output.print_error(str(error))
        sys.exit(4 if error.status == 404 else 1)
    except Exception as error:  # told by its class, so that a start does not import what it needs not
        if type(error).__name__ in ("ComposeErrors", "ComposeError"):
            print(error, file=sys.stderr)
            sys.exit(2)
        if type(error).__name__ in ("DaemonError", "HostError", "LauncherError", "StateError", "PlanError"):
            output.print_error(str(error))
            sys.exit(1)
        raise


if __name__ == "__main__":
    main()
