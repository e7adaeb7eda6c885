"""The images of a project's services: `build` without a context, and what `up` builds before it brings up.

Services that are built from the same are one build with several names. Those that do not need each other's
image are built at the same time; the first failure ends the others.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.cli import output
from supervisor.cli.building import Building, build_image, make_view, tools, until_done
from supervisor.cli.buildinputs import Job
from supervisor.cli.buildoptions import OptionError, check_platforms, epoch_of, parse_args, parse_ssh
from supervisor.cli.buildtelling import exit_code, tell_end, tell_failure
from supervisor.cli.buildview import Mode, View
from supervisor.cli.context import FAILED, UNKNOWN, USAGE, Context, fail
from supervisor.compose import Loaded
from supervisor.core.build import BuildSpec, ImageSource
from supervisor.core.graph import DependencyCycleError, waves
from supervisor.core.problems import nearest
from supervisor.core.reference import parse_reference
from supervisor.image.blobs import BlobError
from supervisor.image.builder.progress import Built
from supervisor.image.builder.request import BuildRequest, Secret, SshAgent
from supervisor.image.config import ConfigError
from supervisor.image.machine import host_platform
from supervisor.image.sources import Directory, SourceError, parse_source
from supervisor.image.store import ImageStore, NotFoundError, StoreError

_OF_ONE_IMAGE = {
    "tags": "-t",
    "target": "--target",
    "labels": "--label",
    "secrets": "--secret",
    "contexts": "--build-context",
    "no_cache_stages": "--no-cache-filter",
    "platforms": "--platform",
    "iidfile": "--iidfile",
    "metadata_file": "--metadata-file",
    "allowed": "--allow",
    "check": "--check",
    "verify": "--verify",
}


@dataclass(frozen=True, slots=True)
class Work:
    """One build of a project. services: those that stand on its image. needs: services to be built before."""

    services: tuple[str, ...]
    spec: BuildSpec
    names: tuple[str, ...]
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says instead of the files."""

    args: tuple[tuple[str, str], ...] = ()
    no_cache: bool = False
    pull: bool = False
    ssh: tuple[SshAgent, ...] = field(default=())


def plan_works(sources: Mapping[str, ImageSource], chosen: Iterable[str]) -> list[Work]:
    """The builds for services, and for those whose image they copy from; in the order of the names. Pure."""
    wanted: dict[str, BuildSpec] = {}
    left = list(chosen)
    while left:
        name = left.pop()
        source = sources.get(name)
        if source is None or source.build is None or name in wanted:
            continue
        wanted[name] = source.build
        left += [
            text.removeprefix("service:") for _, text in source.build.contexts if text.startswith("service:")
        ]
    same: dict[BuildSpec, list[str]] = {}
    for name in sorted(wanted):
        same.setdefault(replace(wanted[name], tags=()), []).append(name)
    return [
        Work(
            tuple(names),
            spec,
            tuple(
                dict.fromkeys(text for name in names for text in (sources[name].image, *wanted[name].tags))
            ),
            frozenset(
                text.removeprefix("service:") for _, text in spec.contexts if text.startswith("service:")
            ),
        )
        for spec, names in same.items()
    ]


def job_of(work: Work, sources: Mapping[str, ImageSource], given: Overrides) -> Job:
    """What a build of a project asks for. Raises OptionError, SourceError."""
    spec = work.spec
    check_platforms(spec.platforms, "/".join(host_platform()))
    args = tuple({**dict(spec.args), **dict(given.args)}.items())
    request = BuildRequest(
        b"",
        target=spec.target,
        names=tuple(parse_reference(name) for name in work.names),
        args=args,
        labels=spec.labels,
        secrets=tuple(Secret(each.id, each.path, each.env) for each in spec.secrets),
        ssh=given.ssh or tuple(SshAgent(name, (path,) if path else ()) for name, path in spec.ssh),
        network=spec.network,
        no_cache=spec.no_cache or given.no_cache,
        no_cache_stages=spec.no_cache_stages,
        pull=spec.pull or given.pull,
        epoch_s=epoch_of(dict(args), os.environ),
    )
    contexts = tuple((name, _context(text, sources)) for name, text in spec.contexts)
    source = Directory(spec.context) if spec.context.startswith("/") else parse_source(spec.context)
    # The usual name is looked for as the command does: it may be written in lower case.
    file = None if spec.dockerfile == "Dockerfile" else spec.dockerfile
    inline = spec.inline.encode() if spec.inline else None
    return Job(source, request, file, inline, base=spec.context, contexts=contexts)


def _context(text: str, sources: Mapping[str, ImageSource]) -> str:
    if not text.startswith("service:"):
        return text
    return f"docker-image://{sources[text.removeprefix('service:')].image}"


