"""Verbs of a whole project: up, scale, down."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.attachedoptions import attached_options, check_services, wish_of
from supervisor.cli.bringing import (
    Asked,
    asked_of_orphans,
    bring_up,
    make_ready,
    parse_scale,
    scale_project,
    tell_plan,
    tell_ports,
    wait_until_up,
)
from supervisor.cli.context import (
    FAILED,
    TIMEOUT,
    USAGE,
    Context,
    complete_names,
    fail,
    project_options,
)
from supervisor.cli.errors import UnreachableError
from supervisor.core.reconcile import Options, Recreate


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How `up`, `create` and others get images."""
    for option in (
        click.option("--quiet-pull", is_flag=True, help="Pull without telling of it."),
        click.option(
            "--pull",
            type=click.Choice(["always", "missing", "never"]),
            help="Pull images always, where they are missing, or never; instead of each `pull_policy`.",
        ),
        click.option("--no-build", is_flag=True, help="Build nothing, also where an image is missing."),
        click.option(
            "--build", "rebuild", is_flag=True, help="Build the images of services that have `build` first."
        ),
    ):
        command = option(command)
    return command


def recreate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `up` and `create` do with what is there."""
    for option in (
        click.option(
            "--scale",
            "scales",
            multiple=True,
            metavar="SERVICE=N",
            help="Have N instances of a service, whatever the file says; repeatable.",
        ),
        click.option(
            "--remove-orphans",
            is_flag=True,
            help="Remove what belongs to services that are not in the files any more.",
        ),
        click.option("--no-recreate", is_flag=True, help="Leave what is there as it is, also if it changed."),
        click.option("--force-recreate", is_flag=True, help="Recreate also what has not changed."),
    ):
        command = option(command)
    return command


def chosen_options(
    *,
    force_recreate: bool,
    no_recreate: bool,
    remove_orphans: bool,
    always_recreate_deps: bool = False,
    renew_volumes: bool = False,
    no_start: bool = False,
    grace_s: float | None = None,
) -> Options:
    """The flags as what the daemon understands, by Compose's rules. Ends the command where two clash."""
    for given, flag in (
        (force_recreate, "--force-recreate"),
        (always_recreate_deps, "--always-recreate-deps"),
    ):
        if given and no_recreate:
            fail(USAGE, f"cannot recreate and not recreate: {flag} and --no-recreate exclude each other")
    recreate: Recreate = "always" if force_recreate or renew_volumes else "changed"
    return Options(
        recreate="never" if no_recreate else recreate,
        recreate_needed="never" if no_recreate else "always" if always_recreate_deps else "changed",
        start="none" if no_start else "all",
        orphans=asked_of_orphans(remove=remove_orphans),
        renew_volumes=renew_volumes,
        grace_s=grace_s,
    )


def asked_of(
    services: tuple[str, ...],
    options: Options,
    *,
    rebuild: bool,
    no_build: bool,
    pull: str | None,
    quiet_pull: bool,
    quiet_build: bool = False,
    scales: tuple[str, ...] = (),
    no_deps: bool = False,
    dry_run: bool = False,
    form: str = "text",
) -> Asked:
    """A command line as what is asked. Ends the command where two flags clash. Raises click.UsageError."""
    if rebuild and no_build:
        fail(USAGE, "cannot build and not build: --build and --no-build exclude each other")
    return Asked(
        services,
        dependencies=not no_deps,
        scale=parse_scale(scales, option="--scale"),
        rebuild=rebuild,
        build=not no_build,
        pull=pull,
        quiet_pull=quiet_pull,
        quiet_build=quiet_build,
        only_tell=dry_run,
        options=options,
        form=form,
    )


FORM = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to print plan and progress: json is one document a line.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
NO_DEPS = click.option("--no-deps", is_flag=True, help="Leave what SERVICES depend on alone.")


