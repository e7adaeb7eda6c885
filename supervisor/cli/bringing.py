"""Bringing up a project, as `up`, `scale` and `create` do it: images first, then what the daemon makes of it.

What a command line asks for is `Asked`; the words that print it and the exit codes are here once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from supervisor.cli import output
from supervisor.cli.client import Client
from supervisor.cli.context import FAILED, NOT_MET, TIMED_OUT, USAGE, Context, fail
from supervisor.cli.following import CAUSED, listening
from supervisor.core.images import used_images
from supervisor.core.model import Project
from supervisor.core.problems import nearest
from supervisor.core.reconcile import DEFAULTS, Options

if TYPE_CHECKING:
    from supervisor.compose import Loaded

_TRUE = ("1", "t", "true", "y", "yes", "on")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a project on the command line.

    services: these and, with `dependencies`, what they depend on; none is all. scale: instances by service,
    instead of what the files say. pull: always, missing or never, instead of `pull_policy`. options: without
    what is known of the files only. form: text or json. detached: there has to be a daemon.
    """

    services: tuple[str, ...] = ()
    dependencies: bool = True
    scale: Mapping[str, int] = field(default_factory=dict)
    rebuild: bool = False
    build: bool = True
    pull: str | None = None
    quiet_pull: bool = False
    quiet_build: bool = False
    only_tell: bool = False
    options: Options = DEFAULTS
    form: str = "text"
    detached: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """A project that can go to the daemon. contents: of its configs and secrets, see `core.grants`."""

    project: Project
    contents: Mapping[str, bytes]
    options: Options
    form: str

    @property
    def names(self) -> list[str]:
        """Its services."""
        return [service.name for service in self.project.services]

    @property
    def base(self) -> str:
        """Its path in the API."""
        return f"/projects/{self.project.name}"

    def body(self) -> bytes:
        """Of a request about it."""
        from supervisor.cli.grants import request_body

        return request_body(self.project, self.contents, self.options)


def make_ready(context: Context, asked: Asked) -> Ready | None:
    """Load the project and get its images. None: the images that are missing were told, for a dry run."""
    from supervisor.cli.grants import collect, missing

    loaded = context.load(
        asked.services,
        dependencies=asked.dependencies,
        said_later=lambda loaded: missing(loaded.project, loaded.variables),
    )
    if asked.detached:
        context.client.call("GET", "/version")  # or it would be told after all is built that nobody is there
    loaded = replace(loaded, project=scaled(loaded, asked.scale))
    if asked.build and any(source.build is not None for source in loaded.sources.values()):
        from supervisor.cli.buildservices import build_first

        if not build_first(
            context,
            loaded,
            everything=asked.rebuild,
            only_tell=asked.only_tell,
            form=asked.form,
            quiet=asked.quiet_build,
        ):
            return None
    if any(used_images(spec) for spec in loaded.project.services):
        from supervisor.cli.pulling import pull_first

        form = "quiet" if asked.quiet_pull and asked.form == "text" else asked.form
        if not pull_first(context, loaded, policy=asked.pull, only_tell=asked.only_tell, form=form):
            return None
    project, contents = collect(loaded.project, loaded.variables)
    members = {service.name for service in project.services}
    others = tuple(spec.name for spec in loaded.all_services if spec.name not in members)
    options = replace(asked.options, named=asked.services, others=others)
    return Ready(project, contents, options, asked.form)


def scaled(loaded: Loaded, scale: Mapping[str, int]) -> Project:
    """The project with other numbers of instances. Ends the command where it has no such service."""
    known = [spec.name for spec in loaded.all_services]
    for name in scale:
        if name not in known:
            near = nearest(name, known)
            advice = f"did you mean {near}?" if near else f"the files have: {', '.join(known)}"
            fail(USAGE, f"cannot scale {name}: no such service; {advice}")
    services = tuple(
        replace(spec, replicas=scale.get(spec.name, spec.replicas)) for spec in loaded.project.services
    )
    return replace(loaded.project, services=services)


def parse_scale(texts: Iterable[str], *, option: str) -> dict[str, int]:
    """SERVICE=N of each. option: what it was given to. Raises click.UsageError."""
    found = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not equals or not name or not (number.isascii() and number.isdecimal()):
            raise click.UsageError(f"cannot use {option} {text}: write SERVICE=NUMBER, as in web=3")
        found[name] = int(number)
    return found


def asked_of_orphans(*, remove: bool) -> Literal["tell", "ignore", "remove"]:
    """What is to be done with orphans, by the flag and Compose's variables. Ends the command."""
    ignore = os.environ.get("COMPOSE_IGNORE_ORPHANS", "").lower() in _TRUE
    if ignore and remove:
        fail(USAGE, "cannot remove orphans and ignore them: COMPOSE_IGNORE_ORPHANS and --remove-orphans")
    if remove or os.environ.get("COMPOSE_REMOVE_ORPHANS", "").lower() in _TRUE:
        return "remove"
    return "ignore" if ignore else "tell"


