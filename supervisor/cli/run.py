"""The verbs `run` and `create`: a container of an image, without a Compose file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.client import Client, Hijacked
from supervisor.cli.context import Context
from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.cli.runoptions import container_options, document

DAEMON_FAILED, NEVER_BEGAN = 125, 128
_BLOCK = 65536
_SETTINGS = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.command(context_settings=_SETTINGS)
@click.option("-d", "--detach", is_flag=True, help="Start it, print its id, and return.")
@container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(context: Context, /, detach: bool, image: str, command: tuple[str, ...], **given: Any) -> None:
    """Run COMMAND, or what IMAGE says, in a new container; show what it writes, and wait for its end.

    An image that is not here is looked for as `up` does it: in its registry, then among the recipes, if
    --pull does not say otherwise. Signals are passed on to it. It has no stdin and no terminal (there is no
    -i and no -t yet).

    \b
    Exit code: the command's own, 128+n for its death by signal n;
      125  it could not be created or started
      126  the command cannot be executed
      127  the command was not found
    """
    client = context.client
    try:
        made = _create(context, given, image, command)
        if detach:
            client.call("POST", f"/containers/{made}/start")
            click.echo(made)
            return
        code = _attached(client, made, removed=given["rm"])
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
    """Make a container as `run` does, and print its id; `start` starts it."""
    try:
        click.echo(_create(context, given, image, command))
    except (ApiError, UnreachableError) as error:
        output.print_error(str(error))
        sys.exit(DAEMON_FAILED)


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


def _attached(client: Client, made: str, *, removed: bool) -> int:
    """Start it with its output here; the exit code."""

    def pass_on(number: int, _frame: Any) -> None:
        with contextlib.suppress(ApiError, UnreachableError):
            client.call("POST", f"/containers/{made}/kill", {"signal": number})

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, pass_on)
    raw = client.hijack(f"/containers/{made}/attach", b"", {"stream": 1, "stdout": 1, "stderr": 1})
    ended: list[Any] = []
    waiting = threading.Thread(target=_wait, args=(client, made, removed, ended), daemon=True)
    waiting.start()
    try:
        client.call("POST", f"/containers/{made}/start")
    except ApiError as error:
        output.print_error(str(error))
        waiting.join()
        code = ended[0]["StatusCode"] if ended else DAEMON_FAILED
        return DAEMON_FAILED if code >= NEVER_BEGAN else int(code)
    _copy(raw)
    waiting.join()
    if not ended:
        output.print_error(f"the daemon went away; what runs in {made[:12]} runs on")
        return DAEMON_FAILED
    return int(ended[0]["StatusCode"])


def _wait(client: Client, made: str, removed: bool, ended: list[Any]) -> None:
    condition = "removed" if removed else "next-exit"
    with contextlib.suppress(ApiError, UnreachableError):
        ended.append(client.call("POST", f"/containers/{made}/wait", {"condition": condition}))


def _copy(raw: Hijacked) -> None:
    with contextlib.suppress(ConnectionError):
        while len(head := raw.reader.read(8)) == 8:
            stream, length = struct.unpack(">BxxxI", head)
            while length and (data := raw.reader.read(min(length, _BLOCK))):
                length -= len(data)
                while data:
                    data = data[os.write(stream, data) :]
