"""A region of a terminal that a thread paints at most ten times a second, while something else goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from supervisor.cli.buildframe import cells
from supervisor.cli.buildstate import clean
from supervisor.cli.logview import wants_colour

PERIOD_S = 0.1
"""Between two frames."""

_BEGIN, _END = "\x1b[?2026h\x1b[?25l", "\x1b[?2026l"
"""A frame is one synchronized update (terminals without it ignore the mode), and has no cursor."""

Frame = Callable[[int, int | None, float, bool], list[str]]
"""(width, height, now_s, colour) to lines, none wider than width; height None: the last one, which stays."""


class Screen:
    """A region of a terminal that is painted over and over. Not shared by threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []

    def size(self) -> tuple[int, int]:
        """(columns, rows) of now: a terminal may be resized between any two frames."""
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except OSError:
            found = shutil.get_terminal_size()
        return (found.columns or 80, found.lines or 24)

    def paint(self, lines: list[str]) -> None:
        """Show these instead of what was there, in one write."""
        if lines == self._lines:
            return
        width, _ = self.size()
        # A line that was whole on a wider terminal takes several rows of a narrow one.
        rows = sum(max(1, -(-cells(clean(line)) // width)) for line in self._lines)
        up = f"\r\x1b[{rows}A" if rows else ""
        text = "".join(f"{line}\x1b[K\n" for line in lines)
        self._stream.write(f"{_BEGIN}{up}{text}\x1b[J{_END}")
        self._stream.flush()
        self._lines = lines

    def close(self) -> None:
        """Leave what is painted, and give the cursor back."""
        self._stream.write("\x1b[?25h")
        self._stream.flush()


@contextlib.contextmanager
def painting(stream: TextIO, frame: Frame) -> Iterator[None]:
    """Paint while the block runs; the last frame stays. frame: called in a thread of its own."""
    over = threading.Event()
    thread = threading.Thread(target=_paint, args=(stream, frame, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _paint(stream: TextIO, frame: Frame, over: threading.Event) -> None:
    screen = Screen(stream)
    colour = wants_colour(stream)
    with contextlib.suppress(OSError, ValueError):  # a terminal that hung up shows nothing any more
        try:
            last = False
            while not last:
                last = over.wait(PERIOD_S)
                width, height = screen.size()
                screen.paint(frame(width - 1, None if last else height - 1, time.monotonic(), colour))
        finally:
            screen.close()
