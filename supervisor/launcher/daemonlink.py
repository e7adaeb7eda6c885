"""The launcher's end of its socket: one daemon at a time, events in order, nothing blocks."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import deque
from typing import Any

from supervisor.launcher import codec, protocol

_BACKLOG = 16
_MAX_WAITING = 20_000
"""Events for a daemon that does not read; above this it is dropped, and the next one gets State."""
_SEND_BUFFER = 4 << 20


class DaemonLink:
    """Owns the listening socket (0600) and the connection. Both are watched in the given epoll."""

    def __init__(self, path: str, epoll: select.epoll) -> None:
        """Replaces a socket that a dead launcher left: call it with the lock held. Raises OSError."""
        self.path = path
        self._epoll = epoll
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            self._listener.bind(path)
        finally:
            os.umask(before)
        self._listener.listen(_BACKLOG)
        self.listener_fd = self._listener.fileno()
        self._epoll.register(self.listener_fd, select.EPOLLIN)
        self._connection: socket.socket | None = None
        self.connection_fd = -1
        self._waiting: deque[tuple[bytes, list[int]]] = deque()

    @property
    def connected(self) -> bool:
        """Whether a daemon is there."""
        return self._connection is not None

    def accept(self) -> None:
        """Take the newest connection; it replaces the one there is. Raises OSError (EMFILE)."""
        try:
            new, _ = self._listener.accept()
        except BlockingIOError:
            return
        self.drop()
        new.setblocking(False)
        with contextlib.suppress(OSError):  # beyond the limit needs CAP_NET_ADMIN
            new.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_SNDBUFFORCE", 32), _SEND_BUFFER)
        self._connection = new
        self.connection_fd = new.fileno()
        self._epoll.register(self.connection_fd, select.EPOLLIN)

    def pause_accepting(self, paused: bool) -> None:
        """While there are no descriptors for a connection."""
        self._epoll.modify(self.listener_fd, 0 if paused else select.EPOLLIN)

    def drop(self) -> None:
        """Forget the connection and what was to be sent on it."""
        if self._connection is not None:
            self._epoll.unregister(self.connection_fd)
            self._connection.close()
            self._connection = None
            self.connection_fd = -1
        while self._waiting:
            _close(self._waiting.popleft()[1])

    def send(self, event: protocol.Event, fds: list[int] | None = None) -> None:
        """Send an event, now if that is possible. Takes ownership of `fds`, also without a daemon."""
        if self._connection is None:
            _close(fds or [])
            return
        self._waiting.append((codec.encode(event), fds or []))
        if len(self._waiting) == 1:
            self.flush()
        elif len(self._waiting) > _MAX_WAITING:
            self.drop()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        connection = self._connection
        if connection is None:
            return
        was_waiting = len(self._waiting) > 1
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                codec.send(connection, data, fds)
            except BlockingIOError:
                break
            except OSError:
                self.drop()
                return
            self._waiting.popleft()
            _close(fds)
        if self._waiting or was_waiting:
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._waiting else 0)
            self._epoll.modify(self.connection_fd, wanted)

    def receive(self) -> Any:
        """The next request, or None if there is none (any more). Raises ProtocolError."""
        if self._connection is None:
            return None
        try:
            data, fds = codec.receive(self._connection)
        except BlockingIOError:
            return None
        except OSError:
            data, fds = b"", []
        _close(fds)
        if not data:
            self.drop()
            return None
        return codec.decode(data)

    def close(self) -> None:
        """Close both sockets and remove the path; that first: who is told must not connect here again."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self._epoll.unregister(self.listener_fd)
        self._listener.close()
        self.drop()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
