"""The two tables of docs/restart-semantics.md as data: what is done to a service, and what becomes of it.

The same rows are read by three judges: the pure core (tests/unit/test_restart.py, test_boot.py), the real
daemon on the real kernel (tests/system/test_restart_tables.py), and a real dockerd, which is held to the
`docker` column (tests/differential/test_restart_oracle.py).

Verdicts stand in the order of POLICIES. R: started again. X: stays down. K: runs on, the same process.
None: does not occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from supervisor.core.exits import Exit, SpawnFailure
from supervisor.core.model import Policy

Verdict = Literal["R", "X", "K"]
Verdicts = tuple[Verdict | None, Verdict | None, Verdict | None, Verdict | None]
POLICIES = (Policy.NO, Policy.ON_FAILURE, Policy.ALWAYS, Policy.UNLESS_STOPPED)

ZERO, THREE, FIVE = Exit(0), Exit(3), Exit(5)
KILLED = Exit(137, signal=9)
OOM = Exit(137, signal=9, oom=True)
NOT_FOUND = SpawnFailure("exec", 2, 'exec: "/no/such/program": no such file or directory', 127)
NO_MOUNT = SpawnFailure("mount", 2, "no such file or directory", 127)

# /ctl is a directory of the test's: `up` has a line for each life that is ready, `seen` one for each signal.
# `wait` is interrupted by a signal, so traps act at once.
_WAIT = "echo up >> /ctl/up; sleep 1000 & while kill -0 $! 2>&-; do wait $!; done"
ORDINARY = (
    "trap 'exit 3' USR1; trap 'exit 0' USR2; trap 'exit 0' TERM QUIT; trap 'echo seen >> /ctl/seen' HUP; "
)
PLAIN = ORDINARY + _WAIT
ENDS_BADLY = ORDINARY + "trap 'exit 5' TERM; " + _WAIT
DEAF = ORDINARY + "trap 'echo seen >> /ctl/seen' TERM; " + _WAIT
# Busy for longer than a grace period of 0.2 s.
SLOW = ORDINARY + "trap 'sleep 0.7; exit 3' TERM; " + _WAIT
GREEDY = ORDINARY + "trap 'exec dd if=/dev/zero of=/dev/null bs=300M count=1' USR1; " + _WAIT
INSIDE = ORDINARY + "trap '(sleep 0.2; kill -TERM 1) &' USR1; trap 'exit 3' TERM; " + _WAIT
CRASHES = "echo up >> /ctl/up; exit 3"
FINISHES = "echo up >> /ctl/up; exit 0"


# --- what is done --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ends:
    """The main process ends by itself; on the kernel the host sends it `by`, and no engine is asked."""

    how: Exit
    by: str


@dataclass(frozen=True, slots=True)
class Stop:
    """`stop`, and it ends so."""

    how: Exit
    grace_s: int | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """`kill -s`. how: how it ends of it; None: it has seen the signal and lives on."""

    name: str
    how: Exit | None
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Restart:
    """`restart`, and it ends so before it is started again, with count 0."""

    how: Exit


@dataclass(frozen=True, slots=True)
class Pause:
    """`pause`, or `unpause`."""

    paused: bool


@dataclass(frozen=True, slots=True)
class CrashLoops:
    """It has ended some times at once and waits for its next restart, for a second at least."""

    how: Exit = THREE


@dataclass(frozen=True, slots=True)
class StopWaiting:
    """`stop`, while nothing of it runs."""


@dataclass(frozen=True, slots=True)
class KillWaiting:
    """`kill -s`, while nothing of it runs."""

    name: str


@dataclass(frozen=True, slots=True)
class FailsToStart:
    """Its first start fails: the program is not there."""


@dataclass(frozen=True, slots=True)
class FailsAgain:
    """It is killed from the host when what it mounts has gone, so that the automatic restart fails."""


Act = (
    Ends | Stop | Kill | Restart | Pause | CrashLoops | StopWaiting | KillWaiting | FailsToStart | FailsAgain
)


@dataclass(frozen=True, slots=True)
class Service:
    """What the service of a row is."""

    script: str = PLAIN
    stop_signal: str | None = None
    grace_s: float = 10.0
    max_attempts: int | None = None
    memory_mb: int | None = None
    missing: bool = False
    """Its program is not there."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the first table. docker: where it differs from ours; the reason is in the document."""

    name: str
    acts: tuple[Act, ...]
    ours: Verdicts
    docker: Verdicts | None = None
    service: Service = Service()


