"""Environment files by Compose's rules. Pure: text in, variables out.

`parse` reads the usual format: `K=V` or `K: V`, `export`, comments, quotes over several lines, variables.
`parse_raw` reads `format: raw`: every line is `K=V` to the letter. python-dotenv follows other rules
(which quotes interpolate, what ends a value, who wins), so this is our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from supervisor.compose.template import Lookup, TemplateError, substitute

_EXPORT = re.compile(r"export[^\S\n]+")
_BLANK = " \t\v\f\r\x85\xa0"
_ESCAPE = re.compile(r'\\(?:([abfnrtv"\\])|(\$)|0([0-3][0-7][0-7]))')
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}


class EnvFileError(ValueError):
    """An environment file cannot be read; `line` counts from 1."""

    def __init__(self, line: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.line = line
        self.hint = hint


def parse(
    text: str,
    lookup: Lookup,
    known: dict[str, str] | None = None,
    unset: Callable[[str], None] = lambda _name: None,
) -> dict[str, str]:
    """The variables of a file, in their order, on top of `known` (what earlier files defined).

    lookup: the environment of the project; it wins over earlier lines when a value names a variable, and
    gives the value of a name that stands alone. unset: told of variables without a value.
    Raises EnvFileError.
    """
    found = dict(known or {})

    def look(name: str) -> str | None:
        value = lookup(name)
        return found.get(name) if value is None else value

    text = text.removeprefix("\ufeff")
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text):
            return found
        if text[at] == "#":
            at = _line_end(text, at)
            continue
        line = text.count("\n", 0, at) + 1
        name, at, alone = _name(text, at, line)
        if alone:
            value = lookup(name)
            if value is not None:
                found[name] = value
            continue
        try:
            found[name], at = _value(text, at, line, look, unset)
        except TemplateError as error:
            raise EnvFileError(line, f"{name}: {error}", error.hint) from None


def parse_raw(text: str, lookup: Lookup, known: dict[str, str] | None = None) -> dict[str, str]:
    """The variables of a `format: raw` file: no quotes, no escapes, no interpolation. Raises EnvFileError."""
    found = dict(known or {})
    for number, written in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = written.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name or any(char.isspace() for char in name):
            raise EnvFileError(
                number, f'"{name}" is no name of a variable', "write NAME=value, without spaces in the name"
            )
        if equals:
            found[name] = value
        elif (inherited := lookup(name)) is not None:
            found[name] = inherited
    return found


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _name(text: str, at: int, line: int) -> tuple[str, int, bool]:
    """A name, where its value begins, and whether it stands alone."""
    if export := _EXPORT.match(text, at):
        at = export.end()
    end = at
    while end < len(text) and text[end] not in "=:\n":
        char = text[end]
        if not (char in _BLANK or char in "_.-[]" or char.isalpha() or char.isnumeric()):
            shown = text[at : _line_end(text, at)][:60]
            raise EnvFileError(
                line,
                f"unexpected character {char!r} in the name of a variable: {shown.strip()}",
                "write NAME=value; a value over several lines needs quotes",
            )
        end += 1
    name = text[at:end].rstrip()
    if " " in name or not name:
        raise EnvFileError(line, f'"{name}" is no name of a variable', "write NAME=value")
    if end >= len(text) or text[end] == "\n":
        return name, end, True
    end += 1
    while end < len(text) and text[end] in _BLANK:
        end += 1
    return name, end, False


def _value(text: str, at: int, line: int, look: Lookup, unset: Callable[[str], None]) -> tuple[str, int]:
    """A value and where the text goes on."""
    quote = text[at : at + 1]
    if quote not in ("'", '"') or not quote:
        end = _line_end(text, at)
        written = text[at:end].partition(" #")[0].rstrip()
        return substitute(written, look, unset), end
    chars: list[str] = []
    end = at + 1
    while end < len(text) and text[end] != quote:
        if text[end] == "\\" and end + 1 < len(text):
            # A backslash hides the closing quote and is gone; before anything else it stays for now.
            chars.append(text[end + 1] if text[end + 1] == quote else text[end : end + 2])
            end += 2
        else:
            chars.append(text[end])
            end += 1
    if end >= len(text):
        raise EnvFileError(line, f"unclosed {quote}", f"end the value with {quote}")
    value = "".join(chars)
    if quote == '"':
        value = substitute(_ESCAPE.sub(_unescape, value), look, unset)
    return value, end + 1


def _unescape(match: re.Match[str]) -> str:
    if match[2]:
        return "$$"
    return _ESCAPED[match[1]] if match[1] else chr(int(match[3], 8))
