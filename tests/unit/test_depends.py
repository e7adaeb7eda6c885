"""Conditions of depends_on against every state that a dependency may be in."""

from __future__ import annotations

import pytest

from supervisor.core.depends import Failed, Met, Observed, Pending, Standing, at_boot, standing
from supervisor.core.exits import Exit, SpawnFailure
from supervisor.core.model import Dependency
from supervisor.core.state import (
    Created,
    Health,
    Instance,
    Phase,
    Resting,
    Running,
    Starting,
    Stopping,
    Waiting,
)

NOT_FOUND = SpawnFailure("exec", 2, "no such file", 127)
RUNNING = Running(1, 0.0)
STOPPING = Stopping(1, 0.0, killed=False)
WAITING = Waiting(1, 5.0)


def instance(
    phase: Phase, last: Exit | SpawnFailure | None = None, health: Health = "", *, stopped: bool = False
) -> Instance:
    return Instance("db", phase=phase, last=last, health=health, manually_stopped=stopped)


STARTED = [
    (instance(Created()), Failed),
    (instance(Starting(0.0)), Pending),
    (instance(RUNNING), Met),
    (instance(STOPPING), Met),
    (instance(WAITING, Exit(1)), Met),
    (instance(WAITING, NOT_FOUND), Failed),
    (instance(Resting(), Exit(1)), Met),
    (instance(Resting(), NOT_FOUND), Failed),
]
HEALTHY = [
    (instance(Created()), Failed),
    (instance(Starting(0.0), health="healthy"), Pending),
    (instance(RUNNING), Pending),
    (instance(RUNNING, health="starting"), Pending),
    (instance(RUNNING, health="healthy"), Met),
    (instance(RUNNING, health="unhealthy"), Failed),
    (instance(STOPPING, health="healthy"), Pending),
    (instance(WAITING, Exit(1), "healthy"), Pending),
    (instance(WAITING, NOT_FOUND), Failed),
    (instance(Resting(), Exit(0), "healthy"), Failed),
]
COMPLETED = [
    (instance(Created()), Failed),
    (instance(Starting(0.0)), Pending),
    (instance(RUNNING, Exit(0)), Pending),
    (instance(STOPPING), Pending),
    (instance(WAITING, Exit(1)), Pending),
    (instance(WAITING, NOT_FOUND), Failed),
    (instance(Resting(), Exit(0)), Met),
    (instance(Resting(), Exit(3)), Failed),
    (instance(Resting(), NOT_FOUND), Failed),
    (instance(Resting()), Failed),
]


@pytest.mark.parametrize(
    ("dependency", "found", "expected"),
    [
        *((Dependency("db"), *row) for row in STARTED),
        *((Dependency("db", "service_healthy"), *row) for row in HEALTHY),
        *((Dependency("db", "service_completed_successfully"), *row) for row in COMPLETED),
    ],
)
def test_a_condition_stands_as_the_state_says(
    dependency: Dependency, found: Instance, expected: type[Standing]
) -> None:
    assert isinstance(standing(dependency, Observed(found, checked=True)), expected)


def test_what_is_not_probed_cannot_be_waited_for() -> None:
    result = standing(Dependency("db", "service_healthy"), Observed(instance(RUNNING), checked=False))
    assert result == Failed("has no healthcheck, and so cannot be healthy")


def test_a_failure_names_its_cause() -> None:
    completed = Dependency("db", "service_completed_successfully")
    assert standing(completed, Observed(instance(Resting(), Exit(3)), checked=False)) == Failed(
        "did not complete successfully: exit code 3"
    )
    unhealthy = Observed(instance(RUNNING, health="unhealthy"), checked=True, unhealthy="1 probe failed: no")
    assert standing(Dependency("db", "service_healthy"), unhealthy) == Failed(
        "is unhealthy: 1 probe failed: no"
    )


@pytest.mark.parametrize("phase", [RUNNING, Starting(0.0), STOPPING, WAITING])
def test_at_boot_what_may_still_come_true_is_waited_for(phase: Phase) -> None:
    assert isinstance(at_boot(Failed("is unhealthy"), instance(phase)), Pending)


def test_at_boot_a_failure_that_stays_holds_back() -> None:
    assert at_boot(Failed("x"), instance(Resting(), Exit(1))) == Failed("x")
    assert at_boot(Failed("x"), instance(Created())) == Failed("x")


def test_at_boot_what_a_person_stopped_holds_nobody_back() -> None:
    assert at_boot(Failed("x"), instance(Resting(), Exit(0), stopped=True)) == Met()
