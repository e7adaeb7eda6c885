"""NAME=VALUE on the command line: options of that form, and `--filter`."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click


def pair(text: str, separator: str = "=") -> tuple[str, str]:
    """Name and value; the value is empty where there is none."""
    name, _, value = text.partition(separator)
    return name, value


def filter_query(texts: Iterable[str]) -> dict[str, str]:
    """The query of `--filter NAME=VALUE`, given any number of times. Raises click.UsageError."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"cannot filter by {text!r}: write NAME=VALUE")
        found.setdefault(name, []).append(value)
    return {"filters": json.dumps(found)} if found else {}
