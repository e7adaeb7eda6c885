"""What daemon and resolver say to each other: JSON and descriptors in packets of a SOCK_SEQPACKET socket.

    daemon      hello | counters | give | quit | sockets of=[..] + 2 descriptors each | table + 1 descriptor
    resolver    hello version serial | counters .. | sockets of=[..] more + 2 each | quit
                table serial [problem]

`sockets` are the two of each instance, UDP and TCP, bound in its network namespace; `give` asks for copies of
all. A table is a file, so that it may be of any size; the answer comes when the table is in force, so
that a service can be started after its name is known. The daemon owns the order: sockets, then the table,
and with it they are heard. `quit` is answered when nothing more is heard; the process ends when all is
answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any

VERSION = 2
"""Of the protocol and of the rules of answering: a resolver of another version is replaced."""

PER_PACKET = 100
"""Instances in one `sockets`: the kernel passes at most 253 descriptors at once."""

_LARGEST = 65536


def encode(words: dict[str, Any]) -> bytes:
    """One packet."""
    return json.dumps(words).encode()


def send(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """One packet. Raises OSError, BlockingIOError where it does not go now."""
    if fds:
        socket.send_fds(sock, [data], fds)
    else:
        sock.send(data)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One packet, with descriptors that are the caller's now; None at the end. Raises OSError, ValueError."""
    data, fds, flags, _ = socket.recv_fds(sock, _LARGEST, 2 * PER_PACKET, socket.MSG_CMSG_CLOEXEC)
    if not data:
        close(fds)
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("cannot read a packet: it was cut")
        words = json.loads(data)
        if not isinstance(words, dict):
            raise ValueError("cannot read a packet: it is no object")
    except ValueError:
        close(fds)
        raise
    return words, fds


def close(fds: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