_FAILURE: Verdicts = ("X", "R", "R", "R")
_NEVER: Verdicts = ("X", "X", "X", "X")
_LOOPED: Verdicts = (None, "X", "X", "X")

STEADY = (
    Row("1 exits 0", (Ends(ZERO, "USR2"),), ("X", "X", "R", "R")),
    Row("2 exits with another code", (Ends(THREE, "USR1"),), _FAILURE),
    Row("3 killed from the host", (Ends(KILLED, "KILL"),), _FAILURE),
    Row("4 out of memory", (Ends(OOM, "USR1"),), _FAILURE, service=Service(GREEDY, memory_mb=32)),
    Row("5 stop, exit 0", (Stop(ZERO),), _NEVER),
    Row("5 stop, another code", (Stop(FIVE),), _NEVER, service=Service(ENDS_BADLY)),
    Row("5 stop, killed after its grace period", (Stop(KILLED, 1),), _NEVER, service=Service(DEAF)),
    Row("6 stop in backoff", (CrashLoops(), StopWaiting()), _LOOPED, service=Service(CRASHES)),
    Row("6 kill in backoff", (CrashLoops(), KillWaiting("KILL")), _LOOPED, service=Service(CRASHES)),
    Row(
        "6a another signal in backoff",
        (CrashLoops(), KillWaiting("HUP")),
        (None, "R", "R", "R"),
        docker=_LOOPED,
        service=Service(CRASHES),
    ),
    Row("7 kill", (Kill("KILL", KILLED),), _NEVER),
    Row("8 HUP survived, exits 3 later", (Kill("HUP", None), Ends(THREE, "USR1")), _FAILURE, docker=_NEVER),
    Row(
        "8 HUP survived, exits 0 later",
        (Kill("HUP", None), Ends(ZERO, "USR2")),
        ("X", "X", "R", "R"),
        docker=_NEVER,
    ),
    Row(
        "9 HUP survived with a STOPSIGNAL, exits 3 later",
        (Kill("HUP", None), Ends(THREE, "USR1")),
        _FAILURE,
        docker=("X", "R", "R", "X"),
        service=Service(stop_signal="QUIT"),
    ),
    Row("10 kill with the stop signal", (Kill("TERM", ZERO),), _NEVER),
    Row(
        "10 kill with its own STOPSIGNAL",
        (Kill("QUIT", ZERO),),
        _NEVER,
        service=Service(stop_signal="QUIT"),
    ),
    Row(
        "10a the stop signal survived for longer than its grace period",
        (Kill("TERM", THREE, after_s=0.7),),
        _FAILURE,
        docker=_NEVER,
        service=Service(SLOW, grace_s=0.2),
    ),
    Row("11 restart", (Restart(ZERO),), ("R", "R", "R", "R")),
    Row("11 restart while it is down", (Stop(ZERO), Restart(ZERO)), ("R", "R", "R", "R")),
    Row(
        "13 the first start fails", (FailsToStart(),), _FAILURE, docker=_NEVER, service=Service(missing=True)
    ),
    Row("14 a start fails in an automatic restart", (FailsAgain(),), _FAILURE, docker=_NEVER),
    Row(
        "15 the count is used up",
        (CrashLoops(),),
        (None, "X", None, None),
        service=Service(CRASHES, max_attempts=2),
    ),
    Row("16 a signal from inside", (Ends(THREE, "USR1"),), _FAILURE, service=Service(INSIDE)),
    Row("17 paused and thawed, then exits 3", (Pause(True), Pause(False), Ends(THREE, "USR1")), _FAILURE),
)


