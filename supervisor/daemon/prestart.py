"""`pre_start` hooks: what has to end well before a service is started.

Each runs in an instance of its own, one after the other: with the service's root, or an image of its own, and
with all that the service has but its ports and its fixed addresses. As with Compose they belong to a start
that somebody asks for, or that a boot makes: a restart, by a person or by policy, does not run them. They run
once for a service, before the first of its instances, and not while another of these runs; with `per_replica`
before each.

What a hook wrote stays, to be read among the logs of its service, until the hooks run anew or the service is
removed. A hook that outlived its daemon is ended by the next one, which begins again at the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.exits import describe
from supervisor.core.healthcheck import Healthcheck, Hook, Hooks
from supervisor.core.model import RestartRules, Rootfs, ServiceSpec
from supervisor.core.network import Attachment
from supervisor.core.state import Running
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.ordering import HeldBackError, Turns, still_wanted
from supervisor.daemon.outcomes import is_down
from supervisor.daemon.plans import LaunchPlans
from supervisor.daemon.state import Stored
from supervisor.runtime.logs import read

_TAIL_LINES = 3


class NotStartedError(HeldBackError):
    """What would have come before its start failed: the instance is there, and is not started."""


class PreStart:
    """See the module. Belongs to the event loop."""

    def __init__(
        self,
        engine: Engine,
        plans: LaunchPlans,
        make: Callable[[Stored, ServiceSpec], Stored],
        log_of: Callable[[str], str],
        drained: Callable[[Entry], Awaitable[None]],
    ) -> None:
        """make: an instance that belongs to no project, beside a service's. log_of: path of the log of one.

        drained: waits until that has all output of what has ended.
        """
        self._engine = engine
        self._plans = plans
        self._make = make
        self._log_of = log_of
        self._drained = drained

    async def before_start(self, entry: Entry, turns: Turns, *, first: bool = False) -> None:
        """Run the hooks of an instance that is about to be started. Raises HeldBackError: it is not to be.

        first: whatever else of the service runs is of an earlier definition.
        """
        hooks = entry.stored.spec.hooks.pre_start
        if not hooks or not is_down(entry.instance):
            return
        others = [each for each in self._engine.entries.values() if _are_replicas(each, entry)]
        service_runs = not first and any(isinstance(each.instance.phase, Running) for each in others)
        prepared = False
        for number, hook in enumerate(hooks, 1):
            if service_runs and not hook.per_replica:
                continue
            if not prepared:
                prepared = True
                await self.remove(entry)
                await self._prepare(entry)
            if hook.per_replica:
                failure = await self._one(entry, number, hook, turns)
            else:
                key = entry.stored.spec.name, number
                if key not in turns.hooks:
                    turns.hooks[key] = asyncio.ensure_future(self._one(entry, number, hook, turns))
                failure = await asyncio.shield(turns.hooks[key])
            still_wanted(self._engine, entry, turns)
            if failure:
                why = f"pre_start hook {' '.join(hook.command)!r} failed: {failure}"
                self._engine.post(entry.instance.id, ev.Held(f"not started: {why}", refused=True))
                raise NotStartedError(why)

    async def end(self, entries: Iterable[Entry]) -> None:
        """Wait until no hook of these runs: they are not to be started any more, as is known of them."""
        for entry in entries:
            for hook in hooks_of(self._engine, entry):
                self._engine.post(hook.instance.id, ev.StopRequested(why="its service is not to be started"))
                await self._engine.until(hook, is_down)

    async def remove(self, entry: Entry) -> None:
        """End and forget the hooks that ran for an instance, with what they wrote."""
        for hook in hooks_of(self._engine, entry):
            await self._end(hook, "its service begins anew")
            if self._engine.entries.get(hook.instance.id) is hook:
                self._engine.forget(hook)
                await asyncio.to_thread(self._plans.remove, hook.stored)

    def sweep(self) -> None:
        """At a start of the daemon: what an earlier one began is not waited for any more."""
        for entry in list(self._engine.entries.values()):
            if entry.stored.spec.hook_of and not is_down(entry.instance):
                self._engine.post(entry.instance.id, ev.StopRequested(grace_s=0, why="its supervisor died"))

    async def _prepare(self, entry: Entry) -> None:
        """The volumes of the service are made, and filled from its own root, not from that of a hook."""

        def make() -> None:
            with self._plans.looked_at(entry.stored):
                pass

        try:
            await asyncio.to_thread(make)
        except Exception as error:
            self._engine.post(entry.instance.id, ev.Held(f"not started: {error}", refused=True))
            raise NotStartedError(str(error)) from error

    async def _one(self, entry: Entry, number: int, hook: Hook, turns: Turns) -> str:
        """Run one to its end; empty, or what it failed at."""
        stored = entry.stored
        spec = self._spec(entry, number, hook)
        made = self._engine.add(self._make(stored, spec))
        self._engine.post(entry.instance.id, ev.Held(f"waits for its pre_start hook {number}"))
        self._engine.post(made.instance.id, ev.StartRequested(f"pre_start hook {number} of {stored.name}"))
        while not is_down(made.instance):
            if turns.off or entry.instance.manually_stopped or entry.instance.id not in self._engine.entries:
                await self._end(made, turns.off or "its service was stopped")
                return "it was ended"
            await _first(made.changed.wait(), entry.changed.wait())
        ending = made.instance.last
        if ending is None or ending.code == 0:
            return "" if ending is not None else "it was ended"
        await self._drained(made)
        return ", ".join([describe(ending), *await asyncio.to_thread(self._last_lines, made)])

    async def _end(self, hook: Entry, why: str) -> None:
        self._engine.post(hook.instance.id, ev.StopRequested(why=why))
        await self._engine.until(hook, is_down)

    def _last_lines(self, hook: Entry) -> list[str]:
        try:
            lines = list(read(hook.stored.name, self._log_of(hook.instance.id), tail=_TAIL_LINES))
        except OSError:
            return []
        return [text for line in lines if (text := line.text.decode("utf-8", "replace").strip())]

    def _spec(self, entry: Entry, number: int, hook: Hook) -> ServiceSpec:
        """The service as a hook of it is: its command and what it says itself in place of the service's."""
        spec, stored = entry.stored.spec, entry.stored
        own = None if hook.image is None else Rootfs("image", hook.image, hook.image_id, hook.layers)
        return replace(
            spec,
            name=f"{stored.name}-pre_start-{number}",
            container_name=None,
            entrypoint=None,
            command=hook.command,
            environment=hook.environment,
            user=hook.user,
            working_dir=hook.working_dir,
            privileged=spec.privileged or hook.privileged,
            rootfs=own or spec.rootfs,
            restart=RestartRules(),
            depends_on=(),
            ports=(),
            networks=tuple(Attachment(each.network, driver_opts=each.driver_opts) for each in spec.networks),
            network_mode=self._network_mode(stored.project, spec.network_mode),
            healthcheck=Healthcheck(disabled=True),
            ready=None,
            hooks=Hooks(),
            labels=(*spec.labels, ("com.docker.compose.hook", "pre_start")),
            tty=False,
            stdin_open=False,
            replicas=1,
            hook_of=stored.instance.id,
        )

    def _network_mode(self, project: str, mode: str) -> str:
        """A hook is in no project: a service is named by its container to it."""
        kind, colon, name = mode.partition(":")
        if kind != "service" or not colon:
            return mode
        for each in self._engine.entries.values():
            if (each.stored.project, each.stored.spec.name) == (project, name):
                return f"container:{each.stored.name}"
        return mode


def hooks_of(engine: Engine, entry: Entry) -> list[Entry]:
    """The instances of pre_start hooks of an instance, in their order."""
    found = [each for each in engine.entries.values() if each.stored.spec.hook_of == entry.instance.id]
    return sorted(found, key=lambda each: each.stored.created_wall)


def _are_replicas(one: Entry, other: Entry) -> bool:
    a, b = one.stored, other.stored
    return one is not other and (a.project, a.spec.name) == (b.project, b.spec.name)


async def _first(*waits: Awaitable[object]) -> None:
    """Wait for the first of several."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
