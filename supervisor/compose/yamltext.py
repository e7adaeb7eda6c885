"""YAML text -> trees of nodes with positions.

PyYAML's C parser delivers events; composing them is ours, because PyYAML's composer refuses an anchor that
is defined twice (Compose accepts it) and keeps silent about a key that is written twice (Compose does not).
Every document is bounded: size, depth, and the number of nodes after all aliases are followed, so that
no file, however it was made, takes more than a second or much memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from supervisor.compose import scalars
from supervisor.compose.problems import Findings, Mark
from supervisor.compose.tree import OVERRIDE, RESET, Node, Value, quote

MAX_BYTES = 4 * 1024 * 1024
"""Larger files are refused unread; the largest Compose files in public repositories have some 200 KB."""
MAX_NODES = 100_000
"""Nodes of a document with all aliases followed: the bound that Compose itself uses."""
MAX_DEPTH = 100

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STANDARD = "tag:yaml.org,2002:"


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Reading this file cannot go on; the finding was noted."""


class _Composed:
    """A node with its cost: nodes with aliases followed, and levels. `open` while it is being read."""

    __slots__ = ("depth", "node", "open", "size")

    def __init__(self, node: Node, *, is_open: bool = False) -> None:
        self.node = node
        self.size = 1
        self.depth = 1
        self.open = is_open


class _Composer:
    def __init__(self, file: str, findings: Findings, events: Iterator[yaml.Event]) -> None:
        self.file = file
        self.findings = findings
        self.events = events
        self.anchors: dict[str, _Composed] = {}
        self.seen = 0

    def documents(self) -> list[Node]:
        """Every document of the stream."""
        found = []
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors = {}
                self.seen = 0
                found.append(self._node(next(self.events), 0).node)
        return found

    def _refuse(self, mark: Mark, message: str, hint: str) -> _Refused:
        self.findings.error(mark, "", message, hint)
        return _Refused()

    def _mark(self, event: yaml.Event) -> Mark:
        place = event.start_mark
        assert place is not None
        return Mark(self.file, place.line + 1, place.column + 1)

    def _node(self, event: yaml.Event, level: int) -> _Composed:
        mark = self._mark(event)
        self.seen += 1
        if self.seen > MAX_NODES:
            raise self._too_many(mark)
        if level > MAX_DEPTH:
            raise self._refuse(
                mark, f"cannot read the file: nested deeper than {MAX_DEPTH} levels", "flatten it"
            )
        match event:
            case yaml.AliasEvent():
                return self._alias(event, mark)
            case yaml.ScalarEvent():
                made = _Composed(self._scalar(event, mark))
                if event.anchor:
                    self.anchors[event.anchor] = made
                return made
            case yaml.SequenceStartEvent():
                return self._sequence(event, mark, level)
            case yaml.MappingStartEvent():
                return self._mapping(event, mark, level)
            case _:
                raise self._refuse(mark, "cannot read the file: not a YAML document", "check its beginning")

    def _too_many(self, mark: Mark) -> _Refused:
        return self._refuse(
            mark,
            f"cannot read the file: more than {MAX_NODES} values once its aliases are followed",
            "use fewer aliases, or split it into several files",
        )

    def _alias(self, event: yaml.AliasEvent, mark: Mark) -> _Composed:
        name = event.anchor or ""
        target = self.anchors.get(name)
        if target is None:
            raise self._refuse(mark, f"unknown anchor {quote(name)}", f"define it above with &{name}")
        if target.open:
            raise self._refuse(
                mark,
                f"the alias *{name} lies inside the value that it names",
                "an anchor cannot contain itself",
            )
        return target

    def _tag(
        self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, mark: Mark
    ) -> tuple[str | None, str | None]:
        """(compose tag, YAML type)."""
        tag = event.tag
        if tag in (None, "!"):
            return None, "str" if tag == "!" else None
        if tag in (RESET, OVERRIDE):
            return tag, None
        if tag.startswith(_STANDARD):
            return None, tag.removeprefix(_STANDARD)
        self.findings.error(mark, "", f"unknown tag {tag}", "only !reset and !override have a meaning here")
        return None, None

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> Node:
        tag, kind = self._tag(event, mark)
        text: str = event.value
        plain = not event.style
        value: Value = text
        if kind is None and plain:
            value = scalars.resolve(text)
        elif kind in ("int", "float", "bool", "null"):
            value = scalars.resolve(text)
            if kind == "float" and type(value) is int:
                value = float(value)
            if type(value).__name__.replace("NoneType", "null") != kind:
                self.findings.error(mark, "", f"{quote(text)} is no {kind}", "remove the tag")
        elif kind not in (None, "str", "timestamp"):
            self.findings.error(mark, "", f"a scalar cannot have the tag !!{kind}", "remove the tag")
        return Node(value, mark, {}, text if plain else None, tag)

    def _sequence(self, event: yaml.SequenceStartEvent, mark: Mark, level: int) -> _Composed:
        tag = self._collection_tag(event, mark, "seq")
        items: list[Node] = []
        made = _Composed(Node(items, mark, {}, None, tag), is_open=True)
        if event.anchor:
            self.anchors[event.anchor] = made
        for inner in self.events:
            if isinstance(inner, yaml.SequenceEndEvent):
                break
            child = self._node(inner, level + 1)
            self._grow(made, child, mark, level)
            if child.node.tag != RESET:
                items.append(child.node)
        made.open = False
        return made

    def _mapping(self, event: yaml.MappingStartEvent, mark: Mark, level: int) -> _Composed:
        tag = self._collection_tag(event, mark, "map")
        entries: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        merged: list[Node] = []
        merge_mark: Mark | None = None
        made = _Composed(Node(entries, mark, keys, None, tag), is_open=True)
        if event.anchor:
            self.anchors[event.anchor] = made
        for inner in self.events:
            if isinstance(inner, yaml.MappingEndEvent):
                break
            key_mark = self._mark(inner)
            key = self._node(inner, level + 1).node
            child = self._node(next(self.events), level + 1)
            self._grow(made, child, key_mark, level)
            if key.value == "<<" and key.text is not None:
                if merge_mark is not None:
                    self._twice(key_mark, "<<", merge_mark)
                merge_mark = key_mark
                merged = self._merge_sources(child.node, key_mark)
            elif not isinstance(key.value, str):
                self.findings.error(
                    key_mark,
                    "",
                    f"the key {key.text if key.text is not None else '?'} is not a string",
                    "write it in quotes",
                )
            elif key.value in keys:
                self._twice(key_mark, key.value, keys[key.value])
            else:
                entries[key.value] = child.node
                keys[key.value] = key_mark
        for source in merged:
            assert isinstance(source.value, dict)
            for name, value in source.value.items():
                if name not in entries:
                    entries[name] = value
                    keys[name] = source.key_mark(name)
        made.open = False
        return made

    def _twice(self, mark: Mark, key: str, first: Mark) -> None:
        self.findings.error(
            mark,
            "",
            f"the key {quote(key)} is already defined in line {first.line}",
            "write [*a, *b] to merge several" if key == "<<" else "remove one of the two",
        )

    def _grow(self, made: _Composed, child: _Composed, mark: Mark, level: int) -> None:
        made.size += child.size
        made.depth = max(made.depth, child.depth + 1)
        if made.size > MAX_NODES or level + made.depth > 2 * MAX_DEPTH:
            raise self._too_many(mark)

    def _collection_tag(self, event: yaml.CollectionStartEvent, mark: Mark, expected: str) -> str | None:
        tag, kind = self._tag(event, mark)
        if kind not in (None, "str", expected):
            self.findings.error(mark, "", f"the tag !!{kind} does not fit here", "remove the tag")
        return tag

    def _merge_sources(self, node: Node, mark: Mark) -> list[Node]:
        """Mappings behind `<<`; of several the first wins, and what is written beside them wins over all."""
        sources = node.value if isinstance(node.value, list) else [node]
        if all(isinstance(source.value, dict) for source in sources):
            return sources
        self.findings.error(mark, "", "<< needs a mapping or a list of mappings", "write <<: *anchor")
        return []


