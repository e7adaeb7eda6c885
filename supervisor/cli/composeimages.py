"""Verbs of `compose` on the images of its services: build, pull, push."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from supervisor.cli import output
from supervisor.cli.context import FAILED, NAMES, USAGE, Context, fail

if TYPE_CHECKING:
    from supervisor.cli.buildservices import Overrides
    from supervisor.compose import Loaded

_INCLUDE_DEPS = click.option(
    "--include-deps", is_flag=True, help="Also what SERVICES depend on (without names all are meant anyway)."
)


@click.command()
@click.option("--build-arg", "args", multiple=True, metavar="NAME[=VALUE]", help="Value of an ARG.")
@click.option("--builder", hidden=True, help="There is one.")
@click.option("--check", is_flag=True, help="Only check the Dockerfiles, by BuildKit's rules.")
@click.option("-m", "--memory", hidden=True, help="Not supported by BuildKit either.")
@click.option("--no-cache", is_flag=True, help="Run every step anew.")
@click.option("--print", "bake", is_flag=True, help="Refused: there is no bake file here.")
@click.option("--provenance", help="Refused: no attestations are made, but false is what holds.")
@click.option("--pull", is_flag=True, help="Look for newer base images.")
@click.option("--push", "push_too", is_flag=True, help="Push them when they are built.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show the builds.")
@click.option("--sbom", help="Refused: no attestations are made, but false is what holds.")
@click.option(
    "--ssh", "agents", multiple=True, metavar="default|ID[=PATH]", help="Agent or keys for RUN --mount."
)
@click.option("--with-dependencies", is_flag=True, help="Also what SERVICES depend on.")
@NAMES
@click.pass_context
def build(
    ctx: click.Context,
    /,
    args: tuple[str, ...],
    check: bool,
    no_cache: bool,
    bake: bool,
    pull: bool,
    push_too: bool,
    quiet: bool,
    agents: tuple[str, ...],
    with_dependencies: bool,
    names: tuple[str, ...],
    **attestations: str | None,
) -> None:
    """Build the images of services that have `build`; of all without NAMES."""
    from supervisor.cli.build import chosen_mode
    from supervisor.cli.buildoptions import parse_args, parse_ssh
    from supervisor.cli.buildservices import Overrides, build_services

    context: Context = ctx.obj
    if bake:
        fail(USAGE, "cannot print a bake file: builds are done here, and not by buildx")
    for flag in ("provenance", "sbom"):
        if attestations[flag] not in (None, "false", "0"):
            fail(USAGE, f"cannot use --{flag}: no attestations are made; leave it out")
    loaded = context.load(names, dependencies=with_dependencies or not names)
    chosen = [
        spec.name
        for spec in loaded.project.services
        if spec.name in loaded.sources and _is_built(loaded, spec.name)
    ]
    if not chosen:
        output.print_error("no services to build")
        return
    overrides = Overrides(
        parse_args(args, os.environ), no_cache, pull, tuple(parse_ssh(text) for text in agents)
    )
    if check:
        sys.exit(_checked(context, loaded, chosen, overrides))
    if context.dry_run:
        for service in chosen:
            click.echo(f"DRY-RUN MODE -  {service}  build")
        return
    build_services(context, loaded, chosen, chosen_mode(context.progress, quiet=quiet), overrides)
    if push_too:
        ctx.invoke(push, names=tuple(chosen), include_deps=False, ignore_push_failures=False, quiet=quiet)


def _is_built(loaded: Loaded, service: str) -> bool:
    return loaded.sources[service].build is not None


def _checked(context: Context, loaded: Loaded, chosen: list[str], overrides: Overrides) -> int:
    """What is doubtful in each Dockerfile; not 0 where there is something."""
    from supervisor.cli.building import check_or_exit
    from supervisor.cli.buildservices import job_of, plan_works

    worst = 0
    for work in plan_works(loaded.sources, chosen):
        click.echo(f"{', '.join(work.services)}:")
        try:
            check_or_exit(context, job_of(work, loaded.sources, overrides), "text")
        except SystemExit as ended:
            worst = max(worst, int(ended.code or 0))
    return worst


@click.command()
@click.option("--ignore-buildable", is_flag=True, help="Not the images of services that have `build`.")
@click.option("--ignore-pull-failures", is_flag=True, help="Get what can be had; the others are no failure.")
@_INCLUDE_DEPS
@click.option("--policy", type=click.Choice(["missing", "always"]), help="Instead of each pull_policy.")
@click.option("-q", "--quiet", is_flag=True, help="Do not tell of it.")
@click.option("--parallel/--no-parallel", default=True, hidden=True)
@NAMES
@click.pass_obj
def pull(
    context: Context,
    ignore_buildable: bool,
    ignore_pull_failures: bool,
    include_deps: bool,
    policy: str | None,
    quiet: bool,
    parallel: bool,
    names: tuple[str, ...],
) -> None:
    """Get the images of services anew, from their registries or by the recipes."""
    from supervisor.cli.building import until_done
    from supervisor.cli.images import opened
    from supervisor.cli.pulling import bring
    from supervisor.core.reference import parse_reference
    from supervisor.image.store import NotFoundError

    del parallel  # they are always got at the same time
    loaded = context.load(names, dependencies=include_deps or not names)
    needed: dict[str, bool] = {}
    doubtful: dict[str, bool] = {}
    with opened(context) as store:
        for spec in loaded.project.services:
            source = loaded.sources.get(spec.name)
            built = source is not None and source.build is not None
            if source is None or spec.rootfs.kind != "image" or (built and ignore_buildable):
                continue
            if source.policy in ("never", "build") or (built and spec.name == _unnamed(loaded, spec.name)):
                continue
            if policy == "missing":
                try:
                    store.find(str(parse_reference(source.image)))
                    continue
                except NotFoundError:
                    pass
            (doubtful if built else needed)[source.image] = True
    if context.dry_run:
        for image in (*needed, *doubtful):
            click.echo(f"DRY-RUN MODE -  {image}  pull")
        return
    form = "quiet" if quiet else "text"
    said = "cancelled; what has come is kept"
    good = not needed or until_done(bring(context, needed, form), cancelled=said)
    if doubtful and not until_done(bring(context, doubtful, form), cancelled=said):
        output.print_error("what could not be had can be built: `shipkeeper compose build`")
    if not good and not ignore_pull_failures:
        sys.exit(FAILED)


def _unnamed(loaded: Loaded, service: str) -> str:
    """The service itself where no file names its image: no registry has it."""
    return "" if loaded.documents["services"][service].get("image") else service


@click.command()
@click.option(
    "--ignore-push-failures", is_flag=True, help="Send what can be sent; the others are no failure."
)
@_INCLUDE_DEPS
@click.option("-q", "--quiet", is_flag=True, help="Only the names of what went.")
@NAMES
@click.pass_context
def push(
    ctx: click.Context,
    ignore_push_failures: bool,
    include_deps: bool,
    quiet: bool,
    names: tuple[str, ...],
) -> None:
    """Send the images of services that have `build` and `image` to the registries that their names say."""
    from supervisor.cli import moving

    context: Context = ctx.obj
    loaded = context.load(names, dependencies=include_deps or not names)
    failed = False
    for spec in loaded.project.services:
        source = loaded.sources.get(spec.name)
        if source is None or source.build is None or _unnamed(loaded, spec.name):
            continue
        if context.dry_run:
            click.echo(f"DRY-RUN MODE -  {source.image}  push")
            continue
        try:
            ctx.invoke(moving.push, name=source.image, all_tags=False, quiet=quiet, form="text")
        except SystemExit:
            failed = True  # it has said why, and the others are tried
    if failed and not ignore_push_failures:
        sys.exit(FAILED)
