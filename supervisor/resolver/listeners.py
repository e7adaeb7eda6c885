"""The sockets of one endpoint: datagrams and connections at 127.0.0.11 inside its network namespace.

They were opened by the daemon, which keeps a second descriptor of each: what is asked while there is no
resolver waits in them for the next one. Two may not hear the same socket: one would take what the other
answers.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections.abc import Callable
from functools import partial

from supervisor.resolver.loop import Loop, Timer

_PER_TURN = 16
_LARGEST_QUERY = 4096
_CONNECTIONS = 32
_IDLE_S = 10.0

Reply = Callable[[bytes], None]
Heard = Callable[[str, bytes, object, Reply, bool], bool]
"""(instance, message, who sent it, how to answer, whether over TCP): whether it is answered, now or later."""


class Listener:
    """Owns both sockets. `heard` is called with each message."""

    def __init__(
        self, loop: Loop, instance: str, udp: socket.socket, tcp: socket.socket, heard: Heard
    ) -> None:
        self._loop = loop
        self._instance = instance
        self.udp = udp
        self.tcp = tcp
        self._heard = heard
        self._connections: set[_Connection] = set()
        self._open = self._watched = True
        for sock in (udp, tcp):
            sock.setblocking(False)
        loop.watch(udp.fileno(), self._datagrams)
        loop.watch(tcp.fileno(), self._accept)

    def _datagrams(self, _: int) -> None:
        for _ in range(_PER_TURN):  # then it is the others' turn
            if not self._watched:
                return
            try:
                data, address = self.udp.recvfrom(_LARGEST_QUERY, socket.MSG_PEEK)
            except OSError:
                return
            # Taken when it is answered: if we are killed in between, who follows us answers it.
            try:
                self._heard(self._instance, data, address, partial(self._send, address), False)
            finally:
                with contextlib.suppress(OSError):
                    self.udp.recv(1)

    def _send(self, address: tuple[str, int], wire: bytes) -> None:
        if self._open:
            with contextlib.suppress(OSError):  # it does not wait any more, or it will ask again
                self.udp.sendto(wire, address)

    def _accept(self, _: int) -> None:
        if not self._watched:
            return
        try:
            sock, _ = self.tcp.accept()
        except OSError:
            return
        if len(self._connections) >= _CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        self._connections.add(
            _Connection(self._loop, self._instance, sock, self._heard, self._connections.discard)
        )

    @property
    def busy(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    def stop(self) -> None:
        """Hear nothing new. What was asked is still answered."""
        if self._watched:
            self._watched = False
            self._loop.forget(self.udp.fileno())
            self._loop.forget(self.tcp.fileno())

    def close(self) -> None:
        """Let go of everything."""
        self.stop()
        self._open = False
        for one in list(self._connections):
            one.close()
        self.udp.close()
        self.tcp.close()


class _Connection:
    """One client over TCP (RFC 7766): several queries, answers in any order, closed when it is idle."""

    def __init__(
        self,
        loop: Loop,
        instance: str,
        sock: socket.socket,
        heard: Heard,
        gone: Callable[[_Connection], None],
    ) -> None:
        self._loop = loop
        self._instance = instance
        self._sock = sock
        self._heard = heard
        self._gone = gone
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._waiting = 0
        self._ended = False
        self._events = selectors.EVENT_READ
        self._timer: Timer = loop.later(_IDLE_S, self.close)
        loop.watch(sock.fileno(), self._ready)

    def _ready(self, events: int) -> None:
        if not self._events & events:
            return
        if events & selectors.EVENT_WRITE:
            self._write()
            return
        try:
            data = self._sock.recv(_LARGEST_QUERY)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._ended = not data  # it may still read what it has asked for
        self._incoming += data
        self._timer.cancel()
        self._timer = self._loop.later(_IDLE_S, self.close)
        self._go_on()

    def _go_on(self) -> None:
        """Hear what has come, as long as it takes what it asked for: so it never has much in here."""
        while self._sock.fileno() >= 0 and not self._outgoing and len(self._incoming) >= 2:
            size = int.from_bytes(self._incoming[:2], "big")
            if size > _LARGEST_QUERY:
                self.close()
                return
            if len(self._incoming) < 2 + size:
                break
            message = bytes(self._incoming[2 : 2 + size])
            del self._incoming[: 2 + size]
            self._waiting += 1
            if not self._heard(self._instance, message, self, self._reply, True):
                self._waiting -= 1
        if self._outgoing:
            self._want(selectors.EVENT_WRITE)
        elif not self._ended:
            self._want(selectors.EVENT_READ)
        elif self._waiting:
            self._want(0)
        else:
            self.close()

    def _reply(self, wire: bytes) -> None:
        if self._sock.fileno() >= 0:
            self._waiting -= 1
            self._outgoing += struct.pack("!H", len(wire)) + wire
            self._write()

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._outgoing[:sent]
        if not self._outgoing and self._incoming and self._events == selectors.EVENT_WRITE:
            self._go_on()
        elif self._outgoing:
            self._want(selectors.EVENT_WRITE)
        elif not self._ended:
            self._want(selectors.EVENT_READ)
        elif not self._waiting:
            self.close()

    def _want(self, events: int) -> None:
        if events == self._events:
            return
        if not events:
            self._loop.forget(self._sock.fileno())
        elif not self._events:
            self._loop.watch(self._sock.fileno(), self._ready, events)
        else:
            self._loop.want(self._sock.fileno(), events)
        self._events = events

    def close(self) -> None:
        """Twice is no error; what was not sent is lost."""
        if self._sock.fileno() >= 0:
            self._timer.cancel()
            self._want(0)
            self._sock.close()
            self._gone(self)
