"""Operations on projects and on several instances: up, down, stop in order. They post events and wait."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial

import msgspec

from supervisor.core import events as ev
from supervisor.core.anonymous import name_anonymous
from supervisor.core.grants import FileGrant
from supervisor.core.graph import waves
from supervisor.core.model import Project, ServiceSpec
from supervisor.core.reconcile import Observed, Operation, Plan, container_name, reconcile
from supervisor.core.signals import signal_number
from supervisor.core.state import Created, Instance, Resting, Running, Waiting
from supervisor.daemon.engine import Engine, Entry, boottime_s
from supervisor.daemon.images import Images
from supervisor.daemon.state import Stored
from supervisor.daemon.volumes import Volumes
from supervisor.kernel import allocator
from supervisor.runtime.grants import GrantStore
from supervisor.runtime.translate import PlanError
from supervisor.runtime.volumes import VolumeError, external_missing

_NOTHING: Mapping[str, bytes] = {}
SETTLED_S = 1.0
"""A service that has run for so long is up; most that cannot work have ended by then."""


def config_hash(spec: ServiceSpec) -> str:
    """A digest of the whole definition of a service, as far as a Compose file can say it."""
    document = msgspec.to_builtins(spec)
    for name in ("auto_remove", "stdin_once"):
        del document[name]  # what was stored before there was such a field is what it was
    return hashlib.sha256(msgspec.json.encode(document)).hexdigest()


def stop_signal(spec: ServiceSpec) -> int:
    """Number of the stop signal; SIGTERM where none is named. Raises PlanError."""
    if spec.stop_signal is None:
        return 15
    number = signal_number(spec.stop_signal)
    if number is None:
        raise PlanError(f"cannot create service {spec.name}: no signal {spec.stop_signal!r} (stop_signal)")
    return number


def is_down(instance: Instance) -> bool:
    """Nothing of it runs and nothing will start it by itself."""
    return isinstance(instance.phase, Created | Resting)


def rests(instance: Instance) -> bool:
    """Down, and not only for a time."""
    return isinstance(instance.phase, Resting) and instance.phase.timer is None


def has_begun(instance: Instance) -> bool:
    """A start has come to something: it runs, or waits for the next try, or is down again."""
    return isinstance(instance.phase, Running | Waiting | Resting)


class Projects:
    """The operations; one project is changed by one caller at a time."""

    def __init__(
        self,
        engine: Engine,
        remove_files: Callable[[Stored], None],
        volumes: Volumes,
        grants: GrantStore,
        images: Images,
        look_again: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._remove_files = remove_files
        self._volumes = volumes
        self._grants = grants
        self._coming: Counter[FileGrant] = Counter()  # of projects that are being brought up
        self._images = images
        self._look_again = look_again
        self._locks: dict[str, asyncio.Lock] = {}

    def entries(self, project: str) -> list[Entry]:
        """Instances of a project, by name."""
        found = [e for e in self._engine.entries.values() if e.stored.project == project]
        return sorted(found, key=lambda entry: entry.stored.name)

    async def resolve(self, project: Project, contents: Mapping[str, bytes] = _NOTHING) -> Project:
        """With every image that is named found in the store, and every grant resolved. Raises PlanError.

        contents: of configs and secrets that are in no file, by `core.grants.content_key`.
        """
        project = await asyncio.to_thread(self._images.resolve, project)
        return await asyncio.to_thread(self._grants.resolve, project, contents)

    async def _see_host(self) -> None:
        """What appeared on the host is hidden from whatever starts from now on. Raises PlanError."""
        if await asyncio.to_thread(self._look_again):
            for entry in self._engine.entries.values():
                entry.plan = None  # made anew for its next run

    def plan(self, project: Project) -> Plan:
        """What `up` would do with a resolved project."""
        observed = tuple(
            Observed(
                entry.instance.id,
                entry.stored.name,
                entry.stored.spec.name,
                entry.stored.config_hash,
                not is_down(entry.instance),
                entry.stored.spec.grants,
            )
            for entry in self.entries(project.name)
        )
        return reconcile(project, {s.name: config_hash(s) for s in project.services}, observed)

    async def up(
        self,
        project: Project,
        contents: Mapping[str, bytes] = _NOTHING,
        *,
        start_down: bool = True,
        renew_volumes: bool = False,
    ) -> AsyncIterator[tuple[Operation, str]]:
        """Make it so; yields each operation with what came of it, in dependency order.

        contents: as for `resolve`. start_down: start what is there, unchanged, and down. Not at a boot, where
        the policies decide. renew_volumes: what is recreated gets new anonymous volumes, and the old ones go.
        What cannot be created is found before anything is touched. Raises PlanError, PrepareError,
        StateError, VolumeError.
        """
        project = await self.resolve(project, contents)
        await self._see_host()
        await self._check_external(project)
        coming = [grant for spec in project.services for grant in spec.grants]
        self._coming.update(coming)
        try:
            async with self._locks.setdefault(project.name, asyncio.Lock()):
                await asyncio.to_thread(self._grants.keep, project, contents)
                async for done in self._bring_up(project, start_down=start_down, renew_volumes=renew_volumes):
                    yield done
                allocator.give_back()  # the model, and what the plans were made with
        finally:
            self._coming.subtract(coming)
            self._coming += Counter()  # without what is zero
            if coming:
                await self.sweep_contents()

    async def _check_external(self, project: Project) -> None:
        """What a service mounts and nobody may make is there. Raises VolumeError."""
        used = {mount.source for spec in project.services for mount in spec.mounts if mount.type == "volume"}
        external = {volume.name for volume in project.volumes if volume.external} & used
        if external:
            missing = external - {record.name for record in await self._volumes.records()}
            for name in sorted(missing):
                raise external_missing(name)

    async def sweep_contents(self) -> None:
        """Remove the contents of configs and secrets that no instance is granted any more."""
        granted = [g for entry in self._engine.entries.values() for g in entry.stored.spec.grants]
        await asyncio.to_thread(self._grants.sweep, [*granted, *self._coming])

    async def _bring_up(
        self, project: Project, *, start_down: bool, renew_volumes: bool
    ) -> AsyncIterator[tuple[Operation, str]]:
        plan = self.plan(project)
        made = {
            op.service: self._made(project, project.service(op.service), op.id, renew_volumes=renew_volumes)
            for op in plan.operations
            if op.verb in ("create", "recreate")
        }
        needs = {spec.name: [d.service for d in spec.depends_on] for spec in project.services}
        for wave in waves(needs):
            operations = [op for op in plan.operations if op.service in wave and op.verb != "orphan"]
            async for done in self._wave(
                operations, made, start_down=start_down, renew_volumes=renew_volumes
            ):
                yield done
        for op in plan.operations:
            if op.verb == "orphan":
                yield op, op.cause
        await self._engine.stored()

    async def _wave(
        self,
        operations: list[Operation],
        made: dict[str, Stored],
        *,
        start_down: bool,
        renew_volumes: bool,
    ) -> AsyncIterator[tuple[Operation, str]]:
        """Operations that do not depend on each other, all at the same time."""
        old = [self._engine.entries[op.id] for op in operations if op.verb == "recreate"]
        await self.stop(old, manual=False, why="recreated")
        # At once, so that the database has the one or the other: who the anonymous volumes belong to.
        for entry in old:
            self._engine.forget(entry)
        recreated = {
            op.service: self._engine.add(made[op.service]) for op in operations if op.verb == "recreate"
        }
        for entry in old:
            await self._remove_rest(entry, volumes=renew_volumes)
        started: list[tuple[Operation, Entry]] = []
        for op in operations:
            match op.verb:
                case "keep" | "orphan":
                    yield op, op.cause
                    continue
                case "start" if not start_down:
                    yield op, "left down"
                    continue
                case "start":
                    entry = self._engine.entries[op.id]
                case "create":
                    entry = self._engine.add(made[op.service])
                case "recreate":
                    entry = recreated[op.service]
            self._engine.post(entry.instance.id, ev.StartRequested())
            started.append((op, entry))
        for op, entry in started:
            await self._engine.until(entry, has_begun)
            yield op, outcome(entry)

    def _made(
        self, project: Project, spec: ServiceSpec, replaced: str, *, renew_volumes: bool = False
    ) -> Stored:
        """A new instance of a service.

        replaced: id of the one whose name it takes, with its anonymous volumes unless `renew_volumes`.
        Raises PlanError.
        """
        name = container_name(project.name, spec)
        if any(e.stored.name == name and e.instance.id != replaced for e in self._engine.entries.values()):
            raise PlanError(
                f"cannot create {name}: the name is taken; remove that one, or set container_name"
            )
        instance = Instance(
            secrets.token_hex(32), spec.restart, stop_signal=stop_signal(spec), stop_grace_s=spec.stop_grace_s
        )
        before = self._engine.entries.get(replaced)
        kept = None if before is None or renew_volumes else before.stored.spec
        return Stored(
            instance,
            name_anonymous(spec, kept, partial(secrets.token_hex, 32)),
            project.name,
            1,
            name,
            time.time(),
            config_hash(spec),
            project.working_dir,
            project.volumes,
        )

    async def stop(
        self,
        entries: Iterable[Entry],
        *,
        manual: bool = True,
        grace_s: float | None = None,
        hold_s: float | None = None,
        why: str = "stopped by you",
    ) -> None:
        """Stop instances, dependents before what they depend on, and wait until all are down."""
        wanted = list(entries)
        request = ev.StopRequested(manual, grace_s, None, hold_s, why)
        for wave in reversed(waves(_needs(wanted))):
            group = [entry for entry in wanted if _key(entry) in wave]
            for entry in group:
                self._engine.post(entry.instance.id, request)
            for entry in group:
                await self._engine.until(entry, is_down)

    async def start(self, entries: Iterable[Entry], why: str = "started by you") -> None:
        """Start instances in dependency order; returns when each start has come to something.

        Raises PlanError where the host cannot be looked at: then nothing was started.
        """
        wanted = list(entries)
        if any(entry.stored.spec.rootfs.kind == "host" for entry in wanted):
            await self._see_host()
        for wave in waves(_needs(wanted)):
            group = [entry for entry in wanted if _key(entry) in wave]
            for entry in group:
                self._engine.post(entry.instance.id, ev.StartRequested(why))
            for entry in group:
                await self._engine.until(entry, has_begun)

    async def remove(self, entry: Entry, *, volumes: bool = False) -> None:
        """Forget an instance that is down, with its files, and with `volumes` its anonymous volumes.

        Raises PrepareError, VolumeError.
        """
        self._engine.forget(entry)
        await self._remove_rest(entry, volumes=volumes)
        if entry.stored.spec.grants:
            await self.sweep_contents()

    async def _remove_rest(self, entry: Entry, *, volumes: bool) -> None:
        """Of one that is forgotten."""
        await asyncio.to_thread(self._remove_files, entry.stored)
        if volumes:
            await self._volumes.remove_anonymous(entry.stored.spec)

    async def _removed(self, entry: Entry, *, volumes: bool) -> str:
        await self.remove(entry, volumes=volumes)
        return entry.stored.name

    async def down(
        self, project: str, *, volumes: bool = False, grace_s: float | None = None
    ) -> AsyncIterator[tuple[str, str]]:
        """Stop and remove all of a project, with `volumes` its named and anonymous ones.

        Yields the names of what went, each with "", and of volumes that stay, with why. An external one is
        not the project's. Raises PrepareError, VolumeError, StateError.
        """
        async with self._locks.setdefault(project, asyncio.Lock()):
            entries = self.entries(project)
            await self.stop(entries, manual=True, grace_s=grace_s)
            removing = [asyncio.ensure_future(self._removed(entry, volumes=volumes)) for entry in entries]
            for gone in asyncio.as_completed(removing):
                yield await gone, ""
            declared = [volume for entry in entries for volume in entry.stored.volumes]
            own = {v.name for v in declared if not v.external}
            if volumes:
                own |= await self._volumes.of_project(project)
                own -= {v.name for v in declared if v.external}
            for name in sorted(own) if volumes else ():
                try:
                    if await self._volumes.remove(name):
                        yield f"volume {name}", ""
                except VolumeError as error:
                    yield f"volume {name}", str(error)
            await self._engine.stored()

    async def settled(self, entry: Entry) -> tuple[bool, str]:
        """Wait until it is certain whether an instance is up; (whether it is, what it has come to).

        Up is: running for SETTLED_S, or ended well where its policy does not start it again. A restart under
        way is neither; without a limit of restarts that can take for ever.
        """
        while True:
            await self._engine.until(entry, lambda i: isinstance(i.phase, Running) or rests(i))
            instance = entry.instance
            if not isinstance(instance.phase, Running):
                return instance.last is not None and instance.last.code == 0, outcome(entry)
            left_s = SETTLED_S - (boottime_s() - instance.phase.started_s)
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._engine.until(entry, partial(_is_over, instance.run))
            except TimeoutError:
                return True, "running"


def _is_over(run: int, instance: Instance) -> bool:
    """That run does not run any more."""
    return instance.run != run or not isinstance(instance.phase, Running)


def _key(entry: Entry) -> str:
    return f"{entry.stored.project}\0{entry.stored.spec.name}"


def _needs(entries: list[Entry]) -> dict[str, list[str]]:
    return {
        _key(entry): [f"{entry.stored.project}\0{d.service}" for d in entry.stored.spec.depends_on]
        for entry in entries
    }


def outcome(entry: Entry) -> str:
    """What an instance has come to, in the words of `up` and `start`."""
    instance = entry.instance
    match instance.phase:
        case Running():
            return "running"
        case Waiting():
            return f"restarting: {instance.reason}"
        case Created():
            return "never started"
        case _:
            return f"exited: {instance.reason}"
