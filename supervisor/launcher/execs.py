"""Further processes in a run (Exec): a helper enters its namespaces and clones there, as our child."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal

from supervisor.kernel import process
from supervisor.launcher import protocol
from supervisor.launcher.channel import Told, hear
from supervisor.launcher.context import Context
from supervisor.launcher.remains import Remains
from supervisor.launcher.runs import Child, ExecRun, exit_code
from supervisor.launcher.spawn import Spawner
from supervisor.launcher.steps import StepError
from supervisor.launcher.stops import Stops

_SEARCHES, _SEARCH_S = 20, 0.02
"""It is dying when its helper has closed the channel: it is a zombie at once, or in a moment."""


class Execs:
    """See the module. `unnamed`: how many have not told their pid yet."""

    def __init__(self, context: Context, spawner: Spawner, stops: Stops, remains: Remains) -> None:
        self._context = context
        self._spawner = spawner
        self._stops = stops
        self._remains = remains
        self._live: dict[str, ExecRun] = {}
        self.unnamed = 0

    def start(self, request: protocol.Exec) -> None:
        """Answered by ExecStarted or ExecFailed."""
        run = self._context.find(request.instance, request.run)
        error: StepError | None = None
        if request.exec_id in self._live:
            error = StepError("busy", errno.EBUSY, f"exec {request.exec_id} is there already")
        elif run is None or run.starting or run.pidfd < 0:
            error = StepError("namespaces", errno.ESRCH, f"run {request.run} does not run")
        else:
            try:
                spawned = self._spawner.join(request.process, run.cgroup, run.pidfd)
            except StepError as failed:
                error = failed
        if error is not None:
            self._failed(request.exec_id, error.stage, error.number, error.detail)
            return
        assert run is not None
        self._remains.reap(Child(spawned.pid, spawned.pidfd, None))
        fds = [
            fd
            for fd in (spawned.stdin, spawned.stdout, spawned.stderr)
            if fd >= 0 and not request.process.tty
        ]
        if request.process.tty and spawned.stdin >= 0:
            os.close(spawned.stdin)
        child = ExecRun(request.exec_id, run, spawned.channel, fds)
        self._live[request.exec_id] = child
        self.unnamed += 1
        self._context.loop.watch(spawned.channel.fileno(), select.EPOLLIN, self._on_channel, child)

    def signal(self, request: protocol.ExecSignal) -> None:
        """To one whose pid is known; else it is dropped."""
        found = self._live.get(request.exec_id)
        if found is not None and found.pidfd >= 0:
            self._stops.send(found, request.signum)

    def kill(self, request: protocol.ExecKill) -> None:
        """It leads a session of its own, and its pid is not reaped yet: the group is nobody else's."""
        found = self._live.get(request.exec_id)
        if found is not None:
            found.doomed = True
            if found.pid:
                self._kill(found)

    def _kill(self, child: ExecRun) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        self._stops.send(child, signal.SIGKILL)  # it may not have its group yet, or have left it

    def _failed(self, exec_id: str, stage: str, number: int, detail: str) -> None:
        self._context.daemon.send(
            protocol.ExecFailed(exec_id, stage, number, detail, exit_code(stage, number))
        )

    def _on_channel(self, child: ExecRun) -> None:
        for told in hear(child, self._context.loop):
            match told:
                case Told(["error", str(stage), int(number), str(detail)]):
                    child.error = child.error or (stage, number, detail)
                case Told(["tty"], fds):
                    child.fds += fds
                case Told(["pid", int(pid)]):
                    child.pid = pid
                    child.pidfd = os.pidfd_open(pid)
                    self._context.loop.pids.add(pid)
                    self.unnamed -= 1
                    if child.doomed:
                        self._kill(child)
                case Told():
                    told.close()
                case None:
                    self._joined(child)

    def _joined(self, child: ExecRun) -> None:
        """Exec succeeded or failed: everybody has closed the channel."""
        if not child.pid:
            self.unnamed -= 1
            self._search(_SEARCHES)
        if child.error is None and child.pid:
            self._context.daemon.send(protocol.ExecStarted(child.exec_id, child.pid), child.fds[:])
            child.fds.clear()
            self._context.loop.watch_death(child, self._died)
            return
        stage, number, detail = child.error or ("namespaces", 0, "the helper was killed")
        del self._live[child.exec_id]
        if child.pid:
            self._remains.reap(Child(child.pid, os.dup(child.pidfd), None))
        child.close()
        self._failed(child.exec_id, stage, number, detail)

    def _search(self, left: int) -> None:
        """Reap what a helper may have cloned before it was killed, and told nobody.

        Its pid namespace ends only when it is reaped, and the loop may have nothing else to wake it up.
        """
        if not self.unnamed:  # else it might be one of theirs
            left -= 1
            while process.reap_stranger(self._context.loop.pids):
                pass
        if left:
            self._context.loop.after(_SEARCH_S, self._search, left)

    def _died(self, child: ExecRun) -> None:
        if not process.has_ended(child.pidfd):
            return
        reaped = process.reap(child.pid)
        self._context.loop.unwatch_death(child)
        del self._live[child.exec_id]
        child.close()
        self._context.daemon.send(protocol.ExecExited(child.exec_id, reaped[0].code if reaped else 255))
