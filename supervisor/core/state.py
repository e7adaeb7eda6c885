"""The state of one service instance: what is wanted, where it stands, and what is remembered of it.

Four things are kept apart: desired (`wanted`), phase, why it is so (`reason`), and what was observed of the
last run (`last`). Docker's state words are derived from them (`docker_state`). Times are seconds of
CLOCK_BOOTTIME.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, assert_never

from supervisor.core.exits import Ending
from supervisor.core.model import RestartRules
from supervisor.core.restart import History


@dataclass(frozen=True, slots=True)
class Created:
    """Never started."""


@dataclass(frozen=True, slots=True)
class Starting:
    """The launcher was asked for the run; it answers Started or LaunchFailed."""

    since_s: float


@dataclass(frozen=True, slots=True)
class Running:
    """The main process lives. `signalled`: the last signal that a person sent it, and when.

    pid and start_ticks (field 22 of /proc/PID/stat) are its identity within one boot of the host.
    """

    pid: int
    started_s: float
    paused: bool = False
    signalled: tuple[int, float] | None = None
    start_ticks: int = 0


@dataclass(frozen=True, slots=True)
class Stopping:
    """A signal was sent and the timer `timer` will kill what is left, again and again.

    started_s is None where the run had not begun. `then`: what comes when it is down; "decide": what its
    policy makes of a failure. hold_s: how long it then rests, if the stop was for a time. unhealthy: what the
    probes said, if that is the reason. not_ready: likewise, that it was not ready in time.
    """

    timer: int
    started_s: float | None
    killed: bool
    then: Literal["rest", "start", "decide"] = "rest"
    hold_s: float | None = None
    unhealthy: str = ""
    not_ready: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A restart is decided; the timer `timer` starts it at `until_s`."""

    timer: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Resting:
    """Down. With `timer` it is started again at `resume_s` (a stop for a time)."""

    exhausted: bool = False
    timer: int | None = None
    resume_s: float | None = None


Phase = Created | Starting | Running | Stopping | Waiting | Resting
Health = Literal["", "starting", "healthy", "unhealthy"]


@dataclass(frozen=True, slots=True)
class Instance:
    """All that `lifecycle.step` needs and changes, and what the state database keeps.

    run: generation of the newest run; only grows. timer: generation of the newest timer; only grows.
    started_before, manually_stopped: Docker's HasBeenStartedBefore and HasBeenManuallyStopped.
    health: of the newest run; empty where nobody has probed it. It is the worst of `probed`, what the probes
    say, and `ready`, what the run says itself.
    """

    id: str
    rules: RestartRules = field(default_factory=RestartRules)
    stop_signal: int = 15
    stop_grace_s: float = 10.0
    phase: Phase = field(default_factory=Created)
    wanted: bool = False
    run: int = 0
    timer: int = 0
    started_before: bool = False
    manually_stopped: bool = False
    history: History = field(default_factory=History)
    last: Ending | None = None
    reason: str = ""
    health: Health = ""
    probed: Health = ""
    ready: Health = ""


def docker_state(instance: Instance) -> str:
    """Docker's word for the state; `stopping` is our own, Docker says running meanwhile."""
    phase = instance.phase
    match phase:
        case Created():
            return "created"
        case Starting():
            return "restarting" if instance.history.restart_count else "created"
        case Running(paused=True):
            return "paused"
        case Running():
            return "running"
        case Stopping():
            return "stopping"
        case Waiting():
            return "restarting"
        case Resting():
            return "exited"
        case _:
            assert_never(phase)


def meant_to_run(instance: Instance) -> bool:
    """Whether it is a fault that it is down, if it is: wanted, and no policy has said that it is done.

    One that gave up is still meant to run; one that ended and is not to be restarted is not.
    """
    phase = instance.phase
    return instance.wanted and not (isinstance(phase, Resting) and not phase.exhausted)