def build_project(context: Context, files: tuple[str, ...], mode: Mode, options: Mapping[str, Any]) -> None:
    """`build` without a context; ends the command where something fails."""
    given = [flag for name, flag in _OF_ONE_IMAGE.items() if options[name]]
    if given:
        fail(USAGE, f"cannot build a project with {given[0]}: it is for one image; name a CONTEXT, as in `.`")
    if files:
        context = replace(context, files=files)
    loaded = context.load(tuple(options["services"]))
    able = {name for name, source in loaded.sources.items() if source.build is not None}
    for name in options["services"]:
        if name not in able:
            near = nearest(name, able)
            advice = f"; did you mean {near}?" if near else ""
            fail(UNKNOWN, f"cannot build {name}: no service of that name has `build`{advice}")
    chosen = options["services"] or [each.name for each in loaded.project.services if each.name in able]
    if not chosen:
        fail(USAGE, "nothing to build: no service has `build`; name a CONTEXT, as in `shipkeeper build .`")
    overrides = Overrides(
        parse_args(options["args"], os.environ),
        options["no_cache"],
        options["pull"],
        tuple(parse_ssh(text) for text in options["agents"]),
    )
    build_services(context, loaded, chosen, mode, overrides)


def build_first(
    context: Context, loaded: Loaded, *, everything: bool, only_tell: bool, form: str, quiet: bool = False
) -> bool:
    """What `up` builds: services whose image is not there, or all. Ends the command on a failure.

    form: json, or else as `context.progress` says. quiet: do not show it. only_tell: print what would be
    built. False: the plan is not known before that is done.
    """
    chosen = missing(context, loaded, everything=everything)
    if not only_tell:
        if chosen:
            mode: Mode = "quiet" if quiet else "json" if form == "json" else context.progress
            build_services(context, loaded, chosen, mode, Overrides())
        return True
    for name in chosen:
        image = parse_reference(loaded.sources[name].image).familiar
        cause = f"to get {image}"
        if form == "json":
            output.print_json({"verb": "build", "name": name, "cause": cause})
        else:
            print(f"build    {name}: {cause}")
    return not chosen


def missing(context: Context, loaded: Loaded, *, everything: bool) -> list[str]:
    """Services that have to be built. Where the store cannot be read, the daemon will say it."""
    able = [
        source
        for spec in loaded.project.services
        if (source := loaded.sources.get(spec.name)) is not None
        and source.build is not None
        and spec.rootfs.kind == "image"
    ]
    chosen = [source.service for source in able if everything or source.policy == "build"]
    left = [source for source in able if source.service not in chosen]
    if left:
        try:
            store = ImageStore(context.settings.paths.images)
            chosen += [source.service for source in left if not _is_there(store, source.image)]
        except PermissionError:
            pass
        except (StoreError, BlobError, ConfigError, OSError) as error:
            fail(FAILED, str(error))
    return sorted(chosen)


def _is_there(store: ImageStore, name: str) -> bool:
    try:
        store.find(name)
    except NotFoundError:
        return False
    return True


def build_services(
    context: Context, loaded: Loaded, chosen: Sequence[str], mode: Mode, overrides: Overrides
) -> None:
    """Build the images of services, shown; ends the command where that fails."""
    works = plan_works(loaded.sources, chosen)
    try:
        waves({service: work.needs for work in works for service in work.services})
        jobs = [job_of(work, loaded.sources, overrides) for work in works]
    except (DependencyCycleError, OptionError, SourceError) as error:
        fail(USAGE, str(error))
        return
    view = make_view(mode)
    buildings = [Building(view.part(work.services[0] if len(works) > 1 else "")) for work in works]
    try:
        built = until_done(_all(context, works, jobs, buildings, view))
    except BaseExceptionGroup as group:
        failed = next((each for each in buildings if each.error is not None), None)
        if failed is None or failed.error is None:
            raise group.exceptions[0] from None
        tell_failure(view, failed.recipe, failed.error)
        sys.exit(exit_code(failed.error))
    except (StoreError, OSError) as error:
        tell_failure(view, None, error)
        sys.exit(exit_code(error))
    for work, building, image in zip(works, buildings, built, strict=True):
        tell_end(view, image, building.report)
        if view.mode not in ("json", "quiet"):
            for service in work.services:
                name = parse_reference(loaded.sources[service].image).familiar
                output.print_error(f"{service}: built {name}")


async def _all(
    context: Context, works: Sequence[Work], jobs: Sequence[Job], buildings: Sequence[Building], view: View
) -> list[Built]:
    """Every build, each when those that it needs are there."""
    ready = {service: asyncio.Event() for work in works for service in work.services}

    async def one(work: Work, job: Job, building: Building) -> Built:
        for name in sorted(work.needs):
            await ready[name].wait()
        built = await build_image(context, shared, job, building)
        for service in work.services:
            ready[service].set()
        return built

    with view.shown():
        async with tools(context) as shared, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(one(work, job, building))
                for work, job, building in zip(works, jobs, buildings, strict=True)
            ]
        view.finished = True
        return [task.result() for task in tasks]
