"""Commands that the supervisor itself runs inside a running service: probes and hooks.

They go the way of an exec, but nobody asked for them: they are in no list, and no event tells of them. One
that takes too long is killed with its whole process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass

from supervisor.core.health import FAILED_TO_RUN, OUTPUT_BYTES
from supervisor.daemon.execs import ExecError, Execs, ExecSession
from supervisor.launcher.plan import Process

_CHUNK = 65536


class AwayError(Exception):
    """The launcher, or the run itself, went away meanwhile: the command says nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to. code: 0..255, or FAILED_TO_RUN. output: at most OUTPUT_BYTES of it."""

    code: int
    output: str
    timed_out: bool = False


class Inside:
    """See the module."""

    def __init__(self, execs: Execs) -> None:
        self._execs = execs

    async def run(
        self, instance: str, name: str, run: int, process: Process, timeout_s: float | None
    ) -> Outcome:
        """Run a command in a run to its end. Raises AwayError. Cancelled, it kills the command."""
        session = self._execs.create(instance, name, run, process)
        try:
            return await self._run(session, timeout_s)
        finally:
            self._execs.kill(session)
            self._execs.forget(session)

    async def _run(self, session: ExecSession, timeout_s: float | None) -> Outcome:
        output = _Output()
        timed_out = False
        try:
            async with asyncio.timeout(timeout_s) as limit:
                output.follow(await self._execs.start(session))
                await session.ended.wait()
        except TimeoutError:
            if not limit.expired():
                raise
            timed_out = True
        except ExecError as error:
            if session.lost:
                raise AwayError(str(error)) from error
            return Outcome(FAILED_TO_RUN, str(error))
        finally:
            text = output.close()
        if timed_out:
            return Outcome(FAILED_TO_RUN, text, timed_out=True)
        if session.lost:
            raise AwayError("the launcher died")
        assert session.exit_code is not None
        return Outcome(session.exit_code, text)


class _Output:
    """The beginning of what a command writes, stdout and stderr in one; the rest is read and dropped."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._kept = bytearray()

    def follow(self, fds: list[int]) -> None:
        """[stdin, stdout, stderr], owned by this from now on."""
        stdin, *reading = fds
        os.close(stdin)
        loop = asyncio.get_running_loop()
        for fd in reading:
            os.set_blocking(fd, False)
            self._fds.append(fd)
            loop.add_reader(fd, self._read, fd)

    def _read(self, fd: int) -> bool:
        """Whether there may be more now."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._let_go(fd)
        self._kept += data[: OUTPUT_BYTES - len(self._kept)]
        return bool(data) and len(self._kept) < OUTPUT_BYTES

    def _let_go(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._fds.remove(fd)
        os.close(fd)

    def close(self) -> str:
        """What it wrote until now: what its children still write is not waited for."""
        for fd in self._fds[:]:
            while fd in self._fds and self._read(fd):
                pass
        for fd in self._fds[:]:
            with contextlib.suppress(OSError):
                self._let_go(fd)
        return self._kept.decode("utf-8", "replace")
