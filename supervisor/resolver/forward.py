"""Asking others: each query on a socket of its own, so that its port and number are hard to guess.

From the network namespace of the resolver, which is the host's: a server on the host's loopback
(systemd-resolved at 127.0.0.53) is reached, and a service needs no route to any.
Over UDP first; over TCP where the answer was cut and whoever asks can take the whole of it.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable

from supervisor.resolver.answer import Code, Query, refusal
from supervisor.resolver.loop import Loop, Timer
from supervisor.resolver.upstream import Upstreams, server

TIMEOUT_S = 2.0
"""For one server: two of them fit into the 5 s that the C libraries wait."""

MOST = 512
MOST_OF_ONE = 64
_HEADER = 12
_PUT_OFF = (Code.SERVER_FAILURE, Code.REFUSED, Code.NOT_IMPLEMENTED)

Reply = Callable[[bytes], None]


class _Asked:
    """A query on its way. key: what makes a repetition of it the same one."""

    __slots__ = (
        "answer",
        "buffer",
        "instance",
        "key",
        "now",
        "query",
        "reply",
        "servers",
        "sock",
        "tcp",
        "timer",
    )

    def __init__(
        self, instance: str, key: object, query: Query, reply: Reply, servers: list[str], *, tcp: bool
    ) -> None:
        self.instance = instance
        self.key = key
        self.query = query
        self.reply = reply
        self.servers = servers
        self.tcp = tcp
        self.now = ""
        self.answer = b""
        self.buffer = bytearray()
        self.sock: socket.socket | None = None
        self.timer: Timer | None = None


class Forwarder:
    """All queries that others were asked. Their number is bounded, in all and for each endpoint."""

    def __init__(self, loop: Loop, upstreams: Upstreams) -> None:
        self._loop = loop
        self._upstreams = upstreams
        self._asked: dict[object, _Asked] = {}
        self._of: Counter[str] = Counter()
        self.failed = 0
        self.forwarded = 0
        self.limited = 0

    def __len__(self) -> int:
        return len(self._asked)

    def ask(
        self, instance: str, wanted: tuple[str, ...], origin: object, query: Query, reply: Reply, *, tcp: bool
    ) -> bool:
        """Ask for an endpoint, and `reply` with an answer, whatever comes of it. origin: who asked it.

        False where the same one asks the same again and is not answered twice.
        """
        key = (instance, origin, query.wire)
        if key in self._asked:
            return False  # sent again by who would not wait; the answer will do for both
        if len(self._asked) >= MOST or self._of[instance] >= MOST_OF_ONE:
            self.limited += 1
            reply(refusal(query, Code.SERVER_FAILURE))
            return True
        servers = self._upstreams.order(wanted, time.monotonic())
        asked = _Asked(instance, key, query, reply, servers, tcp=tcp)
        self._asked[key] = asked
        self._of[instance] += 1
        self.forwarded += 1
        self._next(asked)
        return True

    def _next(self, asked: _Asked) -> None:
        """Ask the next server; with none left, give the best answer that there is."""
        while asked.servers:
            asked.now = asked.servers.pop(0)
            if self._send(asked, socket.SOCK_DGRAM):
                return
        if not asked.answer:
            self.failed += 1
        self._done(asked, asked.answer or refusal(asked.query, Code.SERVER_FAILURE))

    def _send(self, asked: _Asked, kind: socket.SocketKind) -> bool:
        """Whether it is on its way."""
        self._leave(asked)
        target = server(asked.now)
        if target is None:
            return False
        number = os.urandom(2)
        wire = number + asked.query.wire[2:]
        try:
            sock = socket.socket(target[0], kind | socket.SOCK_NONBLOCK)
        except OSError:
            return False
        try:
            if kind == socket.SOCK_STREAM:
                problem = sock.connect_ex(target[1])
                if problem not in (0, errno.EINPROGRESS):
                    raise OSError(problem, os.strerror(problem))
                asked.buffer = bytearray()
                message = struct.pack("!H", len(wire)) + wire
                self._loop.watch(
                    sock.fileno(),
                    lambda events: self._stream(asked, sock, number, message, events),
                    selectors.EVENT_WRITE,
                )
            else:
                sock.connect(target[1])
                sock.send(wire)
                self._loop.watch(sock.fileno(), lambda _: self._datagram(asked, sock, number))
        except OSError:
            sock.close()
            return False
        asked.sock = sock
        asked.timer = self._loop.later(TIMEOUT_S, lambda: self._late(asked))
        return True

    def _late(self, asked: _Asked) -> None:
        self._upstreams.silent(asked.now, time.monotonic())
        self._next(asked)

    def _datagram(self, asked: _Asked, sock: socket.socket, number: bytes) -> None:
        if asked.sock is not sock:
            return
        try:
            data = sock.recv(65535)
        except BlockingIOError:
            return
        except OSError:  # nobody is there
            self._next(asked)
            return
        if not _answers(asked.query, number, data):
            return  # somebody's guess, or garbage: the true one may still come
        if data[2] & 0x02 and asked.tcp and self._send(asked, socket.SOCK_STREAM):
            return
        self._take(asked, data)

    def _stream(self, asked: _Asked, sock: socket.socket, number: bytes, message: bytes, events: int) -> None:
        if asked.sock is not sock:
            return
        try:
            if events & selectors.EVENT_WRITE:
                sock.send(message)  # less than any send buffer
                self._loop.want(sock.fileno(), selectors.EVENT_READ)
                return
            data = sock.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._next(asked)
            return
        asked.buffer += data
        size = int.from_bytes(asked.buffer[:2], "big")
        if len(asked.buffer) < 2 + size or len(asked.buffer) < 2:
            return
        whole = bytes(asked.buffer[2 : 2 + size])
        if _answers(asked.query, number, whole):
            self._take(asked, whole)
        else:
            self._next(asked)

    def _take(self, asked: _Asked, data: bytes) -> None:
        self._upstreams.answered(asked.now)
        whole = asked.query.wire[:2] + data[2:]
        if data[3] & 0x0F in _PUT_OFF:
            asked.answer = asked.answer or whole
            if asked.servers:
                self._next(asked)
                return
        self._done(asked, whole)

    def _leave(self, asked: _Asked) -> None:
        if asked.sock is not None:
            self._loop.forget(asked.sock.fileno())
            asked.sock.close()
            asked.sock = None
        if asked.timer is not None:
            asked.timer.cancel()
            asked.timer = None

    def _done(self, asked: _Asked, data: bytes) -> None:
        self._leave(asked)
        del self._asked[asked.key]
        self._of[asked.instance] -= 1
        if not self._of[asked.instance]:
            del self._of[asked.instance]
        asked.reply(data)

    def drop(self, instance: str) -> None:
        """An endpoint is gone: nobody waits for its answers."""
        for asked in [one for one in self._asked.values() if one.instance == instance]:
            asked.reply = _nobody
            self._done(asked, b"")


def _nobody(_: bytes) -> None: ...


def _answers(query: Query, number: bytes, data: bytes) -> bool:
    """Whether it is an answer to that question: number, QR, and the question, in whatever case it returns."""
    return bool(
        len(data) >= _HEADER
        and data[:2] == number
        and data[2] & 0x80 == 0x80
        and (
            data[_HEADER : query.asked.end].lower() == query.wire[_HEADER : query.asked.end].lower()
            # A server that refuses, or has no room, may leave the question out.
            or (data[4:6] == b"\0\0" and (data[3] & 0x0F or data[2] & 0x02))
        )
    )
