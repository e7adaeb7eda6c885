"""One query to one answer, without any I/O: what is answered here, what is to be forwarded, what is refused.

Queries are read with dnslib, and no further than is needed. Answers are written here: all records are of
fixed size and owned by the question's name, and a whole message of dnslib's costs six times as much.
Sources: RFC 1035, 6891 (EDNS), 8482 (ANY), 2308 (an empty answer without SOA is kept by nobody).
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import dnslib

from supervisor.resolver.table import Directory

TTL_S = 5
"""For how long an answer may be kept. Short, for `scale` and `up` change it; Docker's 600 s keep a proxy on
addresses that are gone."""

UDP_SIZE = 1232
"""What we say that we can take over UDP (DNS flag day 2020)."""

_LEAST = 512
_MOST = 65000
_A, _PTR, _AAAA, _OPT, _ANY = 1, 12, 28, 41, 255
_IN = 1
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHHIH")
_OWNER = 0xC00C  # the name in the question
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_NIBBLES = {b"%x" % number: number for number in range(16)}


class Code(IntEnum):
    """Response codes; BAD_VERSION is an extended one."""

    OK = 0
    FORMAT = 1
    SERVER_FAILURE = 2
    NO_NAME = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5
    BAD_VERSION = 16


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks, whoever asks it. size: how large an answer over UDP may be.

    name: in lower case. end: where the question ends in `wire`. edns: whether it had an OPT record.
    """

    name: bytes
    labels: tuple[bytes, ...]
    kind: int
    klass: int
    end: int
    edns: bool
    version: int
    size: int


@dataclass(slots=True)
class Query:
    """A query that was understood. wire: as it came."""

    wire: bytes
    asked: Question


def read(wire: bytes) -> Query | Code | None:
    """Understand a message. None: it is not to be answered at all; a Code: this is the answer."""
    if len(wire) < _HEADER.size:
        return None
    # Programs ask the same again and again, and only the first two bytes are new.
    rest = wire[2:]
    asked = _known(rest) if len(rest) <= _SHORT else _read(rest)
    return Query(wire, asked) if isinstance(asked, Question) else asked


def _read(rest: bytes) -> Question | Code | None:
    wire = b"\0\0" + rest
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(wire)
    if flags & _QR:
        return None  # two servers that answer each other's answers would never end
    if flags & 0x7800:
        return Code.NOT_IMPLEMENTED
    if questions != 1:
        return Code.FORMAT
    buffer = dnslib.DNSBuffer(wire)
    try:
        buffer.offset = _HEADER.size
        question = dnslib.DNSQuestion.parse(buffer)
        end = int(buffer.offset)
        option = None
        if not answers and not authorities:
            for _ in range(min(additional, 4)):
                record = dnslib.RR.parse(buffer)
                if record.rtype == _OPT:
                    option = record
                    break
    except Exception:  # noqa: BLE001 - a library reads hostile bytes: whatever it says, they are wrong
        return Code.FORMAT
    labels = tuple(bytes(label) for label in question.qname.label)
    if end != _HEADER.size + sum(len(label) + 1 for label in labels) + 5:
        return Code.FORMAT  # compressed, though there is nothing before it
    return Question(
        b".".join(labels).lower(),
        labels,
        question.qtype,
        question.qclass,
        end,
        option is not None,
        0 if option is None else (option.ttl >> 16) & 0xFF,
        _LEAST if option is None else max(_LEAST, min(_MOST, option.rclass)),
    )


_SHORT, _KEPT = 128, 512
"""How long a question may be that is kept, and how many are: 300 kB at most."""
_known = lru_cache(_KEPT)(_read)


def failure(wire: bytes, code: Code) -> bytes:
    """The answer to a message of at least a header that was not understood, or not at all."""
    number, flags = struct.unpack_from("!HH", wire)
    return _HEADER.pack(number, _QR | flags & (0x7800 | _RD) | _RA | code, 0, 0, 0, 0)


def refusal(query: Query, code: Code) -> bytes:
    """An answer with nothing but a code."""
    return _written(query, code, [], tcp=True)


def answer(directory: Directory, instance: str, query: Query, *, tcp: bool) -> bytes | None:
    """The answer to a query of an endpoint; None: forward it."""
    if query.asked.version:
        return refusal(query, Code.BAD_VERSION)
    if query.asked.klass != _IN:
        return None
    if query.asked.kind == _PTR and (packed := _address(query.asked.labels)) is not None:
        called = directory.pointer(instance, packed)
        if called is None:
            return None
        return _written(query, Code.OK, [_head(_PTR, len(data := _name(called))) + data], tcp=tcp)
    v4 = directory.find(instance, query.asked.name, v6=False)
    if v4 is None:
        return None
    records: list[bytes] = []
    if query.asked.kind in (_A, _ANY):
        records += [_A_HEAD + packed for packed in v4]
    if query.asked.kind in (_AAAA, _ANY):
        v6 = directory.find(instance, query.asked.name, v6=True)
        records += [_AAAA_HEAD + packed for packed in v6 or ()]
    # A name of ours has no other types, here or elsewhere: empty is the truth, and NXDOMAIN for one type
    # would make a careful program (musl) give the whole name up.
    if len(records) > 1:
        records.sort(key=_any_order)
    return _written(query, Code.OK, records, tcp=tcp)


def _head(kind: int, size: int) -> bytes:
    return _RECORD.pack(_OWNER, kind, _IN, TTL_S, size)


_A_HEAD, _AAAA_HEAD = _head(_A, 4), _head(_AAAA, 16)


def _any_order(_: bytes) -> float:
    """A key to sort by: several times faster than `random.shuffle`."""
    return random.random()  # noqa: S311 - no secret


def _written(query: Query, code: Code, records: list[bytes], *, tcp: bool) -> bytes:
    """As much as there is room for; the rest is said to be missing, and asked for over TCP."""
    number, flags = struct.unpack_from("!HH", query.wire)
    option = b""
    if query.asked.edns:
        option = b"\0" + struct.pack("!HHBBHH", _OPT, UDP_SIZE, code >> 4, 0, 0, 0)
    room = (_MOST if tcp else query.asked.size) - query.asked.end - len(option)
    kept, cut = records, 0
    if sum(map(len, records)) > room:
        cut, kept = _TC, []
        for record in records:
            room -= len(record)
            if room < 0:
                break
            kept.append(record)
    flags = _QR | (_AA if code is Code.OK else 0) | cut | flags & _RD | _RA | code & 15
    head = _HEADER.pack(number, flags, 1, len(kept), 0, 1 if option else 0)
    return b"".join((head, query.wire[_HEADER.size : query.asked.end], *kept, option))


def _name(text: str) -> bytes:
    """A name as it stands in a message. A label is cut at the 63 bytes that it may have."""
    labels = [label.encode()[:63] for label in text.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _address(labels: tuple[bytes, ...]) -> bytes | None:
    """The address that a name of in-addr.arpa or ip6.arpa stands for."""
    tail = tuple(label.lower() for label in labels[-2:])
    if tail == (b"in-addr", b"arpa") and len(labels) == 6:
        numbers = [int(label) for label in labels[3::-1] if label.isdigit() and len(label) < 4]
        return bytes(numbers) if len(numbers) == 4 and max(numbers) < 256 else None
    if tail == (b"ip6", b"arpa") and len(labels) == 34:
        nibbles = [_NIBBLES.get(label.lower(), -1) for label in labels[31::-1]]
        if min(nibbles) >= 0:
            return bytes(high << 4 | low for high, low in zip(nibbles[::2], nibbles[1::2], strict=True))
    return None
