"""How the command prints: columns, JSON lines, errors, and progress that does not stay."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TextIO


class WriteError(Exception):
    """A file that the user asked for and that cannot be written; the text is one line for the user."""


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[IO[bytes]]:
    """Write a file that is there as a whole or not at all: under another name beside it, until the end.

    A link leads to what is replaced; a device or a pipe is written to as it is. Raises WriteError; an error
    about another file, or of whoever writes, is raised as it came.
    """
    wanted = Path(path)
    whole = os.path.realpath(path)
    new = Path(f"{whole}.{os.getpid()}.new")
    try:
        if wanted.exists() and not wanted.is_file():
            with wanted.open("wb") as file:
                yield file
            return
        with new.open("xb") as file:
            yield file
        new.replace(whole)
    except OSError as error:
        if error.filename not in (None, path, str(new)):
            raise
        # The user knows the name that was asked for, not the one beside it.
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            new.unlink()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def print_json(document: object) -> None:
    """One JSON document on one line."""
    print(json.dumps(document))


def print_error(text: str) -> None:
    """One line on stderr."""
    print(f"shipkeeper: {text}", file=sys.stderr)


def is_foreseen(error: Exception) -> bool:
    """Its text is for the user: told by its class, so that nothing is imported for that."""
    return type(error).__name__ in (
        "DaemonError",
        "HostError",
        "LauncherError",
        "StateError",
        "PlanError",
        "ContentsError",
        "VolumeError",
    )


class Progress:
    """One line on a terminal that is written over again and again; nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = False

    def say(self, text: str) -> None:
        """Show this instead of what was there."""
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._shown = True

    def clear(self) -> None:
        """Take it away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False
