"""Output of a process on a connection, as Docker's attach, exec and logs have it.

A terminal's is its bytes as they are; else each piece is a frame: [stream, 0, 0, 0, length as 4 bytes], then
the bytes.
"""

from __future__ import annotations

import struct

NUMBERS = {"stdout": 1, "tty": 1, "stderr": 2}
"""Of a stream, by its name in the log."""

HEAD = struct.Struct(">BxxxI")
"""What is before the bytes of a frame: number of the stream, length."""


def frame(number: int, data: bytes) -> bytes:
    """A piece of a stream's output."""
    return HEAD.pack(number, len(data)) + data
