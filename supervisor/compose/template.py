"""Compose's interpolation of `$NAME` and `${NAME}` in one text. Pure.

The forms are those of the specification: `$X ${X} ${X:-d} ${X-d} ${X:?e} ${X?e} ${X:+r} ${X+r} $$`; what
stands behind an operator is interpolated in turn, and only if it is used. A `$` before anything else
(`$1`, `$(date)`, at the end) is literal. As in Compose, braces behind an operator are counted, so that a
default may hold a JSON object, and a brace too many is taken as the last one of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Lookup = Callable[[str], str | None]

_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_OPERATOR = re.compile(r":?[-?+]")
_BRACE = re.compile(r"[{}]")
_MAX_NESTING = 50


class TemplateError(Exception):
    """A text cannot be interpolated. `hint` says what to write."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def substitute(
    text: str,
    lookup: Lookup,
    unset: Callable[[str], None] = lambda _name: None,
    named: Callable[[str, str, str], None] = lambda _name, _operator, _operand: None,
) -> str:
    """The text with its variables replaced. `unset` hears of each variable that is read, but has no value;
    `named` of each that stands in the text itself, with operator and operand, as they are written.

    Raises TemplateError.
    """
    if "$" not in text:
        return text
    return _Template(text, lookup, unset, named).read(0, len(text), 0)


class _Template:
    """One text with the partner of each brace, found once, so that no nesting makes reading quadratic."""

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        unset: Callable[[str], None],
        named: Callable[[str, str, str], None],
    ) -> None:
        self.named = named
        self.text = text
        self.lookup = lookup
        self.unset = unset
        self.partner: dict[int, int] = {}
        waiting: list[int] = []
        for brace in _BRACE.finditer(text):
            if brace[0] == "{":
                waiting.append(brace.start())
            elif waiting:
                self.partner[waiting.pop()] = brace.start()

    def read(self, at: int, end: int, nesting: int) -> str:
        """The part from `at` to `end` with its variables replaced."""
        if nesting > _MAX_NESTING:
            raise TemplateError(
                f"variables are nested deeper than {_MAX_NESTING} levels", "simplify the defaults"
            )
        text = self.text
        parts: list[str] = []
        while True:
            dollar = text.find("$", at, end)
            if dollar < 0:
                parts.append(text[at:end])
                return "".join(parts)
            parts.append(text[at:dollar])
            at = dollar + 1
            following = text[at : min(at + 1, end)]
            if following == "$":
                parts.append("$")
                at += 1
            elif following == "{":
                value, at = self._braced(at, end, nesting)
                parts.append(value)
            elif name := _NAME.match(text, at, end):
                parts.append(self._plain(name[0]))
                at = name.end()
            else:
                parts.append("$")

    def _plain(self, name: str) -> str:
        self.named(name, "", "")
        value = self.lookup(name)
        if value is None:
            self.unset(name)
            return ""
        return value

    def _braced(self, brace: int, end: int, nesting: int) -> tuple[str, int]:
        """The value of the `${...}` whose brace is given, and where the text goes on."""
        text = self.text
        name = _NAME.match(text, brace + 1, end)
        if name is None:
            raise self._invalid()
        at = name.end()
        if at < end and text[at] == "}":
            return self._plain(name[0]), at + 1
        operator = _OPERATOR.match(text, at, end)
        if operator is None:
            raise self._invalid()
        close = self.partner.get(brace, end)
        if close >= end:
            close = text.rfind("}", operator.end(), end)
        if close < 0:
            raise self._invalid()
        self.named(name[0], operator[0], text[operator.end() : close])
        value = self.lookup(name[0])
        present = value is not None and (value != "" or not operator[0].startswith(":"))
        match operator[0][-1]:
            case "-":
                chosen = value if present else None
            case "+":
                chosen = None if present else value or ""
            case _:
                if not present:
                    reason = self.read(operator.end(), close, nesting + 1)
                    raise TemplateError(
                        f"required variable {name[0]} is missing a value" + (f": {reason}" if reason else ""),
                        f"set {name[0]} in the environment or in .env",
                    )
                chosen = value
        if chosen is None:
            chosen = self.read(operator.end(), close, nesting + 1)
        return chosen, close + 1

    def _invalid(self) -> TemplateError:
        shown = " ".join(self.text[:200].split())
        shown = shown if len(shown) <= 60 else shown[:60] + "..."
        return TemplateError(
            f'invalid interpolation in "{shown}"',
            "write ${NAME}, ${NAME:-default}, ${NAME:?error} or ${NAME:+replacement}, or $$ for a literal $",
        )
