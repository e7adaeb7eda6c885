"""The lines of a Dockerfile: parser directives, comments, continuations and heredocs, as BuildKit reads them.

Source of the rules: BuildKit, frontend/dockerfile/parser/parser.go and docs/reference.md ("Format", "Parser
directives", "Here-Documents").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from supervisor.core.problems import Findings, Mark
from supervisor.image.dockerfile.words import (
    Quoting,
    WordError,
    decode_list,
    split_flags,
    split_words,
    unquoted,
)

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)")
_KNOWN_DIRECTIVES = ("syntax", "escape", "check")
_WITH_HEREDOCS = ("ADD", "COPY", "RUN")


class Heredoc(msgspec.Struct, frozen=True):
    """One here-document. content: its lines, tabs cut where `<<-` says so. expand: variables count in it."""

    name: str
    content: str
    expand: bool
    chomp: bool
    fd: int = 0


class Line(msgspec.Struct, frozen=True):
    """One instruction as it stands: continuation lines joined, comments gone.

    word: the first word, as written. rest: what follows it, trimmed. end_line: its last line, heredocs too.
    """

    mark: Mark
    word: str
    rest: str
    end_line: int
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def keyword(self) -> str:
        """The instruction's name."""
        return self.word.upper()

    @property
    def own_end_line(self) -> int:
        """Its last line, without heredocs."""
        return self.end_line - sum(1 + each.content.count("\n") for each in self.heredocs)


class Source(msgspec.Struct, frozen=True):
    """A whole file. escape: the character that continues lines. directives: by lower-case name."""

    lines: tuple[Line, ...]
    escape: str
    directives: dict[str, str]


def read_lines(text: str, file: str, findings: Findings) -> Source:
    """Cut a Dockerfile into instructions. What is wrong is noted in `findings`."""
    rows = [row.removesuffix("\r") for row in text.removeprefix("\ufeff").split("\n")]
    if not rows[-1]:
        rows.pop()  # what follows the last newline is no row
    directives, start = _directives(rows, file, findings)
    escape = directives.get("escape", "\\")
    if escape not in ("\\", "`"):
        mark = Mark(file, 1, 1)
        findings.error(mark, "", f"invalid escape token {escape!r}", "write # escape=` or # escape=\\")
        escape = "\\"
    return Source(tuple(_Reader(rows, file, escape, findings).lines(start)), escape, directives)


def _directives(rows: list[str], file: str, findings: Findings) -> tuple[dict[str, str], int]:
    """Directives, and the number of rows that they take. They end at the first row that is none."""
    found: dict[str, str] = {}
    for number, row in enumerate(rows):
        match = _DIRECTIVE.match(row.lstrip())
        if match is None or not row.lstrip().startswith("#"):
            return found, number
        name = match[1].lower()
        if name not in _KNOWN_DIRECTIVES:
            return found, number  # a comment like any other
        if name in found:
            findings.error(
                Mark(file, number + 1, 1),
                "",
                f"only one {name} parser directive can be used",
                "remove this one",
            )
        found.setdefault(name, match[2])
    return found, len(rows)


class _Reader:
    def __init__(self, rows: list[str], file: str, escape: str, findings: Findings) -> None:
        self._rows = rows
        self._file = file
        self._findings = findings
        self._quoting = Quoting(escape)
        self._end = re.compile(r"(?:^|(?<=[^" + re.escape(escape) + r"]))" + re.escape(escape) + r"[ \t]*$")
        self._at = 0

    def lines(self, start: int) -> Iterator[Line]:
        self._at = start
        while self._at < len(self._rows):
            first = self._at
            row = self._rows[first].lstrip()
            self._at += 1
            if row.startswith("#"):
                continue
            text, more = self._continued(row)
            if not text and not more:
                continue
            text = self._join(text, more)
            if text.strip():
                yield self._line(text, first)

    def _continued(self, row: str) -> tuple[str, bool]:
        match = self._end.search(row)
        return (row, False) if match is None else (row[: match.start()], True)

    def _join(self, text: str, more: bool) -> str:
        parts = [text]
        while more and self._at < len(self._rows):
            row = self._rows[self._at]
            self._at += 1
            if row.lstrip().startswith("#"):
                continue
            if not row.strip():
                if self._at < len(self._rows):
                    self._findings.warn(
                        Mark(self._file, self._at, 1),
                        "",
                        "an empty line within a continued instruction",
                        "remove it, or make it a comment: it will be an error one day",
                    )
                continue
            part, more = self._continued(row)
            parts.append(part)
        return "".join(parts)

    def _line(self, text: str, first: int) -> Line:
        column = len(self._rows[first]) - len(self._rows[first].lstrip()) + 1
        mark = Mark(self._file, first + 1, column)
        word, rest = first_word(text)
        names = self._heredoc_names(word.upper(), rest)
        heredocs = tuple(self._heredoc(heredoc, mark) for heredoc in names)
        return Line(mark, word, rest, self._at, heredocs)

    def _heredoc_names(self, keyword: str, rest: str) -> list[Heredoc]:
        """Those that a line announces, without content."""
        if keyword == "ONBUILD":
            keyword, rest = first_word(rest)
            keyword = keyword.upper()
        if keyword not in _WITH_HEREDOCS or "<<" not in rest or decode_list(split_flags(rest)[1]) is not None:
            return []
        try:
            unquoted(rest, self._quoting)
        except WordError:
            return []  # a line whose quotes do not close has none
        found = (parse_heredoc(word, self._quoting) for word in split_words(rest, self._quoting))
        return [heredoc for heredoc in found if heredoc is not None]

    def _heredoc(self, heredoc: Heredoc, mark: Mark) -> Heredoc:
        content: list[str] = []
        while self._at < len(self._rows):
            row = self._rows[self._at]
            self._at += 1
            row = row.lstrip("\t") if heredoc.chomp else row
            if row == heredoc.name:
                return Heredoc(heredoc.name, "".join(content), heredoc.expand, heredoc.chomp, heredoc.fd)
            content.append(f"{row}\n")
        self._findings.error(
            mark,
            "",
            f"unterminated heredoc {heredoc.name}",
            f"end it with a line that is just {heredoc.name}",
        )
        return heredoc


def first_word(text: str) -> tuple[str, str]:
    """(the first word, what follows it), both trimmed; empty where there is nothing."""
    word, *rest = text.split(None, 1) or [""]
    return word, rest[0].rstrip() if rest else ""


def parse_heredoc(word: str, quoting: Quoting) -> Heredoc | None:
    """`[fd]<<[-]NAME`, without content; None if a word is none. A quoted name means: do not expand."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    name = unquoted(match[3], quoting)
    if not name:
        return None
    return Heredoc(name, "", name == match[3], bool(match[2]), int(match[1] or 0))
