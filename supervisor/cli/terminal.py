"""This process's own stdin, stdout and terminal, for what runs elsewhere (`exec`, `run`, `attach`)."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator

from supervisor.cli.client import Hijacked
from supervisor.core.streams import HEAD

BLOCK = 65536


def write_all(fd: int, data: bytes) -> None:
    """All of it."""
    while data:
        data = data[os.write(fd, data) :]


def terminal_size() -> list[int]:
    """[lines, columns]; the smallest usual one where stdin is no terminal."""
    try:
        size = os.get_terminal_size(sys.stdin.fileno())
    except OSError:
        return [24, 80]
    return [size.lines, size.columns]


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """The terminal raw, and afterwards as it was."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def copy_raw(raw: Hijacked) -> None:
    """What a terminal shows, until it is over."""
    while data := raw.reader.read1(BLOCK):
        write_all(1, data)


def copy_frames(raw: Hijacked) -> None:
    """Frames of stdout and stderr, to our own, until they are over."""
    while len(head := raw.reader.read(8)) == 8:
        stream, length = HEAD.unpack(head)
        while length and (data := raw.reader.read(min(length, BLOCK))):
            length -= len(data)
            write_all(stream, data)
