"""Runs that an earlier launcher started: watch them as our own, as far as a stranger can."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable

from supervisor.kernel import process
from supervisor.kernel.cgroups import Cgroup
from supervisor.launcher import plan, protocol
from supervisor.launcher.context import Context
from supervisor.launcher.logjournal import BATCH_BYTES
from supervisor.launcher.loglink import LogLink
from supervisor.launcher.notices import Notices
from supervisor.launcher.runs import Child, Run, boottime_ns


class Adoption:
    """See the module. died, settle: what `Lives` does at a death."""

    def __init__(
        self,
        context: Context,
        logs: LogLink,
        died: Callable[[Run], object],
        settle: Callable[[Run], object],
        notices: Notices,
    ) -> None:
        self._context = context
        self._logs = logs
        self._died = died
        self._settle = settle
        self._notices = notices

    def adopt(self, request: protocol.Adopt) -> None:
        """Answered by Started, or by the record of an end that nobody saw."""
        context = self._context
        known = context.ended.get((request.instance, request.run))
        if known is not None:
            context.daemon.send(known)
            return
        live = context.runs.get(request.instance)
        if live is not None and live.number == request.run:
            if not live.starting:
                context.daemon.send(protocol.Started(live.info()))
            return
        run = self._run(request)
        # A live one of another number is impossible, but then this is not it: never two lives of an instance.
        if not self._is_same(run, request) or live is not None:
            self._end(run, live)
            return
        with contextlib.suppress(OSError):
            run.frozen = run.cgroup.is_frozen()
        context.runs[request.instance] = run
        context.loop.watch_death(run, self._died)
        if not request.tty:
            self._reattach(run)
        if request.notify:
            self._notices.resume(run, request.notify)
        context.daemon.send(protocol.Started(run.info()))

    def unseen(self, launch: plan.LaunchPlan) -> None:
        """A run that was begun by a launcher that died before it could say so; it may have ended since."""
        log = launch.log
        self.adopt(
            protocol.Adopt(
                launch.instance,
                launch.run,
                0,
                0,
                launch.cgroup,
                boottime_ns(),
                log.path,
                log.max_size_bytes,
                log.max_files,
                launch.process.tty,
                launch.meta,
                launch.notify,
            )
        )

    def _run(self, request: protocol.Adopt) -> Run:
        log = plan.LogPlan(request.log_path, request.log_max_size_bytes, request.log_max_files)
        cgroup = Cgroup(self._context.setup, request.cgroup)
        run = Run(request.instance, request.run, request.meta, log, cgroup, Child(request.pid, -1, None))
        run.adopted = True
        run.unseen = not request.pid
        run.started_ns = request.started_ns
        run.started_wall = time.time() - (boottime_ns() - request.started_ns) / 1e9
        return run

    @staticmethod
    def _is_same(run: Run, request: protocol.Adopt) -> bool:
        """Find its first process; whether it is the one that was started, as far as somebody knows."""
        with contextlib.suppress(OSError):
            if not run.pid:
                run.pid = process.first_of_namespace(run.cgroup.procs())
            if run.pid:
                run.pidfd = os.pidfd_open(run.pid)
                run.ticks = process.start_ticks(run.pid)
                return run.ticks == request.start_ticks or not request.pid
        return False

    def _end(self, run: Run, live: Run | None) -> None:
        if not self._logs.taken_over:
            self._context.problem(
                f"run {run.number} of {run.instance} has ended while launcher and log writer were dead at"
                " once: what it had said and nobody had read is lost"
            )
        run.ended_ns = boottime_ns()
        run.ended_wall = time.time()
        run.oom = run.cgroup.oom_kills() > 0
        if live is not None:
            run.close()
            self._context.end(run.record())
            return
        self._context.runs[run.instance] = run
        if run.pidfd >= 0:
            os.close(run.pidfd)  # a stranger's
            run.pidfd = -1
        self._settle(run)

    def _reattach(self, run: Run) -> None:
        """What no log writer has (any more): open the pipes from the side of the service."""
        lost = f"at most {BATCH_BYTES} bytes that were on their way to the file are lost"
        for number, stream in ((1, "stdout"), (2, "stderr")):
            if self._logs.attached(run.instance, run.number, stream):
                continue
            path = f"/proc/{run.pid}/fd/{number}"
            try:
                if not stat.S_ISFIFO(os.stat(path).st_mode):
                    continue
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.set_blocking(fd, True)
                log = run.log
                self._logs.attach(
                    run.instance, run.number, stream, fd, log.path, log.max_size_bytes, log.max_files
                )
            except FileNotFoundError:
                lost = "it has ended meanwhile, and what it had said and nobody had read is lost"
            except OSError as error:
                self._context.problem(f"cannot log {stream} of {run.instance} again: {error.strerror}")
        if not self._logs.taken_over:
            self._context.problem(
                f"launcher and log writer were dead at once; run {run.number} of {run.instance} is logged"
                f" again: {lost}"
            )
