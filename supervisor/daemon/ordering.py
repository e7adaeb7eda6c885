"""Who may start when: a service waits for what it depends on. Nothing polls: dependencies tell of changes.

`core.depends` says what a condition means; here is the waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from supervisor.core import events as ev
from supervisor.core.depends import Failed, Met, Observed, Pending, at_boot, standing
from supervisor.core.health import check_of
from supervisor.core.model import Dependency, ServiceSpec
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.outcomes import probes_failed


class HeldBackError(Exception):
    """A dependency does not let a service start. The text is its reason."""


@dataclass(slots=True)
class Turns:
    """Several starts at once, of one project. begun: by service, set when its own start came to something.

    entries: the instances of each service that counts as a dependency; what is not among them orders
    nothing. patient: nobody waits for an answer, so what may still come true is waited for (see
    `core.depends.at_boot`). why: the reason of these starts. off: why nobody waits any more.
    """

    begun: Mapping[str, asyncio.Event]
    entries: Callable[[str], Iterable[Entry]]
    patient: bool = False
    why: str = "started by you"
    warnings: dict[str, list[str]] = field(default_factory=dict)
    off: str = ""

    def call_off(self, why: str, entries: Iterable[Entry]) -> None:
        """End all waiting for these instances; what waited is held back, and says why."""
        self.off = why
        for turn in self.begun.values():
            turn.set()
        for entry in entries:
            entry.wake()


def checked(entry: Entry) -> bool:
    """Whether it can be healthy: it has a healthcheck."""
    return check_of(entry.stored.spec.healthcheck) is not None


def observed(entry: Entry) -> Observed:
    """A dependency as it is now."""
    return Observed(entry.instance, checked(entry), probes_failed(entry))


async def let_start(
    engine: Engine, entry: Entry, spec: ServiceSpec, turns: Turns, say: Callable[[str], None] = lambda _: None
) -> None:
    """Wait until the dependencies of `spec` let it start; `say` is told what is waited for.

    entry: its instance, or the one that it will take the place of. Raises HeldBackError when one of them
    will not. One that is not required only leaves a warning in `turns`.
    """
    for dependency in spec.depends_on:
        turn = turns.begun.get(dependency.service)
        if turn is not None and not turn.is_set():
            _wait_for(engine, entry, f"waits for {dependency.service}", lambda _: None)
            await turn.wait()
            _still_wanted(engine, entry, turns)
        for found in list(turns.entries(dependency.service)):
            failure = await _one(engine, entry, dependency, found, turns, say)
            if not failure:
                continue
            why = f"depends on {dependency.service}, which {failure}"
            if dependency.required:
                engine.post(entry.instance.id, ev.Held(f"not started: {why}", refused=True))
                raise HeldBackError(why)
            turns.warnings.setdefault(spec.name, []).append(why)


async def _one(
    engine: Engine,
    entry: Entry,
    dependency: Dependency,
    found: Entry,
    turns: Turns,
    say: Callable[[str], None],
) -> str:
    """Wait for one instance; empty, or why it will not do."""
    told = ""
    while engine.entries.get(found.instance.id) is found:
        result = standing(dependency, observed(found))
        if turns.patient:
            result = at_boot(result, found.instance)
        match result:
            case Met():
                return ""
            case Failed(why=why):
                return why
            case Pending(why=why) if why != told:
                told = why
                _wait_for(engine, entry, f"waits for {why}", say)
        await found.changed.wait()
        _still_wanted(engine, entry, turns)
    return "was removed"


def _still_wanted(engine: Engine, entry: Entry, turns: Turns) -> None:
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
