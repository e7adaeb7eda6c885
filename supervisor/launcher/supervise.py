"""The launcher: its parts put together, and which of them does what the daemon asks for."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

from supervisor.kernel import process
from supervisor.kernel.hierarchies import CgroupSetup
from supervisor.launcher import codec, protocol
from supervisor.launcher.adoption import Adoption
from supervisor.launcher.context import Context
from supervisor.launcher.execs import Execs
from supervisor.launcher.lives import Lives
from supervisor.launcher.loglink import LogLink
from supervisor.launcher.loop import READABLE
from supervisor.launcher.notices import Notices
from supervisor.launcher.remains import Remains
from supervisor.launcher.spawn import Spawner
from supervisor.launcher.stops import Stops

_LOG_WRITER_S = 2.0
_STRANGERS_EVERY = 64


class Launcher:
    """See the module. `prepare`, then `run`."""

    def __init__(self, run_dir: str, python: str, setup: CgroupSetup, *, quick_moves: bool) -> None:
        """Takes over a log writer that is there, or starts one. Raises OSError.

        quick_moves: a process moves between cgroups without waiting; without that a spare is of no use.
        """
        self._context = Context(run_dir, setup)
        self._logs = LogLink(run_dir, python, self._context.problem)
        self._logs.start()
        self._log_timer: float | None = None
        self._quick_moves = quick_moves
        self._ending = False
        self._quit = False

    def prepare(self, wake_fd: int) -> None:
        """When the signals are set up. wake_fd: readable after a signal."""
        context = self._context
        self._spawner = spawner = Spawner(spares=self._quick_moves)
        remains = Remains(context)
        self._remains = remains
        self._stops = Stops(context)
        notices = Notices(context)
        self._lives = Lives(context, spawner, self._logs, self._stops, remains, notices)
        self._execs = Execs(context, spawner, self._stops, remains)
        self._adoption = Adoption(context, self._logs, self._lives.died, self._lives.settle, notices)
        self._lives.on_unseen = self._adoption.unseen
        context.loop.watch(self._logs.fileno(), select.EPOLLIN, self._on_logs, None)
        context.loop.watch(wake_fd, select.EPOLLIN, self._woken, wake_fd)
        context.loop.on_events(context.daemon.listener_fd, self._on_connection)
        json.loads(json.dumps(["error", "", 0, ""]))

    @staticmethod
    def _woken(fd: int) -> None:
        os.read(fd, 4096)

    def end_when_idle(self) -> None:
        """SIGTERM: end once no run lives. Their cgroup's unit is being stopped, and they are told, too."""
        self._ending = True

    def run(self) -> None:
        """Until Quit, or until idle after SIGTERM."""
        self._spawner.begin()
        self._context.loop.run(self._done)
        self._close()

    def _done(self) -> bool:
        """Once a turn."""
        if (deadline := self._logs.deadline()) is not None and deadline != self._log_timer:
            self._log_timer = deadline
            self._context.loop.after(deadline - time.monotonic(), self._on_logs, None)
        if self._context.loop.turns % _STRANGERS_EVERY == 0 and not self._execs.unnamed:
            while process.reap_stranger(self._context.loop.pids):
                pass
        return self._quit or (self._ending and not self._context.runs)

    def _on_logs(self, _: None) -> None:
        self._logs.on_ready()

    def _close(self) -> None:
        self._logs.quit()
        self._wait_for_log_writer()
        self._lives.close()
        self._remains.close()
        self._context.daemon.flush()
        self._context.daemon.close()
        self._logs.close()

    def _wait_for_log_writer(self) -> None:
        """It ends once it has written everything; on a full disk that may take longer than we have."""
        deadline = time.monotonic() + _LOG_WRITER_S
        while self._logs.child_pid is not None and (left := deadline - time.monotonic()) > 0:
            select.select([self._logs.fileno()], [], [], left)
            self._logs.on_ready()

    # --- the daemon -----------------------------------------------------------------------------
    def _on_connection(self, _: int) -> None:
        daemon, loop = self._context.daemon, self._context.loop
        # A daemon that has gone may have said things before: they still hold.
        while daemon.connected and self._one_request():
            pass
        loop.forget(daemon.connection_fd)
        try:
            daemon.accept()
        except OSError as error:
            self._context.problem(f"cannot accept a connection: {error.strerror}")
            daemon.pause_accepting(True)
            loop.after(0.1, daemon.pause_accepting, False)
        if daemon.connected:
            loop.on_events(daemon.connection_fd, self._on_daemon)

    def _on_daemon(self, mask: int) -> None:
        """One request a turn, so that a death never waits for a long queue."""
        if mask & select.EPOLLOUT:
            self._context.daemon.flush()
        if mask & READABLE:
            self._one_request()

    def _one_request(self) -> bool:
        """Whether there was one."""
        try:
            request = self._context.daemon.receive()
        except codec.ProtocolError as error:
            self._context.problem(str(error))
            return True
        if request is not None:
            self._context.loop.guard(self._handle, request)
        return request is not None

    def _handle(self, request: Any) -> None:
        match request:
            case protocol.Launch(plan=launch):
                self._lives.launch(launch)
            case protocol.Ack():
                self._context.ended.pop((request.instance, request.run), None)
            case protocol.Signal():
                self._stops.signal(request)
            case protocol.Kill():
                self._stops.kill(request)
            case protocol.Freeze():
                self._stops.freeze(request)
            case protocol.Exec():
                self._execs.start(request)
            case protocol.ExecSignal():
                self._execs.signal(request)
            case protocol.ExecKill():
                self._execs.kill(request)
            case protocol.Input():
                self._lives.give_input(request)
            case protocol.EndInput():
                self._lives.end_input(request)
            case protocol.Adopt():
                self._adoption.adopt(request)
            case protocol.Hello():
                self._context.daemon.send(self._state())
                while self._context.problems:
                    self._context.daemon.send(protocol.Problem(self._context.problems.popleft()))
            case protocol.LogCounters():
                rows: list[list[str | int]] = [list(row) for row in self._logs.counters()]
                self._context.daemon.send(
                    protocol.LogCounted(rows, self._logs.restarts, self._logs.instances())
                )
            case protocol.Ping():
                self._context.daemon.send(protocol.Pong(request.number))
            case protocol.Quit():
                if self._context.runs:
                    self._context.daemon.send(self._state())
                else:
                    self._quit = True
            case _:
                self._context.problem(f"cannot do {type(request).__name__}: it is no request")

    def _state(self) -> protocol.State:
        runs = [run.info() for run in self._context.runs.values() if not run.starting]
        return protocol.State(protocol.VERSION, os.getpid(), runs, list(self._context.ended.values()))
