"""The verbs `run` and `create`: a container of an image, without a Compose file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.context import (
    DAEMON_FAILED,
    FAILED,
    INDEX,
    Context,
    complete_names,
    fail,
    in_project,
    instance_name,
    project_option,
)
from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.cli.runoptions import attach_options, container_options, document

_SETTINGS = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.command(context_settings=_SETTINGS)
@click.option("-d", "--detach", is_flag=True, help="Start it, print its id, and return.")
@attach_options
@container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(context: Context, /, detach: bool, image: str, command: tuple[str, ...], **given: Any) -> None:
    """Run COMMAND, or what IMAGE says, in a new container; show what it writes, and wait for its end.

    An image that is not here is looked for as `up` does it: in its registry, then among the recipes, if
    --pull does not say otherwise.

    With -i what comes on stdin is its stdin, and it reads the end of it where ours ends. With -it this
    terminal is its terminal until it ends, or until you type the keys of --detach-keys; then it runs on, and
    `attach` comes back to it. Signals to this command are passed on to it.

    \b
    Exit code: the command's own, 128+n for its death by signal n;
      125  it could not be created or started
      126  the command cannot be executed
      127  the command was not found
    """
    client = context.client
    if given["tty"] and given["interactive"] and not detach and not sys.stdin.isatty():
        fail(DAEMON_FAILED, "cannot run with -it: stdin is no terminal; leave -t out")
    given["stdin_once"] = given["interactive"] and not detach
    try:
        made = _create(context, given, image, command)
        if detach:
            client.call("POST", f"/containers/{made}/start")
            click.echo(made)
            return
        code = _start_attached(context, made, given)
    except (ApiError, UnreachableError) as error:
        output.print_error(str(error))
        sys.exit(DAEMON_FAILED)
    sys.exit(code)


@click.command(context_settings=_SETTINGS)
@container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create(context: Context, /, image: str, command: tuple[str, ...], **given: Any) -> None:
    """Make a container as `run` does, and print its id; `start` starts it, `attach` is for its output."""
    try:
        click.echo(_create(context, given, image, command))
    except (ApiError, UnreachableError) as error:
        output.print_error(str(error))
        sys.exit(DAEMON_FAILED)


@click.command()
@click.option("--no-stdin", is_flag=True, help="Pass no stdin on.")
@attach_options
@INDEX
@project_option
@click.argument("name", shell_complete=complete_names)
@click.pass_obj
def attach(
    context: Context, no_stdin: bool, detach_keys: bytes, sig_proxy: bool, index: int | None, name: str
) -> None:
    """Attach this terminal, or these pipes, to the running container NAME.

    What it writes from now on is shown (`logs` has what was before), until it ends; its exit code is this
    command's. What was made with -i gets our stdin, and with -it our terminal: the keys of --detach-keys
    leave it running. Of one without a terminal Ctrl-C ends it, but with --sig-proxy=false this command only.
    """
    from supervisor.cli.attaching import Attachment, attached

    name = instance_name(context, name, index)
    view = in_project(
        context,
        lambda project: context.client.call("GET", f"/containers/{name}/json", {"project": project}),
        (name,),
    )
    if view["State"]["Status"] != "running":
        fail(
            FAILED,
            f"cannot attach to {name}: it is {view['State']['Status']}; `shipkeeper start {name}` first",
        )
    config = view["Config"]
    stdin = config["OpenStdin"] and not no_stdin
    if stdin and config["Tty"] and not sys.stdin.isatty():
        fail(FAILED, f"cannot attach to {name}: it has a terminal, and stdin is none; use --no-stdin")
    wanted = Attachment(view["Id"], stdin=stdin, tty=config["Tty"], keys=detach_keys, sig_proxy=sig_proxy)
    sys.exit(attached(context.client, wanted))


def _create(context: Context, given: dict[str, Any], image: str, command: tuple[str, ...]) -> str:
    cidfile = given["cidfile"]
    client = context.client
    try:
        body = json.dumps(document(given, image, command)).encode()
        if cidfile and os.path.lexists(cidfile):
            raise ValueError(f"the cidfile {cidfile} exists already; remove it")
        if given["pull"] == "always":
            _bring(context, image, again=True)
        query = {"name": given["name"] or None}
        try:
            made = str(client.call("POST", "/containers/create", query, body)["Id"])
        except ApiError as error:
            if error.status != 404 or given["pull"] != "missing":
                raise
            _bring(context, image, again=False)
            made = str(client.call("POST", "/containers/create", query, body)["Id"])
        if cidfile:
            with Path(cidfile).open("x", encoding="ascii") as file:
                file.write(made)
    except (ValueError, OSError) as error:
        output.print_error(f"cannot create a container of {image}: {error}")
        sys.exit(DAEMON_FAILED)
    except ApiError as error:
        if error.status == 404:
            output.print_error(f"{error}; `shipkeeper pull {image}` or `shipkeeper build -t {image}` first")
            sys.exit(DAEMON_FAILED)
        raise
    return made


def _bring(context: Context, image: str, *, again: bool) -> None:
    """Have an image in the store: from its registry, or a recipe; or end the command. again: it may be there.

    Raises ValueError: that is no name of an image.
    """
    # What asks registries and builds is imported only where it is used.
    from supervisor.cli.building import until_done
    from supervisor.cli.pulling import bring
    from supervisor.core.reference import parse_reference
    from supervisor.image.store import StoreError

    name = str(parse_reference(image))
    try:
        work = bring(context, {name: again}, "table")
        if not until_done(work, cancelled=f"no container was made: getting {image} was cancelled"):
            sys.exit(DAEMON_FAILED)
    except (StoreError, OSError) as error:
        output.print_error(f"cannot get image {image}: {error}; be root, or `shipkeeper pull` it as root")
        sys.exit(DAEMON_FAILED)


def _start_attached(context: Context, made: str, given: dict[str, Any]) -> int:
    """Start it with our stdin, stdout, stderr or terminal as its; the exit code."""
    from supervisor.cli.attaching import Attachment, attached

    client = context.client
    wanted = Attachment(
        made,
        stdin=given["interactive"],
        tty=given["tty"],
        keys=given["detach_keys"],
        sig_proxy=given["sig_proxy"],
        condition="removed" if given["rm"] else "next-exit",
    )
    return attached(client, wanted, lambda: client.call("POST", f"/containers/{made}/start"))
