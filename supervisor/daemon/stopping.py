"""Stopping several instances: dependents before what they depend on, each after its pre_stop hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.graph import DependencyCycleError, waves
from supervisor.core.state import Running
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.hooks import Hooks
from supervisor.daemon.outcomes import is_down


class Stopping:
    """See the module."""

    def __init__(self, engine: Engine, hooks: Hooks) -> None:
        self._engine = engine
        self._hooks = hooks

    async def stop(
        self,
        entries: Iterable[Entry],
        *,
        manual: bool = True,
        grace_s: float | None = None,
        hold_s: float | None = None,
        why: str = "stopped by you",
    ) -> None:
        """Stop them in order, and wait until all are down."""
        wanted = list(entries)
        request = ev.StopRequested(manual, grace_s, None, hold_s, why)
        for group in reversed(in_waves(wanted)):
            await self._before_stop(group, request)
            for entry in group:
                await self._engine.until(entry, is_down)
            await self._hooks.end(group)

    async def forget_hooks(self, entry: Entry) -> None:
        """What ran before the start of one that is forgotten goes with it."""
        await self._hooks.removed(entry)

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


def in_waves(entries: list[Entry]) -> list[list[Entry]]:
    """Stored instances in groups: what each depends on is in earlier ones.

    Those of several versions of a file may go round in a circle: then they are one group, without order.
    """
    of_service: dict[str, list[Entry]] = {}
    needs: dict[str, set[str]] = {}
    for entry in entries:
        project, spec = entry.stored.project, entry.stored.spec
        key = f"{project}\0{spec.name}"
        of_service.setdefault(key, []).append(entry)
        needs.setdefault(key, set()).update(f"{project}\0{d.service}" for d in spec.depends_on)
    try:
        return [[entry for name in wave for entry in of_service[name]] for wave in waves(needs)]
    except DependencyCycleError:
        return [entries]
