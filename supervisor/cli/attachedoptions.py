"""The options of an attached `up`, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from supervisor.cli.context import USAGE, Context, complete_names, fail
from supervisor.cli.following import Wish
from supervisor.core.problems import nearest

_OPTIONS = (
    click.option("--abort-on-container-exit", is_flag=True, help="When one container ends, stop all."),
    click.option(
        "--abort-on-container-failure", is_flag=True, help="When one ends with a failure, stop all."
    ),
    click.option(
        "--exit-code-from",
        default="",
        metavar="SERVICE",
        shell_complete=complete_names,
        help="Exit with its exit code (implies --abort-on-container-exit).",
    ),
    click.option(
        "--attach",
        "attach_to",
        multiple=True,
        metavar="SERVICE",
        shell_complete=complete_names,
        help="Show the output of these only.",
    ),
    click.option(
        "--no-attach",
        multiple=True,
        metavar="SERVICE",
        shell_complete=complete_names,
        help="Do not show the output of these.",
    ),
    click.option(
        "--attach-dependencies", is_flag=True, help="Show the output of what SERVICES depend on, too."
    ),
    click.option("--no-log-prefix", is_flag=True, help="No names before lines."),
    click.option("--no-color", is_flag=True, help="No colours (as NO_COLOR=1)."),
    click.option("--timestamps", is_flag=True, help="With the time of each line."),
    click.option("--menu/--no-menu", default=None, hidden=True, help="There is none."),
    click.option("-w", "--watch", is_flag=True, help="Carry changes of the sources into services (`watch`)."),
    click.option("-y", "--yes", is_flag=True, hidden=True, help="Accepted: nothing is asked."),
)


def attached_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wish_of(
    named: tuple[str, ...],
    given: dict[str, Any],
    *,
    grace_s: float | None,
    detached: bool,
    context: Context,
) -> Wish:
    """What they say; they are taken out of `given`. Ends the command where they make no sense."""
    taken = {
        name: given.pop(name)
        for name in (
            "abort_on_container_exit",
            "abort_on_container_failure",
            "exit_code_from",
            "attach_to",
            "no_attach",
            "attach_dependencies",
            "no_log_prefix",
            "no_color",
            "timestamps",
            "menu",
            "watch",
            "yes",
        )
    }
    if taken["menu"]:
        fail(USAGE, "cannot show a menu: there is none; leave --menu out, or write --menu=false")
    aborts = taken["abort_on_container_exit"] or bool(taken["exit_code_from"])
    fails = taken["abort_on_container_failure"]
    if aborts and fails:
        fail(USAGE, "cannot combine --abort-on-container-exit and --abort-on-container-failure")
    for flag, present in (
        ("--abort-on-container-exit", taken["abort_on_container_exit"]),
        ("--abort-on-container-failure", fails),
        ("--exit-code-from", taken["exit_code_from"]),
        ("--attach", taken["attach_to"]),
        ("--watch", taken["watch"]),
    ):
        if detached and present:
            fail(USAGE, f"cannot combine {flag} with -d, --wait or --no-start: nobody stays to see it")
    if taken["attach_to"] and taken["attach_dependencies"]:
        fail(USAGE, "cannot combine --attach and --attach-dependencies")
    watch = None
    if taken["watch"]:
        from supervisor.cli.watch import watching

        watch = watching(context, named)
    return Wish(
        abort="exit" if aborts else "failure" if fails else "never",
        code_from=taken["exit_code_from"],
        attach=taken["attach_to"],
        no_attach=taken["no_attach"],
        dependencies=taken["attach_dependencies"],
        named=named,
        prefix=not taken["no_log_prefix"],
        colour=not taken["no_color"],
        stamps=taken["timestamps"],
        grace_s=grace_s,
        watch=watch,
    )


def check_services(wish: Wish, known: Sequence[str]) -> None:
    """Whether the services that it names are brought up. Ends the command where one is not."""
    for name in (*((wish.code_from,) if wish.code_from else ()), *wish.attach, *wish.no_attach):
        if name not in known:
            near = nearest(name, known)
            advice = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
            fail(USAGE, f"cannot attach to {name}: no such service is brought up; {advice}")
