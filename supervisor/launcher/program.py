"""A program: system calls as rows of numbers, made before a death for the child to run through after it.

Between a death and the next life a Python function per mount is too slow: every object that a new child
touches is a page that the kernel copies. A row is plain numbers, a string is an address in an arena that
child and launcher have at the same place, so running a program (`launcher.perform`) touches next to nothing.

    row: function, destination, tolerated errnos, jump when done, jump when tolerated, six arguments

An argument below `REGISTER` is what an earlier row returned into that register.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import NamedTuple

from supervisor.kernel import syscalls as sc

ROW = struct.Struct("=hhQhh6q")
REGISTER = -1_000
ARENA_BYTES = 1 << 18

SPECIAL = ("is_null", "make_directory", "make_like", "make_new", "mask", "write", "chown", "host_tree")
"""What is no single call: see the functions of these names in `launcher.perform`."""

NAMES = (*sc.CALLS, *SPECIAL)
_PLACES = {name: place for place, name in enumerate(NAMES)}


class Program(NamedTuple):
    """rows: packed. data: the arena's contents. notes: of each row, the step it belongs to and the call.

    results: registers whose contents are wanted when it has run.
    """

    rows: bytes
    data: bytes
    notes: list[tuple[int, str]]
    results: list[int]


class Arena:
    """Memory at an address that a child keeps, for the strings and structures of one program at a time."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ARENA_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def load(self, data: bytes) -> None:
        """Replace what is in it; a child that was cloned before keeps its own. Raises OSError (E2BIG)."""
        if len(data) > ARENA_BYTES:
            raise OSError(errno.E2BIG, f"cannot launch by a plan of {len(data)} bytes: give fewer mounts")
        self._memory[: len(data)] = data


class Jump:
    """A place in the program that is not known yet."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []  # (row, which of its two jumps)


class Writer:
    """Collects rows, strings and structures. `step` is the number that notes are made with."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._rows: list[list[int]] = []
        self._data = bytearray()
        self._known: dict[bytes, int] = {}
        self._registers = 0
        self.step = -1
        self._notes: list[tuple[int, str]] = []
        self._results: list[int] = []

    # --- arguments ------------------------------------------------------------------------------
    def register(self) -> int:
        """A new one, as it is written in an argument."""
        self._registers += 1
        return REGISTER - (self._registers - 1)

    def result(self, register: int) -> None:
        """What is in that register at the end is wanted."""
        self._results.append(REGISTER - register)

    def text(self, text: str) -> int:
        """The address of a string. Raises OSError for one with a NUL."""
        encoded = os.fsencode(text)
        if b"\0" in encoded:
            raise OSError(errno.EINVAL, f"cannot use the path {text!r}: it contains a NUL")
        return self.bytes(encoded + b"\0")

    def bytes(self, value: bytes) -> int:
        """The address of some bytes, at a multiple of eight; the same bytes have one address."""
        place = self._known.get(value)
        if place is None:
            place = self._known[value] = self._base + len(self._data)
            self._data += value
            self._data += bytes(-len(self._data) % 8)
        return place

    # --- rows -----------------------------------------------------------------------------------
    def call(
        self,
        name: str,
        *arguments: int,
        note: str,
        into: int | None = None,
        tolerate: tuple[int, ...] = (),
        otherwise: Jump | None = None,
        done: Jump | None = None,
    ) -> None:
        """One row. It fails the program unless the errno is tolerated; then it goes on at `otherwise`."""
        first = sc.CALLS[name][1] if name in sc.CALLS else None
        words = arguments if first is None else (first, *arguments)
        here = len(self._rows)
        for place, jump in ((3, done), (4, otherwise)):
            if jump is not None:
                jump.rows.append((here, place))
        destination = -1 if into is None else REGISTER - into
        mask = sum(1 << number for number in tolerate)
        self._rows.append([_PLACES[name], destination, mask, 1, 1, *words, *[0] * (6 - len(words))])
        self._notes.append((self.step, note))

    def here(self, jump: Jump) -> None:
        """Where those jumps lead: to the next row."""
        for row, place in jump.rows:
            self._rows[row][place] = len(self._rows) - row

    def program(self) -> Program:
        """All of it."""
        pack = ROW.pack
        rows = b"".join([pack(*row) for row in self._rows])
        return Program(rows, bytes(self._data), self._notes, self._results)
