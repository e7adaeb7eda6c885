"""restart.decide and table 1.5 of Docker's semantics, row by row."""

from __future__ import annotations

import pytest

from supervisor.core import events as ev
from supervisor.core.exits import Exit, SpawnFailure
from supervisor.core.lifecycle import step
from supervisor.core.model import Backoff, Policy, RestartRules, ServiceSpec
from supervisor.core.restart import History, Rest, Restart, decide
from supervisor.core.state import Instance, Resting, Running, Starting, Stopping, Waiting
from supervisor.daemon.projects import stop_signal

R, X = "R", "X"
POLICIES = (Policy.NO, Policy.ON_FAILURE, Policy.ALWAYS, Policy.UNLESS_STOPPED)
KILLED = Exit(137, signal=9)
TERM, HUP, KILL = 15, 1, 9


def running(policy: Policy, *, attempts: int | None = None, count: int = 0, at_s: float = 100.0) -> Instance:
    """A service that was started by a person and runs since `at_s`."""
    rules = RestartRules(policy, max_attempts=attempts)
    instance = Instance("i", rules=rules)
    instance, _ = step(instance, ev.StartRequested(), at_s)
    instance, _ = step(instance, ev.Started(1, 42), at_s)
    assert isinstance(instance.phase, Running), "the precondition: it runs"
    if count:
        from dataclasses import replace

        instance = replace(instance, history=History(restart_count=count))
    return instance


def verdict(instance: Instance) -> str:
    match instance.phase:
        case Waiting() | Starting():
            return R
        case Resting():
            return X
        case other:
            raise AssertionError(f"neither down nor coming back: {other}")


def after(instance: Instance, *events: ev.Event, now_s: float = 101.0) -> str:
    for event in events:
        instance, _ = step(instance, event, now_s)
    return verdict(instance)


ROWS = [
    # (row of table 1.5, what happens, verdicts for no, on-failure, always, unless-stopped)
    ("1 exits 0", [ev.Exited(1, Exit(0))], (X, X, R, R)),
    ("2 exits non-zero", [ev.Exited(1, Exit(3))], (X, R, R, R)),
    ("3 killed from the host", [ev.Exited(1, KILLED)], (X, R, R, R)),
    ("4 out of memory", [ev.Exited(1, Exit(137, signal=9, oom=True))], (X, R, R, R)),
    ("5 stop, exit 0", [ev.StopRequested(), ev.Exited(1, Exit(0))], (X, X, X, X)),
    ("5 stop, exit 143", [ev.StopRequested(), ev.Exited(1, Exit(143, signal=15))], (X, X, X, X)),
    ("7 kill KILL", [ev.KillRequested(KILL), ev.Exited(1, KILLED)], (X, X, X, X)),
    ("10 kill with the stop signal", [ev.KillRequested(TERM), ev.Exited(1, Exit(0))], (X, X, X, X)),
    ("16 a signal from inside", [ev.Exited(1, Exit(139, signal=11))], (X, R, R, R)),
]


@pytest.mark.parametrize("column", range(4), ids=[p.value for p in POLICIES])
@pytest.mark.parametrize(("events", "verdicts"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_table_1_5(column: int, events: list[ev.Event], verdicts: tuple[str, ...]) -> None:
    """Each row for each policy, as Docker does it."""
    assert after(running(POLICIES[column]), *events) == verdicts[column]


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_a_stop_during_backoff_rests_at_once(policy: Policy) -> None:
    """Row 6: nothing has to end, so it is down when the call returns."""
    instance, _ = step(running(policy), ev.Exited(1, Exit(1)), 101.0)
    assert isinstance(instance.phase, Waiting)
    instance, effects = step(instance, ev.StopRequested(), 101.0)
    assert isinstance(instance.phase, Resting)
    assert not any(isinstance(effect, ev.Signal | ev.KillAll) for effect in effects)


@pytest.mark.parametrize("policy", [Policy.ALWAYS, Policy.UNLESS_STOPPED, Policy.ON_FAILURE])
def test_a_signal_that_did_not_end_the_process_is_no_stop(policy: Policy) -> None:
    """Rows 8 and 9, where Docker is unkind (moby#41302, #47792): HUP, then an exit of its own much later."""
    instance, _ = step(running(policy), ev.KillRequested(HUP), 101.0)
    assert after(instance, ev.Exited(1, Exit(1)), now_s=500.0) == R


def test_a_stop_signal_that_was_survived_is_no_stop() -> None:
    """TERM was ignored for longer than the grace period; the later exit is the program's own."""
    instance, _ = step(running(Policy.ALWAYS), ev.KillRequested(TERM), 101.0)
    assert after(instance, ev.Exited(1, Exit(0)), now_s=500.0) == R


@pytest.mark.parametrize("policy", POLICIES)
def test_restart_by_a_person_runs_again_with_count_zero(policy: Policy) -> None:
    """Row 11."""
    instance, _ = step(running(policy, count=3), ev.RestartRequested(), 101.0)
    assert isinstance(instance.phase, Stopping)
    instance, effects = step(instance, ev.Exited(1, Exit(143, signal=15)), 102.0)
    assert isinstance(instance.phase, Starting)
    assert effects[0] == ev.Launch(2)
    assert instance.history.restart_count == 0


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Policy.NO, X), (Policy.ON_FAILURE, R), (Policy.ALWAYS, R), (Policy.UNLESS_STOPPED, R)],
)
def test_a_failed_start_is_retried_by_the_policy(policy: Policy, expected: str) -> None:
    """Rows 13 and 14, where Docker gives up for good."""
    instance, _ = step(Instance("i", rules=RestartRules(policy)), ev.StartRequested(), 1.0)
    failure = SpawnFailure("exec", 2, "execve(/nowhere): no such file or directory", 127)
    instance, _ = step(instance, ev.LaunchFailed(1, failure), 1.0)
    assert verdict(instance) == expected
    assert "could not start" in instance.reason


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
