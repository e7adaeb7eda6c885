"""The resolver's control socket: who may connect (root, by its mode) says what is served."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from supervisor.resolver import protocol
from supervisor.resolver.loop import Loop

Packet = tuple[dict[str, Any], list[int]]
Asked = Callable[[dict[str, Any], list[int]], list[Packet]]
"""A request and its descriptors, which are the callee's: the answers, whose descriptors stay the callee's."""


class Control:
    """Owns the listening socket and its connections."""

    def __init__(self, loop: Loop, sock: socket.socket, asked: Asked) -> None:
        self._loop = loop
        self._sock = sock
        self._asked = asked
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._accept)

    def _accept(self, _: int) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        _Peer(self._loop, sock, self._asked)


class _Peer:
    def __init__(self, loop: Loop, sock: socket.socket, asked: Asked) -> None:
        self._loop = loop
        self._sock = sock
        self._asked = asked
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._write()
            return
        try:
            packet = protocol.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            packet = None
        if packet is None:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            return
        self._outgoing += [(protocol.encode(words), fds) for words, fds in self._asked(*packet)]
        self._write()

    def _write(self) -> None:
        try:
            while self._outgoing:
                protocol.send(self._sock, *self._outgoing[0])
                self._outgoing.popleft()
        except BlockingIOError:
            self._loop.want(self._sock.fileno(), selectors.EVENT_WRITE)
            return
        except OSError:
            self._outgoing.clear()  # it is gone, as the next read will say
        self._loop.want(self._sock.fileno(), selectors.EVENT_READ)
