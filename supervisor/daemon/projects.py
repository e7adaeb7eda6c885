"""Operations on projects and on several instances: up, down, stop in order. They post events and wait."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial

import msgspec

from supervisor.core import events as ev
from supervisor.core.graph import waves
from supervisor.core.model import Project, ServiceSpec
from supervisor.core.reconcile import Observed, Operation, Plan, container_name, network_of, reconcile
from supervisor.core.signals import signal_number
from supervisor.core.state import Created, Instance, Resting, Running, Waiting
from supervisor.daemon.engine import Engine, Entry, boottime_s
from supervisor.daemon.images import Images
from supervisor.daemon.networks import Networks
from supervisor.daemon.state import Stored
from supervisor.kernel import allocator
from supervisor.runtime.translate import PlanError

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
        remove_volume: Callable[[str], bool],
        images: Images,
        look_again: Callable[[], bool],
        networks: Networks,
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._remove_files = remove_files
        self._remove_volume = remove_volume
        self._images = images
        self._look_again = look_again
        self._locks: dict[str, asyncio.Lock] = {}

    def entries(self, project: str) -> list[Entry]:
        """Instances of a project, by name."""
        found = [e for e in self._engine.entries.values() if e.stored.project == project]
        return sorted(found, key=lambda entry: entry.stored.name)

    async def resolve(self, project: Project) -> Project:
        """With every image that is named found in the store. Raises PlanError."""
        return await asyncio.to_thread(self._images.resolve, project)

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
            )
            for entry in self.entries(project.name)
        )
        return reconcile(project, {s.name: config_hash(s) for s in project.services}, observed)

    async def up(self, project: Project, *, start_down: bool = True) -> AsyncIterator[tuple[Operation, str]]:
        """Make it so; yields each operation with what came of it, in dependency order.

        start_down: start what is there, unchanged, and down. Not at a boot, where the policies decide. What
        cannot be created is found before anything is touched. Raises PlanError, PrepareError, StateError.
        """
        project = await self.resolve(project)
        await self._see_host()
        async with self._locks.setdefault(project.name, asyncio.Lock()):
            plan = self.plan(project)
            made = {
                op.service: self._made(project, project.service(op.service), op.id)
                for op in plan.operations
                if op.verb in ("create", "recreate")
            }
            needs = {
                spec.name: [*(d.service for d in spec.depends_on), *filter(None, [network_of(spec)])]
                for spec in project.services
            }
            await self._networks.bring_up(project.name, project.networks)
            for wave in waves(needs):
                operations = [op for op in plan.operations if op.service in wave and op.verb != "orphan"]
                async for done in self._wave(operations, made, start_down=start_down):
                    yield done
            for op in plan.operations:
                if op.verb == "orphan":
                    yield op, op.cause
            await self._engine.stored()
            allocator.give_back()  # the model, and what the plans were made with

    async def _wave(
        self, operations: list[Operation], made: dict[str, Stored], *, start_down: bool
    ) -> AsyncIterator[tuple[Operation, str]]:
        """Operations that do not depend on each other, all at the same time."""
        old = [self._engine.entries[op.id] for op in operations if op.verb == "recreate"]
        await self.stop(old, manual=False, why="recreated")
        for entry in old:
            await self.remove(entry)
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
                case "create" | "recreate":
                    entry = self._engine.add(made[op.service])
            self._engine.post(entry.instance.id, ev.StartRequested())
            started.append((op, entry))
        for op, entry in started:
            await self._engine.until(entry, has_begun)
            yield op, outcome(entry)

    def _made(self, project: Project, spec: ServiceSpec, replaced: str) -> Stored:
        """A new instance of a service. replaced: id of the one whose name it takes. Raises PlanError."""
        name = container_name(project.name, spec)
        if any(e.stored.name == name and e.instance.id != replaced for e in self._engine.entries.values()):
            raise PlanError(
                f"cannot create {name}: the name is taken; remove that one, or set container_name"
            )
        instance = Instance(
            secrets.token_hex(32), spec.restart, stop_signal=stop_signal(spec), stop_grace_s=spec.stop_grace_s
        )
        return Stored(
            instance,
            spec,
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

    async def remove(self, entry: Entry) -> None:
        """Forget an instance that is down, with its place in networks and its files."""
        self._engine.forget(entry)
        await self._networks.detach(entry.instance.id)
        for other in self._engine.entries.values():
            if other.plan is not None and other.plan.net.endswith(f"/{entry.instance.id}"):
                other.plan = None  # it shared its network
        await asyncio.to_thread(self._remove_files, entry.stored)

    async def _removed(self, entry: Entry) -> str:
        await self.remove(entry)
        return entry.stored.name

    async def down(
        self, project: str, *, volumes: bool = False, grace_s: float | None = None
    ) -> AsyncIterator[str]:
        """Stop and remove all of a project, with `volumes` its named ones; yields the names of what went."""
        async with self._locks.setdefault(project, asyncio.Lock()):
            entries = self.entries(project)
            await self.stop(entries, manual=True, grace_s=grace_s)
            removing = [asyncio.ensure_future(self._removed(entry)) for entry in entries]
            for gone in asyncio.as_completed(removing):
                yield await gone
            own = {v.name for entry in entries for v in entry.stored.volumes if not v.external}
            for name in sorted(own) if volumes else ():
                if await asyncio.to_thread(self._remove_volume, name):
                    yield f"volume {name}"
            for name in await self._networks.take_down(project):
                yield f"network {name}"
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
