"""Shows a build while it goes on: live on a terminal, else as plain lines, as JSON, or not at all.

Live, a thread paints at most ten times a second; events only change what it will paint, so output of any
speed costs the build little. Why no library: rich.live alone takes 29 ms to import (`python -X importtime`),
and a build in which nothing changed may take 200 ms as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal, TextIO

import msgspec

from supervisor.cli.buildframe import frame
from supervisor.cli.buildplain import Documents, Plain, plain
from supervisor.cli.buildstate import State, fold
from supervisor.cli.screen import painting
from supervisor.image.builder.progress import Ended, Event, Note, Output, Planned, Started

Mode = Literal["auto", "tty", "plain", "json", "quiet"]


def chosen(mode: Mode, stream: TextIO) -> Mode:
    """What `auto` is: live on a terminal that can move its cursor."""
    if mode != "auto":
        return mode
    return "tty" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"


class View:
    """Builds on one stream. Each tells through a part of its own; parts may be used from any thread."""

    def __init__(self, mode: Mode, stream: TextIO) -> None:
        self.mode = chosen(mode, stream)
        self.state = State(time.monotonic())
        self.finished = False
        self._stream = stream
        self._lock = threading.Lock()
        self._printed = Plain()
        self._documents = Documents()
        self._vertices = 0
        self._planned: dict[int, int] = {}

    def part(self, name: str = "") -> Part:
        """For one more build. name: stands before the names of its steps, where there are several."""
        place = len(self._planned)
        self._planned[place] = 0
        return Part(self, name, place)

    def begin(self) -> int:
        """The number of a step that begins."""
        with self._lock:
            self._vertices += 1
            return self._vertices

    def plan(self, place: int, total: int) -> None:
        """How many steps one part has."""
        self._planned[place] = total
        self.tell(Planned(sum(self._planned.values())))

    def tell(self, event: Event) -> None:
        """Take an event of the view's own numbers, and show it or have it shown."""
        with self._lock:
            now_s = time.monotonic()
            self.state = fold(self.state, event, now_s)
            if self.mode == "plain":
                self._printed, lines = plain(self._printed, self.state, event)
                self.say(*lines)
            elif self.mode == "json":
                self.say(json.dumps(self._documents.of(event, now_s - self.state.started_s)))

    def say(self, *lines: str) -> None:
        """Whole lines, at once."""
        if lines:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Paint while the block runs, where the mode is live; afterwards the last frame stays."""
        if self.mode != "tty":
            yield
            return
        with painting(self._stream, self._frame):
            yield

    def _frame(self, width: int, height: int | None, now_s: float, colour: bool) -> list[str]:
        state, last = self.state, height is None
        if not (state.steps or last):
            return []
        return frame(state, width, height, now_s, colour=colour, finished=last and self.finished)


class Part:
    """One build of a view: its steps get the next numbers as they begin."""

    def __init__(self, view: View, name: str, place: int) -> None:
        self._view = view
        self._name = name
        self._place = place
        self._numbers: dict[int, int] = {}
        self._own = 0

    def tell(self, event: Event) -> None:
        """An event of this build."""
        view = self._view
        match event:
            case Planned(total=total):
                view.plan(self._place, total + self._own)
            case Started(vertex=vertex, name=name):
                self._numbers[vertex] = view.begin()
                view.tell(Started(self._numbers[vertex], self._called(name)))
            case Note(vertex=0):
                view.tell(
                    msgspec.structs.replace(event, text=f"{self._name}: {event.text}")
                    if self._name
                    else event
                )
            case Note() | Output() | Ended():
                number = self._numbers.get(event.vertex)
                if number is not None:
                    view.tell(msgspec.structs.replace(event, vertex=number))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[str, int | None, int | None], None]]:
        """A step that is not the builder's: give what tells of its progress (text, done, total)."""
        self._own += 1
        vertex = -self._own
        self.tell(Started(vertex, name))
        began_s = time.monotonic()
        error, cancelled = "", False
        try:
            yield lambda text, done, total: self.tell(Note(vertex, text, done, total))
        except BaseException as raised:
            cancelled = not isinstance(raised, Exception)
            error = "" if cancelled else str(raised)
            raise
        finally:
            took_s = time.monotonic() - began_s
            self.tell(Ended(vertex, took_s, error=error, cancelled=cancelled))

    def _called(self, name: str) -> str:
        if not self._name:
            return name
        return f"[{self._name} {name[1:]}" if name.startswith("[") else f"[{self._name}] {name}"


def progress_stream() -> TextIO:
    """Where progress goes: what a build gives is on stdout."""
    return sys.stderr
