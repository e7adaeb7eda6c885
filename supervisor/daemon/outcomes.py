"""What became of instances, and of several operations at once, for those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from supervisor.core.health import check_of, failures
from supervisor.core.reconcile import Operation
from supervisor.core.state import Created, Instance, Resting, Running, Waiting
from supervisor.daemon.engine import Engine, Entry, boottime_s

SETTLED_S = 1.0
"""A service that has run for so long is up; most that cannot work have ended by then."""


def is_down(instance: Instance) -> bool:
    """Nothing of it runs and nothing will start it by itself."""
    return isinstance(instance.phase, Created | Resting)


def rests(instance: Instance) -> bool:
    """Down, and not only for a time."""
    return isinstance(instance.phase, Resting) and instance.phase.timer is None


def has_begun(instance: Instance) -> bool:
    """A start has come to something: it runs, or waits for the next try, or is down again."""
    return isinstance(instance.phase, Running | Waiting | Resting)


def checked(entry: Entry) -> bool:
    """Whether it can be healthy: it has a healthcheck, or says itself when it is ready."""
    spec = entry.stored.spec
    return spec.ready is not None or check_of(spec.healthcheck) is not None


def is_known(run: int, instance: Instance) -> bool:
    """That run is healthy or unhealthy, or does not run any more."""
    return is_over(run, instance) or instance.health in ("healthy", "unhealthy")


def ended_well(instance: Instance) -> bool:
    """Down after an exit code of 0."""
    return isinstance(instance.phase, Resting) and instance.last is not None and instance.last.code == 0


async def drained(
    news: asyncio.Queue[tuple[Operation, str]], whole: asyncio.Future[list[None]]
) -> AsyncIterator[tuple[Operation, str]]:
    """What comes until `whole` is done, and what has come by then. Raises what that raised."""
    while not whole.done():
        coming = asyncio.ensure_future(news.get())
        both: list[asyncio.Future[Any]] = [coming, whole]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            yield coming.result()
        else:
            coming.cancel()
    while not news.empty():
        yield news.get_nowait()
    whole.result()


def is_over(run: int, instance: Instance) -> bool:
    """That run does not run any more."""
    return instance.run != run or not isinstance(instance.phase, Running)


def probes_failed(entry: Entry) -> str:
    """What the newest run failed at, as far as this daemon has looked after it; empty where it did not."""
    said = entry.readiness
    if said is not None and said.run == entry.instance.run and said.status == "unhealthy":
        return said.why
    health = entry.health
    if health is None or health.run != entry.instance.run or not health.streak:
        return ""
    return failures(health)


def outcome(entry: Entry) -> str:
    """What an instance has come to, in the words of `up` and `start`."""
    instance = entry.instance
    match instance.phase:
        case Running():
            if instance.health == "unhealthy":
                why = probes_failed(entry)
                return f"unhealthy: {why}" if why else "unhealthy"
            return instance.health or "running"
        case Waiting():
            return f"restarting: {instance.reason}"
        case Created():
            return instance.reason or "never started"
        case _:
            return f"exited: {instance.reason}"


async def settled(engine: Engine, entry: Entry) -> tuple[bool, str]:
    """Wait until it is certain whether an instance is up; (whether it is, what it has come to).

    Up is: healthy; without a healthcheck, running for SETTLED_S; or ended well where its policy does not
    start it again. A restart under way is neither; without a limit of restarts that can take for ever.
    """
    while True:
        await engine.until(entry, lambda i: isinstance(i.phase, Running | Created) or rests(i))
        instance = entry.instance
        if not isinstance(instance.phase, Running):
            return ended_well(instance), outcome(entry)
        if await proven(engine, entry):
            return not checked(entry) or entry.instance.health == "healthy", outcome(entry)


async def proven(engine: Engine, entry: Entry, off: Callable[[], bool] = lambda: False) -> bool:
    """Wait until a run shows whether it is any good; whether it runs then. off: nobody waits any more.

    Raises nothing: what it came to is in the instance.
    """
    instance = entry.instance
    if not isinstance(instance.phase, Running):
        return False
    run = instance.run
    if checked(entry):
        await engine.until(entry, lambda i: off() or is_known(run, i))
        return not is_over(run, entry.instance)
    left_s = SETTLED_S - (boottime_s() - instance.phase.started_s)
    try:
        async with asyncio.timeout(max(0.0, left_s)):
            await engine.until(entry, lambda i: off() or is_over(run, i))
    except TimeoutError:
        return True
    return not is_over(run, entry.instance)
