"""The state machine of a service instance: `step(instance, event, now) -> (instance, effects)`.

Pure and total: every phase meets every event. What keeps it safe:
- an answer that names another run than the newest, and a timer that is not the phase's own, change nothing;
- Stopping and Waiting own a timer, and a kill is repeated until the run is gone;
- Launch comes before everything that waits for a disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from supervisor.core import events as ev
from supervisor.core.exits import Ending, Exit, SpawnFailure, describe
from supervisor.core.readiness import overall
from supervisor.core.restart import History, Rest, decide
from supervisor.core.state import Created, Instance, Resting, Running, Starting, Stopping, Waiting

KILL_AGAIN_S = 5.0
SIGKILL = 9

Step = tuple[Instance, tuple[ev.Effect, ...]]


def step(instance: Instance, event: ev.Event, now_s: float, jitter: float = 0.0) -> Step:
    """One event. now_s: CLOCK_BOOTTIME in seconds; jitter: a random number, 0..1."""
    match event:
        case ev.StartRequested():
            return _start(instance, event, now_s)
        case ev.StopRequested():
            return _stop(instance, event, now_s)
        case ev.RestartRequested():
            return _restart(instance, event, now_s)
        case ev.KillRequested():
            return _kill(instance, event.signum, now_s)
        case ev.PauseRequested():
            if isinstance(instance.phase, Running) and instance.phase.paused != event.paused:
                return instance, (ev.Freeze(instance.run, event.paused),)
            return instance, ()
        case ev.Paused():
            return _paused(instance, event)
        case ev.Started():
            return _started(instance, event, now_s)
        case ev.LaunchFailed():
            if event.run != instance.run:
                return instance, ()
            return _ended(instance, event.failure, now_s, jitter)
        case ev.Exited():
            if event.run != instance.run:
                return instance, ()
            return _ended(instance, event.exit, now_s, jitter)
        case ev.TimerFired():
            return _timer(instance, event.timer, now_s)
        case ev.HealthChanged():
            return _health(instance, event, now_s)
        case ev.Held():
            return _held(instance, event)
        case ev.RulesChanged():
            return replace(instance, rules=event.rules), (ev.Save(),)
        case _:
            assert_never(event)


def _start(instance: Instance, event: ev.StartRequested, now_s: float) -> Step:
    match instance.phase:
        case Created() | Resting():
            return _launch(_forgiven(instance), event.why, now_s)
        case Stopping() as phase:
            phase = replace(phase, then="start")
            return replace(_forgiven(instance), phase=phase, reason=event.why), (ev.Save(),)
        case Starting() | Running() | Waiting():
            return instance, ()  # Docker answers 304
        case _:
            assert_never(instance.phase)


def _stop(instance: Instance, event: ev.StopRequested, now_s: float) -> Step:
    instance = replace(
        instance,
        wanted=instance.wanted and not event.manual,
        manually_stopped=instance.manually_stopped or event.manual,
    )
    hold_s = event.hold_s if event.hold_s is not None else instance.rules.resume_after_s
    if not event.manual:
        hold_s = None
    grace_s = event.grace_s if event.grace_s is not None else instance.stop_grace_s
    signum = event.signum if event.signum is not None else instance.stop_signal
    match instance.phase:
        case Created():
            return instance, (ev.Save(),)
        case Resting() as phase:
            return _rest(instance, instance.reason, now_s, hold_s, exhausted=phase.exhausted)
        case Waiting():
            # Nothing runs: stopped at once, and only a stop event (Docker, row 6 of table 1.5).
            rested, effects = _rest(instance, event.why, now_s, hold_s)
            return rested, (*effects, ev.Tell("stop", event.why))
        case Starting():
            stopping, effects = _stopping(instance, None, now_s + KILL_AGAIN_S, hold_s, killed=True)
            return replace(stopping, reason=event.why), (ev.KillAll(instance.run), *effects)
        case Running() as phase:
            kill = signum == SIGKILL or grace_s == 0
            wait_s = KILL_AGAIN_S if kill else grace_s
            stopping, effects = _stopping(instance, phase.started_s, now_s + wait_s, hold_s, killed=kill)
            thaw = (ev.Freeze(instance.run, False),) if phase.paused else ()
            send: ev.Effect = ev.KillAll(instance.run) if kill else ev.Signal(instance.run, signum)
            return replace(stopping, reason=event.why), (*thaw, send, *effects)
        case Stopping() as phase:
            phase = replace(phase, then="rest", hold_s=hold_s)
            return replace(instance, phase=phase, reason=event.why), (ev.Save(),)
        case _:
            assert_never(instance.phase)


def _restart(instance: Instance, event: ev.RestartRequested, now_s: float) -> Step:
    match instance.phase:
        case Created() | Resting() | Waiting():
            launched, effects = _launch(_forgiven(instance), event.why, now_s)
            return launched, (*effects, ev.Tell("restart", event.why))
        case Starting():
            return instance, ()
        case Running() | Stopping():
            stopped, effects = _stop(
                instance, ev.StopRequested(manual=False, grace_s=event.grace_s, why=event.why), now_s
            )
            assert isinstance(stopped.phase, Stopping)
            phase = replace(stopped.phase, then="start")
            tell = ev.Tell("restart", event.why)
            return replace(_forgiven(stopped), phase=phase), (*effects, tell)
        case _:
            assert_never(instance.phase)


def _kill(instance: Instance, signum: int, now_s: float) -> Step:
    match instance.phase:
        case Running() as phase:
            marked = replace(instance, phase=replace(phase, signalled=(signum, now_s)))
            if signum == SIGKILL:
                return marked, (ev.KillAll(instance.run), ev.Tell("kill"))
            return marked, (ev.Signal(instance.run, signum), ev.Tell("kill"))
        case Stopping():
            if signum == SIGKILL:
                return instance, (ev.KillAll(instance.run), ev.Tell("kill"))
            return instance, (ev.Signal(instance.run, signum), ev.Tell("kill"))
        case Waiting() if ends_waiting(instance, signum):
            return _stop(instance, ev.StopRequested(why="killed by you"), now_s)
        case Created() | Starting() | Waiting() | Resting():
            return instance, ()
        case _:
            assert_never(instance.phase)


def ends_waiting(instance: Instance, signum: int) -> bool:
    """Whether a signal to what waits for a restart is a stop; any other has nothing to go to."""
    return signum in (SIGKILL, instance.stop_signal)


def _paused(instance: Instance, event: ev.Paused) -> Step:
    phase = instance.phase
    if event.run != instance.run or not isinstance(phase, Running) or phase.paused == event.paused:
        return instance, ()
    tell = ev.Tell("pause" if event.paused else "unpause")
    return replace(instance, phase=replace(phase, paused=event.paused)), (ev.Save(), tell)


def _health(instance: Instance, event: ev.HealthChanged, now_s: float) -> Step:
    phase = instance.phase
    if event.run != instance.run or not isinstance(phase, Running):
        return instance, ()
    before = instance
    if event.part == "probes":
        instance = replace(instance, probed=event.status)
    else:
        instance = replace(instance, ready=event.status)
    instance = replace(instance, health=overall(instance.probed, instance.ready))
    if instance == before:
        return before, ()
    quiet = instance.health in ("starting", before.health)
    tell = () if quiet else (ev.Tell(f"health_status: {instance.health}", event.why),)
    if event.status != "unhealthy" or not (event.restart or event.failed):
        return instance, (ev.Save(), *tell)
    why = event.why if event.failed else f"unhealthy: {event.why}"
    stopped, effects = _stop(instance, ev.StopRequested(manual=False, why=why), now_s)
    assert isinstance(stopped.phase, Stopping)
    if event.failed:
        ending = replace(stopped.phase, then="decide", not_ready=event.why)
    else:
        ending = replace(stopped.phase, then="decide", unhealthy=event.why)
    return replace(stopped, phase=ending), (*effects, *tell)


def _held(instance: Instance, event: ev.Held) -> Step:
    match instance.phase:
        case Created():
            # Wanted: a supervisor that ends meanwhile goes on with it when it is back.
            held = replace(instance, wanted=not event.refused, reason=event.why)
        case Resting():
            held = replace(instance, reason=event.why)
        case Starting() | Running() | Stopping() | Waiting():
            return instance, ()  # somebody was quicker
        case _:
            assert_never(instance.phase)
    # As with a start: an earlier stop is forgotten, so that a later one can be seen.
    return (held if event.refused else replace(held, manually_stopped=False)), (ev.Save(),)


def _started(instance: Instance, event: ev.Started, now_s: float) -> Step:
    if event.run != instance.run:
        return instance, ()
    match instance.phase:
        case Starting():
            running = replace(
                instance, phase=Running(event.pid, now_s, start_ticks=event.start_ticks), started_before=True
            )
            return running, (ev.Save(), ev.Tell("start", instance.reason))
        case Stopping() as phase if phase.started_s is None:
            # The stop overtook the start: what has just begun ends.
            started = replace(instance, phase=replace(phase, started_s=now_s), started_before=True)
            return started, (ev.KillAll(instance.run),)
        case Created() | Running() | Stopping() | Waiting() | Resting():
            return instance, ()
        case _:
            assert_never(instance.phase)


def _ended(instance: Instance, ending: Ending, now_s: float, jitter: float) -> Step:
    match instance.phase:
        case Created() | Waiting() | Resting():
            return instance, ()  # a second report of the same end
        case Stopping(then="decide") as phase:
            if isinstance(ending, Exit):
                ending = replace(ending, unhealthy=phase.unhealthy, not_ready=phase.not_ready)
            started_s = now_s if phase.started_s is None else phase.started_s
            stopped = False
        case Stopping() as phase:
            ended = replace(instance, last=ending)
            tells = _tells(ending)
            if phase.then == "start":
                launched, effects = _launch(ended, instance.reason, now_s)
                return launched, (*effects, *tells)
            rested, effects = _rest(ended, instance.reason, now_s, phase.hold_s)
            return rested, (*effects, *tells, ev.Tell("stop", instance.reason))
        case Starting() as starting:
            started_s = starting.since_s
            stopped = instance.manually_stopped
        case Running() as running:
            started_s = running.started_s
            stopped = _stopped_by(running, instance, ending, now_s)
        case _:
            assert_never(instance.phase)
    verdict = decide(
        instance.rules,
        instance.history,
        ending,
        ran_s=now_s - started_s,
        manually_stopped=stopped,
        now_s=now_s,
        jitter=jitter,
    )
    ended = replace(instance, last=ending, history=verdict.history, manually_stopped=stopped)
    if isinstance(verdict, Rest):
        why = f"{describe(ending)}, after a signal of yours" if stopped else verdict.why
        hold_s = instance.rules.resume_after_s if stopped else None
        ended = replace(ended, wanted=ended.wanted and not stopped)
        rested, effects = _rest(ended, why, now_s, hold_s, exhausted=verdict.exhausted)
        give_up = verdict.exhausted and instance.rules.on_exhausted == "stop-project"
        return rested, (*effects, *_tells(ending), *((ev.StopProject(),) if give_up else ()))
    if verdict.after_s <= 0:
        launched, effects = _launch(ended, verdict.why, now_s)
        return launched, (*effects, *_tells(ending))
    timer = instance.timer + 1
    until_s = now_s + verdict.after_s
    waiting = replace(ended, phase=Waiting(timer, until_s), timer=timer, reason=verdict.why)
    return waiting, (ev.Arm(timer, until_s), ev.Save(), *_tells(ending))


def _timer(instance: Instance, timer: int, now_s: float) -> Step:
    match instance.phase:
        case Waiting() as phase if phase.timer == timer:
            return _launch(instance, instance.reason, now_s)
        case Stopping() as phase if phase.timer == timer:
            again = instance.timer + 1
            killed = replace(instance, phase=replace(phase, timer=again, killed=True), timer=again)
            return killed, (ev.KillAll(instance.run), ev.Arm(again, now_s + KILL_AGAIN_S))
        case Resting() as phase if phase.timer is not None and phase.timer == timer:
            return _launch(_forgiven(instance), "started again after the time it was stopped for", now_s)
        case Created() | Starting() | Running() | Stopping() | Waiting() | Resting():
            return instance, ()
        case _:
            assert_never(instance.phase)


# --- the pieces ----------------------------------------------------------------------------------
def _launch(instance: Instance, why: str, now_s: float) -> Step:
    run = instance.run + 1
    return replace(
        instance, run=run, phase=Starting(now_s), wanted=True, reason=why, health="", probed="", ready=""
    ), (
        ev.Launch(run),
        ev.Save(),
    )


def _forgiven(instance: Instance) -> Instance:
    """A start by a person, or at boot: the counters begin anew (Docker: RestartCount 0, the mark removed)."""
    return replace(instance, history=History(), manually_stopped=False, wanted=True)


def _stopping(
    instance: Instance, started_s: float | None, at_s: float, hold_s: float | None, *, killed: bool
) -> Step:
    timer = instance.timer + 1
    phase = Stopping(timer, started_s, killed, hold_s=hold_s)
    stopping = replace(instance, phase=phase, timer=timer)
    return stopping, (ev.Arm(timer, at_s), ev.Save())


def _rest(
    instance: Instance, why: str, now_s: float, hold_s: float | None, *, exhausted: bool = False
) -> Step:
    if hold_s is None:
        return replace(instance, phase=Resting(exhausted), reason=why), (ev.Save(),)
    timer = instance.timer + 1
    resting = replace(instance, phase=Resting(exhausted, timer, now_s + hold_s), timer=timer, reason=why)
    return resting, (ev.Arm(timer, now_s + hold_s), ev.Save())


def _stopped_by(running: Running, instance: Instance, ending: Ending, now_s: float) -> bool:
    """Whether a signal sent through Shipkeeper ended the run: only then is it a stop by a person.

    Docker takes any signal for one (moby#41302, #47792). Here it is one that shows in the exit status, or
    KILL and the stop signal within the grace period, which a program may turn into an exit of its own.
    """
    if running.signalled is None or isinstance(ending, SpawnFailure):
        return False
    signum, at_s = running.signalled
    if ending.signal == signum or ending.code == 128 + signum:
        return True
    return signum in (SIGKILL, instance.stop_signal) and now_s - at_s <= instance.stop_grace_s


def _tells(ending: Ending) -> tuple[ev.Effect, ...]:
    oom = isinstance(ending, Exit) and ending.oom
    return (*((ev.Tell("oom"),) if oom else ()), ev.Tell("die", describe(ending)))