# --- telling -------------------------------------------------------------------------------------


def tell_plan(client: Client, ready: Ready) -> None:
    """Print what would be done, and change nothing."""
    for operation in client.call("POST", f"{ready.base}/plan", body=ready.body()):
        if ready.form == "json":
            output.print_json(operation)
        else:
            click.echo(f"{operation['verb']:8} {operation['name']}: {operation['cause']}")


def bring_up(client: Client, ready: Ready, wait_s: float | None = None, progress: str = "plain") -> bool:
    """Have the daemon do it, and tell what came of each operation; whether all went well.

    wait_s: ends the command when it takes longer. progress: auto or tty are live on a terminal, quiet
    tells of failures only. Raises UnreachableError.
    """
    from supervisor.cli.buildview import chosen

    live = ready.form != "json" and progress in ("auto", "tty") and chosen("auto", sys.stderr) == "tty"
    if live:
        from supervisor.cli.upview import UpView

        view = UpView(sys.stderr, client.call("POST", f"{ready.base}/plan", body=ready.body()))
    lines = client.stream("POST", f"{ready.base}/up", {"timeout": wait_s}, ready.body())
    if not live:
        return _progress(lines, ready.form, wait_s, quiet=progress == "quiet")
    good, errors, late = True, [], None
    with view.shown():
        for line in lines:
            late = line.get("timeout", late)
            good = good and went_well(line)
            view.tell(line, good=went_well(line))
            errors += [line["error"]] if "error" in line else []
    for error in errors:
        output.print_error(error)
    if late is not None:
        _too_late(late, wait_s)
    return good


def tell_ports(client: Client, ready: Ready) -> None:
    """Where the project can be reached from outside."""
    if not any(spec.ports for spec in ready.project.services):
        return
    views = client.call("GET", "/containers/json", {"project": ready.project.name})
    for name, places in listening(views):
        if ready.form == "json":
            output.print_json({"verb": "listen", "name": name, "outcome": places})
        else:
            click.echo(f"{name}: listens on {places}")


_FAILURES = ("restarting", "exited: could not", "not started", "not recreated")


def went_well(line: Mapping[str, Any]) -> bool:
    """Whether one line of an `up` tells of no failure."""
    outcome = line.get("outcome", "")
    return not ("error" in line or outcome.startswith(_FAILURES) or "post_start hook" in outcome)


def _progress(lines: Iterable[Any], form: str, timeout_s: float | None, *, quiet: bool = False) -> bool:
    good = True
    for line in lines:
        if "timeout" in line:
            _too_late(line["timeout"], timeout_s)
        good = good and went_well(line)
        if form == "json":
            output.print_json(line)
        elif "error" in line:
            output.print_error(line["error"])
        elif not quiet or not went_well(line):
            because = f" ({line['cause']})" if line["verb"] in CAUSED else ""
            click.echo(f"{line['name']}: {line['outcome']}{because}")
    return good


def _too_late(names: list[str], timeout_s: float | None) -> NoReturn:
    output.print_error(f"not up within {timeout_s or 0:g} s: {', '.join(names)}")
    sys.exit(TIMED_OUT)


def wait_until_up(client: Client, ready: Ready, began_s: float, wait_s: float | None) -> None:
    """Wait for all its instances, and tell of each; ends the command where one does not come up.

    began_s: by time.monotonic, since when wait_s counts.
    """
    wait_for(client, ready.base, ready.names, began_s, wait_s, ready.form)


def wait_for(
    client: Client, base: str, services: list[str], began_s: float, wait_s: float | None, form: str
) -> None:
    """The same for some services, or with none for all, of the project with that path in the API."""
    left_s = None if wait_s is None else max(0.0, wait_s - (time.monotonic() - began_s))
    down = False
    query = {"service": services, "timeout": left_s}
    for line in client.stream("POST", f"{base}/wait", query):
        if "timeout" in line:
            _too_late(line["timeout"], wait_s)
        down = down or not line["up"]
        if form == "json":
            output.print_json(line)
        elif line["up"]:
            click.echo(f"{line['name']}: up")
        else:
            output.print_error(f"{line['name']} did not come up: {line['outcome']}")
    if down:
        sys.exit(NOT_MET)


def create_project(context: Context, asked: Asked) -> None:
    """Make what is not there or has changed, and start nothing (`docker compose create`, `up --no-start`)."""
    ready = make_ready(context, replace(asked, options=replace(asked.options, start="none")))
    if ready is not None and not asked.only_tell and not bring_up(context.client, ready):
        sys.exit(FAILED)
    if ready is not None and asked.only_tell:
        tell_plan(context.client, ready)


def scale_project(context: Context, scale: Mapping[str, int], asked: Asked) -> None:
    """Have so many instances of these services (`docker compose scale`); the others are left alone."""
    ready = make_ready(context, replace(asked, services=tuple(scale), scale=scale))
    if ready is None:
        return
    if asked.only_tell:
        tell_plan(context.client, ready)
    elif not bring_up(context.client, ready):
        sys.exit(FAILED)
