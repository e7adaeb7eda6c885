"""What the launcher knows of each process it answers for. Plain records; the loop is in `server`."""

from __future__ import annotations

import errno
import os
import socket
import time

from supervisor.kernel.cgroups import Cgroup
from supervisor.kernel.process import Status, Usage
from supervisor.launcher import codec, plan, protocol
from supervisor.launcher.ahead import Made
from supervisor.launcher.ear import Ear
from supervisor.launcher.order import Packed


def boottime_ns() -> int:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Child:
    """A process with a pidfd and, until it has exec'ed, a channel. Owns all of its descriptors."""

    __slots__ = ("channel", "error", "pid", "pidfd", "status", "stdin", "usage")

    def __init__(self, pid: int, pidfd: int, channel: socket.socket | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.error: tuple[str, int, str] | None = None
        self.stdin = -1
        self.status: Status | None = None
        self.usage = Usage(0.0, 0.0, 0)

    def close(self) -> None:
        """Let go of every descriptor; twice is no error."""
        for name in ("pidfd", "stdin"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)
        if self.channel is not None:
            self.channel.close()
            self.channel = None


class Run(Child):
    """A live run, from its clone until its exit record is made.

    plan: `unnumbered`; empty for one that was adopted. made: what of its root had been there before.
    unseen: adopted, and nobody was told that it had begun.
    kept: its writable overlays, for the next run. packed: the order for that.
    """

    __slots__ = (
        "adopted",
        "cgroup",
        "ear",
        "ended_ns",
        "ended_wall",
        "events_fd",
        "freeze_wanted",
        "frozen",
        "instance",
        "kept",
        "log",
        "made",
        "meta",
        "number",
        "oom",
        "packed",
        "pending_signals",
        "plan",
        "started_ns",
        "started_wall",
        "ticks",
        "unseen",
    )

    def __init__(
        self, instance: str, number: int, meta: str, log: plan.LogPlan, cgroup: Cgroup, child: Child
    ) -> None:
        super().__init__(child.pid, child.pidfd, child.channel)
        self.instance = instance
        self.number = number
        self.meta = meta
        self.log = log
        self.cgroup = cgroup
        self.ear: Ear | None = None
        self.ticks = 0
        # Now, and not when its exec is seen: what it writes has a later stamp.
        self.started_ns = boottime_ns()
        self.started_wall = time.time()
        self.ended_ns = 0
        self.ended_wall = 0.0
        self.frozen = False
        self.freeze_wanted: bool | None = None
        self.events_fd = -1
        self.pending_signals: list[int] = []
        self.plan = b""
        self.made = Made()
        self.packed: Packed | None = None
        self.kept: list[int] = []
        self.adopted = False
        self.unseen = False
        self.oom = False

    @property
    def starting(self) -> bool:
        """Its exec has not been seen yet."""
        return self.channel is not None

    def info(self) -> protocol.RunInfo:
        """For the daemon."""
        return protocol.RunInfo(
            self.instance,
            self.number,
            self.pid,
            self.ticks,
            self.cgroup.path,
            self.started_ns,
            self.started_wall,
            self.frozen,
            self.meta,
            "" if self.ear is None else self.ear.kept(),
        )

    def record(self) -> protocol.Exited | protocol.LaunchFailed:
        """Its end, once everything of it is gone."""
        if self.error is not None:
            stage, number, detail = self.error
            return launch_failed(self.instance, self.number, self.meta, stage, number, detail, self.ended_ns)
        status = self.status
        return protocol.Exited(
            self.instance,
            self.number,
            self.pid,
            255 if status is None else status.code,
            0 if status is None else status.signal,
            self.oom,
            status is None,
            self.started_ns,
            self.ended_ns,
            self.started_wall,
            self.ended_wall,
            self.usage.user_s,
            self.usage.system_s,
            self.usage.max_rss_bytes,
            self.cgroup.cpu_ns(),
            self.meta,
        )

    def let_go(self) -> None:
        """Close what is kept for the next run; while this one lives that is never the last descriptor."""
        while self.kept:
            os.close(self.kept.pop())

    def close(self) -> None:
        """See Child."""
        super().close()
        self.let_go()
        if self.ear is not None:
            self.ear.close()


def unnumbered(launch: plan.LaunchPlan) -> bytes:
    """What two runs of an instance have in common, as bytes (an eighth of the objects' size)."""
    return codec.encode(launch._replace(run=0, cgroup="", meta=""))


class ExecRun(Child):
    """A process run by Exec. `pid` is 0 until its helper has told it; a `doomed` one is killed then."""

    __slots__ = ("doomed", "exec_id", "fds", "run")

    def __init__(self, exec_id: str, run: Run, channel: socket.socket, fds: list[int]) -> None:
        super().__init__(0, -1, channel)
        self.doomed = False
        self.exec_id = exec_id
        self.run = run
        self.fds = fds

    def close(self) -> None:
        """See Child."""
        super().close()
        while self.fds:
            os.close(self.fds.pop())


def exit_code(stage: str, number: int) -> int:
    """Docker's exit code for what could not be started: 127 not found, 126 not permitted, else 128."""
    if stage not in ("exec", "cwd", "mount"):
        return 128
    return {errno.ENOENT: 127, errno.EACCES: 126}.get(number, 128)


def launch_failed(
    instance: str, run: int, meta: str, stage: str, number: int, detail: str, at_ns: int | None = None
) -> protocol.LaunchFailed:
    """The record of a run that never reached its first instruction."""
    return protocol.LaunchFailed(
        instance,
        run,
        stage,
        number,
        detail,
        exit_code(stage, number),
        boottime_ns() if at_ns is None else at_ns,
        time.time(),
        meta,
    )
