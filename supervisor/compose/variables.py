"""Which variables the files of a project name, with their defaults, for `config --variables`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from supervisor.compose.template import TemplateError, substitute
from supervisor.compose.tree import Node


class Variable(NamedTuple):
    """One variable of the files. default: behind `-`. presence: behind `+`. required: `?` is behind it."""

    name: str
    default: str = ""
    presence: str = ""
    required: bool = False


def variables_of(documents: Iterable[Node]) -> list[Variable]:
    """The variables of documents as they are written, by name; what is said of one first counts."""
    found: dict[str, Variable] = {}

    def text(value: str) -> None:
        def named(name: str, operator: str, operand: str) -> None:
            known = found.get(name, Variable(name))
            match operator[-1:]:
                case "-":
                    known = known._replace(default=known.default or operand)
                case "+":
                    known = known._replace(presence=known.presence or operand)
                case "?":
                    known = known._replace(required=True)
                case _:
                    pass
            found[name] = known
            text(operand)

        try:
            substitute(value, lambda _name: "set", named=named)
        except TemplateError:
            return  # it is noted where the file is read

    def walk(node: Node) -> None:
        match node.value:
            case str() as value if "$" in value:
                text(value)
            case dict() as entries:
                for item in entries.values():
                    walk(item)
            case list() as items:
                for item in items:
                    walk(item)
            case _:
                pass

    for document in documents:
        walk(document)
    return [found[name] for name in sorted(found)]
