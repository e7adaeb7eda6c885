"""Messages between the daemon and the launcher: one JSON array per SOCK_SEQPACKET message.

`[tag, *fields]`, where a field may be a nested message. A plan too large for one packet travels in a
sealed memfd that is passed along. Standard library only: both ends import this.

Who owns what: an exit record belongs to the launcher until the daemon has acknowledged it (`Ack`);
it is repeated in every `State` until then. At most one live run per instance: a `Launch` for an
instance that has one is refused (`LaunchFailed`, stage "busy").
"""

from __future__ import annotations

from typing import NamedTuple

from supervisor.launcher.plan import LaunchPlan, Process


# --- daemon -> launcher ------------------------------------------------------------------------
class Hello(NamedTuple):
    """First message of a connection; answered by `State`. A newer connection replaces an older one."""

    version: int


class Launch(NamedTuple):
    """Start a run. Answered by `Begun` and `Started`, or by `LaunchFailed`."""

    plan: LaunchPlan


class Signal(NamedTuple):
    """Send a signal to a run's main process, through its pidfd. No answer; a run that is gone is no error."""

    instance: str
    run: int
    signum: int


class Kill(NamedTuple):
    """End every process of a run (cgroup.kill; on pure v1 hosts the pid namespace's init). Thaws first."""

    instance: str
    run: int


class Freeze(NamedTuple):
    """Freeze or thaw a run's cgroup. Answered by `Frozen`."""

    instance: str
    run: int
    frozen: bool


class Exec(NamedTuple):
    """Run one more process inside a run's namespaces and cgroup.

    Answered by `ExecStarted` with descriptors ([pty master], or [stdin write end, stdout, stderr read ends]),
    or by `ExecFailed`; then by `ExecExited`.
    """

    exec_id: str
    instance: str
    run: int
    process: Process


class ExecSignal(NamedTuple):
    """Signal an exec'ed process."""

    exec_id: str
    signum: int


class ExecKill(NamedTuple):
    """End an exec'ed process and all that is in its process group. No answer but its `ExecExited`."""

    exec_id: str


class Input(NamedTuple):
    """Ask for what a run reads from; answered by `InputGiven`. key: the asker's own, for the answer."""

    key: str
    instance: str
    run: int


class EndInput(NamedTuple):
    """Close the launcher's write end of a run's stdin. No answer; where there is none, no error."""

    instance: str
    run: int


class Adopt(NamedTuple):
    """Watch a run that an earlier launcher started.

    Its identity is pid + start time, checked here, and the boot id, checked by the daemon. pid 0: whatever
    lives in its cgroup; its launcher died before the start was known.

    Answered by `Started`, or by `Exited` with status 255 and lost=True if that process is gone.
    """

    instance: str
    run: int
    pid: int
    start_ticks: int
    cgroup: str
    started_ns: int
    log_path: str
    log_max_size_bytes: int
    log_max_files: int
    tty: bool
    meta: str
    notify: str = ""


class Ack(NamedTuple):
    """The exit record of this run is safe in the daemon's database."""

    instance: str
    run: int


class LogCounters(NamedTuple):
    """Ask for the log writer's counters; answered by `LogCounted`."""


class Ping(NamedTuple):
    """Answered by `Pong` with the same number, after everything before it."""

    number: int


class Quit(NamedTuple):
    """End the launcher and the log writer. Refused (answered by State) while a run lives."""


Request = (
    Hello
    | Launch
    | Signal
    | Kill
    | Freeze
    | Exec
    | ExecSignal
    | ExecKill
    | Input
    | EndInput
    | Adopt
    | Ack
    | LogCounters
    | Ping
    | Quit
)


# --- launcher -> daemon ------------------------------------------------------------------------
class RunInfo(NamedTuple):
    """A live run. started_ns: CLOCK_BOOTTIME; started_wall: seconds since the epoch.

    notified: what it said of itself until now, as in `Notified`.
    """

    instance: str
    run: int
    pid: int
    start_ticks: int
    cgroup: str
    started_ns: int
    started_wall: float
    frozen: bool
    meta: str
    notified: str = ""


class Exited(NamedTuple):
    """The exit record of a run, after every process of it is gone.

    code: 0..255, 128+n for a death by signal n; 255 with lost=True where nobody could know.
    signal: 0, or the signal that ended it. oom: the kernel killed something in its cgroup for memory.
    user_s, system_s, max_rss_bytes: of the main process and its waited-for children.
    cpu_ns: of the whole cgroup. ended_ns: CLOCK_BOOTTIME when the death was seen.
    """

    instance: str
    run: int
    pid: int
    code: int
    signal: int
    oom: bool
    lost: bool
    started_ns: int
    ended_ns: int
    started_wall: float
    ended_wall: float
    user_s: float
    system_s: float
    max_rss_bytes: int
    cpu_ns: int
    meta: str


class LaunchFailed(NamedTuple):
    """A run that never reached its first instruction. Also kept until acknowledged.

    stage: "busy", "cgroup", "clone", "limits", "root", "mount", "pivot", "hostname", "user", "caps",
        "rlimit", "seccomp", "cwd", "exec", "log" ...; errno 0 where there is none.
    detail: the call and its arguments. code: 126, 127 or 128 as Docker's exit code for it.
    """

    instance: str
    run: int
    stage: str
    errno: int
    detail: str
    code: int
    at_ns: int
    at_wall: float
    meta: str


class Begun(NamedTuple):
    """The run's first process is there, on its way to its exec. So its end is never without a witness."""

    instance: str
    run: int
    pid: int


class Started(NamedTuple):
    """The run's first instruction is under way (exec succeeded)."""

    info: RunInfo


class Notified(NamedTuple):
    """A run said something of itself: lines of NAME=VALUE (sd_notify). Of one that has not begun it waits."""

    instance: str
    run: int
    text: str


class Frozen(NamedTuple):
    """The answer to Freeze; `error` is empty on success."""

    instance: str
    run: int
    frozen: bool
    error: str


class ExecStarted(NamedTuple):
    """See Exec. Its descriptors come with this message; the receiver owns them."""

    exec_id: str
    pid: int


class ExecFailed(NamedTuple):
    """See Exec; code 126, 127 or 128."""

    exec_id: str
    stage: str
    errno: int
    detail: str
    code: int


class ExecExited(NamedTuple):
    """An exec'ed process ended with this code (128+n for signal n)."""

    exec_id: str
    code: int


class InputGiven(NamedTuple):
    """With one descriptor: the master of the run's pty, or the write end of its stdin.

    Without where the run has neither, or does not live. The receiver owns it.
    """

    key: str


class State(NamedTuple):
    """Everything that the launcher knows: live runs and unacknowledged ends."""

    version: int
    pid: int
    runs: list[RunInfo]
    ended: list[Exited | LaunchFailed]


class LogCounted(NamedTuple):
    """Per stream: [instance, stream, bytes written, lines dropped]. `restarts`: of the log writer.

    attached: instances of which not all output is in the files yet, since a stream has not ended.
    """

    streams: list[list[str | int]]
    restarts: int
    attached: list[str] = []  # noqa: RUF012 - a NamedTuple's default is never mutated


class Pong(NamedTuple):
    """See Ping."""

    number: int


class Problem(NamedTuple):
    """Something the operator should hear of (a log writer that died, a request that made no sense)."""

    what: str


Event = (
    State
    | Begun
    | Started
    | LaunchFailed
    | Exited
    | Notified
    | Frozen
    | ExecStarted
    | ExecFailed
    | ExecExited
    | InputGiven
    | LogCounted
    | Pong
    | Problem
)

VERSION = 1
