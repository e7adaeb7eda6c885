"""restart.decide and table 1.5 of Docker's semantics, row by row."""

from __future__ import annotations

import pytest
from pure_service import PureService
from restart_tables import STEADY, Row, columns

from supervisor.core import events as ev
from supervisor.core.exits import Exit, SpawnFailure
from supervisor.core.lifecycle import step
from supervisor.core.model import Backoff, Policy, RestartRules, ServiceSpec
from supervisor.core.restart import History, Rest, Restart, decide
from supervisor.core.state import Instance, Resting, Running, Waiting
from supervisor.daemon.making import stop_signal


def running(policy: Policy, *, attempts: int | None = None) -> Instance:
    """A service that was started by a person and runs since 100 s."""
    instance = Instance("i", rules=RestartRules(policy, max_attempts=attempts))
    instance, _ = step(instance, ev.StartRequested(), 100.0)
    instance, _ = step(instance, ev.Started(1, 42), 100.0)
    assert isinstance(instance.phase, Running), "the precondition: it runs"
    return instance


@pytest.mark.parametrize(
    ("row", "policy", "verdict"),
    [
        pytest.param(row, *column, id=f"{row.name}-{column[0].value}")
        for row in STEADY
        for column in columns(row.ours)
    ],
)
def test_table_1_5(row: Row, policy: Policy, verdict: str) -> None:
    """Each row for each policy."""
    service = PureService(row.service, policy)
    if not row.service.missing:
        service.start()
    service.acts(row.acts)
    assert service.verdict() == verdict


def test_a_failed_start_says_so() -> None:
    """Rows 13 and 14: the stage and the call, in the reason."""
    instance, _ = step(Instance("i", rules=RestartRules(Policy.ALWAYS)), ev.StartRequested(), 1.0)
    failure = SpawnFailure("exec", 2, "execve(/nowhere): no such file or directory", 127)
    instance, _ = step(instance, ev.LaunchFailed(1, failure), 1.0)
    assert "could not start (exec): execve(/nowhere)" in instance.reason


def test_on_failure_n_gives_n_restarts() -> None:
    """Row 15: N + 1 runs, then it rests, exhausted, and says so."""
    instance = running(Policy.ON_FAILURE, attempts=2)
    runs = 1
    while True:
        instance, _ = step(instance, ev.Exited(instance.run, Exit(1)), 101.0 + 200 * runs)
        if isinstance(instance.phase, Resting):
            break
        if isinstance(instance.phase, Waiting):
            instance, _ = step(instance, ev.TimerFired(instance.phase.timer), 102.0 + 200 * runs)
        instance, _ = step(instance, ev.Started(instance.run, 42), 102.0 + 200 * runs)
        runs += 1
    assert runs == 3
    assert instance.phase.exhausted
    assert instance.reason.startswith("gave up after 2 of 2 restarts")


def test_delays_double_from_100_ms_to_a_minute_and_a_long_run_forgives() -> None:
    """1.2: 0.1 0.2 ... 51.2 60 60; the restart after a run of 10 s is immediate, then 100 ms again."""
    rules = RestartRules(Policy.ALWAYS)
    history = History()
    delays = []
    for _ in range(12):
        result = decide(rules, history, Exit(1), ran_s=1.0, manually_stopped=False, now_s=0.0)
        assert isinstance(result, Restart)
        history = result.history
        delays.append(round(result.after_s, 3))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]
    long = decide(rules, history, Exit(1), ran_s=10.0, manually_stopped=False, now_s=0.0)
    assert isinstance(long, Restart)
    assert long.after_s == 0.0
    short = decide(rules, long.history, Exit(1), ran_s=1.0, manually_stopped=False, now_s=0.0)
    assert isinstance(short, Restart)
    assert short.after_s == 0.1


def test_a_window_counts_only_its_own_restarts() -> None:
    """max_attempts with a window: old restarts are forgotten, a burst exhausts."""
    rules = RestartRules(Policy.ALWAYS, max_attempts=2, window_s=60.0)
    burst = History(restart_count=9, restarts_s=(10.0, 20.0))
    assert isinstance(decide(rules, burst, Exit(1), ran_s=1, manually_stopped=False, now_s=30.0), Rest)
    assert isinstance(decide(rules, burst, Exit(1), ran_s=1, manually_stopped=False, now_s=90.0), Restart)


def test_exit_codes_override_the_policy() -> None:
    """no_restart_on wins over restart_on, and both over the policy."""
    rules = RestartRules(Policy.ON_FAILURE, restart_on=(0, 7), no_restart_on=(3, 7))
    results = {
        code: isinstance(
            decide(rules, History(), Exit(code), ran_s=1, manually_stopped=False, now_s=0), Restart
        )
        for code in (0, 1, 3, 7)
    }
    assert results == {0: True, 1: True, 3: False, 7: False}


def test_jitter_only_adds_its_share() -> None:
    """A jitter of 0.5 makes 100 ms at most 150 ms."""
    rules = RestartRules(Policy.ALWAYS, backoff=Backoff(jitter=0.5))
    result = decide(rules, History(), Exit(1), ran_s=1, manually_stopped=False, now_s=0, jitter=1.0)
    assert isinstance(result, Restart)
    assert result.after_s == pytest.approx(0.15)


def test_a_stop_for_a_time_starts_again() -> None:
    """`stop --for`: the resting phase owns the timer, and it is started when that fires."""
    instance, _ = step(running(Policy.NO), ev.StopRequested(hold_s=1800.0), 101.0)
    instance, _ = step(instance, ev.Exited(1, Exit(0)), 102.0)
    assert isinstance(instance.phase, Resting)
    assert instance.phase.resume_s == 1902.0
    assert instance.phase.timer is not None
    instance, effects = step(instance, ev.TimerFired(instance.phase.timer), 1902.0)
    assert effects[0] == ev.Launch(2)


@pytest.mark.parametrize(
    ("text", "number"), [(None, 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37)]
)
def test_a_stop_signal_is_read_as_the_loader_reads_it(text: str | None, number: int) -> None:
    """What the loader accepts the daemon knows too, real-time signals among it."""
    assert stop_signal(ServiceSpec("web", stop_signal=text)) == number