@click.command()
@click.option("-d", "--detach", is_flag=True, help="Return when everything has been started.")
@click.option("--wait", "wait_up", is_flag=True, help="Return when everything is up (implies --detach).")
@click.option("--wait-timeout", type=float, help="Give up waiting after so many seconds, with exit code 124.")
@click.option("--no-start", is_flag=True, help="Make what is not there or has changed, and start nothing.")
@click.option(
    "--always-recreate-deps", is_flag=True, help="Recreate what SERVICES depend on, also if unchanged."
)
@click.option(
    "-V",
    "--renew-anon-volumes",
    is_flag=True,
    help="Recreate with new anonymous volumes; the old ones go.",
)
@click.option("--quiet-build", is_flag=True, help="Do not show builds.")
@attached_options
@NO_DEPS
@recreate_options
@image_options
@TIMEOUT
@DRY_RUN
@FORM
@project_options
@click.argument("services", nargs=-1, shell_complete=complete_names)
@click.pass_obj
def up(
    context: Context,
    /,
    services: tuple[str, ...],
    detach: bool,
    wait_up: bool,
    wait_timeout: float | None,
    no_start: bool,
    always_recreate_deps: bool,
    renew_anon_volumes: bool,
    force_recreate: bool,
    no_recreate: bool,
    remove_orphans: bool,
    timeout: float | None,
    **others: Any,
) -> None:
    """Bring the project up, or SERVICES and what they depend on. What has not changed is not touched.

    Without -d the output of the services is shown until all have ended, and Ctrl-C stops them. Where no
    daemon runs, the supervisor itself runs here until then.

    What has `build` and no image is built first, by this command itself.

    A service waits for all instances of what it depends on as `depends_on` says; one that may not start tells
    why. Where a service has more instances than are wanted, outdated ones go first, then the highest numbers.

    Up is: healthy; without a healthcheck, running for a second; or ended well where it is not to be started
    again.

    \b
    COMPOSE_REMOVE_ORPHANS=1  as --remove-orphans
    COMPOSE_IGNORE_ORPHANS=1  do not tell of orphans
    """
    options = chosen_options(
        force_recreate=force_recreate,
        no_recreate=no_recreate,
        always_recreate_deps=always_recreate_deps,
        renew_volumes=renew_anon_volumes,
        remove_orphans=remove_orphans,
        no_start=no_start,
        grace_s=timeout,
    )
    wish = wish_of(services, others, grace_s=timeout, detached=detach or wait_up or no_start, context=context)
    asked = asked_of(services, options, **others)
    if context.dry_run:
        asked = replace(asked, only_tell=True)
    asked = replace(asked, detached=detach or wait_up or no_start)
    ready = make_ready(context, asked)
    if ready is None:
        return
    check_services(wish, ready.names)
    client = context.client
    attached = not (detach or wait_up or no_start or asked.only_tell)
    began_s = time.monotonic()
    try:
        if asked.only_tell:
            tell_plan(client, ready)
            return
        if attached:
            from supervisor.cli.attachedup import run_attached

            sys.exit(run_attached(client, ready, wish))
    except UnreachableError:
        if not attached:
            raise
        import asyncio

        from supervisor.cli.foreground import run_foreground

        sys.exit(asyncio.run(run_foreground(context.settings, ready, wish)))
    good = bring_up(client, ready, wait_timeout if wait_up else None, context.progress)
    if wait_up and not no_start:
        wait_until_up(client, ready, began_s, wait_timeout)
    elif not good:
        sys.exit(FAILED)
    tell_ports(client, ready)


@click.command()
@NO_DEPS
@DRY_RUN
@FORM
@project_options
@click.argument("scales", nargs=-1, required=True, metavar="SERVICE=N...")
@click.pass_obj
def scale(context: Context, scales: tuple[str, ...], no_deps: bool, dry_run: bool, form: str) -> None:
    """Have N instances of each SERVICE: what is missing is started, what is too much removed.

    It holds until the next `up`, which goes by the files again (`up --scale`, `deploy.replicas`).
    """
    counts = parse_scale(scales, option="scale")
    options = Options(orphans="ignore")
    scale_project(
        context,
        counts,
        Asked(dependencies=not no_deps, only_tell=dry_run or context.dry_run, options=options, form=form),
    )


@click.command()
@click.option("-v", "--volumes", is_flag=True, help="Its named and anonymous volumes too.")
@click.option(
    "--rmi",
    type=click.Choice(["all", "local"]),
    help="The images of its services too: all, or those that no file gives a name.",
)
@click.option(
    "--remove-orphans", is_flag=True, help="Accepted: what belongs to no service any more goes as well."
)
@TIMEOUT
@project_options
@click.argument("services", nargs=-1, shell_complete=complete_names)
@click.pass_obj
def down(
    context: Context,
    services: tuple[str, ...],
    volumes: bool,
    rmi: str | None,
    remove_orphans: bool,  # noqa: ARG001 - it is always so
    timeout: float | None,
) -> None:
    """Stop and remove everything of the project, dependents first; or only SERVICES and what depends on them.

    Networks go as far as nobody uses them; volumes stay without -v, images without --rmi.
    """
    name = context.project_name()
    if context.dry_run:
        from supervisor.cli.act import preview

        preview(context, "remove", services, name)
        return
    images = images_of_project(context, name, services, only_local=rmi == "local") if rmi else []
    query = {"volumes": 1 if volumes else None, "t": timeout, "service": list(services) or None}
    gone = failed = False
    for line in context.client.stream("POST", f"/projects/{name}/down", query):
        gone = True
        if "error" in line:
            output.print_error(line["error"])
            failed = True
        else:
            click.echo(f"{line['name']}: {line['outcome']}")
    if not gone:
        which = f"{', '.join(services)} in the project {name}" if services else f"the project {name}"
        output.print_error(f"nothing of {which} is there")
    if images:
        from supervisor.cli.images import remove_images

        failed = remove_images(context, images, missing=True) != 0 or failed
    if failed:
        sys.exit(FAILED)


def images_of_project(
    context: Context, project: str, services: Collection[str], *, only_local: bool
) -> list[str]:
    """Names of the images of its services, by its files, if there are some, and by what is there.

    only_local: those that are called after project and service, as no file gives them another name.
    """
    from supervisor.compose import ComposeErrors
    from supervisor.core.reference import parse_reference

    found: set[tuple[str, str]] = set()
    try:
        sources = context.load().sources
        found |= {(name, source.image) for name, source in sources.items()}
    except ComposeErrors:
        pass  # `down` of a project whose files are gone, or broken
    views = context.client.call("GET", "/containers/json", {"all": 1})
    found |= {(v["Service"], v["Image"]) for v in views if v["Project"] == project and v["Image"]}
    return sorted(
        {
            image
            for service, image in found
            if (not services or service in services)
            and (not only_local or image == str(parse_reference(f"{project}-{service}")))
        }
    )
