"""Words of a Dockerfile: splitting, quotes, escapes and variables, as BuildKit's small shell lexer has them.

Source of the rules: BuildKit, frontend/dockerfile/shell/lex.go and parser/line_parsers.go. Unlike a shell's,
`$1` is a variable (of no value), and nothing is globbed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = "@*#?-$!0"


class WordError(Exception):
    """A word that cannot be read. The text says what is wrong with it."""


class Quoting(msgspec.Struct, frozen=True):
    """The escape character: a backslash, or what the `escape` directive names."""

    escape: str = "\\"


def split_words(text: str, quoting: Quoting) -> list[str]:
    """Words at white space that is neither quoted nor escaped; quotes and escapes stay in them."""
    words: list[str] = []
    word = ""
    quote = ""
    at = 0
    begun = False  # a pair of quotes is a word, even an empty one
    while at < len(text):
        character = text[at]
        at += 1
        if not quote and character.isspace():
            if begun or word:
                words.append(word)
            word, begun = "", False
            continue
        if character == quoting.escape and quote != "'":
            if at == len(text):
                break  # an escape of nothing is dropped
            word += character + text[at]
            at += 1
            continue
        if not quote and character in "'\"":
            quote, begun = character, True
        elif character == quote:
            quote = ""
        word += character
    if begun or word:
        words.append(word)
    return words


def split_flags(text: str) -> tuple[list[str], str]:
    """The `--flags` before everything else, without their quotes, and the rest. `--` alone ends them."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return flags, text[at:]
        word, at = _flag(text, at)
        if word == "--":
            return flags, text[at:].lstrip()
        flags.append(word)


def _flag(text: str, at: int) -> tuple[str, int]:
    word, quote = "", ""
    while at < len(text):
        character = text[at]
        if not quote and character.isspace():
            break
        at += 1
        if character == "\\":
            word += text[at : at + 1]
            at += 1
        elif not quote and character in "'\"":
            quote = character
        elif character == quote:
            quote = ""
        else:
            word += character
    return word, at


