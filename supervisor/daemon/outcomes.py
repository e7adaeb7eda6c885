"""What became of instances, and of several operations at once, for those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from supervisor.core.health import failures
from supervisor.core.reconcile import Operation
from supervisor.core.state import Created, Instance, Resting, Running, Waiting
from supervisor.daemon.engine import Entry


def is_down(instance: Instance) -> bool:
    """Nothing of it runs and nothing will start it by itself."""
    return isinstance(instance.phase, Created | Resting)


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
