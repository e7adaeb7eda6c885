"""What volumes, networks, configs and secrets of a file have in common: their names, and being external."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from supervisor.compose.context import Context
from supervisor.compose.reader import Reader
from supervisor.compose.tree import Node, quote

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


def external(
    reader: Reader, node: Node, entries: Mapping[str, Node], path: str, own: Collection[str]
) -> bool:
    """Whether a resource is made by somebody else; then it has none of the keys `own` either."""
    if "external" not in entries:
        return False
    if isinstance(entries["external"].value, dict):
        reader.bad(
            entries["external"],
            f"{path}.external",
            "external.name is deprecated, and contradicts another key",
            "write `name:` and `external: true`",
        )
        return True
    found = bool(reader.boolean(entries["external"], f"{path}.external"))
    if found and (both := sorted(set(own) & entries.keys())):
        reader.bad(
            node,
            path,
            f"an external {path.partition('.')[0][:-1]} is not made here, and has no {' and no '.join(both)}",
            "remove them",
        )
    return found


def resource_name(
    context: Context, section: Node, key: str, entries: Mapping[str, Node], is_external: bool, path: str
) -> str:
    """The name of a resource on this host: as it is written, else its key, of this project if it is ours."""
    reader = context.reader
    if not _NAME.fullmatch(key):
        reader.findings.error(
            section.key_mark(key),
            path,
            f"{quote(key)} is no name of a {path.partition('.')[0][:-1]}",
            "use letters, digits, _ . -",
        )
    name = reader.string(entries["name"], f"{path}.name", "my-name") if "name" in entries else None
    if name and not _NAME.fullmatch(name):
        reader.bad(entries["name"], f"{path}.name", f"{quote(name)} is no name", "use letters, digits, _ . -")
    return name or (key if is_external else f"{context.project}_{key}")
