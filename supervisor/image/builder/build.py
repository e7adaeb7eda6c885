"""A build, from a Dockerfile to an image in the store: stages at the same time, each step by step.

Cancelling the task is how a build is ended: what was started is gone when it has ended, and the layers that
were finished stay for the next one.
"""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from supervisor.core.environment import parse_epoch
from supervisor.core.problems import Mark
from supervisor.core.reference import Reference
from supervisor.image import config as oci
from supervisor.image.blobs import BlobError
from supervisor.image.builder.bases import Base, Bases
from supervisor.image.builder.cache import StepCache, chain_id
from supervisor.image.builder.digests import FileDigests
from supervisor.image.builder.ignore import PatternError, parse_ignore
from supervisor.image.builder.layering import Layering, Place, Source, layers_source
from supervisor.image.builder.progress import BuildError, Built, Event, Planned
from supervisor.image.builder.request import NOTHING_IGNORED, BuildRequest
from supervisor.image.builder.runner import Runner
from supervisor.image.builder.running import run
from supervisor.image.builder.scope import Globals, Platform, at, global_scope, platform_args
from supervisor.image.builder.session import Session, Vertex, failed
from supervisor.image.builder.stages import (
    BuildPlan,
    FromDirectory,
    FromImage,
    FromStage,
    Names,
    Nothing,
    Origin,
    StagePlan,
    plan_build,
)
from supervisor.image.builder.stagework import Made, image_config
from supervisor.image.builder.steps import Compiler, CopyOp, RunOp, Step, WorkdirOp
from supervisor.image.builder.trees import DirectoryTree
from supervisor.image.config import ConfigError
from supervisor.image.dockerfile import DockerfileError, parse_dockerfile
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.layertar import TarError
from supervisor.image.machine import host_platform
from supervisor.image.store import ImageStore, StoreError

EARLIEST_S = 315_619_200
"""2 January 1980, the time of what a build makes if nothing tells another: zip archives know none before."""

_BASE_NAME = "org.opencontainers.image.base.name"
_BASE_DIGEST = "org.opencontainers.image.base.digest"
_EPOCH = "SOURCE_DATE_EPOCH"
_LAYERED = (ins.Run, ins.Copy, ins.Workdir)


async def build(
    request: BuildRequest,
    store: ImageStore,
    bases: Bases,
    runner: Runner,
    tell: Callable[[Event], None],
    *,
    cached: bool = True,
) -> Built:
    """Build an image. The runner stays the caller's. cached: False neither uses the cache nor adds to it.

    Raises BuildError; if the task is cancelled, nothing is left running or mounted when it has ended.
    """
    try:
        dockerfile, problems = parse_dockerfile(request.dockerfile, request.dockerfile_name)
    except DockerfileError as error:
        raise BuildError(str(error)) from error
    try:
        await runner.prepare()
        async with _working(store), _session(store, tell) as session:
            making = _Build(request, store, bases, runner, session, dockerfile, cached=cached)
            with contextlib.closing(making):
                return await making.run(tuple(str(problem) for problem in problems))
    except BaseExceptionGroup as group:
        raise _first(group) from None
    except (StoreError, BlobError, ConfigError) as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise failed(error, "build") from error


@contextlib.asynccontextmanager
async def _working(store: ImageStore) -> AsyncIterator[None]:
    """The store, held; `prune` may make us wait."""
    held = store.working()
    await asyncio.to_thread(held.__enter__)
    try:
        yield
    finally:
        held.__exit__(None, None, None)


@contextlib.asynccontextmanager
async def _session(store: ImageStore, tell: Callable[[Event], None]) -> AsyncIterator[Session]:
    session = Session.begin(store.root, tell)
    try:
        yield session
    finally:
        await asyncio.shield(asyncio.to_thread(session.end))


