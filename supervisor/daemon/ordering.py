"""Who may start when: a service waits for what it depends on. Nothing polls: dependencies tell of changes.

`core.depends` says what a condition means; here is the waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from supervisor.core import events as ev
from supervisor.core.depends import Failed, Met, Observed, Pending, at_boot, standing
from supervisor.core.model import Dependency, ServiceSpec
from supervisor.core.state import Instance
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.outcomes import checked, is_down, probes_failed


class HeldBackError(Exception):
    """A dependency does not let a service start. The text is its reason."""


@dataclass(slots=True)
class Turns:
    """Several starts at once, of one project.

    begun: by service, one for each of its instances, set when the start of that came to something.
    entries: the instances of each service that counts as a dependency; what is not among them orders
    nothing. patient: nobody waits for an answer, so what may still come true is waited for (see
    `core.depends.at_boot`). why: the reason of these starts. waiting: ids of the instances whose turn it is
    not yet. warnings: by the name of the instance. off: why nobody waits any more. hooks: by service and
    number, the pre_start hooks that run once for all of its instances.
    """

    begun: Mapping[str, Iterable[asyncio.Event]]
    entries: Callable[[str], Iterable[Entry]]
    patient: bool = False
    why: str = "started by you"
    waiting: set[str] = field(default_factory=set)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    off: str = ""
    called_off: asyncio.Event = field(default_factory=asyncio.Event)
    hooks: dict[tuple[str, int], asyncio.Future[str]] = field(default_factory=dict)

    def call_off(self, why: str, entries: Iterable[Entry]) -> None:
        """End all waiting for these instances; what waited is held back, and says why."""
        self.off = why
        self.called_off.set()
        for turns in self.begun.values():
            for turn in turns:
                turn.set()
        for entry in entries:
            entry.wake()


def observed(entry: Entry) -> Observed:
    """A dependency as it is now."""
    return Observed(entry.instance, checked(entry), probes_failed(entry))


async def let_start(
    engine: Engine, entry: Entry, spec: ServiceSpec, turns: Turns, say: Callable[[str], None] = lambda _: None
) -> None:
    """Wait until the dependencies of `spec` let it start, all instances of each; `say` is told what is
    waited for.

    entry: its instance, or the one that it will take the place of. Raises HeldBackError when one of them
    will not. One that is not required only leaves a warning in `turns`.
    """
    turns.waiting.add(entry.instance.id)
    try:
        await _wait(engine, entry, spec, turns, say)
    finally:
        turns.waiting.discard(entry.instance.id)


async def _wait(
    engine: Engine, entry: Entry, spec: ServiceSpec, turns: Turns, say: Callable[[str], None]
) -> None:
    told = ""

    def tell(why: str) -> None:
        nonlocal told
        if why != told:  # several instances are waited for in the same words
            told = why
            _wait_for(engine, entry, f"waits for {why}", say)

    for dependency in spec.depends_on:
        for turn in turns.begun.get(dependency.service, ()):
            if not turn.is_set():
                _wait_for(engine, entry, f"waits for {dependency.service}", lambda _: None)
                await turn.wait()
                still_wanted(engine, entry, turns)
        for found in list(turns.entries(dependency.service)):
            failure = await _one(engine, entry, dependency, found, turns, tell)
            if not failure:
                continue
            why = f"depends on {dependency.service}, which {failure}"
            if dependency.required:
                engine.post(entry.instance.id, ev.Held(f"not started: {why}", refused=True))
                raise HeldBackError(why)
            turns.warnings.setdefault(entry.stored.name, []).append(why)


async def _one(
    engine: Engine,
    entry: Entry,
    dependency: Dependency,
    found: Entry,
    turns: Turns,
    tell: Callable[[str], None],
) -> str:
    """Wait for one instance; empty, or why it will not do."""
    while engine.entries.get(found.instance.id) is found:
        result = standing(dependency, observed(found))
        if turns.patient:
            result = at_boot(result, found.instance)
        match result:
            case Met():
                return ""
            case Failed(why=why):
                return why
            case Pending(why=why):
                tell(why)
        await found.changed.wait()
        still_wanted(engine, entry, turns)
    return "was removed"


def still_wanted(engine: Engine, entry: Entry, turns: Turns) -> None:
    """Raises HeldBackError: somebody has thought better of it while the start waited."""
    if turns.off:
        raise HeldBackError(turns.off)
    if entry.instance.manually_stopped:
        why = "stopped by you while it waited"
        engine.post(entry.instance.id, ev.Held(why, refused=True))
        raise HeldBackError(why)


def _wait_for(engine: Engine, entry: Entry, why: str, say: Callable[[str], None]) -> None:
    engine.post(entry.instance.id, ev.Held(why))
    say(why)


class Asked(NamedTuple):
    """A start that was asked for and waits. run: the number of the last one before it."""

    run: int
    why: str

    def stands(self, instance: Instance) -> bool:
        """Whether it has not begun since, and nobody has stopped it."""
        return instance.run == self.run and not instance.manually_stopped


class UnderWay:
    """The starts of all projects that may be waiting now. Until they are done they can be called off."""

    def __init__(self, entries: Callable[[str], list[Entry]]) -> None:
        """entries: the instances of a project."""
        self._entries = entries
        self._turns: dict[str, dict[asyncio.Future[list[None]], Turns]] = {}

    def begin(
        self, project: str, turns: Turns, work: Iterable[Coroutine[Any, Any, None]]
    ) -> asyncio.Future[list[None]]:
        """Have all that work go on, whoever listens."""
        whole = asyncio.gather(*work)
        here = self._turns.setdefault(project, {})
        here[whole] = turns

        def done(ended: asyncio.Future[list[None]]) -> None:
            del here[ended]
            if not ended.cancelled():
                ended.exception()  # it may be that nobody asks for it any more

        whole.add_done_callback(done)
        return whole

    def waiting(self, project: str) -> dict[str, Asked]:
        """What is down and waits for its turn to start, by instance id."""
        found = {}
        for turns in self._turns.get(project, {}).values():
            for entry in self._entries(project):
                if entry.instance.id in turns.waiting and is_down(entry.instance):
                    found[entry.instance.id] = Asked(entry.instance.run, turns.why)
        return found

    def call_off(self, project: str, why: str) -> None:
        """What waits is held back; what is in the middle of a start comes to its end."""
        for turns in self._turns.get(project, {}).values():
            turns.call_off(why, self._entries(project))

    def leave(self) -> None:
        """From now on nothing that waits is started; the next supervisor goes on with it."""
        for project in self._turns:
            self.call_off(project, "the supervisor was shut down")

    async def quiet(self, project: str) -> None:
        """Wait for what was called off."""
        if working := list(self._turns.get(project, {})):
            await asyncio.wait(working)

    def newest(self, project: str) -> asyncio.Future[list[None]] | None:
        """What was begun last and goes on still."""
        return next(reversed(self._turns.get(project, {})), None)
