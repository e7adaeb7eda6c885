"""What others change in the host's network, told by the kernel: two netlink sockets for an event loop.

They are read without pyroute2, since all that matters is whether a message names what is ours.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Container, Iterable

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_GROUP_LINK, _GROUP_IPV4_ADDRESS = 1, 5  # linux/rtnetlink.h, RTNLGRP_*
_GROUP_NFTABLES = 7  # linux/netfilter/nfnetlink.h, NFNLGRP_NFTABLES
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_DELLINK, _DELADDR = 17, 21
_NFTABLES, _NEWGEN = 10, 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
_GEN_PID = 2  # NFTA_GEN_PROC_PID
_BUFFER = 1 << 17


def _open(protocol: int, *groups: int) -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
    )
    try:
        opened.bind((0, 0))
        for group in groups:
            opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except BaseException:
        opened.close()
        raise
    return opened


def _messages(opened: socket.socket) -> list[tuple[int, bytes]] | None:
    """(type, payload) of all that is there; None if some were lost."""
    found: list[tuple[int, bytes]] = []
    while True:
        try:
            data = opened.recv(_BUFFER)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                with contextlib.suppress(BlockingIOError, OSError):
                    while opened.recv(_BUFFER):
                        pass
                return None
            raise
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                break
            found.append((kind, data[at + _HEADER.size : at + length]))
            at += (length + 3) & ~3


class _Events:
    """A socket that has joined groups of netlink. Raises OSError."""

    def __init__(self, protocol: int, *groups: int) -> None:
        self._socket = _open(protocol, *groups)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class RuleEvents(_Events):
    """Changes of nftables that touch one table and were not made by us."""

    def __init__(self, table: str, own: Container[int]) -> None:
        """own: process ids whose changes are no news. Raises OSError."""
        super().__init__(_NETLINK_NETFILTER, _GROUP_NFTABLES)
        self._name = table.encode() + b"\0"
        self._touched = False
        self._own = own

    def touched(self) -> bool:
        """Read all; whether somebody else has changed the table. A batch ends with its process's number."""
        messages = _messages(self._socket)
        if messages is None:
            return True
        news = False
        for kind, payload in messages:
            if kind >> 8 != _NFTABLES:
                continue
            if kind & 0xFF == _NEWGEN:
                if self._touched and _process(payload) not in self._own:
                    news = True
                self._touched = False
            elif self._name in payload:
                self._touched = True
        return news


def _process(payload: bytes) -> int:
    at = 4  # struct nfgenmsg
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if kind & 0x3FFF == _GEN_PID:
            return int.from_bytes(payload[at + 4 : at + 8], "big")
        if length < _ATTRIBUTE.size:
            break
        at += (length + 3) & ~3
    return -1


class LinkEvents(_Events):
    """Links and addresses that went, with names that are ours."""

    def __init__(self, names: Callable[[], Iterable[bytes]]) -> None:
        """names: of links that have to be there, each with its NUL. Raises OSError."""
        super().__init__(_NETLINK_ROUTE, _GROUP_LINK, _GROUP_IPV4_ADDRESS)
        self._names = names

    def touched(self) -> bool:
        """Read all; whether something of ours went."""
        messages = _messages(self._socket)
        if messages is None:
            return True
        gone = [payload for kind, payload in messages if kind in (_DELLINK, _DELADDR)]
        return bool(gone) and any(name in payload for name in self._names() for payload in gone)
