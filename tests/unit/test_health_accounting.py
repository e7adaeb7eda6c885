"""Accounting of health: Docker's rules for failures, and an earlier success."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import events as ev
from supervisor.core import lifecycle
from supervisor.core.exits import Exit
from supervisor.core.health import (
    EARLY_S,
    LOG_ENTRIES,
    Begun,
    Changed,
    Check,
    Health,
    NotMade,
    Probed,
    Result,
    Resumed,
    Status,
    TakenOver,
    check_of,
    failures,
    step,
)
from supervisor.core.healthcheck import Healthcheck, Probe
from supervisor.core.model import Policy, RestartRules
from supervisor.core.readiness import Part
from supervisor.core.state import Health as HealthWord
from supervisor.core.state import Instance, Resting, Running, Stopping, Waiting

PROBE = Probe("command", ("true",))
STARTED_S = 1000.0


def played(
    check: Check, codes: list[int], took_s: float = 0.0
) -> tuple[Health, list[float], list[tuple[float, Changed]]]:
    """Probes with these results, each made when it is due: health, their ages, and changes with their age."""
    health, due_s, _ = step(check, Health(1, STARTED_S), Begun(), STARTED_S)
    ages, changes = [], []
    for code in codes:
        began_s = due_s
        ages.append(began_s - STARTED_S)
        result = Result(began_s, began_s + took_s, code, "")
        health, due_s, changed = step(check, health, Probed(began_s, result), began_s + took_s)
        changes += [(began_s - STARTED_S, each) for each in changed]
    return health, ages, changes


def docker_unhealthy_s(check: Check) -> float:
    """Age at which moby (daemon/health.go) calls a run unhealthy whose probes all fail at once."""
    age, streak = 0.0, 0
    while True:
        starting = check.start_period_s > age
        age += check.start_interval_s if starting else check.interval_s
        streak += age >= check.start_period_s
        if streak >= check.retries:
            return age


def test_what_is_left_open_is_dockers_default() -> None:
    check = check_of(Healthcheck(PROBE, retries=0, interval_s=0.0))
    assert check == Check(PROBE, 30.0, 30.0, 3, 0.0, 5.0, restarts=False)


@pytest.mark.parametrize("wanted", [None, Healthcheck(), Healthcheck(PROBE, disabled=True)])
def test_nothing_is_probed_where_nothing_asks_for_it(wanted: Healthcheck | None) -> None:
    assert check_of(wanted) is None


def test_the_first_success_is_seen_long_before_the_interval() -> None:
    health, ages, changes = played(Check(PROBE), [1, 1, 0])
    assert health.status == "healthy"
    assert ages[0] == pytest.approx(EARLY_S)
    assert changes == [(ages[2], Changed("healthy", "a probe succeeded"))]
    assert ages[2] < 1.0


def test_readiness_is_seen_within_a_quarter_of_the_time_it_took() -> None:
    _, ages, _ = played(Check(PROBE), [1] * 25)
    for before, after in itertools.pairwise(ages):
        assert after - before <= max(EARLY_S, before / 4) + 1e-9 or before >= 30.0


def test_early_failures_are_shown_and_do_not_count() -> None:
    health, _, changes = played(Check(PROBE, retries=1), [1, 1, 1])
    assert (health.status, health.streak, changes) == ("starting", 0, [])
    assert len(health.log) == 3


@given(
    st.sampled_from([0.5, 1.0, 5.0, 30.0]),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.75, 3.0, 10.0, 12.0]),
    st.sampled_from([0.25, 1.0, 5.0]),
)
def test_a_run_that_always_fails_is_unhealthy_when_docker_says_so(
    interval_s: float, retries: int, period_s: float, start_interval_s: float
) -> None:
    check = Check(PROBE, interval_s, 30.0, retries, period_s, start_interval_s)
    health, _, changes = played(check, [1] * 200)
    assert health.status == "unhealthy"
    (change,) = changes
    assert change[0] == pytest.approx(docker_unhealthy_s(check), abs=1e-6)


def test_a_healthy_run_needs_retries_failures_in_a_row() -> None:
    check = Check(PROBE, retries=3)
    assert played(check, [0, 1, 1, 0, 1, 1])[0].status == "healthy"
    health, _, changes = played(check, [0, 1, 1, 0, 1, 1, 1])
    assert health.status == "unhealthy"
    assert [change.status for _, change in changes] == ["healthy", "unhealthy"]


def test_the_first_success_ends_the_start_period() -> None:
    check = Check(PROBE, interval_s=1.0, retries=1, start_period_s=3600.0)
    assert played(check, [1, 0, 1])[0].status == "unhealthy"


def test_one_success_makes_an_unhealthy_run_healthy() -> None:
    health, _, changes = played(Check(PROBE, retries=1), [0, 1, 1, 0])
    assert (health.status, health.streak) == ("healthy", 0)
    assert [change.status for _, change in changes] == ["healthy", "unhealthy", "healthy"]


def test_the_interval_runs_from_the_end_of_a_probe() -> None:
    _, ages, _ = played(Check(PROBE, interval_s=10.0), [0, 0, 0], took_s=2.0)
    assert ages[2] - ages[1] == pytest.approx(12.0)


def test_the_newest_results_are_kept() -> None:
    health, _, _ = played(Check(PROBE), [0] * 7)
    assert len(health.log) == LOG_ENTRIES
    assert health.log[-1].began_wall > health.log[0].began_wall


@pytest.mark.parametrize("status", ["starting", "healthy", "unhealthy"])
@pytest.mark.parametrize("event", [Resumed(), NotMade(), TakenOver(0.5)])
def test_what_is_no_result_changes_nothing(status: Status, event: Resumed | NotMade | TakenOver) -> None:
    health = Health(1, STARTED_S, status, streak=2)
    after, due_s, changes = step(Check(PROBE), health, event, STARTED_S + 50.0)
    assert (after, changes) == (health, ())
    assert STARTED_S + 50.0 <= due_s <= STARTED_S + 80.0


def test_an_unhealthy_run_says_what_it_fails_at() -> None:
    log = (Result(0.0, 0.1, 3, "\n  no route to db\nmore"),)
    assert failures(Health(1, 0.0, "unhealthy", 3, log)) == (
        "3 probes failed in a row: exit code 3, no route to db"
    )
    assert failures(Health(1, 0.0, "unhealthy", 1, (Result(0.0, 0.1, -1, "timeout"),))) == (
        "1 probe failed: timeout"
    )


def running(rules: RestartRules, health: HealthWord = "healthy") -> Instance:
    return Instance("i", rules, phase=Running(9, 0.0), wanted=True, run=1, started_before=True, health=health)


@pytest.mark.parametrize("policy", list(Policy))
def test_unhealthy_with_restart_is_a_failure_under_every_policy(policy: Policy) -> None:
    """Stopped by its stop signal first; whatever code it ends with, it is started again with its cause."""
    unhealthy = ev.HealthChanged(1, "unhealthy", "3 probes failed in a row", restart=True)
    stopping, effects = lifecycle.step(running(RestartRules(policy, no_restart_on=(0,))), unhealthy, 5.0)
    assert isinstance(stopping.phase, Stopping)
    assert ev.Signal(1, 15) in effects
    assert ev.Tell("health_status: unhealthy", "3 probes failed in a row") in effects
    waiting, _ = lifecycle.step(stopping, ev.Exited(1, Exit(0)), 6.0)
    assert isinstance(waiting.phase, Waiting)
    assert waiting.reason == "unhealthy: 3 probes failed in a row; on_unhealthy restart"
    assert (waiting.history.restart_count, waiting.manually_stopped) == (1, False)
    again, _ = lifecycle.step(waiting, ev.TimerFired(waiting.timer), 7.0)
    assert (again.run, again.health) == (2, "")


def test_a_stop_by_a_person_while_it_ends_as_unhealthy_is_a_stop() -> None:
    unhealthy = ev.HealthChanged(1, "unhealthy", "x", restart=True)
    stopping, _ = lifecycle.step(running(RestartRules(Policy.ALWAYS)), unhealthy, 5.0)
    stopping, _ = lifecycle.step(stopping, ev.StopRequested(), 5.5)
    rested, _ = lifecycle.step(stopping, ev.Exited(1, Exit(0)), 6.0)
    assert isinstance(rested.phase, Resting)
    assert rested.manually_stopped


@pytest.mark.parametrize(
    ("policy", "again"), [(Policy.NO, False), (Policy.ON_FAILURE, True), (Policy.UNLESS_STOPPED, True)]
)
def test_not_to_be_ready_in_time_is_a_failed_start_for_the_policy_to_judge(
    policy: Policy, again: bool
) -> None:
    """Whatever code it ends with when it is stopped: that is not its own."""
    late = ev.HealthChanged(1, "unhealthy", "not ready within 5 s", part="notify", failed=True)
    rules = RestartRules(policy, restart_on=(0,), no_restart_on=(0,))
    stopping, effects = lifecycle.step(running(rules, "starting"), late, 5.0)
    assert ev.Signal(1, 15) in effects
    ended, _ = lifecycle.step(stopping, ev.Exited(1, Exit(0)), 6.0)
    assert isinstance(ended.phase, Waiting if again else Resting)
    assert ended.reason == f"start failed: not ready within 5 s; restart policy {policy.value}"


def test_a_run_is_as_the_worst_that_is_known_of_it() -> None:
    """Probes and what it says itself; only a change of both together is told."""
    instance = running(RestartRules(), "")
    told = []
    changes: list[tuple[HealthWord, Part]] = [
        ("starting", "probes"), ("starting", "notify"), ("healthy", "probes"), ("healthy", "notify"),
        ("unhealthy", "notify"), ("unhealthy", "probes"), ("healthy", "notify"), ("healthy", "probes"),
    ]  # fmt: skip
    for status, part in changes:
        instance, effects = lifecycle.step(instance, ev.HealthChanged(1, status, part=part), 5.0)
        told.append((instance.health, [each.action for each in effects if isinstance(each, ev.Tell)]))
    assert told == [
        ("starting", []), ("starting", []), ("starting", []), ("healthy", ["health_status: healthy"]),
        ("unhealthy", ["health_status: unhealthy"]), ("unhealthy", []), ("unhealthy", []),
        ("healthy", ["health_status: healthy"]),
    ]  # fmt: skip


def test_its_attempts_are_a_bound() -> None:
    rules = RestartRules(Policy.ALWAYS, max_attempts=0)
    unhealthy = ev.HealthChanged(1, "unhealthy", "x", restart=True)
    stopping, _ = lifecycle.step(running(rules), unhealthy, 5.0)
    rested, _ = lifecycle.step(stopping, ev.Exited(1, Exit(0)), 6.0)
    assert rested.phase == Resting(exhausted=True)
    assert rested.reason.startswith("gave up after 0 of 0 restarts: unhealthy: x")
