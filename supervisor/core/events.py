"""What can happen to a service instance, and what may be done about it: two closed unions.

Events come from people, the launcher and timers. Effects are carried out in order by the executor, which
decides nothing; one that fails comes back as an event.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.exits import Exit, SpawnFailure
from supervisor.core.health import Status
from supervisor.core.model import RestartRules
from supervisor.core.readiness import Part


# --- events ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class StartRequested:
    """A person, or the supervisor at boot, wants it up. No effect on what runs or waits for a restart."""

    why: str = "started by you"


@dataclass(frozen=True, slots=True)
class StopRequested:
    """It is to stop. manual: by a person (remembered); else by a shutdown. hold_s: start again after that."""

    manual: bool = True
    grace_s: float | None = None
    signum: int | None = None
    hold_s: float | None = None
    why: str = "stopped by you"


@dataclass(frozen=True, slots=True)
class RestartRequested:
    """Stop, then start; on what is down, just start."""

    grace_s: float | None = None
    why: str = "restarted by you"


@dataclass(frozen=True, slots=True)
class KillRequested:
    """Send one signal to the main process."""

    signum: int


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """Freeze, or thaw."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Paused:
    """The launcher froze or thawed that run."""

    run: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Started:
    """The launcher: that run's first instruction is under way."""

    run: int
    pid: int
    start_ticks: int = 0


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The launcher: that run never began."""

    run: int
    failure: SpawnFailure


@dataclass(frozen=True, slots=True)
class Exited:
    """The launcher: that run ended and nothing of it is left."""

    run: int
    exit: Exit


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer of that generation came due. One that is not the phase's own changes nothing."""

    timer: int


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """What probes, or the run itself, say of it has changed. why: in their words.

    restart: it is to be ended and started again, whatever its policy. failed: its start has failed; it is to
    be ended, and its policy decides.
    """

    run: int
    status: Status
    why: str = ""
    restart: bool = False
    part: Part = "probes"
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A start waits for dependencies; refused: it does not come, until somebody asks for it anew."""

    why: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class RulesChanged:
    """`update`: takes effect at the next exit; no counter is reset, as in Docker."""

    rules: RestartRules


Event = (
    StartRequested
    | StopRequested
    | RestartRequested
    | KillRequested
    | PauseRequested
    | Paused
    | Started
    | LaunchFailed
    | Exited
    | TimerFired
    | HealthChanged
    | Held
    | RulesChanged
)


# --- effects -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Launch:
    """Ask the launcher for the run."""

    run: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal the main process of the run."""

    run: int
    signum: int


@dataclass(frozen=True, slots=True)
class KillAll:
    """End every process of the run."""

    run: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """Freeze or thaw the run; answered by Paused."""

    run: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Arm:
    """Fire TimerFired(timer) at that time. The instance's earlier timers are void."""

    timer: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Save:
    """Write the instance to the database; never before a Launch in the same list."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Publish an event named as Docker names it: start, die, stop, kill, oom, pause, unpause, restart ..."""

    action: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class StopProject:
    """The attempts are used up and `on_exhausted` says stop-project."""


Effect = Launch | Signal | KillAll | Freeze | Arm | Save | Tell | StopProject
