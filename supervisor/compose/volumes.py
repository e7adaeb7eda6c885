"""The `volumes` section of a file: the named volumes of a project."""

from __future__ import annotations

from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.resources import external, resource_name
from supervisor.compose.tree import Node, quote
from supervisor.compose.values import option_pairs
from supervisor.core.model import Volume

_DRIVERS = (None, "", "local", "default")
_OPTIONS = ("type", "o", "device")


def read_volumes(context: Context, node: Node | None) -> tuple[dict[str, Volume], dict[str, dict[str, Any]]]:
    """Volumes by key, and their canonical forms; mistakes are noted."""
    reader = context.reader
    found: dict[str, Volume] = {}
    documents: dict[str, dict[str, Any]] = {}
    if node is None:
        return found, documents
    for key, value in (reader.entries(node, "volumes", "volumes: {data: {}}") or {}).items():
        path = f"volumes.{key}"
        entries = {} if value.value is None else reader.mapping(value, path, keys.VOLUME, "{}") or {}
        is_external = external(reader, value, entries, path, ("driver", "driver_opts", "labels"))
        name = resource_name(context, node, key, entries, is_external, path)
        document: dict[str, Any] = {"name": name}
        if is_external:
            document["external"] = True
        driver = reader.string(entries["driver"], f"{path}.driver", "local") if "driver" in entries else ""
        if driver not in _DRIVERS:
            reader.bad(
                entries["driver"],
                f"{path}.driver",
                f"not supported: the volume driver {quote(str(driver))}",
                "write local, or mount it on the host and bind it",
            )
        elif driver:
            document["driver"] = driver
        options = option_pairs(context, entries, "driver_opts", path, document)
        for option in sorted(options.keys() - {*_OPTIONS, "size"}):
            reader.bad(
                entries["driver_opts"],
                f"{path}.driver_opts",
                f"unknown option {quote(option)} of a local volume",
                f"one of {', '.join(_OPTIONS)}",
            )
        if driver == "local" and options.get("o") == "bind" and options.get("device"):
            options["device"] = document["driver_opts"]["device"] = context.absolute(options["device"])
        labels = option_pairs(context, entries, "labels", path, document)
        found[key] = Volume(
            key, name, is_external, tuple(sorted(labels.items())), tuple(sorted(options.items()))
        )
        documents[key] = document | context.extensions(value)
    return found, documents