# --- the second table: a start of the supervisor, or of the host -----------------------------------
class World(Enum):
    """What happens around the service.

    ORDERLY: it is stopped in order with the supervisor, as at a shutdown of the host. POWER: it is gone
    with the supervisor, and another boot begins. CRASH: the supervisor alone is killed and comes back.
    """

    ORDERLY = "orderly"
    POWER = "power cut"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Return:
    """A row of the second table. meanwhile: how it ends while the supervisor is away."""

    name: str
    world: World
    acts: tuple[Act, ...]
    ours: Verdicts
    docker: Verdicts | None = None
    service: Service = Service()
    meanwhile: Ends | None = None
    created: bool = False
    """It was never started."""
    code: int | None = None
    """The exit code that is recorded, where the world decides it."""


_KEPT: Verdicts = ("K", "K", "K", "K")
_WELL: Verdicts = ("X", "X", "R", "R")
_STOPPED: Verdicts = ("X", "X", "R", "X")

RETURNS = (
    Return("ran; stopped in order, exits 0", World.ORDERLY, (), _WELL, code=0),
    Return(
        "ran; stopped in order, another code",
        World.ORDERLY,
        (),
        _FAILURE,
        code=5,
        service=Service(ENDS_BADLY),
    ),
    Return("ran; power cut", World.POWER, (), _FAILURE, code=255),
    Return("runs; the supervisor is killed", World.CRASH, (), _KEPT),
    Return(
        "ended 3 while the supervisor was away",
        World.CRASH,
        (),
        _FAILURE,
        meanwhile=Ends(THREE, "USR1"),
        code=3,
    ),
    Return(
        "ended 0 while the supervisor was away", World.CRASH, (), _WELL, meanwhile=Ends(ZERO, "USR2"), code=0
    ),
    Return("stopped by a person, exit 0", World.ORDERLY, (Stop(ZERO),), _STOPPED),
    Return(
        "stopped by a person, another code",
        World.ORDERLY,
        (Stop(FIVE),),
        _STOPPED,
        docker=("X", "R", "R", "X"),
        service=Service(ENDS_BADLY),
    ),
    Return(
        "HUP once, ran on; stopped in order, another code",
        World.ORDERLY,
        (Kill("HUP", None),),
        _FAILURE,
        docker=("X", "R", "R", "X"),
        service=Service(ENDS_BADLY),
    ),
    Return(
        "HUP once, ran on; power cut",
        World.POWER,
        (Kill("HUP", None),),
        _FAILURE,
        docker=("X", "R", "R", "X"),
    ),
    Return("exited 0 by itself", World.ORDERLY, (Ends(ZERO, "USR2"),), ("X", "X", None, None)),
    Return(
        "retries exhausted",
        World.ORDERLY,
        (CrashLoops(),),
        (None, "X", None, None),
        service=Service(CRASHES, max_attempts=2),
    ),
    Return(
        "the first start failed",
        World.ORDERLY,
        (FailsToStart(),),
        _FAILURE,
        docker=_NEVER,
        service=Service(missing=True),
    ),
    Return("a later start had failed", World.ORDERLY, (FailsAgain(),), _FAILURE),
    Return(
        "waited for a restart after a failure",
        World.ORDERLY,
        (CrashLoops(),),
        (None, "R", "R", "R"),
        service=Service(CRASHES),
    ),
    Return(
        "waited for a restart after an exit 0",
        World.ORDERLY,
        (CrashLoops(ZERO),),
        (None, None, "R", "R"),
        service=Service(FINISHES),
    ),
    Return("paused; power cut", World.POWER, (Pause(True),), _FAILURE, code=255),
    Return("created, never started", World.ORDERLY, (), _NEVER, created=True),
)


def columns(verdicts: Verdicts) -> list[tuple[Policy, Verdict]]:
    """The policies for which a row occurs, with the verdict."""
    return [
        (policy, verdict) for policy, verdict in zip(POLICIES, verdicts, strict=True) if verdict is not None
    ]