@dataclass(slots=True)
class _Build:
    request: BuildRequest
    store: ImageStore
    bases: Bases
    runner: Runner
    session: Session
    dockerfile: ins.Dockerfile
    cached: bool
    platform: Platform = field(default_factory=lambda: Platform(*host_platform()))
    _contexts: dict[str, DirectoryTree] = field(default_factory=dict)
    _resolved: dict[tuple[Reference, str], asyncio.Task[Base]] = field(default_factory=dict)
    _stages: dict[int, asyncio.Task[Made]] = field(default_factory=dict)
    _world: Globals = field(init=False)
    _names: Names = field(init=False)
    _layering: Layering = field(init=False)
    _plan: BuildPlan = field(init=False)
    _tasks: asyncio.TaskGroup = field(init=False)

    def close(self) -> None:
        """Let go of the contexts."""
        for tree in self._contexts.values():
            tree.close()

    async def run(self, warnings: tuple[str, ...]) -> Built:
        """All of it."""
        contexts = {name.lower(): value for name, value in self.request.contexts}
        automatic = platform_args(self.platform, self.request.target)
        self._world = global_scope(self.dockerfile, self.request.args, automatic)
        self._names = Names(self.dockerfile, contexts)
        self._plan = plan_build(self.dockerfile, self.request.target, self._world, contexts)
        self.session.tell(Planned(_vertices(self._plan)))
        digests = FileDigests(f"{self.store.root}/build/files")
        async with asyncio.TaskGroup() as self._tasks:
            epoch_s = await self._epoch()
            self._world = _with_epoch(self._world, epoch_s)
            self._layering = Layering(
                self.session,
                self.store,
                StepCache(self.store.root, self.store.layers) if self.cached else None,
                digests,
                self.runner,
                self.request,
                self.platform,
                epoch_s,
            )
            for plan in self._plan.stages:
                self._stage(plan)
            made = await self._stages[self._plan.target]
        await self.session.thread(digests.save)
        return await self._export(made, epoch_s, warnings)

    # --- before anything is built ---------------------------------------------------------------
    async def _epoch(self) -> int:
        """The time of everything that is made: as it was given, or that of the newest base."""
        given = self.request.epoch_s
        if given is None:
            try:
                given = parse_epoch(dict(self.request.args).get(_EPOCH, ""))
            except ValueError as error:
                raise BuildError(str(error)) from None
        images = [plan.base for plan in self._plan.stages if isinstance(plan.base, FromImage)]
        marks = [plan.stage.base.mark for plan in self._plan.stages if isinstance(plan.base, FromImage)]
        found = [self._base(image, mark) for image, mark in zip(images, marks, strict=True)]
        created = [_created(await task) for task in found]
        return given if given is not None else max([EARLIEST_S, *created])

    def _base(self, origin: FromImage, mark: Mark) -> asyncio.Task[Base]:
        key = (origin.reference, origin.platform)
        if key not in self._resolved:
            self._resolved[key] = self._tasks.create_task(self._resolve(origin, mark))
        return self._resolved[key]

    async def _resolve(self, origin: FromImage, mark: Mark) -> Base:
        name = origin.reference.familiar
        async with self.session.vertex(f"[internal] load {name}") as vertex:
            try:
                base = await self.bases.resolve(
                    origin.reference, pull=self.request.pull, platform=origin.platform, tell=vertex.note
                )
            except BuildError as error:
                raise BuildError(f"{at(mark)}: {error}") from error
            vertex.note(f"{name} is {base.image.manifest_digest} ({base.source})")
            vertex.cached = base.source == "local store"
            self.store.lowers(base.image)  # raises for one whose layers are missing
            return base

    # --- stages ---------------------------------------------------------------------------------
    def _stage(self, plan: StagePlan) -> asyncio.Task[Made]:
        if plan.index not in self._stages:
            self._stages[plan.index] = self._tasks.create_task(self._make(plan))
        return self._stages[plan.index]

    async def _stage_of(self, index: int) -> Made:
        """A stage, also one that only a trigger of a base turned out to need."""
        known = next((plan for plan in self._plan.stages if plan.index == index), None)
        if known is None:
            name = self.dockerfile.stages[index].base.name or str(index)
            sub = plan_build(self.dockerfile, str(index), self._world, self._names.contexts)
            known = next((plan for plan in sub.stages if plan.index == index), None)
            assert known is not None, name
        return await self._stage(known)

    async def _below(self, plan: StagePlan) -> Made:
        """What a stage stands on."""
        match plan.base:
            case FromStage(index=index):
                return await self._stage_of(index)
            case FromImage() as image:
                base = await self._base(image, plan.stage.base.mark)
                return Made.on_image(base, str(image.reference))
            case _:
                asked = plan.stage.base.platform
                system, machine, variant = (*self._world.expander().word(asked).split("/"), "", "", "")[:3]
                return Made(
                    oci.Process(),
                    architecture=machine or self.platform.architecture,
                    os=system or self.platform.os,
                    variant=variant,
                )

    async def _make(self, plan: StagePlan) -> Made:
        made = await self._below(plan)
        triggers = [
            pair for text in made.config.on_build or () for pair in _trigger(text, plan, self.dockerfile)
        ]
        steps = [*triggers, *zip(plan.stage.steps, plan.stage.texts, strict=True)]
        count = 1 + sum(isinstance(step, _LAYERED) for step, _ in steps)
        label = self._label(plan)
        async with self.session.vertex(f"[{label}1/{count}] FROM {plan.stage.base.base}") as vertex:
            vertex.cached = True
        compiler = Compiler.of_base(self._world, made.config, self.request.network, made.args)
        created = _stamp(self._layering.epoch_s)
        look = not self._fresh(plan)
        number = 1
        for instruction, text in steps:
            step = compiler.step(instruction, text)
            diff_id = ""
            if step.operation is not None:
                number += 1
                async with self.session.vertex(f"[{label}{number}/{count}] {step.name}") as vertex:
                    diff_id = await self._layer(step, made, vertex, plan.index, look=look)
            made = made.with_step(step.config, step.created_by, created, diff_id=diff_id, author=step.author)
        return msgspec.structs.replace(made, config=compiler.config, args=tuple(compiler.scope.args.items()))

    def _label(self, plan: StagePlan) -> str:
        if plan.name:
            return f"{plan.name} "
        return f"stage-{plan.index} " if len(self.dockerfile.stages) > 1 else ""

    def _fresh(self, plan: StagePlan) -> bool:
        """Whether a stage is to be built anew."""
        chosen = {name.lower() for name in self.request.no_cache_stages}
        return self.request.no_cache or str(plan.index) in chosen or (bool(plan.name) and plan.name in chosen)

    async def _layer(self, step: Step, made: Made, vertex: Vertex, index: int, *, look: bool) -> str:
        async def find(name: str) -> Source:
            return await self._source(name, index, step.mark)

        place = Place(step, made.diff_ids, vertex, find, look)
        try:
            match step.operation:
                case RunOp() as operation:
                    return await run(self._layering, place, operation)
                case CopyOp() as operation:
                    return await self._layering.copy(place, operation)
                case WorkdirOp() as operation:
                    return await self._layering.workdir(place, operation)
                case None:
                    return ""
        except OSError as error:
            if isinstance(error, TarError):
                raise BuildError(f"{at(step.mark)}: {error}") from error
            raise BuildError(f"{at(step.mark)}: {failed(error, f'build {step.name}')}") from error

    async def _source(self, name: str, before: int, mark: Mark) -> Source:
        origin: Origin = (
            self._names.source(name, before, mark) if name else FromDirectory(self.request.context)
        )
        match origin:
            case FromStage(index=index):
                made = await self._stage_of(index)
                return layers_source(self._layering.lowers(made.diff_ids), chain_id(made.diff_ids))
            case FromImage() as image:
                base = await self._base(image, mark)
                return layers_source(self.store.lowers(base.image), chain_id(base.image.diff_ids))
            case FromDirectory(path=path):
                return Source(await self._context(path, main=not name, mark=mark))
            case Nothing():
                return layers_source((), "scratch")

    async def _context(self, path: str, *, main: bool, mark: Mark) -> DirectoryTree:
        if not path:
            raise BuildError(
                f"{at(mark)}: cannot copy from the context: this build has none; give a directory"
            )
        if path not in self._contexts:
            ignore = self.request.ignore if main else NOTHING_IGNORED
            if not main:
                with contextlib.suppress(FileNotFoundError), open(f"{path}/.dockerignore", "rb") as file:
                    try:
                        ignore = parse_ignore(file.read().decode("utf-8", "replace"))
                    except PatternError as error:
                        raise BuildError(f"{path}/.dockerignore: {error}") from error
            self._contexts[path] = DirectoryTree(path, ignore)
        return self._contexts[path]

    # --- the image ------------------------------------------------------------------------------
    async def _export(self, made: Made, epoch_s: int, warnings: tuple[str, ...]) -> Built:
        labels = dict(self.request.labels)
        origin = {}
        if made.base is not None:
            origin = {_BASE_NAME: made.base_name, _BASE_DIGEST: made.base.image.manifest_digest}
        config = oci.encode(image_config(made, _stamp(epoch_s), {**origin}, labels))
        async with self.session.vertex("exporting to image") as vertex:

            def add() -> tuple[str, str]:
                first, *others = self.request.names or (None,)
                image = self.store.add(config, first)
                for name in others:
                    if name is not None:
                        self.store.tag(image, name)
                return image.id, image.manifest_digest

            image_id, manifest_digest = await self.session.thread(add)
            vertex.note(f"writing image {image_id}")
            for name in self.request.names:
                vertex.note(f"naming to {name}")
        return Built(image_id, manifest_digest, tuple(map(str, self.request.names)), warnings)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a build: a problem before the cancellations that it brought."""
    leaves = list(_leaves(group))
    for kind in (BuildError, Exception):
        for leaf in leaves:
            if isinstance(leaf, kind):
                if isinstance(leaf, StoreError | BlobError | ConfigError):
                    return BuildError(str(leaf))
                return failed(leaf, "build") if isinstance(leaf, OSError) else leaf
    return leaves[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _vertices(plan: BuildPlan) -> int:
    layered = sum(isinstance(step, _LAYERED) for one in plan.stages for step in one.stage.steps)
    images = {str(one.base) for one in plan.stages if isinstance(one.base, FromImage)}
    return len(plan.stages) + layered + len(images) + 1


def _trigger(text: str, plan: StagePlan, dockerfile: ins.Dockerfile) -> list[tuple[ins.Step, str]]:
    """An ONBUILD instruction of the base."""
    escape = f"# escape={dockerfile.escape}\n"
    try:
        parsed, _ = parse_dockerfile(f"{escape}FROM scratch\n{text}\n".encode(), "ONBUILD")
    except DockerfileError as error:
        raise BuildError(
            f"{at(plan.stage.base.mark)}: cannot use a trigger of {plan.stage.base.base}: {error}"
        ) from error
    stage = parsed.stages[0]
    mark = plan.stage.base.mark
    return [
        (msgspec.structs.replace(step, mark=mark), text)
        for step, text in zip(stage.steps, stage.texts, strict=True)
    ]


def _with_epoch(world: Globals, epoch_s: int) -> Globals:
    """`ARG SOURCE_DATE_EPOCH` without a value is the build's time."""
    automatic: Mapping[str, str] = {_EPOCH: str(epoch_s)}
    return msgspec.structs.replace(
        world, platform={**automatic, **world.platform}, values={**automatic, **world.values}
    )


def _stamp(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_s))


def _created(base: Base) -> int:
    """When an image was made, as it says; 0 where it does not."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", base.image.config.created)
    if match is None:
        return 0
    year, month, day, hour, minute, second = map(int, match.groups())
    return max(0, calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0)))
