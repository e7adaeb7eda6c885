""".dockerignore: which files of a context do not count. Pure.

Not gitignore's rules: patterns begin at the root of the context, `**` spans directories, `!` takes back, and
the last pattern that matches a path or one of its parents decides. Source: moby/patternmatcher, and Go's
filepath.Match.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

import msgspec

_LITERAL = re.compile(r"[^*?\[\\]+")


class PatternError(ValueError):
    """A pattern that cannot be used."""


class Pattern(msgspec.Struct, frozen=True):
    """One line. negated: it takes back what earlier ones excluded. parts: how many components it has."""

    text: str
    negated: bool
    regex: re.Pattern[str]

    def matches(self, path: str) -> bool:
        """Whether the path itself, not a parent of it, is meant."""
        return self.regex.fullmatch(path) is not None


class Ignore(msgspec.Struct, frozen=True):
    """All patterns of a file, or of `--exclude` flags."""

    patterns: tuple[Pattern, ...] = ()
    _negations: bool = False

    def excludes(self, path: str) -> bool:
        """Whether a path (relative, `/` between its parts) does not count."""
        excluded = False
        parents = _parents(path)
        for pattern in self.patterns:
            if pattern.negated != excluded:
                continue  # it could change nothing
            if pattern.matches(path) or any(pattern.matches(parent) for parent in parents):
                excluded = not pattern.negated
        return excluded

    def may_include_below(self, directory: str) -> bool:
        """Whether something in an excluded directory could count: then it must be looked into."""
        if not self._negations:
            return False
        prefix = f"{directory}/"
        for pattern in self.patterns:
            if pattern.negated:
                literal = _LITERAL.match(pattern.text)
                fixed = literal[0] if literal else ""
                whole = fixed == pattern.text
                if (pattern.text if whole else fixed).startswith(prefix) or (
                    not whole and prefix.startswith(fixed)
                ):
                    return True
        return False


def parse_ignore(text: str) -> Ignore:
    """The patterns of a .dockerignore. Raises PatternError, with the number of the line."""
    found = []
    for number, row in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if row.startswith("#"):
            continue
        line = row.strip()
        if not line:
            continue
        try:
            found.append(_line(line))
        except PatternError as error:
            raise PatternError(f"line {number}: {error}") from error
    return make_ignore(found)


def make_ignore(patterns: Iterable[Pattern]) -> Ignore:
    """Patterns, in their order."""
    kept = tuple(patterns)
    return Ignore(kept, any(pattern.negated for pattern in kept))


def _line(line: str) -> Pattern:
    negated = line.startswith("!")
    if negated:
        line = line[1:].strip()
        if not line:
            raise PatternError('illegal exclusion pattern: "!"')
    cleaned = posixpath.normpath(line)
    if len(cleaned) > 1:
        cleaned = cleaned.lstrip("/")
    return pattern(cleaned, negated=negated)


def pattern(text: str, *, negated: bool = False) -> Pattern:
    """One cleaned pattern. Raises PatternError."""
    return Pattern(text, negated, re.compile(_regex(text), re.DOTALL))


def _regex(text: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "*":
            if text.startswith("*", at):
                at += 1
                if text.startswith("/", at):
                    at += 1  # `**/` is also nothing
                if at == len(text):
                    parts.append(".*")
                else:
                    parts.append("(?:.*/)?")
            else:
                parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[":
            piece, at = _class(text, at)
            parts.append(piece)
        elif character == "\\":
            if at == len(text):
                raise PatternError(f"syntax error in pattern {text!r}: it ends with a backslash")
            parts.append(re.escape(text[at]))
            at += 1
        else:
            parts.append(re.escape(character))
    return "".join(parts)


def _class(text: str, at: int) -> tuple[str, int]:
    """`[...]`, from behind its bracket."""
    begin = at
    out = "["
    if text.startswith("^", at):
        out += "^"
        at += 1
    first = True
    while True:
        if at >= len(text):
            raise PatternError(f"syntax error in pattern {text!r}: [ is not closed")
        character = text[at]
        if character == "]" and not first:
            return out + "]", at + 1
        first = False
        if character == "\\" and at + 1 < len(text):
            at += 1
            character = text[at]
        elif character == "]" or (character == "-" and at == begin):
            raise PatternError(f"syntax error in pattern {text!r}")
        out += re.escape(character) if character != "-" else "-"
        at += 1


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
