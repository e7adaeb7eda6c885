"""The `volumes` section of a file: the named volumes of a project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.reader import Reader
from supervisor.compose.tree import Node, quote
from supervisor.compose.values import string_pairs
from supervisor.core.model import Volume

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


def read_volumes(
    reader: Reader, node: Node | None, project: str
) -> tuple[dict[str, Volume], dict[str, dict[str, Any]]]:
    """Volumes by key, and their canonical forms; mistakes are noted. project: prefix of their names."""
    found: dict[str, Volume] = {}
    documents: dict[str, dict[str, Any]] = {}
    if node is None:
        return found, documents
    for key, value in (reader.entries(node, "volumes", "volumes: {data: {}}") or {}).items():
        path = f"volumes.{key}"
        if not _VOLUME_NAME.fullmatch(key):
            reader.findings.error(
                node.key_mark(key), path, f"{quote(key)} is no name of a volume", "use letters, digits, _ . -"
            )
        entries = {} if value.value is None else reader.mapping(value, path, keys.VOLUME, "{}") or {}
        external = _external(reader, entries, path)
        name = reader.string(entries["name"], f"{path}.name", "my-volume") if "name" in entries else None
        if name and not _VOLUME_NAME.fullmatch(name):
            reader.bad(
                entries["name"], f"{path}.name", f"{quote(name)} is no name", "use letters, digits, _ . -"
            )
        if "driver" in entries:
            driver = reader.string(entries["driver"], f"{path}.driver", "local")
            if driver not in (None, "", "local", "default"):
                reader.bad(
                    entries["driver"],
                    f"{path}.driver",
                    f"not supported yet: driver {quote(str(driver))}",
                    "write local",
                )
        labels = (
            string_pairs(Context(reader, "", {}), entries["labels"], f"{path}.labels")
            if "labels" in entries
            else {}
        )
        if external and {"driver", "labels"} & entries.keys():
            reader.bad(
                value,
                path,
                "an external volume is not made here, and has neither driver nor labels",
                "remove them",
            )
        full = name or (key if external else f"{project}_{key}")
        found[key] = Volume(key, full, external, tuple(sorted(labels.items())))
        documents[key] = {"name": full}
        documents[key] |= {"external": True} if external else {}
        documents[key] |= {"driver": "local"} if "driver" in entries else {}
        documents[key] |= {"labels": dict(sorted(labels.items()))} if labels else {}
    return found, documents


def _external(reader: Reader, entries: Mapping[str, Node], path: str) -> bool:
    if "external" not in entries:
        return False
    if isinstance(entries["external"].value, dict):
        reader.bad(
            entries["external"],
            f"{path}.external",
            "external.name is deprecated",
            "write `name:` and `external: true`",
        )
        return True
    return bool(reader.boolean(entries["external"], f"{path}.external"))
