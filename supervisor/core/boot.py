"""What happens to an instance when something of the supervisor, or the host, has begun anew.

Docker's rule (moby daemon/daemon.go, restore), with live-restore always on: what is alive is kept as it is.
Where this differs from Docker on purpose (docs/restart-semantics.md): an on-failure service that a person
stopped stays stopped; counters and a backoff under way outlive the supervisor; a stop for a time lasts for
that time; and what is not to be restarted while the supervisor runs is not restarted by its start either.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import assert_never

from supervisor.core import events as ev
from supervisor.core.exits import LOST, SpawnFailure
from supervisor.core.lifecycle import KILL_AGAIN_S, Step, step
from supervisor.core.model import Policy
from supervisor.core.restart import Restart, decide
from supervisor.core.state import Created, Instance, Resting, Running, Starting, Stopping, Waiting

NEVER_BEGAN = SpawnFailure("lost", 0, "it was stopped before it began", 128)


class Anew(Enum):
    """What has begun anew; its value is the cause that a user reads."""

    LAUNCHER = "the launcher was replaced"
    SUPERVISOR = "the supervisor started"
    HOST = "the host booted"


def keep(instance: Instance, now_s: float) -> tuple[ev.Effect, ...]:
    """What an instance needs whose run is alive: a stop under way gets its grace period once more."""
    phase = instance.phase
    if isinstance(phase, Stopping):
        return (ev.Arm(phase.timer, now_s + (KILL_AGAIN_S if phase.killed else instance.stop_grace_s)),)
    return ()


def recover(
    instance: Instance, now_s: float, anew: Anew, *, shift_s: float = 0.0, jitter: float = 0.0
) -> Step:
    """The instance where no run of it is alive, and no exit record of one is left.

    A run that was under way has ended with LOST (exit code 255). Within one boot that is an end like another,
    so its policy decides; after a boot of the host it rests, and `starts_at_boot` decides. What waits, waits
    on. shift_s: added to every time of the boot before (HOST), whose clock was another.
    """
    if anew is Anew.HOST:
        return _after_boot(instance, now_s, shift_s)
    phase = instance.phase
    match phase:
        case Created() | Resting(timer=None):
            return instance, ()
        case Starting():
            # Asked for again; a launcher that has it already says what became of it.
            return instance, (ev.Launch(instance.run),)
        case Running() | Stopping(started_s=float()):
            return step(instance, ev.Exited(instance.run, LOST), now_s, jitter)
        case Stopping():
            return step(instance, ev.LaunchFailed(instance.run, NEVER_BEGAN), now_s, jitter)
        case Waiting():
            return instance, (ev.Arm(phase.timer, phase.until_s),)
        case Resting(timer=int(timer), resume_s=float(resume_s)):
            return instance, (ev.Arm(timer, resume_s),)
        case Resting():
            return replace(instance, phase=Resting(phase.exhausted)), (ev.Save(),)
        case _:
            assert_never(phase)


def _after_boot(instance: Instance, now_s: float, shift_s: float) -> Step:
    history = instance.history
    shifted = replace(history, restarts_s=tuple(at + shift_s for at in history.restarts_s))
    instance = replace(instance, history=shifted)
    phase = instance.phase
    match phase:
        case Created():
            return instance, ()
        case Starting() | Running():
            lost = replace(instance, phase=Resting(), last=LOST, reason="the host went down")
            return lost, (ev.Save(),)
        case Stopping(started_s=started_s, hold_s=hold_s):
            ended = instance if started_s is None else replace(instance, last=LOST)
            return _held(ended, Resting(), None if hold_s is None else now_s + hold_s)
        case Waiting():
            return _held(instance, Resting(), None)
        case Resting(resume_s=resume_s):
            return _held(instance, phase, None if resume_s is None else resume_s + shift_s)
        case _:
            assert_never(phase)


def _held(instance: Instance, phase: Resting, resume_s: float | None) -> Step:
    if resume_s is None:
        return replace(instance, phase=replace(phase, timer=None, resume_s=None)), (ev.Save(),)
    timer = instance.timer + 1
    held = replace(phase, timer=timer, resume_s=resume_s)
    return replace(instance, phase=held, timer=timer), (ev.Arm(timer, resume_s), ev.Save())


def starts_at_boot(instance: Instance, now_s: float) -> bool:
    """Whether a start of the supervisor or of the host starts an instance, as `recover` left it.

    Table 1.6. What a person stopped is left to the policy; every other end is judged as it would be while
    the supervisor runs, with the attempts, their window and the exit codes of its rules.
    """
    if not isinstance(instance.phase, Resting) or instance.phase.timer is not None:
        # One that was never started is, if that had been asked for and waited for others.
        return isinstance(instance.phase, Created) and instance.wanted
    policy = instance.rules.policy
    if instance.manually_stopped:
        return policy is Policy.ALWAYS
    if instance.last is None:
        return policy in (Policy.ALWAYS, Policy.UNLESS_STOPPED)
    verdict = decide(
        instance.rules, instance.history, instance.last, ran_s=0.0, manually_stopped=False, now_s=now_s
    )
    return isinstance(verdict, Restart)
