"""Carrying out a plan of `up`: what goes, goes first; then all at the same time, each when it is its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from supervisor.core import events as ev
from supervisor.core.reconcile import Operation, Options, Plan
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.hooks import Hooks
from supervisor.daemon.ordering import HeldBackError, Turns, UnderWay, let_start
from supervisor.daemon.outcomes import drained, has_begun, is_down, outcome
from supervisor.daemon.prestart import NotStartedError
from supervisor.daemon.removing import Removing
from supervisor.daemon.replacing import Replacing
from supervisor.daemon.rolling import Roll
from supervisor.daemon.starting import Starting
from supervisor.daemon.state import Stored
from supervisor.daemon.stopping import Stopping

News = tuple[Operation, str]


@dataclass(frozen=True, slots=True)
class Parts:
    """What carrying out stands on."""

    engine: Engine
    hooks: Hooks
    stopping: Stopping
    removing: Removing
    starting: Starting
    replacing: Replacing
    under_way: UnderWay


class Carrying:
    """One plan of one project, of this moment; `carry_out` once, soon.

    made: the instances of the operations that make some. asked: starts that an earlier one was asked for and
    that waited: their reasons, by instance id.
    """

    def __init__(
        self,
        parts: Parts,
        project: str,
        plan: Plan,
        made: Mapping[Operation, Stored],
        options: Options,
        asked: Mapping[str, str],
    ) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._project = project
        self._plan = plan
        self._made = made
        self._options = options
        self._asked = asked
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._entries = {op: self._engine.entries[op.id] for op in plan.operations if op.id}
        self._by_service: dict[str, list[Operation]] = {}
        self._rolls: dict[str, Roll] = {}

    async def carry_out(self) -> AsyncIterator[News]:
        """Yields each operation with what came of it; who stops listening ends nothing that has begun.

        Raises PrepareError, VolumeError.
        """
        going = {op.id: op for op in self._plan.operations if op.verb == "remove"}
        entries = [self._entries[op] for op in going.values()]
        parts, options = self._parts, self._options
        if entries:
            # First: what comes may need their ports and names.
            async for gone in parts.removing.take_away(
                entries, manual=False, grace_s=options.grace_s, why="removed by `up`"
            ):
                yield going[gone.instance.id], "removed"
        idle = [op for op in self._plan.operations if op.verb == "orphan" and op.id not in self._asked]
        operations = [op for op in self._plan.operations if op.verb != "remove" and op not in idle]
        for op in operations:
            if op.verb == "create":
                self._entries[op] = self._engine.add(self._made[op])
            self._by_service.setdefault(op.service, []).append(op)
        begun = {op: asyncio.Event() for op in operations}
        by_service = {name: [begun[op] for op in ops] for name, ops in self._by_service.items()}
        turns = Turns(by_service, self._of, patient=options.start == "new")
        for service, ops in self._by_service.items():
            if replaced := [op for op in ops if op.verb == "recreate"]:
                self._rolls[service] = Roll(self._made[replaced[0]].spec.update, len(replaced), turns)
        renewed = set(self._rolls)
        whole = parts.under_way.begin(
            self._project, turns, [self._one(op, turns, begun[op], renewed) for op in operations]
        )
        async for each in drained(self._news, whole):
            yield each

    def _of(self, service: str) -> list[Entry]:
        return [self._entries[op] for op in self._by_service.get(service, ())]

    async def _one(self, op: Operation, turns: Turns, begun: asyncio.Event, renewed: set[str]) -> None:
        try:
            self._say(op, await self._done(op, turns, begun, renewed))
        except HeldBackError as error:
            stands = op.verb == "recreate" and not isinstance(error, NotStartedError)
            word = "not recreated" if stands else "not started"
            self._say(op, f"{word}: {error}")
        finally:
            begun.set()

    def _say(self, op: Operation, text: str) -> None:
        self._news.put_nowait((op, text))

    async def _done(self, op: Operation, turns: Turns, begun: asyncio.Event, renewed: set[str]) -> str:
        """What came of it. Raises HeldBackError."""
        match op.verb:
            case "keep" if op.id not in self._asked:
                return await self._kept(op, turns, begun, renewed)
            case "recreate":
                roll = self._rolls[op.service]
                async with roll.turn():
                    try:
                        return await self._recreated(op, turns, roll)
                    except HeldBackError:
                        roll.failed(op.name)
                        raise
            case _ if self._options.start == "none":
                return "created"
            case _:
                entry = self._entries[op]
                await let_start(self._engine, entry, entry.stored.spec, turns, lambda why: self._say(op, why))
                return await self._started(entry, turns, self._asked.get(op.id, turns.why))

    async def _kept(self, op: Operation, turns: Turns, begun: asyncio.Event, renewed: set[str]) -> str:
        entry = self._entries[op]
        causes = [d.service for d in entry.stored.spec.depends_on if d.restart and d.service in renewed]
        if not causes or is_down(entry.instance) or self._options.start == "none":
            return op.cause
        begun.set()  # it runs: nobody has to wait for its restart
        why = f"{causes[0]} was recreated"
        await self._parts.starting.again(entry, turns, why, self._options.grace_s)
        return f"restarted: {why}"

    async def _recreated(self, op: Operation, turns: Turns, roll: Roll) -> str:
        entry, made = self._entries[op], self._made[op]
        if self._options.start == "none":
            await self._replaced(op, entry, made)
            return "created"
        await let_start(self._engine, entry, made.spec, turns, lambda why: self._say(op, why))
        if op.start_first:
            self._say(op, "the new instance is on its way")
            self._entries[op] = await self._parts.replacing.replace(
                entry,
                made,
                op.name,
                turns,
                renew_volumes=self._options.renew_volumes,
                grace_s=self._options.grace_s,
            )
            return "; ".join([outcome(self._entries[op]), *turns.warnings.get(op.name, [])])
        fresh = await self._replaced(op, entry, made)
        came = await self._started(fresh, turns, turns.why)
        await roll.watch(self._engine, fresh)
        return came

    async def _replaced(self, op: Operation, before: Entry, made: Stored) -> Entry:
        """The new instance in the place of the old one, which is gone."""
        await self._parts.stopping.stop(
            [before], manual=False, grace_s=self._options.grace_s, why="recreated"
        )
        # At once, so that the database has the one or the other, and with it the volumes.
        if self._engine.entries.get(before.instance.id) is before:
            self._engine.forget(before)
        self._entries[op] = entry = self._engine.add(made)
        await self._parts.removing.remove_rest(before, volumes=self._options.renew_volumes)
        return entry

    async def _started(self, entry: Entry, turns: Turns, why: str) -> str:
        await self._parts.hooks.before_start(entry, turns)
        self._engine.post(entry.instance.id, ev.StartRequested(why))
        await self._engine.until(entry, has_begun)
        failure = await self._parts.hooks.after_start(entry)
        notes = [*([failure] if failure else []), *turns.warnings.get(entry.stored.name, [])]
        return "; ".join([outcome(entry), *notes])
