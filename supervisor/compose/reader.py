"""Reads typed values out of a tree, noting each mistake where it was written and going on.

Every method returns None after it has noted an error, so that one run finds everything. Why not pydantic:
importing it costs 41 ms (`python -X importtime`; all of this package 22, of which core.model is 16), where
a whole CLI start may take 150, and its errors name a path, not the line and column behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from supervisor.compose import units
from supervisor.compose.problems import Findings, Mark, nearest
from supervisor.compose.tree import Node, describe, quote

_BOOLEANS = {
    "true": True,
    "false": False,
    "y": True,
    "yes": True,
    "on": True,
    "n": False,
    "no": False,
    "off": False,
}


class Keys(NamedTuple):
    """The closed set of keys of a mapping.

    known: are read. refused: belong to the specification, but one host without an engine has no such thing;
    the value says why, or what to do. what: names the mapping in messages.
    """

    what: str
    known: frozenset[str]
    refused: Mapping[str, str] = MappingProxyType({})


class Reader:
    """Typed access to nodes."""

    def __init__(
        self, findings: Findings, not_yet: Mapping[tuple[str, str], str] = MappingProxyType({})
    ) -> None:
        """not_yet: as `keys.NOT_YET`."""
        self.findings = findings
        self.not_yet = not_yet

    def built(self, mark: Mark, path: str, what: str, word: str, shown: str = "") -> bool:
        """Whether a key or value has an executing part; noted if not."""
        hint = self.not_yet.get((what, word))
        if hint is None:
            return True
        self.findings.error(mark, path, f"not supported yet: {shown or f'`{word}` in {what}'}", hint)
        return False

    def wrong(self, node: Node, path: str, expected: str, example: str) -> None:
        """Note that a value has the wrong type."""
        self.findings.error(
            node.mark, path, f"{path} must be {expected}, not {describe(node)}", f"write {example}"
        )

    def bad(self, node: Node, path: str, message: str, hint: str) -> None:
        """Note that a value is wrong."""
        self.findings.error(node.mark, path, f"{path}: {message}", hint)

    def string(self, node: Node, path: str, example: str) -> str | None:
        """A string."""
        if not isinstance(node.value, str):
            quoted = f"; quote it: {quote(node.text)}" if node.text and node.value is not None else ""
            self.wrong(node, path, "a string", f"{example}{quoted}")
            return None
        if "\0" in node.value:
            self.bad(node, path, "a NUL character cannot be part of it", 'remove "\\0"')
            return None
        return node.value

    def boolean(self, node: Node, path: str) -> bool | None:
        """true or false; yes, on, no and off (strings in YAML 1.2) with a warning."""
        if isinstance(node.value, bool):
            return node.value
        if isinstance(node.value, str) and node.value.lower() in _BOOLEANS:
            value = _BOOLEANS[node.value.lower()]
            if node.value.lower() not in ("true", "false"):
                self.findings.warn(
                    node.mark,
                    path,
                    f"{path}: {quote(node.value)} for a boolean is not supported by YAML 1.2",
                    f"write {str(value).lower()}",
                )
            return value
        self.wrong(node, path, "true or false", "true or false")
        return None

    def integer(
        self, node: Node, path: str, example: str, low: int = -(2**63), high: int = 2**63 - 1
    ) -> int | None:
        """A whole number, also as a string, within bounds."""
        value = node.value
        if isinstance(value, str):
            digits = value[1:] if value[:1] in ("+", "-") else value
            value = int(value) if digits.isdecimal() and digits.isascii() and len(digits) < 20 else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(node, path, "a whole number", example)
            return None
        if not low <= value <= high:
            self.bad(node, path, f"{value} is not between {low} and {high}", f"write {example}")
            return None
        return value

    def number(self, node: Node, path: str, example: str) -> float | None:
        """A finite number, also as a string."""
        value = node.value
        if isinstance(value, str) and value.isascii() and "_" not in value:
            try:
                value = float(value)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            self.wrong(node, path, "a number", example)
            return None
        return float(value)

    def duration_ns(self, node: Node, path: str, example: str = "10s or 1m30s") -> int | None:
        """A duration with units, not negative."""
        text = node.value
        if text == 0 and not isinstance(text, bool):
            text = "0"
        if not isinstance(text, str):
            self.wrong(node, path, "a duration with its unit", example)
            return None
        try:
            value = units.duration_ns(text)
        except ValueError:
            self.bad(node, path, f"{quote(text)} is no duration", f"write it with its unit: {example}")
            return None
        if value < 0:
            self.bad(node, path, "a duration cannot be negative", f"write {example}")
            return None
        return value

    def size(self, node: Node, path: str, example: str = "512m or 1.5g", base: int = 1024) -> int | None:
        """Bytes, from a number or a string with a unit. May be negative."""
        value = node.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if not isinstance(value, str):
            self.wrong(node, path, "a size", example)
            return None
        try:
            return units.size_bytes(value, base)
        except ValueError:
            self.bad(node, path, f"{quote(value)} is no size", f"write {example} (b, k, m, g; 1024 each)")
            return None

    def strings(self, node: Node, path: str, example: str, *, numbers: bool = False) -> list[str] | None:
        """A list of strings (and of numbers, where the specification allows them)."""
        if not isinstance(node.value, list):
            self.wrong(node, path, "a list of strings", example)
            return None
        found: list[str] = []
        for index, item in enumerate(node.value):
            if numbers and isinstance(item.value, int) and not isinstance(item.value, bool):
                found.append(str(item.value))
            elif (text := self.string(item, f"{path}[{index}]", example)) is not None:
                found.append(text)
        return found

    def choice(self, node: Node, path: str, allowed: Collection[str]) -> str | None:
        """One of a few words."""
        text = self.string(node, path, " or ".join(allowed))
        if text is None or text in allowed:
            return text
        near = nearest(text, allowed)
        self.bad(
            node,
            path,
            f"{quote(text)} is not one of {', '.join(allowed)}",
            f"did you mean {near}?" if near else f"write {next(iter(allowed))}",
        )
        return None

    def entries(self, node: Node, path: str, example: str) -> dict[str, Node] | None:
        """A mapping with free keys."""
        if not isinstance(node.value, dict):
            self.wrong(node, path, "a mapping", example)
            return None
        return node.value

    def mapping(self, node: Node, path: str, keys: Keys, example: str) -> dict[str, Node] | None:
        """The known keys of a mapping; the others are noted, x- keys are left out."""
        entries = self.entries(node, path or "the file", example)
        if entries is None:
            return None
        found = {}
        for key, value in entries.items():
            inner = f"{path}.{key}" if path else key
            if key in keys.known:
                if self.built(node.key_mark(key), inner, keys.what, key):
                    found[key] = value
            elif key == "x-shipkeeper":
                self.findings.error(
                    node.key_mark(key),
                    inner,
                    f"x-shipkeeper has no meaning in {keys.what}",
                    "put it below a service",
                )
            elif key.startswith("x-"):
                continue
            elif key in keys.refused:
                self.findings.error(
                    node.key_mark(key), inner, f"not supported: `{key}` in {keys.what}", keys.refused[key]
                )
            else:
                near = nearest(key, [*keys.known, *keys.refused])
                self.findings.error(
                    node.key_mark(key),
                    inner,
                    f"unknown key {quote(key)} in {keys.what}",
                    f"did you mean `{near}`?" if near else f"one of {', '.join(sorted(keys.known))}",
                )
        return found

    def each(self, node: Node, path: str, example: str, read: Callable[[Node, str], None]) -> None:
        """Read every entry of a list."""
        if not isinstance(node.value, list):
            self.wrong(node, path, "a list", example)
            return
        for index, item in enumerate(node.value):
            read(item, f"{path}[{index}]")