def decode_list(text: str) -> list[object] | None:
    """A JSON list at the beginning of a text; what follows it is not looked at, as in BuildKit. Else None."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def unquoted(word: str, quoting: Quoting) -> str:
    """A word without quotes and escapes, variables left as they stand."""
    return Expander({}, quoting, keep_unset=True).word(word)


@dataclass(slots=True)
class Expander:
    """Replaces variables. used: the names that were asked for; unset: those of them without a value.

    keep_unset: leave `$name` as it is where it has no value, instead of nothing.
    """

    variables: Mapping[str, str]
    quoting: Quoting = field(default_factory=Quoting)
    keep_unset: bool = False
    used: set[str] = field(default_factory=set)
    unset: set[str] = field(default_factory=set)

    def word(self, text: str) -> str:
        """One word: quotes and escapes gone, variables replaced. Raises WordError."""
        return "".join(piece for piece, _ in self._pieces(text))

    def words(self, text: str) -> list[str]:
        """The words of a text; a value with white space outside of quotes is several. Raises WordError."""
        found: list[str] = []
        word, begun = "", False
        for piece, quoted in self._pieces(text):
            if quoted:
                word, begun = word + piece, True
                continue
            for part in re.split(r"(\s+)", piece):
                if part and part.isspace():
                    if begun:
                        found.append(word)
                    word, begun = "", False
                elif part:
                    word, begun = word + part, True
        return [*found, word] if begun else found

    def _pieces(self, text: str) -> list[tuple[str, bool]]:
        """(text, whether it was quoted or escaped), in order."""
        return _Lexer(text, self).run(lambda: False)

    def value(self, name: str) -> str | None:
        """The value of a variable, noted as used."""
        self.used.add(name)
        found = self.variables.get(name)
        if found is None:
            self.unset.add(name)
        return found


class _Lexer:
    def __init__(self, text: str, expander: Expander) -> None:
        self._text = text
        self._expander = expander
        self._escape = expander.quoting.escape
        self._at = 0

    def run(self, ended: Callable[[], bool]) -> list[tuple[str, bool]]:
        """Up to the end of the text, or to where `ended` says so (that is not consumed)."""
        pieces: list[tuple[str, bool]] = []
        while self._at < len(self._text) and not ended():
            character = self._text[self._at]
            if character == "'":
                pieces.append((self._single(), True))
            elif character == '"':
                pieces.append((self._double(), True))
            elif character == "$":
                pieces.append((self._dollar(), False))
            elif character == self._escape:
                self._at += 2
                if self._at - 1 < len(self._text):
                    pieces.append((self._text[self._at - 1], True))
            else:
                self._at += 1
                pieces.append((character, False))
        return pieces

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise WordError("unexpected end of statement while looking for matching single-quote")
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _double(self) -> str:
        self._at += 1
        parts: list[str] = []
        while True:
            if self._at >= len(self._text):
                raise WordError("unexpected end of statement while looking for matching double-quote")
            character = self._text[self._at]
            if character == '"':
                self._at += 1
                return "".join(parts)
            if character == "$":
                parts.append(self._dollar())
                continue
            self._at += 1
            if character == self._escape and self._at < len(self._text):
                following = self._text[self._at]
                # Only these need an escape here; before others it stays.
                if following in ('"', "$", self._escape):
                    character = following
                    self._at += 1
            parts.append(character)

    def _dollar(self) -> str:
        self._at += 1
        if not self._text.startswith("{", self._at):
            name = self._name()
            if not name:
                return "$"
            value = self._expander.value(name)
            return f"${name}" if value is None and self._expander.keep_unset else value or ""
        begin = self._at - 1
        self._at += 1
        if self._at >= len(self._text):
            raise WordError("syntax error: missing '}'")
        if self._text[self._at] in "{}:":
            raise WordError("syntax error: bad substitution")
        name = self._name()
        if not name:
            raise WordError("syntax error: bad substitution")
        value = self._braced(name)
        if value is None:
            return self._text[begin : self._at] if self._expander.keep_unset else ""
        return value

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            match = re.compile(r"[0-9]+").match(self._text, self._at)
        if match is not None:
            self._at = match.end()
            return match[0]
        character = self._text[self._at : self._at + 1]
        if character and character in _SPECIAL:
            self._at += 1
            return character
        return ""

    def _braced(self, name: str) -> str | None:
        """After the name within `${`; None where nothing is set."""
        value = self._expander.value(name)
        operator = self._operator()
        if operator == "}":
            return value
        if operator in ("-", "+", "?", ":-", ":+", ":?"):
            word = self._word()
            missing = value is None or (operator.startswith(":") and value == "")
            match operator[-1]:
                case "-":
                    return word if missing else value
                case "+":
                    return "" if missing else word
                case _:
                    if missing:
                        kind = "not allowed to be empty" if value == "" else "not allowed to be unset"
                        raise WordError(f"{name}: {word or kind}")
                    return value
        if operator in ("#", "##", "%", "%%"):
            pattern = self._word()
            return None if value is None else _trim(value, pattern, operator)
        if operator in ("/", "//"):
            pattern = self._word(stop="/")
            replacement = self._word() if self._text[self._at - 1] == "/" else ""
            return (
                None if value is None else _replace(value, pattern, replacement, everywhere=operator == "//")
            )
        raise WordError(f"unsupported modifier ({operator}) in substitution")

    def _operator(self) -> str:
        for operator in (":-", ":+", ":?", "##", "%%", "//", "}", "-", "+", "?", "#", "%", "/"):
            if self._text.startswith(operator, self._at):
                self._at += len(operator)
                return operator
        if self._at >= len(self._text):
            raise WordError("syntax error: missing '}'")
        return self._text[self._at : self._at + 2]

    def _word(self, stop: str = "") -> str:
        """The word of a modifier, to the closing brace (or to `stop`), which is consumed."""
        stops = "}" + stop
        pieces = self.run(lambda: self._text[self._at] in stops)
        if self._at >= len(self._text):
            raise WordError("syntax error: missing '}'")
        self._at += 1
        return "".join(piece for piece, _ in pieces)


@lru_cache(maxsize=200)
def _pattern(text: str, greedy: bool) -> re.Pattern[str]:
    """A shell pattern, of `*`, `?` and escapes, as a regular expression."""
    parts, at = [], 0
    while at < len(text):
        character = text[at]
        at += 1
        match character:
            case "*":
                parts.append(".*" if greedy else ".*?")
            case "?":
                parts.append(".")
            case "\\" if at < len(text):
                parts.append(re.escape(text[at]))
                at += 1
            case _:
                parts.append(re.escape(character))
    return re.compile("".join(parts), re.DOTALL)


def _trim(value: str, pattern: str, operator: str) -> str:
    """`#` and `%`: without the shortest match at the beginning, or end; doubled: the longest."""
    longest = len(operator) == 2
    lengths = range(len(value) + 1)
    whole = _pattern(pattern, True)
    for length in reversed(lengths) if longest else lengths:
        if operator[0] == "#" and whole.fullmatch(value[:length]):
            return value[length:]
        if operator[0] == "%" and whole.fullmatch(value[len(value) - length :]):
            return value[: len(value) - length]
    return value


def _replace(value: str, pattern: str, replacement: str, *, everywhere: bool) -> str:
    return _pattern(pattern, True).sub(lambda _: replacement, value, count=0 if everywhere else 1)
