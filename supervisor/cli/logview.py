"""Lines of several services on one output: a prefix and a colour each, marks where runs begin and end."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import IO, Any

import click

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


_choice = ["auto"]


def colour_by(ansi: str) -> None:
    """For this command: never, always, or auto."""
    _choice[0] = ansi


def wants_colour(stream: IO[Any]) -> bool:
    """A terminal, and nobody said no (https://no-color.org)."""
    if _choice[0] != "auto":
        return _choice[0] == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class LogView:
    """Writes log lines as the API gives them. What a service wrote goes out byte by byte as it was.

    Several threads may use it.
    """

    def __init__(
        self, out: IO[bytes], *, colour: bool, prefix: bool = True, stamps: bool = False, marks: bool = True
    ) -> None:
        """marks: show where runs begin and end."""
        self._out = out
        self._colour = colour
        self._prefix = prefix
        self._stamps = stamps
        self._marks = marks
        self._colours: dict[str, str] = {}
        self._width = 0
        self._open: tuple[str, str] | None = None  # (name, stream) of a line that has no end yet
        self._lock = threading.Lock()

    def know(self, names: list[str]) -> None:
        """Names that will come, so that their prefixes are equally wide from the first line on."""
        for name in names:
            self._colour_of(name)

    def show(self, line: dict[str, Any]) -> None:
        """One line of the API."""
        with self._lock:
            self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        name, stream = line["name"], line["stream"]
        if line.get("marker"):
            if self._marks:
                self._end_open()
                self._write(
                    self._head(line) + self._styled(f"-- {line['text']} --", dim=True).encode() + b"\n"
                )
            return
        text = line["text"].encode("utf-8", "surrogateescape")
        if self._open == (name, stream):
            head = b""  # the line goes on
        else:
            self._end_open()
            head = self._head(line)
        self._open = (name, stream) if line["partial"] else None
        self._write(head + text + (b"" if line["partial"] else b"\n"))

    def say(self, text: str) -> None:
        """A line of our own."""
        with self._lock:
            self._end_open()
            self._write(self._styled(text, dim=True).encode() + b"\n")

    def _end_open(self) -> None:
        if self._open is not None:
            self._write(b"\n")
            self._open = None

    def _head(self, line: dict[str, Any]) -> bytes:
        head = ""
        if self._prefix:
            name = line["name"]
            colour = self._colour_of(name)
            head = self._styled(f"{name:{self._width}} | ", fg=colour)
        if self._stamps:
            head += stamp(line["stamp_ns"]) + " "
        return head.encode()

    def _colour_of(self, name: str) -> str:
        if name not in self._colours:
            self._colours[name] = _COLOURS[len(self._colours) % len(_COLOURS)]
            self._width = max(self._width, len(name))
        return self._colours[name]

    def _styled(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self._colour else text

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._out.flush()


def stamp(stamp_ns: int) -> str:
    """RFC 3339 with nanoseconds in UTC, as `docker logs -t` has it."""
    seconds, rest = divmod(stamp_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
