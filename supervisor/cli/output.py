"""How the command prints: columns, JSON lines, errors, and progress that does not stay."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TextIO


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
