"""What happens to an instance when the supervisor starts: after its own restart, or after a boot of the host.

Docker's rule (moby daemon/daemon.go, restore), with live-restore always on: what is alive is kept as it is.
Where this differs from Docker on purpose: an on-failure service that a person stopped stays stopped, and
what ended while nobody watched is judged by its policy like any other end, counters kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from supervisor.core.exits import LOST, failed
from supervisor.core.model import Policy
from supervisor.core.state import Created, Instance, Resting, Running, Starting, Stopping, Waiting


def recover(instance: Instance) -> Instance:
    """The instance as it rests after a start of the supervisor at which no run of it is alive.

    A run that was under way, and of which no exit record came, is recorded as lost (exit code 255), which
    on-failure takes for a failure. Timers of the time before are void.
    """
    phase = instance.phase
    match phase:
        case Created():
            return instance
        case Starting() | Running():
            return replace(instance, phase=Resting(), last=LOST, reason="the host or the launcher went down")
        case Stopping(started_s=None):
            return replace(instance, phase=Resting())
        case Stopping():
            return replace(instance, phase=Resting(), last=LOST)
        case Waiting():
            return replace(instance, phase=Resting())
        case Resting():
            return replace(instance, phase=replace(phase, timer=None, resume_s=None))
        case _:
            assert_never(phase)


def starts_at_boot(instance: Instance) -> bool:
    """Whether a resting instance is started when the supervisor starts (table 1.6)."""
    if not instance.started_before and instance.last is None:
        return False  # created, never started
    rules = instance.rules
    match rules.policy:
        case Policy.NO:
            return False
        case Policy.ALWAYS:
            return True
        case Policy.UNLESS_STOPPED:
            return not instance.manually_stopped
        case Policy.ON_FAILURE:
            if instance.manually_stopped or instance.last is None or not failed(instance.last):
                return False
            return rules.max_attempts is None or instance.history.restart_count < rules.max_attempts
        case _:
            assert_never(rules.policy)
