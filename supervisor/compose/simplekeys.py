"""The keys of a service that have a rule of their own and nothing to do with the others: table-driven."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervisor.compose import health, namespaces, ports
from supervisor.compose.context import Context
from supervisor.compose.develop import develop
from supervisor.compose.tree import Node
from supervisor.compose.values import string_pairs

Document = dict[str, Any]
Simple = Callable[[Context, Node, str], tuple[Document, object]]


def _pairs_of(field: str) -> Simple:
    def read(context: Context, node: Node, path: str) -> tuple[Document, object]:
        found = dict(sorted(string_pairs(context, node, path).items()))
        return {field: tuple(found.items())}, found

    return read


def _published(context: Context, node: Node, path: str) -> tuple[Document, object]:
    found = ports.ports(context, node, path)
    return {"ports": tuple(port for port, _ in found)}, [document for _, document in found]


def _exposed(context: Context, node: Node, path: str) -> tuple[Document, object]:
    found = ports.expose(context, node, path)
    return {"expose": found}, list(found)


def _healthy(context: Context, node: Node, path: str) -> tuple[Document, object]:
    found, document = health.healthcheck(context, node, path)
    return {"healthcheck": found}, document


def _shared_memory(context: Context, node: Node, path: str) -> tuple[Document, object]:
    size = context.reader.size(node, path, "64m")
    if size is not None and size < 0:
        context.reader.bad(node, path, "a size cannot be negative", "write 64m")
        return {}, None
    return ({"shm_size_bytes": size}, str(size)) if size else ({}, None)


def _attached(context: Context, node: Node, path: str) -> tuple[Document, object]:
    value = context.reader.boolean(node, path)
    return ({}, None) if value is None else ({"attach": value}, value)


def _platform(context: Context, node: Node, path: str) -> tuple[Document, object]:
    return {}, namespaces.platform(context, node, path)


def _develop(context: Context, node: Node, path: str) -> tuple[Document, object]:
    return {}, develop(context, node, path)


SIMPLE: dict[str, Simple] = {
    "annotations": _pairs_of("annotations"),
    "attach": _attached,
    "develop": _develop,
    "expose": _exposed,
    "healthcheck": _healthy,
    "platform": _platform,
    "ports": _published,
    "shm_size": _shared_memory,
}
