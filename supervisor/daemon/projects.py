"""Operations on projects and on several instances; one change of a project at a time.

What `up` decides is in `planning`, how it is carried out in `carrying`; `starting`, `stopping`, `replacing`
and `removing` post events and wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from supervisor.core.grants import FileGrant
from supervisor.core.model import Project, ServiceSpec
from supervisor.core.ownership import other_places, place_clash
from supervisor.core.reconcile import DEFAULTS, Operation, Options, Plan
from supervisor.daemon.asked import AskedFiles, DownAsked, UpAsked
from supervisor.daemon.carrying import Carrying, Parts
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.hooks import Hooks
from supervisor.daemon.images import Images
from supervisor.daemon.networks import Networks
from supervisor.daemon.ordering import Asked, UnderWay
from supervisor.daemon.outcomes import settled
from supervisor.daemon.planning import make_instances, make_plan
from supervisor.daemon.removing import Removing
from supervisor.daemon.replacing import Replacing
from supervisor.daemon.starting import Starting
from supervisor.daemon.state import StateError, Stored
from supervisor.daemon.stopping import Stopping
from supervisor.daemon.volumes import Volumes, named_volumes
from supervisor.kernel import allocator
from supervisor.runtime.grants import GrantStore
from supervisor.runtime.projectfiles import ProjectFiles
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.translate import PlanError
from supervisor.runtime.volumes import VolumeError, external_missing

_NOTHING: Mapping[str, bytes] = {}


class Projects:
    """The operations; one project is changed by one caller at a time."""

    def __init__(
        self,
        engine: Engine,
        remove_files: Callable[[Stored], None],
        volumes: Volumes,
        grants: GrantStore,
        images: Images,
        look_again: Callable[..., bool],
        hooks: Hooks,
        networks: Networks,
        last_words: Callable[[Entry], Awaitable[list[str]]],
        files: ProjectFiles,
        asked: AskedFiles,
    ) -> None:
        self._engine = engine
        self._asked = asked
        self._networks = networks
        self._volumes = volumes
        self._grants = grants
        self._images = images
        self._look_again = look_again
        self._locks: dict[str, asyncio.Lock] = {}
        self._looking = asyncio.Lock()
        self._again: set[asyncio.Task[None]] = set()
        self._under_way = UnderWay(self.entries)
        self._stopping = Stopping(engine, hooks)
        self._removing = Removing(engine, self._stopping, networks, volumes, grants, remove_files)
        self._starting = Starting(engine, hooks, self._under_way, self.members)
        self._replacing = Replacing(engine, hooks, networks, self._stopping, self._removing, last_words)
        self._parts = Parts(
            engine, hooks, self._stopping, self._removing, self._starting, self._replacing, self._under_way
        )
        self.stop = self._stopping.stop
        self.remove = self._removing.remove
        self.sweep_contents = self._removing.sweep_contents
        self.files = files

    def leave(self) -> None:
        """From now on nothing that waits is started; the next supervisor goes on with it."""
        self.cut_off()
        self._under_way.leave()

    def cut_off(self) -> None:
        """What is under way now is not brought to its end here; the next supervisor does that."""
        self._asked.keep()

    def entries(self, project: str) -> list[Entry]:
        """Instances of a project, by service and number."""
        found = [e for e in self._engine.entries.values() if e.stored.project == project]
        return sorted(found, key=lambda e: (e.stored.spec.name, e.stored.number, e.stored.name))

    def members(self, project: str) -> list[Entry]:
        """The same without what `compose run` made, which nobody depends on."""
        return [entry for entry in self.entries(project) if not entry.stored.spec.one_off]

    async def resolve(self, project: Project, contents: Mapping[str, bytes] = _NOTHING) -> Project:
        """With every image that is named found in the store, and every grant resolved. Raises PlanError.

        contents: of configs and secrets that are in no file, by `core.grants.content_key`.
        """
        await self._check_place(project)
        project = await asyncio.to_thread(self._images.resolve, project)
        return await asyncio.to_thread(self._grants.resolve, project, contents)

    async def _check_place(self, project: Project) -> None:
        """No other directory that is still there has services of that name. Raises PlanError."""
        there = [entry.stored.working_dir for entry in self.entries(project.name)]
        if others := other_places(project, there):
            still = await asyncio.to_thread(
                lambda: [each for each in others if _is_another(each, project.working_dir)]
            )
            if still:
                raise PlanError(place_clash(project, still[0]))

    def _take_place(self, project: Project) -> None:
        """What is there is of this directory from now on."""
        for entry in self.entries(project.name):
            if entry.stored.working_dir != project.working_dir:
                self._engine.move(entry, project.working_dir)

    async def _see_host(self, specs: Iterable[ServiceSpec]) -> None:
        """What appeared on the host is hidden from these, which are about to start. Raises PlanError.

        One after the other, so that a boot's starts are under way before a file of theirs is brought up.
        """
        layers = any(spec.rootfs.kind == "host" for spec in specs)
        async with self._looking:
            if await asyncio.to_thread(partial(self._look_again, layers=layers)):
                for entry in self._engine.entries.values():
                    entry.plan = None  # made anew for its next run

    def plan(self, project: Project, options: Options = DEFAULTS) -> Plan:
        """What `up` would do with a resolved project. Raises PlanError: what cannot be, see `planning`."""
        return make_plan(project, self.members(project.name), options)

    async def up(
        self, project: Project, contents: Mapping[str, bytes] = _NOTHING, options: Options = DEFAULTS
    ) -> AsyncIterator[tuple[Operation, str]]:
        """Make it so; yields each operation with what came of it.

        Who stops listening ends nothing: what waits for its dependencies is started when they let it, unless
        `down` or a newer `up` calls it off.

        With `new` as what starts, what was to start before and still waits is gone on with.

        project: resolved, with these `contents`. What cannot be created is found before anything is touched.
        Raises PlanError, PrepareError, StateError, VolumeError. A daemon that is killed meanwhile leaves the
        rest to the next one, see `go_on`.
        """
        token: object = None
        await self._see_host(project.services)
        await self._check_external(project)
        coming = [grant for spec in project.services for grant in spec.grants]
        self._removing.coming.update(coming)
        asked = self._under_way.waiting(project.name) if options.start == "new" else {}
        self._under_way.call_off(project.name, "a newer `up` took over")
        try:
            async with self._locks.setdefault(project.name, asyncio.Lock()):
                await self._under_way.quiet(project.name)
                await self._check_place(project)
                plan = self.plan(project, options)
                made = make_instances(
                    project, plan, self._engine.entries.values(), renew_volumes=options.renew_volumes
                )
                still = {id_: asked[id_].why for id_ in self._standing(asked)}
                carrying = Carrying(self._parts, project.name, plan, made, options, still)
                await asyncio.to_thread(self._grants.keep, project, contents)
                if options.start != "new":
                    changing = any(op.verb not in ("keep", "orphan") for op in plan.operations)
                    what = UpAsked(project, options) if changing else None
                    token = await asyncio.to_thread(self._asked.note, project.name, what)
                await self._networks.bring_up(project.name, project.networks)
                await self._remember(project)
                self._take_place(project)
                async for done in carrying.carry_out():
                    yield done
                for op in plan.operations:
                    if op.verb == "orphan":
                        yield op, op.cause
                await self._engine.stored()
                allocator.give_back()  # the model, and what the plans were made with
        except (PlanError, PrepareError, StateError, VolumeError):
            # A file that cannot be brought up must not keep down what was coming up.
            for why in {asked[id_].why for id_ in self._standing(asked)}:
                group = [self._engine.entries[id_] for id_ in self._standing(asked) if asked[id_].why == why]
                task = asyncio.create_task(self._starting.start(group, why, boot=True))
                self._again.add(task)
                task.add_done_callback(self._again.discard)
            raise
        finally:
            self._have_come(project.name, coming, token)
            if coming:
                await self.sweep_contents()

    async def _remember(self, project: Project) -> None:
        """On a full disk it is forgotten: the services count more."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.files.save, project.name, project.config_files)

    async def one_off(self, project: Project, contents: Mapping[str, bytes] = _NOTHING) -> Entry:
        """A new instance beside what `up` made, not started; `start` waits for what it depends on.

        project: resolved, with these `contents`; its only service is what is to be run once, by its
        container_name. Raises PlanError, VolumeError.
        """
        (spec,) = project.services
        await self._see_host([spec])
        await self._check_external(project)
        self._removing.coming.update(spec.grants)
        try:
            async with self._locks.setdefault(project.name, asyncio.Lock()):
                options = Options(orphans="ignore")
                plan = make_plan(project, (), options)
                made = make_instances(project, plan, self._engine.entries.values(), renew_volumes=False)
                await asyncio.to_thread(self._grants.keep, project, contents)
                await self._networks.bring_up(project.name, project.networks)
                (stored,) = made.values()
                return self._engine.add(stored)
        finally:
            self._have_come(project.name, list(spec.grants), None)

    def _standing(self, asked: Mapping[str, Asked]) -> list[str]:
        """Those of the starts that wait on."""
        entries = self._engine.entries
        return [id_ for id_, start in asked.items() if id_ in entries and start.stands(entries[id_].instance)]

    def _have_come(self, project: str, coming: list[FileGrant], token: object) -> None:
        """Who was granted these is known to the engine now, or as soon as what waits has come to its end."""
        if (waiting := self._under_way.newest(project)) is not None:
            waiting.add_done_callback(lambda _: self._have_come(project, coming, token))
            return
        self._asked.done(project, token)
        self._removing.coming.subtract(coming)
        for grant in [grant for grant, count in self._removing.coming.items() if count <= 0]:
            del self._removing.coming[grant]

    async def _check_external(self, project: Project) -> None:
        """What a service mounts and nobody may make is there. Raises VolumeError."""
        used = {name for spec in project.services for name in named_volumes(spec)}
        external = {volume.name for volume in project.volumes if volume.external} & used
        if external:
            missing = external - {record.name for record in await self._volumes.records()}
            for name in sorted(missing):
                raise external_missing(name)

    async def down(
        self,
        project: str,
        *,
        services: Collection[str] = (),
        volumes: bool = False,
        grace_s: float | None = None,
    ) -> AsyncIterator[tuple[str, str]]:
        """Stop and remove a project, or only `services` of it and what depends on them; with `volumes` its
        named and anonymous ones, as far as nobody uses them.

        Yields the names of what went, each with "", and of volumes that stay, with why. An external one is
        not the project's. Raises PrepareError, VolumeError, StateError.
        """
        self._under_way.call_off(project, "the project was taken down")
        async with self._locks.setdefault(project, asyncio.Lock()):
            await self._under_way.quiet(project)
            entries = self.entries(project)
            if services:
                entries = with_dependents(entries, services)
            asked = DownAsked(tuple(services), volumes, grace_s)
            token = await asyncio.to_thread(self._asked.note, project, asked)
            try:
                async for gone in self._removing.take_away(
                    entries, manual=True, grace_s=grace_s, volumes=volumes
                ):
                    yield gone.stored.name, ""
                async for rest in self._removing.remove_resources(project, entries, volumes=volumes):
                    yield rest
                if not self.entries(project):
                    with contextlib.suppress(OSError):
                        await asyncio.to_thread(self.files.forget, project)
                await self._engine.stored()
            finally:
                self._asked.done(project, token)

    def unfinished(self) -> dict[str, UpAsked | DownAsked]:
        """What was asked of an earlier daemon, by project; what it grants is not swept meanwhile."""
        found = self._asked.load()
        for what in found.values():
            if isinstance(what, UpAsked):
                self._removing.coming.update(grant for spec in what.project.services for grant in spec.grants)
        return found

    async def go_on(self, project: str, what: UpAsked | DownAsked) -> None:
        """Come to the end of it, unless something newer was asked. What cannot be done is reported."""
        self._engine.report(f"{project}: going on with what the supervisor was asked before it ended")
        try:
            match what:
                case _ if self._asked.is_newer(project):
                    return
                case UpAsked():
                    async for _ in self.up(what.project, options=what.again()):
                        pass
                case DownAsked():
                    services, volumes, grace_s = what.services, what.volumes, what.grace_s
                    async for _ in self.down(project, services=services, volumes=volumes, grace_s=grace_s):
                        pass
        except (PlanError, PrepareError, VolumeError) as error:
            self._engine.report(f"cannot go on with {project}: {error}")
        finally:
            if isinstance(what, UpAsked):
                self._have_come(project, [g for spec in what.project.services for g in spec.grants], None)

    async def start(
        self, entries: Iterable[Entry], why: str = "started by you", *, boot: bool = False
    ) -> None:
        """Start instances, each when what it depends on among them lets it; see `Starting.start`.

        Raises PlanError where the host cannot be looked at: then nothing was started.
        """
        wanted = list(entries)
        await self._see_host([entry.stored.spec for entry in wanted])
        await self._starting.start(wanted, why, boot=boot)

    async def restart(
        self,
        entries: Collection[Entry],
        grace_s: float | None = None,
        why: str = "restarted by you",
        *,
        alone: bool = False,
    ) -> None:
        """Restart instances, and then, but for `alone`, what depends on them with `restart: true`."""
        await self._starting.restart(entries, grace_s, why, alone=alone)

    async def settled(self, entry: Entry) -> tuple[bool, str]:
        """Wait until it is certain whether an instance is up, see `outcomes.settled`."""
        return await settled(self._engine, entry)

    def cut_short(self) -> set[str]:
        """Ids of the instances, old and new, of replacements that an earlier daemon was in the middle of."""
        return self._replacing.cut_short(self._engine.entries.values())

    async def finish_updates(self) -> None:
        """Finish those, or undo them. Raises PrepareError, VolumeError."""

        async def one(project: str) -> None:
            async with self._locks.setdefault(project, asyncio.Lock()):
                await self._replacing.finish(self.entries(project), self._engine.report)

        projects = {self._engine.entries[name].stored.project for name in self.cut_short()}
        await asyncio.gather(*(one(project) for project in projects))


def _is_another(directory: str, own: str) -> bool:
    """Whether a directory is there and is not our own by another path."""
    try:
        return Path(directory).is_dir() and not Path(directory).samefile(own)
    except OSError:
        return True


def with_dependents(entries: Iterable[Entry], services: Iterable[str]) -> list[Entry]:
    """The instances of services, and those that depend on them, by what is stored."""
    everybody = list(entries)
    wanted = set(services)
    while True:
        more = {
            entry.stored.spec.name
            for entry in everybody
            if any(dependency.service in wanted for dependency in entry.stored.spec.depends_on)
        }
        if more <= wanted:
            return [entry for entry in everybody if entry.stored.spec.name in wanted]
        wanted |= more
