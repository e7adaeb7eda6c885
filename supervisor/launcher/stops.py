"""Signals, kills and freezing of live runs."""

from __future__ import annotations

import contextlib
import os
import select
import signal

from supervisor.launcher import protocol
from supervisor.launcher.context import Context
from supervisor.launcher.runs import Child, Run

POLL_S = 0.005  # only where the kernel sends no event: pure v1
_FREEZE_TIMEOUT_S = 10.0


class Stops:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def signal(self, request: protocol.Signal) -> None:
        """To the main process; one that comes before the exec waits for it, but for SIGKILL."""
        run = self._context.find(request.instance, request.run)
        if run is None:
            return
        run.let_go()  # it may be a stop, after which everything of it has to go
        if run.starting and request.signum != signal.SIGKILL:
            run.pending_signals.append(request.signum)
        else:
            self.send(run, request.signum)

    def send(self, child: Child, number: int) -> None:
        """Through the pidfd; a process that is gone is no error."""
        try:
            signal.pidfd_send_signal(child.pidfd, number)
        except ProcessLookupError:
            return
        except (OSError, ValueError) as error:
            self._context.problem(f"cannot send signal {number} to process {child.pid}: {error}")

    # --- kill -----------------------------------------------------------------------------------
    def kill(self, request: protocol.Kill) -> None:
        """End everything of a run."""
        run = self._context.find(request.instance, request.run)
        if run is None:
            return
        run.let_go()
        if run.frozen or run.freeze_wanted:
            with contextlib.suppress(OSError):
                run.cgroup.freeze(False)
            run.frozen = False
        self.kill_all(run)

    def kill_all(self, run: Run) -> None:
        """Once; whoever wants its cgroup empty looks, and does it again."""
        try:
            if run.cgroup.kill():
                return
            pids = run.cgroup.procs()
        except OSError as error:
            self._context.problem(f"cannot kill the cgroup {run.cgroup.path}: {error.strerror}")
            pids = []
        if run.pidfd >= 0:
            self.send(run, signal.SIGKILL)  # takes its pid namespace along
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    # --- freeze ---------------------------------------------------------------------------------
    def freeze(self, request: protocol.Freeze) -> None:
        """Freeze or thaw; the answer comes when the kernel has done it."""
        run = self._context.find(request.instance, request.run)
        if run is None:
            self._answer(request.instance, request.run, request.frozen, "no such run lives")
            return
        try:
            run.cgroup.freeze(request.frozen)
            run.freeze_wanted = request.frozen
            if self._progress(run):
                return
            if run.events_fd < 0 and (fd := run.cgroup.open_events()) >= 0:
                run.events_fd = fd
                self._context.loop.watch(fd, select.EPOLLPRI, self._progress, run)
                self._progress(run)  # it may have come before we listened
            elif run.events_fd < 0:
                self._context.loop.after(POLL_S, self._poll, run)
            self._context.loop.after(_FREEZE_TIMEOUT_S, self._late, (run, request.frozen))
        except OSError as error:
            run.freeze_wanted = None
            self.stop_events(run)
            self._answer(run.instance, run.number, request.frozen, str(error.strerror or error))

    def _answer(self, instance: str, number: int, frozen: bool, error: str) -> None:
        self._context.daemon.send(protocol.Frozen(instance, number, frozen, error))

    def _progress(self, run: Run) -> bool:
        """Tell the daemon if it is as wanted now; whether nothing is to be waited for."""
        wanted = run.freeze_wanted
        if wanted is None:
            return True
        if run.cgroup.is_frozen() != wanted:
            return False
        run.freeze_wanted = None
        run.frozen = wanted
        self.stop_events(run)
        self._answer(run.instance, run.number, wanted, "")
        return True

    def _poll(self, run: Run) -> None:
        if not self._progress(run) and self._context.runs.get(run.instance) is run:
            self._context.loop.after(POLL_S, self._poll, run)

    def _late(self, what: tuple[Run, bool]) -> None:
        run, wanted = what
        if run.freeze_wanted == wanted and self._context.runs.get(run.instance) is run:
            run.freeze_wanted = None
            self.stop_events(run)
            error = f"the kernel did not confirm it within {_FREEZE_TIMEOUT_S:.0f} s"
            self._answer(run.instance, run.number, wanted, error)

    def stop_events(self, run: Run) -> None:
        """Listen no more to its cgroup."""
        if run.events_fd >= 0:
            self._context.loop.unwatch(run.events_fd)
            os.close(run.events_fd)
            run.events_fd = -1
