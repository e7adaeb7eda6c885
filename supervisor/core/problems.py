"""What is wrong with a file that a person wrote, and where; the nearest word to a misspelt one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

_LONGEST = 400
"""Characters of a message: it is one line that a person reads, whatever the file holds."""


class Mark(NamedTuple):
    """A place in a file. Line and column count from 1 in characters; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (or, as a warning, doubtful).

    path: the key, as in `services.web.restart`; empty for a problem of the whole file.
    message: what is wrong. hint: what to write instead, or how to go on; may be empty.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}; {self.hint}" if self.hint else text


class Findings:
    """Collects errors and warnings, so that all of them are reported at once, each once."""

    def __init__(self) -> None:
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self._seen: set[tuple[Mark, str]] = set()

    def error(self, mark: Mark, path: str, message: str, hint: str = "") -> None:
        """Note what makes the file unusable."""
        self._add(self.errors, mark, path, message, hint)

    def warn(self, mark: Mark, path: str, message: str, hint: str = "") -> None:
        """Note what is accepted, but probably not meant."""
        self._add(self.warnings, mark, path, message, hint)

    def _add(self, found: list[Problem], mark: Mark, path: str, message: str, hint: str) -> None:
        # What stands behind an anchor that is used ten times is wrong once.
        generic = message.removeprefix(path)
        if (mark, generic) in self._seen:
            return
        self._seen.add((mark, generic))
        short = message if len(message) <= _LONGEST else message[:_LONGEST] + "..."
        found.append(Problem(mark.file, mark.line, mark.column, path, short, hint))


def in_order(problems: Iterable[Problem], files: Iterable[str]) -> tuple[Problem, ...]:
    """Problems sorted by their place; files that are not listed come last."""
    rank = {file: number for number, file in enumerate(files)}
    return tuple(
        sorted(problems, key=lambda found: (rank.get(found.file, len(rank)), found.line, found.column))
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelt one probably means."""
    return _nearest(word[:60], tuple(sorted(known)))


@lru_cache(maxsize=1000)
def _nearest(word: str, known: tuple[str, ...]) -> str | None:
    from difflib import get_close_matches  # costs milliseconds, and most files have no mistake

    lowered = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(lowered), 1, 0.6)
    return lowered[close[0]] if close else None
