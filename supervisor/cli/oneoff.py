"""`compose run`: a container like that of a service, once, with another command.

What the command line changes is written as one more Compose file over the others, so every value is read,
merged and judged as in a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.bringing import Asked, asked_of_orphans, bring_up, make_ready
from supervisor.cli.context import (
    DAEMON_FAILED,
    FAILED,
    USAGE,
    Context,
    complete_names,
    fail,
)
from supervisor.cli.detachkeys import DEFAULT, parse_keys
from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.cli.runoptions import env_file_lines
from supervisor.core.model import Project, RestartRules, ServiceSpec
from supervisor.core.reconcile import Options


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--build", "rebuild", is_flag=True, help="Build the image first.")
@click.option("--cap-add", multiple=True, help="A further capability.")
@click.option("--cap-drop", multiple=True, help="A capability less.")
@click.option("-d", "--detach", is_flag=True, help="Start it, print its id, and return.")
@click.option("--entrypoint", help="Another entrypoint; the image's command is dropped with it.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="A variable; or your own value.")
@click.option("--env-from-file", multiple=True, type=click.Path(), help="Lines of NAME=VALUE.")
@click.option(
    "-i/ ", "--interactive/--no-interactive", default=True, help="Pass stdin on (so it is without it, too)."
)
@click.option("-l", "--label", multiple=True, metavar="NAME[=VALUE]", help="A further label.")
@click.option("--name", help="Name of the container, instead of PROJECT-SERVICE-run-RANDOM.")
@click.option("--no-deps", is_flag=True, help="Do not start what the service depends on.")
@click.option("-t", "--tty", is_flag=True, hidden=True, help="A terminal (so it is where this is one).")
@click.option("-T", "--no-tty", is_flag=True, help="No terminal, though this is one.")
@click.option("-p", "--publish", multiple=True, metavar="[HOST:]PORT", help="Publish a port.")
@click.option(
    "--pull", type=click.Choice(["always", "missing", "never"]), help="Instead of the service's pull_policy."
)
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing of what is done first.")
@click.option("--quiet-build", is_flag=True, help="Do not show the build.")
@click.option("--quiet-pull", is_flag=True, help="Do not tell of pulling.")
@click.option("--remove-orphans", is_flag=True, help="Remove what the files do not have any more.")
@click.option("--rm", "remove", is_flag=True, help="Remove it when it has ended.")
@click.option("-P", "--service-ports", is_flag=True, help="Publish the ports of the service.")
@click.option("--use-aliases", is_flag=True, help="It has the names of the service in its networks, too.")
@click.option("-u", "--user", help="USER[:GROUP].")
@click.option("-v", "--volume", multiple=True, metavar="[SOURCE:]TARGET[:OPTIONS]", help="A further mount.")
@click.option("-w", "--workdir", help="Directory that it begins in.")
@click.argument("service", shell_complete=complete_names)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(context: Context, /, service: str, command: tuple[str, ...], **given: Any) -> None:
    """Run COMMAND, or what it always runs, in a new container like that of SERVICE.

    What SERVICE depends on is started first, and waited for as `depends_on` says. The container has the
    mounts, variables and networks of the service, no ports without -p or -P, not its fixed addresses, and is
    never started again. With --rm it goes when it has ended.

    \b
    Exit code: the command's own, 128+n for its death by signal n;
      125  it could not be created or started
      126  the command cannot be executed
      127  the command was not found
    """
    if given["service_ports"] and given["publish"]:
        fail(USAGE, "cannot publish both: --service-ports and --publish exclude each other")
    tty = not given["no_tty"] and (given["tty"] or (sys.stdin.isatty() and sys.stdout.isatty()))
    if tty and not given["detach"] and not sys.stdin.isatty():
        fail(DAEMON_FAILED, "cannot run with -t: stdin is no terminal; leave -t out")
    name = given["name"]
    with _changed(context, service, command, given) as changed:
        _needed(context, service, given)
        ready = make_ready(
            changed,
            Asked(
                (service,),
                dependencies=False,
                rebuild=given["rebuild"],
                pull=given["pull"],
                quiet_pull=given["quiet_pull"] or given["quiet"],
                quiet_build=given["quiet_build"] or given["quiet"],
            ),
        )
    assert ready is not None
    project = ready.project
    spec = replace(
        project.service(service),
        container_name=name or f"{project.name}-{service}-run-{secrets.token_hex(6)}",
        restart=RestartRules(),
        replicas=1,
        one_off=True,
        auto_remove=given["remove"],
        tty=tty,
        stdin_open=given["interactive"],
        stdin_once=given["interactive"] and not given["detach"],
    )
    spec = replace(spec, networks=_places(spec, use_aliases=given["use_aliases"]))
    if given["no_deps"]:
        spec = replace(spec, depends_on=())
    project = replace(project, services=(spec,), config_files=())
    sys.exit(_run(context, replace(ready, project=project).body(), project, given, tty=tty))


def _run(context: Context, body: bytes, project: Project, given: dict[str, Any], *, tty: bool) -> int:
    """Make it, and start it attached or not; the exit code."""
    client = context.client
    try:
        made = str(client.call("POST", f"/projects/{project.name}/run", body=body)["Id"])
    except (ApiError, UnreachableError) as error:
        output.print_error(str(error))
        return DAEMON_FAILED
    code = DAEMON_FAILED
    begun = False

    def start() -> None:
        nonlocal begun
        client.call("POST", f"/containers/{made}/start")
        begun = True

    try:
        if given["detach"]:
            start()
            click.echo(made)
            return 0
        from supervisor.cli.attaching import Attachment, attached

        wanted = Attachment(
            made,
            stdin=given["interactive"],
            tty=tty,
            keys=parse_keys(DEFAULT),
            condition="removed" if given["remove"] else "next-exit",
            waits=True,
        )
        code = attached(client, wanted, start)
    except (ApiError, UnreachableError) as error:
        output.print_error(str(error))
    finally:
        if not begun and given["remove"]:
            with contextlib.suppress(ApiError, UnreachableError):
                client.call("DELETE", f"/containers/{made}", {"force": 1, "v": 1})
    return code


def _needed(context: Context, service: str, given: dict[str, Any]) -> None:
    """Bring up what a service depends on, told on stderr; ends the command where that fails."""
    loaded = context.load((service,))
    needed = tuple(spec.name for spec in loaded.project.services if spec.name != service)
    if given["no_deps"] or not needed:
        return
    asked = Asked(
        needed,
        pull=given["pull"],
        quiet_pull=given["quiet_pull"] or given["quiet"],
        quiet_build=given["quiet_build"] or given["quiet"],
        options=Options(orphans=asked_of_orphans(remove=given["remove_orphans"])),
    )
    told = open(os.devnull, "w") if given["quiet"] else contextlib.nullcontext(sys.stderr)  # noqa: PTH123, SIM115
    with told as stream, contextlib.redirect_stdout(stream):
        ready = make_ready(context, asked)
        assert ready is not None
        good = bring_up(context.client, ready)
    if not good:
        fail(FAILED, f"cannot run {service}: not all that it depends on came up")


def _places(spec: ServiceSpec, *, use_aliases: bool) -> tuple[Any, ...]:
    """Its places in networks: the service itself has the names and the fixed addresses."""
    return tuple(
        replace(
            each,
            aliases=(spec.name, *each.aliases) if use_aliases else (),
            ipv4_address=None,
            ipv6_address=None,
            mac_address=None,
        )
        for each in spec.networks
    )


# --- one more file -----------------------------------------------------------------------------------
@contextlib.contextmanager
def _changed(
    context: Context, service: str, command: tuple[str, ...], given: dict[str, Any]
) -> Iterator[Context]:
    """The same files, and what the command line says over them."""
    try:
        text = override(service, command, given, os.environ)
    except (OSError, ValueError) as error:
        fail(USAGE, f"cannot run {service}: {error}")
        raise
    with tempfile.TemporaryDirectory(prefix="shipkeeper-run-") as place:
        path = Path(place, "command-line.yaml")
        path.write_text(text, encoding="utf-8")
        files = (*context.compose_files(), str(path))
        yield replace(context, files=files)


def override(
    service: str, command: tuple[str, ...], given: dict[str, Any], environ: Mapping[str, str]
) -> str:
    """The Compose file of a command line. Raises OSError, ValueError."""
    import shlex

    lines: dict[str, str] = {}
    if given["entrypoint"] is not None:
        lines["entrypoint"] = f"!override {_literal(shlex.split(given['entrypoint']))}"
        lines["command"] = "!reset null"
    if command:
        lines["command"] = f"!override {_literal(list(command))}"
    variables: dict[str, str] = {}
    texts = [line for path in given["env_from_file"] for line in env_file_lines(path)]
    for text in (*texts, *given["env"]):
        name, equals, value = text.partition("=")
        if equals:
            variables[name] = value
        elif name in environ:
            variables[name] = environ[name]
    if variables:
        lines["environment"] = _literal(variables)
    for option, key in (("user", "user"), ("workdir", "working_dir")):
        if given[option]:
            lines[key] = _literal(given[option])
    for option, key in (("cap_add", "cap_add"), ("cap_drop", "cap_drop")):
        if given[option]:
            lines[key] = _literal(list(given[option]))
    if given["volume"]:
        # Relative to where the command is typed, as the shell's words are.
        lines["volumes"] = _literal([_volume(text) for text in given["volume"]])
    if given["label"]:
        pairs = (text.partition("=") for text in given["label"])
        lines["labels"] = _literal({name: value for name, _, value in pairs})
    if not given["service_ports"]:
        lines["ports"] = f"!override {_literal(list(given['publish']))}"
    body = "".join(f"    {key}: {value}\n" for key, value in lines.items())
    return f"services:\n  {_literal(service)}:\n{body or '    {}'}"


def _literal(value: Any) -> str:
    """JSON, which YAML reads; nothing of it is a variable."""
    return json.dumps(value).replace("$", "$$")


def _volume(text: str) -> str:
    source, colon, rest = text.partition(":")
    return f"{Path(source).resolve()}:{rest}" if colon and source.startswith(".") else text
