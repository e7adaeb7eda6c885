"""`--format` as Docker's commands have it: table, json, or a template with fields in braces. Pure.

Of Go's templates there is what people write here: `{{.Name}}`, `{{json .}}`, `{{json .Name}}`, and `table`
before it for a head. Anything else is an error, never printed as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.cli.output import table

Row = Mapping[str, Any]
_FIELD = re.compile(r"\{\{\s*(json\s+)?\.([A-Za-z]*)\s*\}\}")
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


class TemplateError(ValueError):
    """A template that cannot be used. The text is for the user."""


def rendered(form: str, rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """The rows as --format says; empty for none, but for a table, which has its head.

    columns: those of the table, by the name of their field. Raises TemplateError.
    """
    if form == "json":
        return "\n".join(json.dumps(dict(row)) for row in rows)
    if form in ("table", ""):
        return table(list(columns.values()), [[_text(row[name]) for name in columns] for row in rows])
    if form.startswith("table "):
        template = _unescaped(form.removeprefix("table "))
        names = [match[2] for match in _FIELD.finditer(template)]
        heads: dict[str, Any] = {name: columns.get(name, _words(name)) for name in names if name}
        lines = [_one(template, heads), *(_one(template, row) for row in rows)]
        cells = [line.split("\t") for line in lines]
        width = max(len(each) for each in cells)
        return table(*_headed([[*each, *[""] * (width - len(each))] for each in cells]))
    return "\n".join(_one(_unescaped(form), row) for row in rows)


def _headed(cells: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return cells[0], cells[1:]


def _one(template: str, row: Row) -> str:
    def replaced(match: re.Match[str]) -> str:
        name = match[2]
        if name and name not in row:
            raise TemplateError(f"there is no field {name}; there are {', '.join(row)}")
        if not name and not match[1]:
            raise TemplateError("write {{json .}}, or a field, as {{.Name}}")
        value = row[name] if name else dict(row)
        return json.dumps(value) if match[1] else _text(value)

    if "{{" in _FIELD.sub("", template):
        raise TemplateError(
            f"cannot use the template {template!r}: there are {{{{.Field}}}} and {{{{json .}}}}"
        )
    return _FIELD.sub(replaced, template)


def _unescaped(text: str) -> str:
    for written, meant in _ESCAPES.items():
        text = text.replace(written, meant)
    return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _words(name: str) -> str:
    """RunningFor -> RUNNING FOR."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper()
