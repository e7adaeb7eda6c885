"""The verb `exec`: a process in a running service, on this terminal or on these pipes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from socket import SHUT_WR, socket
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.client import Client, Hijacked
from supervisor.cli.context import (
    FAILED,
    INDEX,
    Context,
    complete_names,
    fail,
    in_project,
    instance_name,
    project_options,
)
from supervisor.cli.errors import ApiError
from supervisor.cli.terminal import BLOCK, copy_frames, copy_raw, raw_terminal, terminal_size


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass stdin on (so it is anyway, but for -d).")
@click.option(
    "-t", "--tty", "terminal", is_flag=True, help="Allocate a terminal (so it is where this is one)."
)
@click.option("-T", "--no-tty", is_flag=True, help="Allocate none.")
@click.option("-d", "--detach", is_flag=True, help="Start it and return.")
@click.option(
    "-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="A variable; without a value, yours."
)
@click.option("-u", "--user", help="USER[:GROUP] instead of the service's.")
@click.option("-w", "--workdir", help="Directory instead of the service's.")
@click.option("--privileged", is_flag=True, help="With all capabilities and without the system call filter.")
@INDEX
@project_options
@click.argument("name", shell_complete=complete_names)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(
    context: Context,
    interactive: bool,
    terminal: bool,
    no_tty: bool,
    detach: bool,
    env: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    privileged: bool,
    index: int | None,
    name: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND inside the running service NAME: its files, its network, its limits, its rules.

    The exit code is the command's; 126 if it cannot be run, 127 if it is not found.
    """
    if terminal and not detach and not sys.stdin.isatty():
        fail(FAILED, "cannot allocate a terminal: stdin is none; leave out -t")
    both = sys.stdin.isatty() and sys.stdout.isatty()
    with_tty = not no_tty and (terminal or (both and not detach))
    document = {
        "Cmd": list(command),
        "Env": [
            variable if "=" in variable else f"{variable}={os.environ.get(variable, '')}" for variable in env
        ],
        "User": user,
        "WorkingDir": workdir,
        "Privileged": privileged,
        "Tty": with_tty,
        "AttachStdin": not detach or interactive,
        "ConsoleSize": terminal_size() if with_tty else None,
    }
    body = json.dumps(document).encode()
    client = context.client
    name = instance_name(context, name, index)
    made = in_project(
        context,
        lambda project: client.call("POST", f"/containers/{name}/exec", {"project": project}, body),
        (name,),
    )
    exec_id = made["Id"]
    try:
        if detach:
            client.call("POST", f"/exec/{exec_id}/start", body=b'{"Detach": true}')
            click.echo(exec_id)
            return
        raw = client.hijack(f"/exec/{exec_id}/start", b"{}")
    except ApiError as error:
        output.print_error(str(error))
        sys.exit(client.call("GET", f"/exec/{exec_id}/json")["ExitCode"] or FAILED)
    if with_tty:
        _on_terminal(client, exec_id, raw)
    else:
        _on_pipes(client, exec_id, raw)
    code = client.call("GET", f"/exec/{exec_id}/json")["ExitCode"]
    if code is None:
        fail(FAILED, f"the daemon went away; what runs in {name} runs on")
    sys.exit(code)


def _on_terminal(client: Client, exec_id: str, raw: Hijacked) -> None:
    """This terminal, raw, is the process's; it follows its size."""

    def resized(_number: int, _frame: Any) -> None:
        height, width = terminal_size()
        with contextlib.suppress(ApiError):
            client.call("POST", f"/exec/{exec_id}/resize", {"h": height, "w": width})

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        with raw_terminal(sys.stdin.fileno()):
            _feed_in_background(raw.sock)
            copy_raw(raw)
    finally:
        signal.signal(signal.SIGWINCH, before)


def _on_pipes(client: Client, exec_id: str, raw: Hijacked) -> None:
    """stdin, stdout and stderr are the process's; signals to us are passed on to it."""

    def pass_on(number: int, _frame: Any) -> None:
        with contextlib.suppress(ApiError):
            client.call("POST", f"/exec/{exec_id}/kill", {"signal": number})

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, pass_on)
    _feed_in_background(raw.sock)
    copy_frames(raw)


def _feed_in_background(sock: socket) -> None:
    def feed() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(0, BLOCK):
                sock.sendall(data)
            sock.shutdown(SHUT_WR)

    threading.Thread(target=feed, daemon=True).start()
