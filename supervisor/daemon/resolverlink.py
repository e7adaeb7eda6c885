"""The daemon's end of the resolver's socket, and starting one. asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from supervisor.core.paths import Paths
from supervisor.launcher.bootstrap import PACKAGE_ROOT
from supervisor.launcher.client import readable
from supervisor.resolver import protocol

_PATIENCE_S = 10.0
_ANSWERS = {"give": "sockets"}
"""What a request is answered with, where that is not called the same."""


class ResolverError(Exception):
    """A resolver that cannot be started or does not answer; the text is for the operator."""


class ResolverLink:
    """A connection to a resolver, which outlives it. Not thread-safe: belongs to the loop it was made in."""

    def __init__(self, sock: socket.socket, on_lost: Callable[[], None]) -> None:
        self._sock = sock
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._packets: asyncio.Queue[tuple[dict[str, Any], list[int]] | None] = asyncio.Queue()
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid = int(struct.unpack("3i", credentials)[0])
        self._pidfd = os.pidfd_open(self.pid)
        self.version = self.serial = 0
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    async def connect(cls, path: str, on_lost: Callable[[], None]) -> ResolverLink | None:
        """To the resolver that listens there; None if there is none. on_lost: called once when it died."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
            sock.setblocking(False)
            made = cls(sock, on_lost)
        except OSError:
            sock.close()
            return None
        try:
            hello, _ = await made.ask({"do": "hello"})
        except ResolverError:
            return None
        made.version, made.serial = int(hello.get("version", 0)), int(hello.get("serial", 0))
        return made

    def _readable(self) -> None:
        try:
            packet = protocol.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            packet = None
        self._packets.put_nowait(packet)
        if packet is None:
            self.close()
            self._on_lost()

    async def say(self, words: dict[str, Any], fds: list[int]) -> None:
        """Send; the descriptors stay the caller's. Raises ResolverError."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    try:
                        protocol.send(self._sock, protocol.encode(words), fds)
                    except BlockingIOError:
                        await self._writable()
                    else:
                        return
        except (OSError, TimeoutError) as error:
            self._give_up()
            raise ResolverError(f"cannot reach the resolver (pid {self.pid}): {error!r}") from error

    async def _writable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(self._sock.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(self._sock.fileno())

    async def ask(
        self, words: dict[str, Any], fds: list[int] | None = None
    ) -> tuple[dict[str, Any], list[int]]:
        """Send, and wait for the answer; its descriptors are the caller's. Raises ResolverError."""
        await self.say(words, fds or [])
        wanted = _ANSWERS.get(words["do"], words["do"])
        while True:
            answer, given = await self.hear()
            if answer.get("is") == wanted:
                return answer, given
            protocol.close(given)  # to somebody who was cancelled while waiting

    async def hear(self) -> tuple[dict[str, Any], list[int]]:
        """The next packet. Raises ResolverError; a resolver that says nothing is killed, to be replaced."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                packet = await self._packets.get()
        except TimeoutError:
            self._give_up()
            raise ResolverError(f"the resolver (pid {self.pid}) does not answer") from None
        if packet is None:
            self._packets.put_nowait(None)
            raise ResolverError(f"the resolver (pid {self.pid}) has ended")
        return packet

    def _give_up(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def hush(self) -> None:
        """Have it hear nothing more, answer what it was asked, and end; it hears nothing when this returns.

        `on_lost` is not called. `gone` is to follow.
        """
        self._on_lost = _nothing
        with contextlib.suppress(ResolverError):
            await self.ask({"do": "quit"})

    async def gone(self) -> None:
        """Wait for its end, after `hush`; kill it where that takes too long."""
        if self._pidfd < 0:
            return
        pidfd = os.dup(self._pidfd)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await readable(pidfd)
        except TimeoutError:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
            self.close()

    def close(self) -> None:
        """Let go; the resolver goes on. Twice is no error."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            os.close(self._pidfd)
            self._pidfd = -1


async def start(paths: Paths, cgroup_base: str | None, python: str = sys.executable) -> None:
    """Start a resolver and wait until it listens at `paths.names_socket`. Raises ResolverError.

    It is our child as long as we live: its end is noted here, and needs nobody's care.
    """
    library = importlib.util.find_spec("dnslib")
    if library is None or library.origin is None:
        raise ResolverError("cannot start the resolver: dnslib is not installed")
    arguments = ["--run-dir", paths.run_dir]
    if cgroup_base is not None:
        arguments += ["--cgroup-base", cgroup_base]
    site = os.path.dirname(os.path.dirname(library.origin))  # noqa: PTH120
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = os.posix_spawn(
                python,
                [python, "-S", "-P", "-m", "supervisor.resolver.server", *arguments],
                {"PYTHONPATH": f"{PACKAGE_ROOT}:{site}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, writing, 1),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                ],
                setsigmask=[],
                setsid=True,
            )
        except OSError as error:
            raise ResolverError(f"cannot start the resolver: {python}: {error.strerror}") from error
        finally:
            os.close(writing)
        _reap(pid)
        await readable(reading)
        text = os.read(reading, 4096).decode(errors="replace")
    finally:
        os.close(reading)
    if text != "ready":
        raise ResolverError(text or "cannot start the resolver: it ended; its messages are on standard error")


def _reap(pid: int) -> None:
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(pidfd)

    loop.add_reader(pidfd, ended)


def _nothing() -> None: ...
