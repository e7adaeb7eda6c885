"""Operations on projects and on several instances: up, down, stop in order. They post events and wait."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from supervisor.core import events as ev
from supervisor.core.anonymous import name_anonymous
from supervisor.core.grants import FileGrant
from supervisor.core.graph import DependencyCycleError, waves
from supervisor.core.model import Project, ServiceSpec
from supervisor.core.ownership import other_places, place_clash
from supervisor.core.reconcile import Observed, Operation, Plan, container_name, reconcile
from supervisor.core.signals import signal_number
from supervisor.core.state import Created, Instance, Resting, Running, Waiting
from supervisor.daemon.engine import Engine, Entry, boottime_s
from supervisor.daemon.hooks import Hooks
from supervisor.daemon.images import Images
from supervisor.daemon.networks import Networks
from supervisor.daemon.ordering import HeldBackError, Turns, checked, let_start
from supervisor.daemon.outcomes import drained, ended_well, is_known, is_over, outcome
from supervisor.daemon.state import Stored
from supervisor.daemon.volumes import Volumes, named_volumes
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


def _is_another(directory: str, own: str) -> bool:
    """Whether a directory is there and is not our own by another path."""
    try:
        return Path(directory).is_dir() and not Path(directory).samefile(own)
    except OSError:
        return True


def stop_signal(spec: ServiceSpec) -> int:
    """Number of the stop signal; SIGTERM where none is named. Raises PlanError."""
    if spec.stop_signal is None:
        return 15
    number = signal_number(spec.stop_signal)
    if number is None:
        raise PlanError(f"cannot create service {spec.name}: no signal {spec.stop_signal!r} (stop_signal)")
    return number


def new_instance(project: Project, spec: ServiceSpec, name: str, before: ServiceSpec | None = None) -> Stored:
    """An instance that nobody knows yet. before: of which it has the anonymous volumes. Raises PlanError."""
    instance = Instance(
        secrets.token_hex(32), spec.restart, stop_signal=stop_signal(spec), stop_grace_s=spec.stop_grace_s
    )
    return Stored(
        instance,
        name_anonymous(spec, before, partial(secrets.token_hex, 32)),
        project.name,
        1,
        name,
        time.time(),
        config_hash(spec),
        project.working_dir,
        project.volumes,
    )


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
        look_again: Callable[..., bool],
        hooks: Hooks,
        networks: Networks,
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._remove_files = remove_files
        self._volumes = volumes
        self._grants = grants
        self._coming: Counter[FileGrant] = Counter()  # of projects that are being brought up
        self._images = images
        self._look_again = look_again
        self._hooks = hooks
        self._locks: dict[str, asyncio.Lock] = {}
        self._turns: dict[str, dict[asyncio.Future[list[None]], Turns]] = {}

    def entries(self, project: str) -> list[Entry]:
        """Instances of a project, by name."""
        found = [e for e in self._engine.entries.values() if e.stored.project == project]
        return sorted(found, key=lambda entry: entry.stored.name)

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
        """What appeared on the host is hidden from these, which are about to start. Raises PlanError."""
        layers = any(spec.rootfs.kind == "host" for spec in specs)
        if await asyncio.to_thread(partial(self._look_again, layers=layers)):
            for entry in self._engine.entries.values():
                entry.plan = None  # made anew for its next run

    def plan(self, project: Project) -> Plan:
        """What `up` would do with a resolved project. Raises PlanError: services that wait for each other."""
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
        try:
            return self._plan(project, observed)
        except DependencyCycleError as error:
            raise PlanError(f"cannot bring up {project.name}: {error}") from error

    @staticmethod
    def _plan(project: Project, observed: tuple[Observed, ...]) -> Plan:
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

        Who stops listening ends nothing: what waits for its dependencies is started when they let it, unless
        `down` or a newer `up` calls it off.

        project: resolved, with these `contents`. start_down: start what is there, unchanged, and down. Not at
        a boot, where the policies decide. renew_volumes: what is recreated gets new anonymous volumes, and
        the old ones go. What cannot be created is found before anything is touched. Raises PlanError,
        PrepareError, StateError, VolumeError.
        """
        await self._see_host(project.services)
        await self._check_external(project)
        coming = [grant for spec in project.services for grant in spec.grants]
        self._coming.update(coming)
        self._call_off(project.name, "a newer `up` took over")
        try:
            async with self._locks.setdefault(project.name, asyncio.Lock()):
                await self._quiet(project.name)
                await self._check_place(project)
                await asyncio.to_thread(self._grants.keep, project, contents)
                await self._networks.bring_up(project.name, project.networks)
                self._take_place(project)
                plan = self.plan(project)
                made = {
                    op.service: self._made(
                        project, project.service(op.service), op.id, renew_volumes=renew_volumes
                    )
                    for op in plan.operations
                    if op.verb in ("create", "recreate")
                }
                async for done in self._carry_out(
                    project.name, plan, made, start_down=start_down, renew_volumes=renew_volumes
                ):
                    yield done
                for op in plan.operations:
                    if op.verb == "orphan":
                        yield op, op.cause
                await self._engine.stored()
                allocator.give_back()  # the model, and what the plans were made with
        finally:
            self._have_come(project.name, coming)
            if coming:
                await self.sweep_contents()

    def _have_come(self, project: str, coming: list[FileGrant]) -> None:
        """Who was granted these is known to the engine now, or as soon as what waits has come to its end."""
        if waiting := list(self._turns.get(project, {})):
            waiting[-1].add_done_callback(lambda _: self._have_come(project, coming))
            return
        self._coming.subtract(coming)
        self._coming += Counter()  # without what is zero

    async def _check_external(self, project: Project) -> None:
        """What a service mounts and nobody may make is there. Raises VolumeError."""
        used = {name for spec in project.services for name in named_volumes(spec)}
        external = {volume.name for volume in project.volumes if volume.external} & used
        if external:
            missing = external - {record.name for record in await self._volumes.records()}
            for name in sorted(missing):
                raise external_missing(name)

    async def sweep_contents(self) -> None:
        """Remove the contents of configs and secrets that no instance is granted any more."""
        granted = [g for entry in self._engine.entries.values() for g in entry.stored.spec.grants]
        await asyncio.to_thread(self._grants.sweep, [*granted, *self._coming])

    async def _carry_out(
        self, project: str, plan: Plan, made: dict[str, Stored], *, start_down: bool, renew_volumes: bool
    ) -> AsyncIterator[tuple[Operation, str]]:
        """All operations at the same time, each waiting for what its service depends on."""
        operations = [op for op in plan.operations if op.verb != "orphan"]
        news: asyncio.Queue[tuple[Operation, str]] = asyncio.Queue()
        renewed = {op.service for op in operations if op.verb == "recreate"}
        entries = {op.service: self._engine.entries[op.id] for op in operations if op.id}
        entries |= {
            op.service: self._engine.add(made[op.service]) for op in operations if op.verb == "create"
        }
        turns = Turns(
            {op.service: asyncio.Event() for op in operations},
            lambda service: [entries[service]] if service in entries else [],
            patient=not start_down,
        )

        async def one(op: Operation) -> None:
            def say(why: str) -> None:
                news.put_nowait((op, why))

            try:
                if op.verb == "keep" or (op.verb == "start" and not start_down):
                    spec = entries[op.service].stored.spec
                    causes = [d.service for d in spec.depends_on if d.restart and d.service in renewed]
                    if not causes or is_down(entries[op.service].instance):
                        news.put_nowait((op, "left down" if op.verb == "start" else op.cause))
                        return
                    turns.begun[op.service].set()  # it runs: nobody has to wait for its restart
                    await self._again(entries[op.service], turns, f"{causes[0]} was recreated")
                    news.put_nowait((op, f"restarted: {causes[0]} was recreated"))
                    return
                entry = entries[op.service]
                if op.verb == "recreate":
                    await let_start(self._engine, entry, made[op.service].spec, turns, say)
                    await self.stop([entry], manual=False, why="recreated")
                    # At once, so that the database has the one or the other, and with it the volumes.
                    self._engine.forget(entry)
                    before, entry = entry, self._engine.add(made[op.service])
                    entries[op.service] = entry
                    await self._remove_rest(before, volumes=renew_volumes)
                else:
                    await let_start(self._engine, entry, entry.stored.spec, turns, say)
                self._engine.post(entry.instance.id, ev.StartRequested())
                await self._engine.until(entry, has_begun)
                failure = await self._hooks.after_start(entry)
                notes = [*([failure] if failure else []), *turns.warnings.get(op.service, [])]
                news.put_nowait((op, "; ".join([outcome(entry), *notes])))
            except HeldBackError as error:
                word = "not recreated" if op.verb == "recreate" else "not started"
                news.put_nowait((op, f"{word}: {error}"))
            finally:
                turns.begun[op.service].set()

        whole = self._waiting(project, turns, [one(op) for op in operations])
        async for each in drained(news, whole):
            yield each

    async def _again(self, entry: Entry, turns: Turns, why: str) -> None:
        """Restart an instance that is up, once its dependencies let it. Raises HeldBackError."""
        await let_start(self._engine, entry, entry.stored.spec, turns)
        await self._restart_one(entry, None, why)

    async def _restart_one(self, entry: Entry, grace_s: float | None, why: str) -> None:
        run = entry.instance.run
        given_s = entry.instance.stop_grace_s if grace_s is None else grace_s
        left_s = await self._hooks.before_stop(entry, given_s)
        self._engine.post(entry.instance.id, ev.RestartRequested(left_s, why))
        await self._engine.until(
            entry, lambda i: (i.run > run and isinstance(i.phase, Running | Resting)) or is_down(i)
        )

    async def restart(
        self, entry: Entry, grace_s: float | None = None, why: str = "restarted by you"
    ) -> None:
        """Restart one; then those up that depend on it with `restart: true`, when its condition is met."""
        await self._restart_one(entry, grace_s, why)
        done = {entry.stored.spec.name}
        following = [entry]
        while following:
            cause = following.pop(0).stored.spec.name
            for other in self.entries(entry.stored.project) if entry.stored.project else []:
                spec = other.stored.spec
                if spec.name in done or is_down(other.instance):
                    continue
                needs = [d for d in spec.depends_on if d.service == cause and d.restart]
                if not needs:
                    continue
                done.add(spec.name)
                turns = Turns({}, partial(self._of, entry.stored.project))
                again = self._again(other, turns, f"{cause} was restarted")
                try:
                    await self._waiting(entry.stored.project, turns, [again])
                except HeldBackError:
                    continue  # it runs on, and its dependency tells why
                following.append(other)

    def _waiting(
        self, project: str, turns: Turns, work: list[Coroutine[Any, Any, None]]
    ) -> asyncio.Future[list[None]]:
        """Starts that may wait, under way; until they are done they can be called off."""
        whole = asyncio.gather(*work)
        here = self._turns.setdefault(project, {})
        here[whole] = turns

        def done(ended: asyncio.Future[list[None]]) -> None:
            del here[ended]
            if not ended.cancelled():
                ended.exception()  # it may be that nobody asks for it any more

        whole.add_done_callback(done)
        return whole

    def _call_off(self, project: str, why: str) -> None:
        for turns in self._turns.get(project, {}).values():
            turns.call_off(why, self.entries(project))

    def leave(self) -> None:
        """From now on nothing that waits is started; the next supervisor goes on with it."""
        for project in self._turns:
            self._call_off(project, "the supervisor was shut down")

    async def _quiet(self, project: str) -> None:
        """Wait for what was called off; what is in the middle of a start comes to its end."""
        if working := list(self._turns.get(project, {})):
            await asyncio.wait(working)

    def _of(self, project: str, service: str) -> list[Entry]:
        return [entry for entry in self.entries(project) if entry.stored.spec.name == service]

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
        if spec.hooks.pre_start:
            raise PlanError(
                f"cannot create {name}: pre_start hooks are not built; use a service of its own, and"
                " depends_on with service_completed_successfully"
            )
        before = self._engine.entries.get(replaced)
        kept = None if before is None or renew_volumes else before.stored.spec
        return new_instance(project, spec, name, kept)

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
        for group in reversed(in_waves(wanted)):
            await self._before_stop(group, request)
            for entry in group:
                await self._engine.until(entry, is_down)

    async def _before_stop(self, group: list[Entry], request: ev.StopRequested) -> None:
        """Ask each to stop, when its pre_stop hooks have had their part of its grace period."""

        async def after_hooks(entry: Entry, given_s: float) -> None:
            left_s = await self._hooks.before_stop(entry, given_s)
            self._engine.post(entry.instance.id, replace(request, grace_s=left_s))

        hooked = []
        for entry in group:
            given_s = entry.instance.stop_grace_s if request.grace_s is None else request.grace_s
            if entry.stored.spec.hooks.pre_stop and isinstance(entry.instance.phase, Running):
                hooked.append(after_hooks(entry, given_s))
            else:
                self._engine.post(entry.instance.id, request)
        await asyncio.gather(*hooked)

    async def start(
        self, entries: Iterable[Entry], why: str = "started by you", *, boot: bool = False
    ) -> None:
        """Start instances, each when what it depends on among them lets it; returns when each start has come
        to something, or will not come: then it has its reason.

        boot: nobody waits for it, and all services of a project count as dependencies. Raises PlanError where
        the host cannot be looked at: then nothing was started.
        """
        wanted = list(entries)
        await self._see_host([entry.stored.spec for entry in wanted])
        projects: dict[str, list[Entry]] = {}
        for entry in wanted:
            projects.setdefault(entry.stored.project, []).append(entry)
        await asyncio.gather(
            *(self._start_project(name, group, why, boot=boot) for name, group in projects.items())
        )

    async def _start_project(self, project: str, group: list[Entry], why: str, *, boot: bool) -> None:
        def among(service: str) -> list[Entry]:
            here = self._of(project, service) if boot else group
            return [entry for entry in here if entry.stored.spec.name == service]

        turns = Turns({entry.stored.spec.name: asyncio.Event() for entry in group}, among, patient=boot)

        async def one(entry: Entry) -> None:
            try:
                await let_start(self._engine, entry, entry.stored.spec, turns)
                self._engine.post(entry.instance.id, ev.StartRequested(why))
                await self._engine.until(entry, has_begun)
                await self._hooks.after_start(entry)
            except HeldBackError:
                pass  # it has its reason
            finally:
                turns.begun[entry.stored.spec.name].set()

        await self._waiting(project, turns, [one(entry) for entry in group])

    async def remove(self, entry: Entry, *, volumes: bool = False) -> None:
        """Forget an instance that is down, with its files, and with `volumes` its anonymous volumes.

        Raises PrepareError, VolumeError.
        """
        self._engine.forget(entry)
        await self._remove_rest(entry, volumes=volumes)
        if entry.stored.spec.grants:
            await self.sweep_contents()

    async def _remove_rest(self, entry: Entry, *, volumes: bool) -> None:
        """Of one that is forgotten, its place in networks first."""
        await self._networks.detach(entry.instance.id)
        for other in self._engine.entries.values():
            if other.plan is not None and other.plan.net.endswith(f"/{entry.instance.id}"):
                other.plan = None  # it shared its network
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
        self._call_off(project, "the project was taken down")
        async with self._locks.setdefault(project, asyncio.Lock()):
            await self._quiet(project)
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
            for name in await self._networks.take_down(project):
                yield f"network {name}", ""
            await self._engine.stored()

    async def settled(self, entry: Entry) -> tuple[bool, str]:
        """Wait until it is certain whether an instance is up; (whether it is, what it has come to).

        Up is: healthy; without a healthcheck, running for SETTLED_S; or ended well where its policy does not
        start it again. A restart under way is neither; without a limit of restarts that can take for ever.
        """
        while True:
            await self._engine.until(entry, lambda i: isinstance(i.phase, Running | Created) or rests(i))
            instance = entry.instance
            if not isinstance(instance.phase, Running):
                return ended_well(instance), outcome(entry)
            run = instance.run
            if checked(entry):
                await self._engine.until(entry, partial(is_known, run))
                if not is_over(run, entry.instance):
                    return entry.instance.health == "healthy", outcome(entry)
                continue
            left_s = SETTLED_S - (boottime_s() - instance.phase.started_s)
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._engine.until(entry, partial(is_over, run))
            except TimeoutError:
                return True, "running"


def in_waves(entries: list[Entry]) -> list[list[Entry]]:
    """Stored instances in groups: what each depends on is in earlier ones.

    Those of several versions of a file may go round in a circle: then they are one group, without order.
    """
    of_service: dict[str, list[Entry]] = {}
    needs: dict[str, list[str]] = {}
    for entry in entries:
        project, spec = entry.stored.project, entry.stored.spec
        of_service.setdefault(f"{project}\0{spec.name}", []).append(entry)
        needs[f"{project}\0{spec.name}"] = [f"{project}\0{d.service}" for d in spec.depends_on]
    try:
        return [[entry for name in wave for entry in of_service[name]] for wave in waves(needs)]
    except DependencyCycleError:
        return [entries]
