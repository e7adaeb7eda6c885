"""One instance in the place of another, which goes only when the new one is up (`update: start-first`).

Until then the new one is a stand-in: under a name of its own, without the ports of the host, unknown by the
names of its service. If it does not come up, it is gone, and the old one was never touched. Where a daemon
died in the middle, `finish` of the next one leaves one of the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from supervisor.core import events as ev
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.hooks import Hooks
from supervisor.daemon.making import is_stand_in, own_name
from supervisor.daemon.networks import Networks
from supervisor.daemon.ordering import HeldBackError, Turns
from supervisor.daemon.outcomes import checked, ended_well, has_begun, is_down, outcome, proven
from supervisor.daemon.removing import Removing
from supervisor.daemon.state import Stored
from supervisor.daemon.stopping import Stopping
from supervisor.runtime.translate import PlanError


async def is_good(engine: Engine, entry: Entry, off: Callable[[], bool] = lambda: False) -> bool:
    """Wait for the first run of an instance to come up; whether it did. One that ended well has done so."""
    await engine.until(entry, lambda i: off() or has_begun(i))
    if await proven(engine, entry, off):
        return not checked(entry) or entry.instance.health == "healthy"
    return ended_well(entry.instance)


class Replacing:
    """See the module. last_words: the last lines that an instance which is down wrote."""

    def __init__(
        self,
        engine: Engine,
        hooks: Hooks,
        networks: Networks,
        stopping: Stopping,
        removing: Removing,
        last_words: Callable[[Entry], Awaitable[list[str]]],
    ) -> None:
        self._engine = engine
        self._hooks = hooks
        self._networks = networks
        self._stopping = stopping
        self._removing = removing
        self._last_words = last_words

    async def replace(
        self,
        old: Entry,
        made: Stored,
        name: str,
        turns: Turns,
        *,
        renew_volumes: bool = False,
        grace_s: float | None = None,
    ) -> Entry:
        """The new instance, in the place of the old one, which is gone. name: what it is called then.

        Raises HeldBackError: the new one did not come up, or nobody wants it any more; and as `remove`.
        """
        self._networks.expect(made.instance.id, old.instance.id)
        new = self._engine.add(made)
        try:
            why = await self._come_up(new, turns)
            if not why:
                try:
                    await self._networks.hand_over(old.instance.id, replace(new.stored, name=name))
                except PlanError as error:
                    why = str(error)
        finally:
            self._networks.expect(made.instance.id, "")
        if why:
            raise HeldBackError(await self._undone(new, why, called_off=bool(turns.off)))
        await self._stopping.stop([old], manual=False, grace_s=grace_s, why="its successor is up")
        await self._switch(old, new, name, renew_volumes=renew_volumes)
        return new

    async def _come_up(self, new: Entry, turns: Turns) -> str:
        """Empty, or why it has not."""

        def off() -> bool:
            return bool(turns.off)

        try:
            await self._hooks.before_start(new, turns, first=True)
        except HeldBackError as error:
            return str(error)
        self._engine.post(new.instance.id, ev.StartRequested("started to take the place of another"))
        await self._engine.until(new, lambda i: off() or has_begun(i))
        failure = "" if off() else await self._hooks.after_start(new)
        good = not failure and await is_good(self._engine, new, off)
        if off():
            return turns.off
        if self._engine.entries.get(new.instance.id) is not new:
            return "it was removed"
        return "" if good else failure or outcome(new)

    async def _undone(self, new: Entry, why: str, *, called_off: bool) -> str:
        """Remove one that is not to be; the whole story."""
        if self._engine.entries.get(new.instance.id) is new:
            await self._stopping.stop([new], manual=False, why="it did not come up")
            said = await self._last_words(new)
            await self._removing.remove(new, volumes=True)  # of those that are the old one's, none
        else:
            said = []
        if called_off:
            return why
        words = f"; its last words: {' | '.join(said)}" if said else ""
        return f"the new instance did not come up ({why}); the old one runs on{words}"

    async def _switch(self, old: Entry, new: Entry, name: str, *, renew_volumes: bool) -> None:
        # At once, so that the database has both, or the new one under its name.
        there = self._engine.entries.get(old.instance.id) is old
        if there:
            self._engine.forget(old)
        if self._engine.entries.get(new.instance.id) is new:
            self._engine.rename(new, name)
        if there:
            await self._removing.remove_rest(old, volumes=renew_volumes)

    def cut_short(self, entries: Iterable[Entry]) -> set[str]:
        """Ids of the instances that `finish` is about."""
        everybody = list(entries)
        places = {_place(entry.stored) for entry in everybody if is_stand_in(entry.stored)}
        return {entry.instance.id for entry in everybody if _place(entry.stored) in places}

    async def finish(self, entries: Iterable[Entry], report: Callable[[str], None]) -> None:
        """What an earlier daemon was in the middle of, all at once. Raises PrepareError, VolumeError."""
        everybody = list(entries)
        olds = {_place(e.stored): e for e in everybody if e.stored.name == own_name(e.stored)}
        await asyncio.gather(
            *(
                self._finish(new, olds.get(_place(new.stored)), report)
                for new in everybody
                if is_stand_in(new.stored)
            )
        )

    async def _finish(self, new: Entry, old: Entry | None, report: Callable[[str], None]) -> None:
        name = own_name(new.stored)
        if old is None:
            self._engine.rename(new, name)
        elif not is_down(new.instance) and (is_down(old.instance) or self._has_ports(new)):
            report(f"{name}: an update was cut short; the new instance takes the place of the old one")
            try:
                await self._networks.hand_over(old.instance.id, replace(new.stored, name=name))
            except PlanError as error:
                report(f"{name}: {error}")
            await self._stopping.stop([old], manual=False, why="its successor is up")
            await self._switch(old, new, name, renew_volumes=False)
        else:
            report(f"{name}: an update was cut short; the old instance stays")
            await self._stopping.stop([new], manual=False, why="an update was cut short")
            await self._removing.remove(new, volumes=True)

    def _has_ports(self, new: Entry) -> bool:
        """Whether the old one has handed them over: from then on there is no way back."""
        return bool(self._networks.bindings(new.instance.id))


def _place(stored: Stored) -> tuple[str, str, int]:
    return stored.project, stored.spec.name, stored.number