def parse(data: bytes, file: str, findings: Findings) -> list[Node]:
    """The documents of a file. What is wrong is noted in `findings`; an empty list if nothing can be read."""
    if len(data) > MAX_BYTES:
        findings.error(
            Mark(file),
            "",
            f"cannot read the file: larger than {MAX_BYTES // 1024 // 1024} MiB",
            "this is no Compose file, or it has to be split",
        )
        return []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.error(
            Mark(file, line, 1),
            "",
            f"cannot read the file: the byte 0x{data[error.start]:02x} is not UTF-8",
            "save it as UTF-8 text",
        )
        return []
    if bad := _UNREADABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1
        findings.error(
            Mark(file, line, column),
            "",
            f"cannot read the file: the control character U+{ord(bad[0]):04X} is not allowed in YAML",
            "remove it; is this a text file?",
        )
        return []
    try:
        return _Composer(file, findings, yaml.parse(text, Loader=_Loader)).documents()
    except _Refused:
        return []
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = Mark(file, place.line + 1, place.column + 1) if place else Mark(file)
        why = " ".join(filter(None, (error.context, error.problem))) or "not YAML"
        findings.error(mark, "", f"cannot parse the file as YAML: {why}", _syntax_hint(text, mark))
    except (yaml.YAMLError, UnicodeError) as error:
        findings.error(Mark(file), "", f"cannot parse the file as YAML: {' '.join(str(error).split())}", "")
    return []


def _syntax_hint(text: str, mark: Mark) -> str:
    lines = text.split("\n")
    line = lines[mark.line - 1] if 0 < mark.line <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "indent with spaces, not with tabs"
    return "check the indentation, quotes and colons of this line and the one above"
