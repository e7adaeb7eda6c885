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
_MAX_NESTING = 50


class TemplateError(Exception):
    """A text cannot be interpolated. `hint` says what to write."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def substitute(text: str, lookup: Lookup, unset: Callable[[str], None] = lambda _name: None) -> str:
    """The text with its variables replaced. `unset` hears of each variable that is read, but has no value.

    Raises TemplateError.
    """
    return _substitute(text, lookup, unset, 0)


def _substitute(text: str, lookup: Lookup, unset: Callable[[str], None], nesting: int) -> str:
    if nesting > _MAX_NESTING:
        raise TemplateError(
            f"variables are nested deeper than {_MAX_NESTING} levels", "simplify the defaults"
        )
    parts: list[str] = []
    at = 0
    while True:
        dollar = text.find("$", at)
        if dollar < 0:
            parts.append(text[at:])
            return "".join(parts)
        parts.append(text[at:dollar])
        at = dollar + 1
        following = text[at : at + 1]
        if following == "$":
            parts.append("$")
            at += 1
        elif following == "{":
            value, at = _braced(text, at + 1, lookup, unset, nesting)
            parts.append(value)
        elif name := _NAME.match(text, at):
            parts.append(_plain(name[0], lookup, unset))
            at = name.end()
        else:
            parts.append("$")


def _plain(name: str, lookup: Lookup, unset: Callable[[str], None]) -> str:
    value = lookup(name)
    if value is None:
        unset(name)
        return ""
    return value


def _braced(
    text: str, at: int, lookup: Lookup, unset: Callable[[str], None], nesting: int
) -> tuple[str, int]:
    """The value of what follows `${`, and where the text goes on."""
    name = _NAME.match(text, at)
    if name is None:
        raise _invalid(text)
    at = name.end()
    if text[at : at + 1] == "}":
        return _plain(name[0], lookup, unset), at + 1
    operator = _OPERATOR.match(text, at)
    if operator is None:
        raise _invalid(text)
    end = _closing(text, operator.end())
    if end < 0:
        raise _invalid(text)
    operand = text[operator.end() : end]
    value = lookup(name[0])
    present = value is not None and (value != "" or not operator[0].startswith(":"))
    match operator[0][-1]:
        case "-":
            chosen = value if present else None
        case "+":
            chosen = None if present else value or ""
        case _:
            if not present:
                reason = _substitute(operand, lookup, unset, nesting + 1)
                raise TemplateError(
                    f"required variable {name[0]} is missing a value" + (f": {reason}" if reason else ""),
                    f"set {name[0]} in the environment or in .env",
                )
            chosen = value
    if chosen is None:
        chosen = _substitute(operand, lookup, unset, nesting + 1)
    return chosen, end + 1


def _closing(text: str, at: int) -> int:
    """The brace that ends an operand; the last one of the text if they do not match."""
    level = 1
    for brace in re.finditer(r"[{}]", text[at:]):
        level += 1 if brace[0] == "{" else -1
        if level == 0:
            return at + brace.start()
    last = text.rfind("}")
    return last if last >= at else -1


def _invalid(text: str) -> TemplateError:
    shown = text if len(text) <= 60 else text[:60] + "..."
    shown = " ".join(shown.split())
    return TemplateError(
        f'invalid interpolation in "{shown}"',
        "write ${NAME}, ${NAME:-default}, ${NAME:?error} or ${NAME:+replacement}, or $$ for a literal $",
    )
