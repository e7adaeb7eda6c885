"""What comes back when the launcher, the supervisor or the host has begun anew: table 1.6, and the tuning."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pure_service import PureService
from restart_tables import FIVE, RETURNS, ZERO, Return, World, columns

from supervisor.core import events as ev
from supervisor.core.boot import Anew, keep, recover, starts_at_boot
from supervisor.core.exits import LOST, Ending, Exit, SpawnFailure, failed
from supervisor.core.lifecycle import step
from supervisor.core.model import Policy, RestartRules
from supervisor.core.restart import History
from supervisor.core.state import Created, Instance, Resting, Running, Starting, Stopping, Waiting

ENDINGS: st.SearchStrategy[Ending] = st.one_of(
    st.builds(Exit, st.integers(0, 255)), st.just(LOST), st.just(SpawnFailure("mount", 2, "x", 128))
)
CODES = st.lists(st.integers(0, 255), max_size=3).map(tuple)
HISTORIES = st.builds(
    History,
    restart_count=st.integers(0, 4),
    short_runs=st.integers(0, 4),
    restarts_s=st.lists(st.integers(0, 100).map(float), max_size=4).map(lambda found: tuple(sorted(found))),
)
RULES = st.builds(
    RestartRules,
    policy=st.sampled_from(Policy),
    max_attempts=st.none() | st.integers(0, 3),
    window_s=st.none() | st.integers(1, 60).map(float),
    restart_on=CODES,
    no_restart_on=CODES,
)


@pytest.mark.parametrize(
    ("row", "policy", "verdict"),
    [
        pytest.param(row, *column, id=f"{row.name}-{column[0].value}")
        for row in RETURNS
        for column in columns(row.ours)
    ],
)
def test_table_1_6(row: Return, policy: Policy, verdict: str) -> None:
    """Each row for each policy; where it differs from Docker the document says why."""
    service = PureService(row.service, policy)
    if not row.service.missing and not row.created:
        service.start()
    service.acts(row.acts)
    match row.world:
        case World.ORDERLY:
            service.shut_down(FIVE if row.code == 5 or "another" in row.name else ZERO)
            service.come_back(Anew.HOST)
        case World.POWER:
            service.come_back(Anew.HOST)
        case World.CRASH:
            if row.meanwhile is not None:
                service.ends(row.meanwhile.how)
            service.come_back(Anew.SUPERVISOR, alive=row.meanwhile is None)
    assert service.verdict() == verdict
    if row.code is not None:
        assert service.instance.last is not None
        assert service.instance.last.code == row.code


def resting(rules: RestartRules, last: Ending | None, history: History | None = None) -> Instance:
    return Instance(
        "i", rules, phase=Resting(), run=1, started_before=True, last=last, history=history or History()
    )


@given(st.sampled_from(Policy), st.none() | st.integers(0, 3), ENDINGS, st.booleans(), st.integers(0, 4))
def test_plain_policies_are_dockers_formula(
    policy: Policy, attempts: int | None, last: Ending, stopped: bool, count: int
) -> None:
    """moby daemon/daemon.go, restore(), once more; and what a person stopped stays stopped."""
    if policy is not Policy.ON_FAILURE:
        attempts = None  # Docker refuses it with other policies
    instance = resting(RestartRules(policy, max_attempts=attempts), last, History(restart_count=count))
    docker = (
        policy is Policy.ALWAYS
        or (policy is Policy.UNLESS_STOPPED and not stopped)
        or (policy is Policy.ON_FAILURE and failed(last) and (attempts is None or count < attempts))
    )
    expected = docker and not (stopped and policy is Policy.ON_FAILURE)
    assert starts_at_boot(replace(instance, manually_stopped=stopped), 1000.0) is expected


@given(RULES, HISTORIES, st.integers(0, 255))
def test_a_start_of_the_supervisor_decides_as_it_would_have_while_it_ran(
    rules: RestartRules, history: History, code: int
) -> None:
    """Codes, attempts and window: what rests by the rules rests on, and the other way round."""
    running = replace(resting(rules, None, history), phase=Running(9, 100.0))
    judged, _ = step(running, ev.Exited(1, Exit(code)), 101.0)
    if isinstance(judged.phase, Resting):
        assert not starts_at_boot(judged, 101.0)
    else:
        assert starts_at_boot(resting(rules, Exit(code), history), 101.0)


@given(RULES, HISTORIES, ENDINGS, st.integers(-1000, 1000).map(float), st.integers(100, 200).map(float))
def test_a_boot_changes_the_clock_and_nothing_else(
    rules: RestartRules, history: History, last: Ending, shift_s: float, now_s: float
) -> None:
    """The window is as long as it was on the wall clock, however the clock of the new boot starts."""
    instance = resting(rules, last, history)
    booted, _ = recover(instance, now_s + shift_s, Anew.HOST, shift_s=shift_s)
    assert starts_at_boot(booted, now_s + shift_s) == starts_at_boot(instance, now_s)


def test_attempts_in_a_window_are_forgiven_when_it_has_passed() -> None:
    """on-failure with two attempts a minute: exhausted at 30 s, tried again by a start of the host later."""
    rules = RestartRules(Policy.ON_FAILURE, max_attempts=2, window_s=60.0)
    instance = resting(rules, Exit(1), History(restart_count=9, restarts_s=(10.0, 20.0)))
    assert not starts_at_boot(instance, 30.0)
    assert starts_at_boot(instance, 90.0)


@pytest.mark.parametrize("anew", [Anew.LAUNCHER, Anew.SUPERVISOR])
def test_within_one_boot_a_backoff_goes_on(anew: Anew) -> None:
    """The count and the time of the next attempt outlive the supervisor."""
    rules = RestartRules(Policy.ON_FAILURE, max_attempts=3)
    waiting = replace(
        resting(rules, Exit(1), History(restart_count=2, short_runs=2)), phase=Waiting(7, 130.0), timer=7
    )
    assert recover(waiting, 110.0, anew) == (waiting, (ev.Arm(7, 130.0),))
    assert not starts_at_boot(waiting, 110.0)


@pytest.mark.parametrize("anew", [Anew.LAUNCHER, Anew.SUPERVISOR])
@pytest.mark.parametrize("policy", Policy)
def test_a_run_that_is_gone_within_one_boot_is_an_end_like_another(policy: Policy, anew: Anew) -> None:
    """Recorded as 255, counted, with its backoff: never twice at once, never for ever."""
    running = replace(resting(RestartRules(policy), None), phase=Running(9, 100.0))
    found, effects = recover(running, 101.0, anew)
    assert found.last == LOST
    if policy is Policy.NO:
        assert found.phase == Resting()
    else:
        assert found.phase == Waiting(1, 101.1)
        assert found.history.restart_count == 1
        assert ev.Arm(1, 101.1) in effects


def test_a_new_launcher_starts_nothing_that_rests() -> None:
    """Only a start of the supervisor brings `always` back after a stop; a stop under way is finished."""
    for policy in Policy:
        stopped = replace(resting(RestartRules(policy), Exit(0)), manually_stopped=True)
        assert recover(stopped, 5.0, Anew.LAUNCHER) == (stopped, ())
    stopping = replace(stopped, phase=Stopping(3, 100.0, killed=False))
    assert recover(stopping, 101.0, Anew.LAUNCHER)[0].phase == Resting()
    restarting = replace(stopped, phase=Stopping(3, 100.0, killed=False, then="start"))
    assert isinstance(recover(restarting, 101.0, Anew.LAUNCHER)[0].phase, Starting)


def test_a_start_under_way_is_asked_for_again() -> None:
    """The same run, not another one: a launcher that has it answers what became of it."""
    starting = replace(resting(RestartRules(Policy.NO), None), phase=Starting(100.0), run=4)
    assert recover(starting, 101.0, Anew.SUPERVISOR) == (starting, (ev.Launch(4),))


def test_a_stop_under_way_gets_its_grace_again() -> None:
    """A database that is shutting down is not killed because the supervisor was upgraded."""
    stopping = replace(
        resting(RestartRules(), None), phase=Stopping(3, 100.0, killed=False), stop_grace_s=60.0
    )
    assert keep(stopping, 130.0) == (ev.Arm(3, 190.0),)


@pytest.mark.parametrize("policy", Policy)
def test_a_stop_for_a_time_lasts_for_that_time(policy: Policy) -> None:
    """Whatever starts meanwhile; on the wall clock, over a boot of the host."""
    held = replace(
        resting(RestartRules(policy), Exit(0)),
        manually_stopped=True,
        phase=Resting(False, 4, 1900.0),
        timer=4,
    )
    assert recover(held, 200.0, Anew.SUPERVISOR) == (held, (ev.Arm(4, 1900.0),))
    booted, effects = recover(held, 10.0, Anew.HOST, shift_s=-500.0)
    assert booted.phase == Resting(False, 5, 1400.0)
    assert ev.Arm(5, 1400.0) in effects
    assert not starts_at_boot(held, 200.0)
    assert not starts_at_boot(booted, 10.0)


def test_a_run_that_nobody_saw_end_is_recorded_as_255() -> None:
    """Docker's code for a task that was lost."""
    recovered, _ = recover(Instance("i", phase=Running(9, 1.0), run=1, started_before=True), 5.0, Anew.HOST)
    assert recovered.last == LOST
    assert recovered.last.code == 255
    assert recovered.phase == Resting()


def test_what_was_never_started_is_never_started_by_itself() -> None:
    """Docker: HasBeenStartedBefore."""
    for anew in Anew:
        created, _ = recover(Instance("i", RestartRules(Policy.ALWAYS)), 5.0, anew)
        assert created.phase == Created()
        assert not starts_at_boot(created, 5.0)
