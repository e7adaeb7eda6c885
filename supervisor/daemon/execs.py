"""Processes that people run inside a running service (`exec`): asked for, started, ended, looked up.

The launcher does the work; here is what is known of each, by id. An exec belongs to this life of the daemon:
after a restart of it the process runs on inside the service, and nobody hears its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.launcher import protocol
from supervisor.launcher.plan import Process

_KEPT = 200  # sessions that have ended
LOST = 255


class ExecError(Exception):
    """An exec that cannot be started. `code` is Docker's exit code for it: 126, 127 or 128."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class ExecSession:
    """One exec. exit_code: None until it has ended. `ended` is set when it has, or never began."""

    id: str
    instance: str
    name: str
    run: int
    process: Process
    pid: int = 0
    exit_code: int | None = None
    begun: bool = False
    lost: bool = False
    """The launcher died; the end was not seen."""
    started: asyncio.Future[list[int]] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Execs:
    """All sessions. `send` and `take_fds` are the launcher client's, set with every connection to one."""

    def __init__(self) -> None:
        self.send: Callable[[protocol.Request], None] = lambda _: None
        self.take_fds: Callable[[str], list[int]] = lambda _: []
        self._sessions: dict[str, ExecSession] = {}

    def create(self, instance: str, name: str, run: int, process: Process) -> ExecSession:
        """Remember what is to be run; nothing runs yet."""
        session = ExecSession(secrets.token_hex(32), instance, name, run, process)
        self._sessions[session.id] = session
        ended = [old for old in self._sessions.values() if old.ended.is_set()]
        for old in ended[: len(ended) - _KEPT]:
            del self._sessions[old.id]
        return session

    def find(self, exec_id: str) -> ExecSession | None:
        """The session of that id, if it is still known."""
        return self._sessions.get(exec_id)

    async def start(self, session: ExecSession) -> list[int]:
        """Start it; its descriptors, owned by the caller: see `protocol.Exec`. Raises ExecError."""
        session.begun = True
        session.started = asyncio.get_running_loop().create_future()
        self.send(protocol.Exec(session.id, session.instance, session.run, session.process))
        return await session.started

    def signal(self, session: ExecSession, signum: int) -> None:
        """Signal its process; no effect on one that has ended."""
        if not session.ended.is_set():
            self.send(protocol.ExecSignal(session.id, signum))

    def kill(self, session: ExecSession) -> None:
        """End its process and the group of it; no effect on one that has ended."""
        if not session.ended.is_set():
            self.send(protocol.ExecKill(session.id))

    def forget(self, session: ExecSession) -> None:
        """Nobody asks for it any more."""
        self._sessions.pop(session.id, None)

    def on_launcher(self, event: protocol.ExecStarted | protocol.ExecFailed | protocol.ExecExited) -> None:
        """What the launcher says of an exec."""
        session = self._sessions.get(event.exec_id)
        fds = self.take_fds(event.exec_id) if isinstance(event, protocol.ExecStarted) else []
        waiting = session.started if session is not None else None
        match event:
            case protocol.ExecStarted():
                if session is not None:
                    session.pid = event.pid
                if waiting is not None and not waiting.done():
                    waiting.set_result(fds)
                else:
                    for fd in fds:
                        with contextlib.suppress(OSError):
                            os.close(fd)
            case protocol.ExecFailed() if session is not None:
                self._end(session, event.code, f"cannot exec in {session.name}: {event.detail}")
            case protocol.ExecExited() if session is not None:
                self._end(session, event.code, "")
            case _:
                pass

    def lost(self) -> None:
        """The launcher died: whoever waits is told; the processes run on without us."""
        for session in self._sessions.values():
            if session.begun and not session.ended.is_set():
                session.lost = True
                self._end(session, LOST, f"cannot exec in {session.name}: the launcher died")

    @staticmethod
    def _end(session: ExecSession, code: int, why: str) -> None:
        session.exit_code = code
        session.pid = 0
        session.ended.set()
        if session.started is not None and not session.started.done():
            session.started.set_exception(ExecError(why, code))
