"""CRI log lines, as bytes: `2026-11-24T04:30:00.123456789Z stdout F text\\n`. Pure.

Tag F ends a line; P is a piece that the next piece of the same stream continues. Text is what the service
wrote, byte for byte, without its newline: nothing is escaped, which is why this format and not json-file.
"""

from __future__ import annotations

import time
from typing import NamedTuple

MAX_PIECE_BYTES = 16 * 1024
"""Longest text of one piece; longer lines are split, as CRI runtimes do."""

STAMP_BYTES = 30
"""Length of `2026-11-24T04:30:00.123456789Z`."""

MAX_RECORD_BYTES = STAMP_BYTES + len(" stdout F ") + MAX_PIECE_BYTES + 1
"""Longest encoded piece with its newline."""

_second = -1
_second_text = b""


class Piece(NamedTuple):
    """One decoded log line of a file. `final` is tag F."""

    stamp_ns: int
    stream: str
    final: bool
    text: bytes


def stamp(ns: int) -> bytes:
    """RFC 3339 in UTC with nanoseconds, always 30 bytes. The text of the last second is kept."""
    global _second, _second_text  # noqa: PLW0603 - a cache of one entry, on the hot path
    second, rest = divmod(ns, 1_000_000_000)
    if second != _second:
        _second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
        _second = second
    return b"%b%09dZ" % (_second_text, rest)


def parse_stamp(text: bytes) -> int:
    """Nanoseconds since the epoch. Raises ValueError unless it is what `stamp` makes."""
    if len(text) != STAMP_BYTES or text[19:20] != b"." or text[29:] != b"Z":
        msg = f"not a time stamp: {text[:40]!r}"
        raise ValueError(msg)
    return _seconds(text[:19]) * 1_000_000_000 + int(text[20:29])


_parsed: tuple[bytes, int] = (b"", 0)


def _seconds(text: bytes) -> int:
    global _parsed  # noqa: PLW0603 - neighbours share their second
    if text != _parsed[0]:
        import calendar  # the writer, which reads no stamps, does without

        t = text.decode("ascii")
        fields = (int(t[0:4]), int(t[5:7]), int(t[8:10]), int(t[11:13]), int(t[14:16]), int(t[17:19]))
        _parsed = (text, calendar.timegm((*fields, 0, 0, 0)))
    return _parsed[1]


def encode(data: bytes, stream: str, stamp_ns: int) -> list[bytes | memoryview]:
    """The pieces of one batch, all under one stamp, as chunks for writev.

    A batch that does not end in a newline ends in a P piece; an empty batch is the empty F piece that ends
    an unfinished line.
    """
    head = b"%b %b " % (stamp(stamp_ns), stream.encode())
    full = head + b"F "
    if not data:
        return [full, b"\n"]
    if len(data) > MAX_PIECE_BYTES and _has_long_line(data):
        return [_encode_long(data, full, head + b"P ")]
    if data.endswith(b"\n"):
        # The prefix that the last newline brought stands at the end of the body: cut it off by view.
        body = data.replace(b"\n", b"\n" + full)
        return [full, memoryview(body)[: -len(full)]]
    end = data.rfind(b"\n")
    if end < 0:
        return [head, b"P ", data, b"\n"]
    return [full, data[:end].replace(b"\n", b"\n" + full), b"\n", head, b"P ", data[end + 1 :], b"\n"]


def _has_long_line(data: bytes) -> bool:
    at, size = 0, len(data)
    while size - at > MAX_PIECE_BYTES:
        newline = data.rfind(b"\n", at, at + MAX_PIECE_BYTES + 1)
        if newline < 0:
            return True
        at = newline + 1
    return False


def _encode_long(data: bytes, full: bytes, part: bytes) -> bytes:
    out: list[bytes] = []
    lines = data.split(b"\n")
    last = lines.pop()
    for line in lines:
        cut = 0
        while len(line) - cut > MAX_PIECE_BYTES:
            out += (part, line[cut : cut + MAX_PIECE_BYTES], b"\n")
            cut += MAX_PIECE_BYTES
        out += (full, line[cut:], b"\n")
    for cut in range(0, len(last), MAX_PIECE_BYTES):
        out += (part, last[cut : cut + MAX_PIECE_BYTES], b"\n")
    return b"".join(out)


def decode(line: bytes) -> Piece | None:
    """One line of a file, without its newline; None if it is no CRI line (a torn write after a power cut)."""
    try:
        stamp_ns = parse_stamp(line[:STAMP_BYTES])
    except ValueError:
        return None
    rest = line[STAMP_BYTES:].split(b" ", 3)
    if len(rest) != 4 or rest[0] or rest[2] not in (b"F", b"P"):
        return None
    return Piece(stamp_ns, rest[1].decode("ascii", "replace"), rest[2] == b"F", rest[3])
