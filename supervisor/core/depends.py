"""Whether a dependency lets a service start: `depends_on` with its conditions. Pure.

Rules: the Compose specification; docker/compose pkg/compose/convergence.go (waitDependencies). What Compose
does only while `up` runs holds here at the boot of the host as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from supervisor.core.exits import Exit, SpawnFailure, describe
from supervisor.core.model import Dependency
from supervisor.core.state import Created, Instance, Resting, Running, Starting, Stopping, Waiting


@dataclass(frozen=True, slots=True)
class Met:
    """The service may start."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Not yet. why: what is waited for."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It does not come true by itself. why: follows the name of the dependency in a sentence."""

    why: str


Standing = Met | Pending | Failed


@dataclass(frozen=True, slots=True)
class Observed:
    """A dependency as it is. checked: it has a healthcheck. unhealthy: what its probes said."""

    instance: Instance
    checked: bool
    unhealthy: str = ""


def standing(dependency: Dependency, observed: Observed) -> Standing:
    """Where a dependency stands, once its own start, if one was asked for, has come to something."""
    match dependency.condition:
        case "service_started":
            return _started(dependency.service, observed)
        case "service_healthy":
            return _healthy(dependency.service, observed)
        case "service_completed_successfully":
            return _completed(dependency.service, observed)
        case _:
            assert_never(dependency.condition)


def _started(name: str, observed: Observed) -> Standing:
    phase, last = observed.instance.phase, observed.instance.last
    match phase:
        case Running() | Stopping():
            return Met()
        case Starting():
            return Pending(f"{name} to start")
        case Waiting() | Resting():
            return Failed(describe(last)) if isinstance(last, SpawnFailure) else Met()
        case Created():
            return Failed(_not_started(observed.instance))
        case _:
            assert_never(phase)


def _healthy(name: str, observed: Observed) -> Standing:
    phase = observed.instance.phase
    if not observed.checked:
        return Failed("has no healthcheck, and so cannot be healthy")
    match phase:
        case Running() if observed.instance.health == "healthy":
            return Met()
        case Running() if observed.instance.health == "unhealthy":
            return Failed(f"is unhealthy{': ' if observed.unhealthy else ''}{observed.unhealthy}")
        case Running() | Starting() | Stopping():
            return Pending(f"{name} to be healthy")
        case Waiting():
            last = observed.instance.last
            if isinstance(last, SpawnFailure):
                return Failed(describe(last))
            return Pending(f"{name} to be healthy (it waits for its restart)")
        case Resting():
            return Failed(_down(observed.instance))
        case Created():
            return Failed(_not_started(observed.instance))
        case _:
            assert_never(phase)


def _completed(name: str, observed: Observed) -> Standing:
    phase, last = observed.instance.phase, observed.instance.last
    match phase:
        case Resting() if isinstance(last, Exit) and last.code == 0:
            return Met()
        case Resting():
            return Failed(f"did not complete successfully: {_down(observed.instance)}")
        case Waiting() if isinstance(last, SpawnFailure):
            return Failed(f"did not complete successfully: {describe(last)}")
        case Running() | Starting() | Stopping() | Waiting():
            return Pending(f"{name} to complete")
        case Created():
            return Failed(_not_started(observed.instance))
        case _:
            assert_never(phase)


def at_boot(found: Standing, instance: Instance) -> Standing:
    """What a failure means where nobody waits for an answer: what may still come true is waited for.

    A dependency that a person stopped holds nobody back: things come up as that person left them.
    """
    if not isinstance(found, Failed):
        return found
    match instance.phase:
        case Running() | Starting() | Stopping() | Waiting():
            return Pending(f"a dependency that {found.why}")
        case Resting() if instance.manually_stopped:
            return Met()
        case Created() | Resting():
            return found
        case _:
            assert_never(instance.phase)


def _down(instance: Instance) -> str:
    return "it is down" if instance.last is None else describe(instance.last)


def _not_started(instance: Instance) -> str:
    """Its own reason tells how far down the cause is."""
    return f"was not started ({instance.reason})" if instance.reason else "was not started"
