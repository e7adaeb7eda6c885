"""A Compose document as a tree of values that know where they were written.

Nodes are never changed: every stage (interpolation, merging) makes new ones, so one node may safely be
part of several places, as aliases make it.
"""

from __future__ import annotations

from typing import Any

from supervisor.compose.problems import Mark

Scalar = str | int | float | bool | None
Value = Scalar | dict[str, "Node"] | list["Node"]

RESET = "!reset"
OVERRIDE = "!override"


class Node:
    """One value. `keys` are the places of a mapping's keys; `text` is a plain scalar as it was written;
    `tag` is `!reset`, `!override` or None."""

    __slots__ = ("keys", "mark", "tag", "text", "value")

    def __init__(
        self,
        value: Value,
        mark: Mark,
        keys: dict[str, Mark] | None = None,
        text: str | None = None,
        tag: str | None = None,
    ) -> None:
        self.value = value
        self.mark = mark
        self.keys = {} if keys is None else keys
        self.text = text
        self.tag = tag

    def key_mark(self, key: str) -> Mark:
        """Where a key was written."""
        return self.keys.get(key, self.mark)

    def with_value(self, value: Value) -> Node:
        """The same place and tag with another value."""
        return Node(value, self.mark, self.keys, None, self.tag)


def size(node: Node, most: int) -> int:
    """How many values a tree has, with what is shared counted as often as it stands there; at most `most`."""
    count = 0
    waiting = [node]
    while waiting and count < most:
        value = waiting.pop().value
        count += 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return count


def plain(node: Node) -> Any:
    """A tree without places."""
    match node.value:
        case dict() as entries:
            return {key: plain(item) for key, item in entries.items()}
        case list() as items:
            return [plain(item) for item in items]
        case value:
            return value


def describe(node: Node) -> str:
    """A value in words, for "expected X, not Y"."""
    match node.value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(node.value).lower()}"
        case int() | float():
            return f"the number {node.text or node.value}"
        case str():
            return f"the string {quote(node.value)}"
        case dict():
            return "a mapping"
        case list():
            return "a list"


def quote(text: str) -> str:
    """Text in double quotes on one line, cut if it is long."""
    text = text if len(text) <= 60 else text[:60] + "..."
    shown = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown) + '"'
