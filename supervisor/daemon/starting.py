"""Starting and restarting instances that are there, in the order of their dependencies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from functools import partial

from supervisor.core import events as ev
from supervisor.core.state import Resting, Running
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.hooks import Hooks
from supervisor.daemon.ordering import HeldBackError, Turns, UnderWay, let_start
from supervisor.daemon.outcomes import has_begun, is_down


class Starting:
    """See the module."""

    def __init__(
        self, engine: Engine, hooks: Hooks, under_way: UnderWay, entries: Callable[[str], list[Entry]]
    ) -> None:
        """entries: the instances of a project that others may depend on."""
        self._engine = engine
        self._hooks = hooks
        self._under_way = under_way
        self._entries = entries

    async def start(self, entries: Iterable[Entry], why: str, *, boot: bool) -> None:
        """Start each when what it depends on among them lets it.

        Returns when each start has come to something, or will not come: then it has its reason.

        boot: nobody waits for it, and all services of a project count as dependencies, as they do for what is
        run once.
        """
        projects: dict[str, list[Entry]] = {}
        for entry in entries:
            projects.setdefault(entry.stored.project, []).append(entry)
        await asyncio.gather(
            *(self._start_project(name, group, why, boot=boot) for name, group in projects.items())
        )

    async def _start_project(self, project: str, group: list[Entry], why: str, *, boot: bool) -> None:
        def among(service: str) -> list[Entry]:
            counting = self._entries(project) if boot or group[0].stored.spec.one_off else group
            return [entry for entry in counting if entry.stored.spec.name == service]

        begun = {entry.instance.id: asyncio.Event() for entry in group}
        by_service: dict[str, list[asyncio.Event]] = {}
        for entry in group:
            by_service.setdefault(entry.stored.spec.name, []).append(begun[entry.instance.id])
        turns = Turns(by_service, among, patient=boot, why=why)

        async def one(entry: Entry) -> None:
            try:
                await let_start(self._engine, entry, entry.stored.spec, turns)
                await self._hooks.before_start(entry, turns)
                self._engine.post(entry.instance.id, ev.StartRequested(why))
                await self._engine.until(entry, has_begun)
                await self._hooks.after_start(entry)
            except HeldBackError:
                pass  # it has its reason
            finally:
                begun[entry.instance.id].set()

        await self._under_way.begin(project, turns, [one(entry) for entry in group])

    async def restart(
        self, entries: Collection[Entry], grace_s: float | None, why: str, *, alone: bool = False
    ) -> None:
        """Restart them; then those up that depend on them with `restart: true`, when its condition is met.

        alone: only them.
        """
        await asyncio.gather(*(self.restart_one(entry, grace_s, why) for entry in entries))
        if alone:
            return
        done = {(entry.stored.project, entry.stored.spec.name) for entry in entries}
        following = sorted(done)
        while following:
            project, cause = following.pop(0)
            dependents: dict[str, list[Entry]] = {}
            for other in self._entries(project) if project else []:
                spec = other.stored.spec
                needs = any(d.service == cause and d.restart for d in spec.depends_on)
                if needs and (project, spec.name) not in done and not is_down(other.instance):
                    dependents.setdefault(spec.name, []).append(other)
            for name, others in dependents.items():
                done.add((project, name))
                turns = Turns({}, partial(self._of, project))
                again = [self._tried_again(other, turns, f"{cause} was restarted") for other in others]
                await self._under_way.begin(project, turns, again)
                following.append((project, name))

    async def _tried_again(self, entry: Entry, turns: Turns, why: str) -> None:
        with contextlib.suppress(HeldBackError):  # it runs on, and its dependency tells why
            await self.again(entry, turns, why)

    async def again(self, entry: Entry, turns: Turns, why: str, grace_s: float | None = None) -> None:
        """Restart an instance that is up, once its dependencies let it. Raises HeldBackError."""
        await let_start(self._engine, entry, entry.stored.spec, turns)
        await self.restart_one(entry, grace_s, why)

    async def restart_one(self, entry: Entry, grace_s: float | None, why: str) -> None:
        """Restart an instance, and nothing else."""
        run = entry.instance.run
        given_s = entry.instance.stop_grace_s if grace_s is None else grace_s
        left_s = await self._hooks.before_stop(entry, given_s)
        self._engine.post(entry.instance.id, ev.RestartRequested(left_s, why))
        await self._engine.until(
            entry, lambda i: (i.run > run and isinstance(i.phase, Running | Resting)) or is_down(i)
        )

    def _of(self, project: str, service: str) -> list[Entry]:
        return [entry for entry in self._entries(project) if entry.stored.spec.name == service]
