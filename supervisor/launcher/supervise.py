"""The launcher's loop and what it does for each request, death and timer."""

from __future__ import annotations

import contextlib
import errno
import gc
import heapq
import itertools
import json
import os
import select
import signal
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from supervisor.kernel import process
from supervisor.kernel.cgroups import Cgroup
from supervisor.kernel.hierarchies import CgroupSetup
from supervisor.launcher import codec, plan, protocol
from supervisor.launcher.daemonlink import DaemonLink
from supervisor.launcher.logjournal import BATCH_BYTES
from supervisor.launcher.loglink import LogLink
from supervisor.launcher.runs import Child, ExecRun, Run, boottime_ns, exit_code, launch_failed
from supervisor.launcher.spawn import Spawner
from supervisor.launcher.steps import StepError

_FREEZE_TIMEOUT_S = 10.0
_LOG_WRITER_S = 2.0
_POLL_S = 0.005  # only where the kernel sends no event: pure v1
_REMOVE_AFTER_S = 0.05
_REMOVE_TRIES = 12
_COLLECT_EVERY = 1024
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR

Handler = Callable[[Any], object]


class Launcher:
    """See the module. `prepare`, then `run`."""

    def __init__(self, run_dir: str, python: str, setup: CgroupSetup) -> None:
        """Takes over a log writer that is there, or starts one. Raises OSError."""
        self._setup = setup
        self._epoll = select.epoll()
        self._runs: dict[str, Run] = {}
        self._execs: dict[str, ExecRun] = {}
        self._ended: dict[tuple[str, int], protocol.Exited | protocol.LaunchFailed] = {}
        self._deaths: dict[int, Child] = {}  # by pidfd
        self._pids: set[int] = set()
        self._handlers: dict[int, tuple[Handler, Any]] = {}
        self._timers: list[tuple[float, int, Handler, Any]] = []
        self._order = itertools.count()
        self._problems: deque[str] = deque(maxlen=100)
        self._unnamed = 0  # execs whose pid is not known yet
        self._turns = 0
        self._ending = False
        self._done = False
        self._daemon = DaemonLink(f"{run_dir}/launcher.sock", self._epoll)
        self._logs = LogLink(run_dir, python, self._problem)
        self._logs.start()
        self._log_timer: float | None = None

    def prepare(self, wake_fd: int) -> None:
        """When the signals are set up. wake_fd: readable after a signal."""
        self._spawner = Spawner()
        self._watch(self._logs.fileno(), select.EPOLLIN, lambda _: self._logs.on_ready(), None)
        self._watch(wake_fd, select.EPOLLIN, self._woken, wake_fd)
        json.loads(json.dumps(["error", "", 0, ""]))

    @staticmethod
    def _woken(fd: int) -> None:
        os.read(fd, 4096)

    def end_when_idle(self) -> None:
        """SIGTERM: end once no run lives. Their cgroup's unit is being stopped, and they are told, too."""
        self._ending = True

    # --- the loop -------------------------------------------------------------------------------
    def run(self) -> None:
        """Until Quit, or until idle after SIGTERM."""
        daemon = self._daemon
        while not (self._done or (self._ending and not self._runs)):
            try:
                events = self._epoll.poll(self._timeout())
            except InterruptedError:
                continue
            deaths = self._deaths
            for fd, _ in events:
                if fd in deaths:
                    self._guard(self._on_death, fd)
            for fd, mask in events:
                if fd in self._handlers:
                    self._guard(*self._handlers[fd])
                elif fd == daemon.connection_fd:
                    if mask & select.EPOLLOUT:
                        self._guard(lambda _: daemon.flush(), None)
                    if mask & _READABLE:
                        self._guard(self._on_request, None)
                elif fd == daemon.listener_fd:
                    self._guard(self._on_connection, None)
            self._run_timers()
            self._turns += 1
            if self._turns % _COLLECT_EVERY == 0:
                gc.collect()
        self._close()

    def _close(self) -> None:
        self._logs.quit()
        self._wait_for_log_writer()
        for run in self._runs.values():
            run.close()
        for _, _, handler, argument in self._timers:
            if handler == self._remove:
                with contextlib.suppress(OSError):
                    argument[0].remove()
        self._daemon.flush()
        self._daemon.close()
        self._logs.close()

    def _wait_for_log_writer(self) -> None:
        """It ends once it has written everything; on a full disk that may take longer than we have."""
        deadline = time.monotonic() + _LOG_WRITER_S
        while self._logs.child_pid is not None and (left := deadline - time.monotonic()) > 0:
            select.select([self._logs.fileno()], [], [], left)
            self._logs.on_ready()

    def _guard(self, handler: Handler, argument: Any) -> None:
        """One thing that goes wrong is one Problem."""
        try:
            handler(argument)
        except Exception as error:  # noqa: BLE001 - everything that lives hangs on this process
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else "?"
            self._problem(f"the launcher failed in {where}: {error!r}")

    def _problem(self, text: str) -> None:
        if self._daemon.connected:
            self._daemon.send(protocol.Problem(text))
        else:
            self._problems.append(text)

    def _watch(self, fd: int, events: int, handler: Handler, argument: Any) -> None:
        self._epoll.register(fd, events)
        self._handlers[fd] = (handler, argument)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _watch_death(self, child: Child) -> None:
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._deaths[child.pidfd] = child
        self._pids.add(child.pid)

    def _unwatch_death(self, child: Child) -> None:
        if self._deaths.pop(child.pidfd, None) is not None:
            self._epoll.unregister(child.pidfd)
        self._pids.discard(child.pid)

    # --- timers ---------------------------------------------------------------------------------
    def _after(self, delay_s: float, handler: Handler, argument: Any) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), handler, argument))

    def _timeout(self) -> float | None:
        deadline = self._logs.deadline()
        if deadline is not None and deadline != self._log_timer:
            self._log_timer = deadline
            self._after(deadline - time.monotonic(), lambda _: self._logs.on_ready(), None)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, handler, argument = heapq.heappop(self._timers)
            self._guard(handler, argument)

    # --- the daemon -----------------------------------------------------------------------------
    def _on_connection(self, _: None) -> None:
        # A daemon that has gone may have said things before: they still hold.
        while self._daemon.connected and self._one_request():
            pass
        try:
            self._daemon.accept()
        except OSError as error:
            self._problem(f"cannot accept a connection: {error.strerror}")
            self._daemon.pause_accepting(True)
            self._after(0.1, self._daemon.pause_accepting, False)

    def _on_request(self, _: None) -> None:
        """One request a turn, so that a death never waits for a long queue."""
        self._one_request()

    def _one_request(self) -> bool:
        """Whether there was one."""
        try:
            request = self._daemon.receive()
        except codec.ProtocolError as error:
            self._problem(str(error))
            return True
        if request is not None:
            self._guard(self._handle, request)
        return request is not None

    def _handle(self, request: Any) -> None:
        match request:
            case protocol.Launch(plan=launch):
                self._launch(launch)
            case protocol.Ack():
                self._ended.pop((request.instance, request.run), None)
            case protocol.Signal():
                self._signal(request)
            case protocol.Kill():
                if (run := self._find(request.instance, request.run)) is not None:
                    self._kill(run)
            case protocol.Freeze():
                self._freeze(request)
            case protocol.Exec():
                self._exec(request)
            case protocol.ExecSignal():
                found = self._execs.get(request.exec_id)
                if found is not None and found.pidfd >= 0:
                    self._send_signal(found, request.signum)
            case protocol.Adopt():
                self._adopt(request)
            case protocol.Hello():
                self._daemon.send(self._state())
                while self._problems:
                    self._daemon.send(protocol.Problem(self._problems.popleft()))
            case protocol.LogCounters():
                rows: list[list[str | int]] = [list(row) for row in self._logs.counters()]
                self._daemon.send(protocol.LogCounted(rows, self._logs.restarts))
            case protocol.Ping():
                self._daemon.send(protocol.Pong(request.number))
            case protocol.Quit():
                if self._runs:
                    self._daemon.send(self._state())
                else:
                    self._done = True
            case _:
                self._problem(f"cannot do {type(request).__name__}: it is no request")

    def _state(self) -> protocol.State:
        runs = [run.info() for run in self._runs.values() if not run.starting]
        return protocol.State(protocol.VERSION, os.getpid(), runs, list(self._ended.values()))

    def _find(self, instance: str, number: int) -> Run | None:
        run = self._runs.get(instance)
        return run if run is not None and run.number == number else None

    def _end(self, record: protocol.Exited | protocol.LaunchFailed) -> None:
        self._ended[record.instance, record.run] = record
        self._daemon.send(record)

    # --- launch ---------------------------------------------------------------------------------
    def _launch(self, launch: plan.LaunchPlan) -> None:
        key = (launch.instance, launch.run)
        if (known := self._ended.get(key)) is not None:
            self._daemon.send(known)  # asked for again by a daemon that did not see the answer
            return
        if (live := self._runs.get(launch.instance)) is not None:
            if live.number != launch.run:
                detail = f"run {live.number} of it lives"
                self._end(launch_failed(*key, launch.meta, "busy", errno.EBUSY, detail))
            elif not live.starting:
                self._daemon.send(protocol.Started(live.info()))
            return
        cgroup = Cgroup(self._setup, launch.cgroup)
        try:
            if cgroup.exists():
                self._adopt_unseen(launch)
                return
            cgroup.create(launch.limits)
        except OSError as error:
            stage = "limits" if error.errno == errno.ENOTSUP else "cgroup"
            detail = str(error.strerror or error) + (f": {error.filename}" if error.filename else "")
            self._end(launch_failed(*key, launch.meta, stage, error.errno or 0, detail))
            return
        try:
            spawned = self._spawner.launch(launch, cgroup)
        except StepError as error:
            self._end(launch_failed(*key, launch.meta, error.stage, error.number, error.detail))
            self._remove((cgroup, 0))
            return
        run = Run(
            launch.instance,
            launch.run,
            launch.meta,
            launch.log,
            cgroup,
            Child(spawned.pid, spawned.pidfd, spawned.channel),
        )
        run.stdin = spawned.stdin
        self._runs[launch.instance] = run
        self._watch_death(run)
        self._watch(spawned.channel.fileno(), select.EPOLLIN, self._on_channel, run)
        for stream, fd in (("stdout", spawned.stdout), ("stderr", spawned.stderr)):
            if fd >= 0:
                self._attach(run, stream, fd)
        self._daemon.send(protocol.Begun(run.instance, run.number, run.pid))

    def _attach(self, run: Run, stream: str, fd: int) -> None:
        log = run.log
        try:
            self._logs.attach(
                run.instance, run.number, stream, fd, log.path, log.max_size_bytes, log.max_files
            )
        except OSError as error:
            run.error = ("log", error.errno or 0, f"cannot log {stream}: {error.strerror}")
            self._send_signal(run, signal.SIGKILL)

    def _on_channel(self, child: Run | ExecRun) -> None:
        """What a child tells until its exec."""
        while child.channel is not None:
            try:
                data, fds, _, _ = socket.recv_fds(child.channel, 65536, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._unwatch(child.channel.fileno())
                child.channel.close()
                child.channel = None
                if isinstance(child, Run):
                    self._launched(child)
                else:
                    self._joined(child)
                return
            match json.loads(data):
                case ["error", str(stage), int(number), str(detail)]:
                    child.error = child.error or (stage, number, detail)
                case ["tty"]:
                    if isinstance(child, Run):
                        self._attach(child, "tty", fds[0])
                    else:
                        child.fds.append(fds[0])
                case ["pid", int(pid)] if isinstance(child, ExecRun):
                    child.pid = pid
                    child.pidfd = os.pidfd_open(pid)
                    self._pids.add(pid)
                    self._unnamed -= 1

    def _launched(self, run: Run) -> None:
        if run.error is not None:
            return  # its death is on its way
        run.started_ns = boottime_ns()
        run.started_wall = time.time()
        with contextlib.suppress(OSError):
            run.ticks = process.start_ticks(run.pid)
        self._daemon.send(protocol.Started(run.info()))
        for number in run.pending_signals:
            self._send_signal(run, number)
        run.pending_signals.clear()

    # --- death ----------------------------------------------------------------------------------
    def _on_death(self, pidfd: int) -> None:
        child = self._deaths.get(pidfd)
        if child is None:
            return
        match child:
            case Run():
                self._run_died(child)
            case ExecRun():
                self._exec_died(child)
            case _:
                self._helper_died(child)
        if self._turns % 64 == 0 and not self._unnamed:
            while process.reap_stranger(self._pids):
                pass

    def _run_died(self, run: Run) -> None:
        if not run.adopted and not process.has_ended(run.pidfd):
            return
        run.ended_ns = boottime_ns()
        run.ended_wall = time.time()
        if run.channel is not None:
            self._on_channel(run)
        # Looked at while it is a zombie, reaped last: until then nobody else has its pid.
        run.oom = run.cgroup.oom_kills() > 0
        if run.adopted:
            run.status = process.status_of_stranger(run.pid, run.pidfd, run.ticks)
        elif (reaped := process.reap(run.pid)) is not None:
            run.status, run.usage = reaped
        self._unwatch_death(run)
        self._settle(run)

    def _settle(self, run: Run) -> None:
        """The record goes out when nothing of the run is left. With a pid namespace that is now."""
        if self._runs.get(run.instance) is not run:
            return  # it went out in the meantime
        try:
            populated = run.cgroup.populated()
        except OSError as error:
            self._problem(f"cannot look into the cgroup {run.cgroup.path}: {error.strerror}")
            populated = False
        if populated:
            self._kill_all(run)
            if run.events_fd < 0 and (fd := run.cgroup.open_events()) >= 0:
                run.events_fd = fd
                self._watch(fd, select.EPOLLPRI, self._settle, run)
            # Where there are no events, and in case one came before we listened.
            self._after(_POLL_S if run.events_fd < 0 else 0.1, self._settle, run)
            return
        self._stop_events(run)
        del self._runs[run.instance]
        record = run.record()
        run.close()
        self._end(record)
        self._after(_REMOVE_AFTER_S, self._remove, (run.cgroup, 0))

    def _stop_events(self, run: Run) -> None:
        if run.events_fd >= 0:
            self._unwatch(run.events_fd)
            os.close(run.events_fd)
            run.events_fd = -1

    def _remove(self, what: tuple[Cgroup, int]) -> None:
        """Remove a cgroup, later and again: the kernel lets go of the dead when it likes."""
        cgroup, tries = what
        try:
            if cgroup.remove():
                return
            why = "it is still in use"
        except OSError as error:
            why = str(error.strerror)
        if tries < _REMOVE_TRIES:
            self._after(min(0.01 * 2**tries, 2.0), self._remove, (cgroup, tries + 1))
        else:
            self._problem(f"cannot remove the cgroup {cgroup.path}: {why}")

    def _helper_died(self, helper: Child) -> None:
        if process.has_ended(helper.pidfd):
            process.reap(helper.pid)
            self._unwatch_death(helper)
            helper.close()

    # --- signals, kill, freeze ------------------------------------------------------------------
    def _signal(self, request: protocol.Signal) -> None:
        run = self._find(request.instance, request.run)
        if run is None:
            return
        if run.starting and request.signum != signal.SIGKILL:
            run.pending_signals.append(request.signum)
        else:
            self._send_signal(run, request.signum)

    def _send_signal(self, child: Child, number: int) -> None:
        try:
            signal.pidfd_send_signal(child.pidfd, number)
        except ProcessLookupError:
            return
        except (OSError, ValueError) as error:
            self._problem(f"cannot send signal {number} to process {child.pid}: {error}")

    def _kill(self, run: Run) -> None:
        if run.frozen or run.freeze_wanted:
            with contextlib.suppress(OSError):
                run.cgroup.freeze(False)
            run.frozen = False
        self._kill_all(run)

    def _kill_all(self, run: Run) -> None:
        try:
            if run.cgroup.kill():
                return
            pids = run.cgroup.procs()
        except OSError as error:
            self._problem(f"cannot kill the cgroup {run.cgroup.path}: {error.strerror}")
            pids = []
        if run.pidfd >= 0:
            self._send_signal(run, signal.SIGKILL)  # takes its pid namespace along
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _freeze(self, request: protocol.Freeze) -> None:
        run = self._find(request.instance, request.run)
        if run is None:
            error = "no such run lives"
            self._daemon.send(protocol.Frozen(request.instance, request.run, request.frozen, error))
            return
        try:
            run.cgroup.freeze(request.frozen)
            run.freeze_wanted = request.frozen
            if self._freeze_progress(run):
                return
            if run.events_fd < 0 and (fd := run.cgroup.open_events()) >= 0:
                run.events_fd = fd
                self._watch(fd, select.EPOLLPRI, self._freeze_progress, run)
                self._freeze_progress(run)  # it may have come before we listened
            elif run.events_fd < 0:
                self._after(_POLL_S, self._freeze_poll, run)
            self._after(_FREEZE_TIMEOUT_S, self._freeze_late, (run, request.frozen))
        except OSError as error:
            run.freeze_wanted = None
            self._stop_events(run)
            self._daemon.send(
                protocol.Frozen(run.instance, run.number, request.frozen, str(error.strerror or error))
            )

    def _freeze_progress(self, run: Run) -> bool:
        """Tell the daemon if it is as wanted now; whether nothing is to be waited for."""
        wanted = run.freeze_wanted
        if wanted is None:
            return True
        if run.cgroup.is_frozen() != wanted:
            return False
        run.freeze_wanted = None
        run.frozen = wanted
        self._stop_events(run)
        self._daemon.send(protocol.Frozen(run.instance, run.number, wanted, ""))
        return True

    def _freeze_poll(self, run: Run) -> None:
        if not self._freeze_progress(run) and self._runs.get(run.instance) is run:
            self._after(_POLL_S, self._freeze_poll, run)

    def _freeze_late(self, what: tuple[Run, bool]) -> None:
        run, wanted = what
        if run.freeze_wanted == wanted and self._runs.get(run.instance) is run:
            run.freeze_wanted = None
            self._stop_events(run)
            error = f"the kernel did not confirm it within {_FREEZE_TIMEOUT_S:.0f} s"
            self._daemon.send(protocol.Frozen(run.instance, run.number, wanted, error))

    # --- exec -----------------------------------------------------------------------------------
    def _exec(self, request: protocol.Exec) -> None:
        run = self._find(request.instance, request.run)
        error: StepError | None = None
        if request.exec_id in self._execs:
            error = StepError("busy", errno.EBUSY, f"exec {request.exec_id} is there already")
        elif run is None or run.starting or run.pidfd < 0:
            error = StepError("namespaces", errno.ESRCH, f"run {request.run} does not run")
        else:
            try:
                spawned = self._spawner.join(request.process, run.cgroup, run.pidfd)
            except StepError as failed:
                error = failed
        if error is not None:
            self._exec_failed(request.exec_id, error.stage, error.number, error.detail)
            return
        assert run is not None
        helper = Child(spawned.pid, spawned.pidfd, None)
        self._watch_death(helper)
        fds = [
            fd
            for fd in (spawned.stdin, spawned.stdout, spawned.stderr)
            if fd >= 0 and not request.process.tty
        ]
        if request.process.tty and spawned.stdin >= 0:
            os.close(spawned.stdin)
        child = ExecRun(request.exec_id, run, spawned.channel, fds)
        self._execs[request.exec_id] = child
        self._unnamed += 1
        self._watch(spawned.channel.fileno(), select.EPOLLIN, self._on_channel, child)

    def _exec_failed(self, exec_id: str, stage: str, number: int, detail: str) -> None:
        self._daemon.send(protocol.ExecFailed(exec_id, stage, number, detail, exit_code(stage, number)))

    def _joined(self, child: ExecRun) -> None:
        """Exec succeeded or failed: everybody has closed the channel."""
        if not child.pid:
            self._unnamed -= 1
        if child.error is None and child.pid:
            self._daemon.send(protocol.ExecStarted(child.exec_id, child.pid), child.fds[:])
            child.fds.clear()
            self._watch_death(child)
            return
        stage, number, detail = child.error or ("namespaces", 0, "the helper was killed")
        del self._execs[child.exec_id]
        if child.pid:
            self._watch_death(Child(child.pid, os.dup(child.pidfd), None))
        child.close()
        self._exec_failed(child.exec_id, stage, number, detail)

    def _exec_died(self, child: ExecRun) -> None:
        if not process.has_ended(child.pidfd):
            return
        reaped = process.reap(child.pid)
        self._unwatch_death(child)
        del self._execs[child.exec_id]
        child.close()
        self._daemon.send(protocol.ExecExited(child.exec_id, reaped[0].code if reaped else 255))

    # --- adoption -------------------------------------------------------------------------------
    def _adopt_unseen(self, launch: plan.LaunchPlan) -> None:
        """This run was begun by a launcher that died before it could say so; it may have ended since."""
        log = launch.log
        self._adopt(
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
            )
        )

    def _adopt(self, request: protocol.Adopt) -> None:
        known = self._ended.get((request.instance, request.run))
        if known is not None:
            self._daemon.send(known)
            return
        live = self._runs.get(request.instance)
        if live is not None and live.number == request.run:
            if not live.starting:
                self._daemon.send(protocol.Started(live.info()))
            return
        log = plan.LogPlan(request.log_path, request.log_max_size_bytes, request.log_max_files)
        cgroup = Cgroup(self._setup, request.cgroup)
        run = Run(request.instance, request.run, request.meta, log, cgroup, Child(request.pid, -1, None))
        run.adopted = True
        run.started_ns = request.started_ns
        run.started_wall = time.time() - (boottime_ns() - request.started_ns) / 1e9
        same = False
        with contextlib.suppress(OSError):
            if not run.pid:
                run.pid = process.first_of_namespace(cgroup.procs())
            if run.pid:
                run.pidfd = os.pidfd_open(run.pid)
                run.ticks = process.start_ticks(run.pid)
                same = run.ticks == request.start_ticks or not request.pid
        if live is not None:
            same = False  # impossible, but then it is not the one: never two lives of an instance
        if not same:
            if not self._logs.taken_over:
                self._problem(
                    f"run {run.number} of {run.instance} has ended while launcher and log writer were dead at"
                    " once: what it had said and nobody had read is lost"
                )
            run.ended_ns = boottime_ns()
            run.ended_wall = time.time()
            run.oom = cgroup.oom_kills() > 0
            if live is None:
                self._runs[request.instance] = run
                if run.pidfd >= 0:
                    os.close(run.pidfd)  # a stranger's
                    run.pidfd = -1
                self._settle(run)
            else:
                run.close()
                self._end(run.record())
            return
        with contextlib.suppress(OSError):
            run.frozen = cgroup.is_frozen()
        self._runs[request.instance] = run
        self._watch_death(run)
        if not request.tty:
            self._reattach(run)
        self._daemon.send(protocol.Started(run.info()))

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
                self._problem(f"cannot log {stream} of {run.instance} again: {error.strerror}")
        if not self._logs.taken_over:
            self._problem(
                f"launcher and log writer were dead at once; run {run.number} of {run.instance} is logged"
                f" again: {lost}"
            )
