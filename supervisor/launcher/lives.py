"""Runs from their launch to the record of their end."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable

from supervisor.kernel import process
from supervisor.kernel.cgroups import Cgroup
from supervisor.launcher import codec, plan, protocol
from supervisor.launcher.assemble import explain
from supervisor.launcher.channel import Told, hear
from supervisor.launcher.context import Context
from supervisor.launcher.ear import Ear
from supervisor.launcher.heirs import Heirs, Legacy, Parked
from supervisor.launcher.loglink import LogLink
from supervisor.launcher.notices import Notices
from supervisor.launcher.remains import Remains
from supervisor.launcher.runs import Child, Run, boottime_ns, launch_failed, unnumbered
from supervisor.launcher.spawn import Spawned, Spawner
from supervisor.launcher.steps import NEVER_BEGAN, StepError
from supervisor.launcher.stops import POLL_S, Stops


class Lives:
    """See the module."""

    def __init__(
        self,
        context: Context,
        spawner: Spawner,
        logs: LogLink,
        stops: Stops,
        remains: Remains,
        notices: Notices,
    ) -> None:
        self.on_unseen: Callable[[plan.LaunchPlan], object] = lambda _: None
        """What to do when something lives in the cgroup of a run that we know nothing of."""
        self._context = context
        self._spawner = spawner
        self._logs = logs
        self._stops = stops
        self._remains = remains
        self._notices = notices
        self._heirs = Heirs(context, spawner, remains)

    # --- launch ---------------------------------------------------------------------------------
    def launch(self, launch: plan.LaunchPlan) -> None:
        """Answered by Started or LaunchFailed; or again by what was answered before."""
        context = self._context
        key = (launch.instance, launch.run)
        if (known := context.ended.get(key)) is not None:
            context.daemon.send(known)  # asked for again by a daemon that did not see the answer
            return
        if (live := context.runs.get(launch.instance)) is not None:
            if live.number != launch.run:
                detail = f"run {live.number} of it lives"
                context.end(launch_failed(*key, launch.meta, "busy", errno.EBUSY, detail))
            elif not live.starting:
                context.daemon.send(protocol.Started(live.info()))
            return
        cgroup = Cgroup(context.setup, launch.cgroup)
        if cgroup.exists():
            self.on_unseen(launch)
            return
        known_plan = unnumbered(launch)
        before = self._heirs.take(launch.instance, known_plan)
        ear = None
        try:
            ear = _ear(launch)
            spawned = self._spawn(launch, cgroup, before)
        except StepError as error:
            if ear is not None:
                ear.close()
            if isinstance(before, Parked):
                self._heirs.discard(before)
            elif before is not None:
                self._heirs.let_go(before.roots)
            self._remains.remove(cgroup, delay_s=0.0)
            context.end(launch_failed(*key, launch.meta, error.stage, error.number, error.detail))
            return
        run = self._begin(launch, known_plan, cgroup, spawned)
        if ear is not None:
            self._notices.begin(run, ear)

    def _spawn(self, launch: plan.LaunchPlan, cgroup: Cgroup, before: Parked | Legacy | None) -> Spawned:
        """Raises StepError; then `before` is still there."""
        try:
            cgroup.create(launch.limits)
        except OSError as error:
            stage = "limits" if error.errno == errno.ENOTSUP else "cgroup"
            detail = str(error.strerror or error) + (f": {error.filename}" if error.filename else "")
            raise StepError(stage, error.errno or 0, detail) from error
        if isinstance(before, Parked):
            self._spawner.unpark(before.spawned, cgroup)
            return before.spawned
        roots = before.roots if before is not None else []
        spawned = self._spawner.launch(launch, cgroup, roots)
        for fd in roots:
            os.close(fd)  # the child has them
        return spawned

    def _begin(self, launch: plan.LaunchPlan, known: bytes, cgroup: Cgroup, spawned: Spawned) -> Run:
        child = Child(spawned.pid, spawned.pidfd, spawned.channel)
        run = Run(launch.instance, launch.run, launch.meta, launch.log, cgroup, child)
        run.plan = known
        run.made = spawned.made
        run.stdin = spawned.stdin
        self._context.runs[launch.instance] = run
        self._context.loop.watch_death(run, self.died)
        self._context.loop.watch(spawned.channel.fileno(), select.EPOLLIN, self._on_channel, run)
        for stream, fd in (("stdout", spawned.stdout), ("stderr", spawned.stderr)):
            if fd >= 0:
                self._attach(run, stream, fd)
        self._context.daemon.send(protocol.Begun(run.instance, run.number, run.pid))
        return run

    def _attach(self, run: Run, stream: str, fd: int) -> None:
        log = run.log
        try:
            self._logs.attach(
                run.instance, run.number, stream, fd, log.path, log.max_size_bytes, log.max_files
            )
        except OSError as error:
            run.error = ("log", error.errno or 0, f"cannot log {stream}: {error.strerror}")
            self._stops.send(run, signal.SIGKILL)

    # --- input ------------------------------------------------------------------------------------
    def give_input(self, request: protocol.Input) -> None:
        """Answered by InputGiven."""
        run = self._context.find(request.instance, request.run)
        fd = -1
        if run is not None:
            terminal = self._logs.terminal(run.instance, run.number)
            fd = run.stdin if terminal < 0 else terminal
        self._context.daemon.send(protocol.InputGiven(request.key), [] if fd < 0 else [os.dup(fd)])

    def end_input(self, request: protocol.EndInput) -> None:
        """The process reads the end of it when nobody else holds that pipe."""
        run = self._context.find(request.instance, request.run)
        if run is not None and run.stdin >= 0:
            os.close(run.stdin)
            run.stdin = -1

    # --- until the exec -------------------------------------------------------------------------
    def _on_channel(self, run: Run) -> None:
        for told in hear(run, self._context.loop):
            match told:
                case Told(["error", str(stage), int(number), str(detail)]):
                    run.error = run.error or (stage, number, detail)
                case Told(["row", int(row), int(number), str(detail)]):
                    failed = explain(codec.decode(run.plan), row, number, detail, run.made)
                    run.error = run.error or (failed.stage, failed.number, failed.detail)
                case Told(["kept"], fds):
                    run.kept = fds
                case Told(["tty"], fds):
                    self._attach(run, "tty", fds[0])
                case Told():
                    told.close()
                case None:
                    self._launched(run)

    def _launched(self, run: Run) -> None:
        if run.error is not None:
            return  # its death is on its way
        with contextlib.suppress(OSError):
            run.ticks = process.start_ticks(run.pid)
        self._context.daemon.send(protocol.Started(run.info()))
        for number in run.pending_signals:
            self._stops.send(run, number)
        run.pending_signals.clear()
        self._heirs.launched(run)

    # --- death ----------------------------------------------------------------------------------
    def died(self, run: Run) -> None:
        """Called while its pidfd says so."""
        if not run.adopted and not process.has_ended(run.pidfd):
            return
        run.ended_ns = boottime_ns()
        run.ended_wall = time.time()
        if run.channel is not None:
            self._on_channel(run)
        populated = self._populated(run.cgroup)
        if not populated:
            self._heirs.died(run)  # first, since all the rest takes time
        # Looked at while it is a zombie, reaped last: until then nobody else has its pid.
        run.oom = run.cgroup.oom_kills() > 0
        if run.adopted:
            run.status = process.status_of_stranger(run.pid, run.pidfd, run.ticks)
            if run.unseen and run.status is not None and run.status.code == NEVER_BEGAN:
                run.status = None  # our child, whose launcher died before it could say why: no service's end
        elif (reaped := process.reap(run.pid)) is not None:
            run.status, run.usage = reaped
        else:
            run.status = process.status_of_stranger(run.pid, run.pidfd, run.ticks)
        self._context.loop.unwatch_death(run)
        self._settle(run, populated=populated)

    def _populated(self, cgroup: Cgroup) -> bool:
        try:
            return cgroup.populated()
        except OSError as error:
            self._context.problem(f"cannot look into the cgroup {cgroup.path}: {error.strerror}")
            return False

    def settle(self, run: Run) -> None:
        """The record goes out when nothing of the run is left. With a pid namespace that is now."""
        if self._context.runs.get(run.instance) is run:  # else it went out in the meantime
            self._settle(run, populated=self._populated(run.cgroup))

    def _settle(self, run: Run, *, populated: bool) -> None:
        loop = self._context.loop
        if populated:
            self._stops.kill_all(run)
            if run.events_fd < 0 and (fd := run.cgroup.open_events()) >= 0:
                run.events_fd = fd
                loop.watch(fd, select.EPOLLPRI, self.settle, run)
            # Where there are no events, and in case one came before we listened.
            loop.after(POLL_S if run.events_fd < 0 else 0.1, self.settle, run)
            return
        self._stops.stop_events(run)
        self._notices.end(run)
        del self._context.runs[run.instance]
        self._context.end(run.record())
        self._heirs.died(run)
        run.close()
        self._remains.remove(run.cgroup)

    def close(self) -> None:
        """Let go of what is held; what lives goes on."""
        self._heirs.close()
        for run in self._context.runs.values():
            run.close()


def _ear(launch: plan.LaunchPlan) -> Ear | None:
    """Where the run is heard, before it can say anything. Raises StepError."""
    if not launch.notify:
        return None
    try:
        return Ear(launch.notify, fresh=True)
    except OSError as error:
        raise StepError("notify", error.errno or 0, f"{error.strerror}: {launch.notify}") from error
