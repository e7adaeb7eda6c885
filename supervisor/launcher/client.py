"""The daemon's end of the launcher: start one where there is none, send requests, hear events. asyncio.

The launcher is nobody's child after its start, so it outlives the daemon, and its death is seen as the end of
the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable

from supervisor.core.paths import Paths
from supervisor.launcher import bootstrap, codec, protocol

_PER_TURN = 64
_STARTS = 3
_QUIT_S = 10.0


class LauncherError(Exception):
    """A launcher that cannot be started or reached; the text is for the operator."""


def _nothing() -> None: ...


class LauncherClient:
    """See the module; made by `connect`. Not thread-safe: belongs to the loop that it was made in."""

    def __init__(
        self, sock: socket.socket, on_event: Callable[[protocol.Event], None], on_lost: Callable[[], None]
    ) -> None:
        self._sock: socket.socket | None = sock
        self._on_event = on_event
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._fds: dict[str, list[int]] = {}
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    async def connect(
        cls,
        paths: Paths,
        on_event: Callable[[protocol.Event], None],
        python: str = sys.executable,
        *,
        on_lost: Callable[[], None] = _nothing,
        cgroup_base: str | None = None,
    ) -> LauncherClient:
        """Connect to the launcher of `paths.run_dir` (an existing directory), started if there is none.

        on_event: called in the loop with every event in order; the first is `State`. It may send.
        on_lost: called once when the launcher has died (not after `close`); this object is closed then.
        cgroup_base: where the cgroups of the services are, below the mount point; a launcher that is started
            goes into the leaf `launcher` of it, with every process that is in the base itself on cgroup v2.
            None leaves the launcher in the cgroup of its starter.
        Raises LauncherError.
        """
        problem = ""
        for _ in range(_STARTS):
            sock = _try_connect(paths.launcher_socket)
            if sock is not None:
                client = cls(sock, on_event, on_lost)
                client.send(protocol.Hello(protocol.VERSION))
                return client
            # Another may have been quicker, or one that is ending held the lock: look again.
            problem = await _start(paths.run_dir, python, cgroup_base)
        raise LauncherError(f"cannot start the launcher: {problem or 'it ends as soon as it has started'}")

    # --- sending --------------------------------------------------------------------------------
    def send(self, request: protocol.Request) -> None:
        """Send, now if the socket takes it, else as soon as it does; in order. After a loss: no effect."""
        if self._sock is None:
            return
        data = codec.encode(request)
        if self._waiting:
            self._waiting.append(data)
            return
        try:
            codec.send(self._sock, data, [])
        except BlockingIOError:
            self._waiting.append(data)
            self._loop.add_writer(self._sock.fileno(), self._writable)
        except OSError:
            self._sock.shutdown(socket.SHUT_RDWR)  # the loss is seen by the reader, never from within send

    def _writable(self) -> None:
        assert self._sock is not None
        while self._waiting:
            try:
                codec.send(self._sock, self._waiting[0], [])
            except BlockingIOError:
                return
            except OSError:
                break
            self._waiting.popleft()
        self._loop.remove_writer(self._sock.fileno())

    # --- receiving ------------------------------------------------------------------------------
    def _readable(self) -> None:
        for _ in range(_PER_TURN):
            if self._sock is None:
                return
            try:
                data, fds = codec.receive(self._sock)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.close()
                self._on_lost()
                return
            event = codec.decode(data)
            if isinstance(event, protocol.ExecStarted):
                self._fds[event.exec_id] = fds
            elif isinstance(event, protocol.InputGiven):
                self._fds[event.key] = fds
            else:
                for fd in fds:
                    os.close(fd)
            self._on_event(event)

    def take_fds(self, key: str) -> list[int]:
        """The descriptors that came with an answer, once; the caller owns them. Empty if there are none.

        key: the id of an exec: [pty master], or [write end of its stdin, read end of stdout, of stderr];
        or the key of an `Input`: see `InputGiven`.
        """
        return self._fds.pop(key, [])

    def close(self) -> None:
        """Let go of the connection, and of descriptors that nobody took. The launcher goes on."""
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._waiting.clear()
        for fds in self._fds.values():
            for fd in fds:
                os.close(fd)
        self._fds.clear()

    @property
    def connected(self) -> bool:
        """Whether the launcher is there, as far as is known."""
        return self._sock is not None


def _try_connect(path: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise LauncherError(f"cannot reach the launcher at {path}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


async def _start(run_dir: str, python: str, cgroup_base: str | None) -> str:
    """Start a launcher and wait until it serves; "" then, else why it does not."""
    arguments = ["--run-dir", run_dir, "--detach"]
    if cgroup_base is not None:
        arguments += ["--cgroup-base", cgroup_base]
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pidfd = -1
    try:
        try:
            pid = os.posix_spawn(
                python,
                bootstrap.command(python, *arguments),
                bootstrap.environment(),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, writing, 1),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                ],
                setsigmask=[],
            )
        except OSError as error:
            return f"{python}: {error.strerror}"
        finally:
            os.close(writing)
        pidfd = os.pidfd_open(pid)
        await readable(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        text = os.read(reading, 65536).decode(errors="replace")
        return "" if text == "ready" else text
    finally:
        os.close(reading)
        if pidfd >= 0:
            os.close(pidfd)


async def gone(pid: int) -> None:
    """Wait for the end of a process that is nobody's child here, as a launcher is; not for ever."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(readable(pidfd), _QUIT_S)
    finally:
        os.close(pidfd)


async def readable(fd: int) -> None:
    """Wait until there is something to read; of a pidfd the end of its process."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
