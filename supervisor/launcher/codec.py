"""Messages as bytes and back, and as packets on a SOCK_SEQPACKET socket, descriptors and large ones included.

A message is the JSON of `[class name, *fields]`; a field that holds messages is written the same way. A
packet is that JSON, or `@` alone when the JSON is too large for a packet: then a sealed memfd with it is the
first descriptor. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from typing import Any

from supervisor.launcher import plan, protocol

LARGE_BYTES = 100_000
"""Above this a message goes through a memfd: a packet has to fit the socket's send buffer (about 200 KB)."""

_MAX_FDS = 8
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ProtocolError(ValueError):
    """Bytes that are no message."""


_CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *protocol.Request.__args__,
        *protocol.Event.__args__,
        *plan.Step.__args__,
        protocol.RunInfo,
        plan.Limits,
        plan.Process,
        plan.LogPlan,
        plan.LaunchPlan,
    )
}
# Fields that hold a message, or a list of them. Everything else is plain.
_HOLDERS: dict[Any, tuple[tuple[str, bool], ...]] = {
    protocol.Launch: (("plan", False),),
    protocol.Exec: (("process", False),),
    protocol.Started: (("info", False),),
    protocol.State: (("runs", True), ("ended", True)),
    plan.LaunchPlan: (("limits", False), ("steps", True), ("process", False), ("log", False)),
}
_NESTED = {
    kind: tuple((kind._fields.index(name), many) for name, many in fields)
    for kind, fields in _HOLDERS.items()
}

_ADDED: dict[Any, int] = {
    plan.Bind: 6,
    plan.Limits: 7,
    plan.Process: 14,
    plan.LaunchPlan: 11,
    protocol.Adopt: 11,
    protocol.RunInfo: 9,
}
"""How many fields were first: of later ones only what is used is sent, so that an earlier launcher
goes on."""


def encode(message: Any) -> bytes:
    """The bytes of a message or a plan."""
    return json.dumps(_pack(message), ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogateescape"
    )


def _pack(message: Any) -> list[Any]:
    kind = type(message)
    packed = [kind.__name__, *message]
    if kind in _ADDED:
        names, defaults = kind._fields, kind._field_defaults
        while len(packed) > _ADDED[kind] + 1 and packed[-1] == defaults[names[len(packed) - 2]]:
            packed.pop()
    for place, many in _NESTED.get(kind, ()):
        field = message[place]
        packed[place + 1] = [_pack(item) for item in field] if many else _pack(field)
    return packed


def decode(data: bytes) -> Any:
    """The message of some bytes. Raises ProtocolError; types within fields are the sender's word."""
    try:
        return _unpack(json.loads(data.decode("utf-8", "surrogateescape")))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ProtocolError(f"cannot understand a message of {len(data)} bytes: {error!r}") from error


def _unpack(packed: Any) -> Any:
    kind = _CLASSES[packed[0]]
    fields = packed[1:]
    for place, many in _NESTED.get(kind, ()):
        field = fields[place]
        fields[place] = [_unpack(item) for item in field] if many else _unpack(field)
    return kind(*fields)


def send(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send one message, whole or not at all. `fds` stay the caller's. Raises OSError, BlockingIOError."""
    if len(data) <= LARGE_BYTES:
        if fds:
            socket.send_fds(sock, [data], fds)
        else:
            sock.send(data)
        return
    memory = os.memfd_create("shipkeeper-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memory, view) :]
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(sock, [b"@"], [memory, *fds])
    finally:
        os.close(memory)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors, which the caller owns. b"" when the other end is gone.

    Raises BlockingIOError, OSError, ProtocolError.
    """
    data, fds, flags, _ = socket.recv_fds(sock, LARGE_BYTES + 4096, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    if data == b"@" and fds:
        memory = fds.pop(0)
        try:
            if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ProtocolError("cannot read a message from a memfd that is not sealed")
            data = os.pread(memory, os.fstat(memory).st_size, 0)
        finally:
            os.close(memory)
    elif flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise ProtocolError(f"cannot read a message cut at {len(data)} bytes")
    return data, fds
