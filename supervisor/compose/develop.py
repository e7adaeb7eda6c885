"""`develop` of a service: read and checked, so that a mistake is told; nothing here acts on it."""

from __future__ import annotations

from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.hooks import hook_of
from supervisor.compose.tree import Node

Document = dict[str, Any]
_ACTIONS = ("rebuild", "sync", "restart", "sync+restart", "sync+exec")
_WITHOUT_TARGET = ("rebuild", "restart")
_EXAMPLE = "{path: ./src, action: sync, target: /app/src}"


def develop(context: Context, node: Node, path: str) -> Document:
    """The canonical form of `develop`."""
    reader = context.reader
    if node.value is None:
        return {}
    entries = reader.mapping(node, path, keys.DEVELOP, f"{{watch: [{_EXAMPLE}]}}") or {}
    rules: list[Document] = []

    def read(item: Node, where: str) -> None:
        parts = reader.mapping(item, where, keys.WATCH, _EXAMPLE)
        if parts is None:
            return
        for needed in ("path", "action"):
            if needed not in parts:
                reader.bad(item, where, f"{needed} is missing", f"write {_EXAMPLE}")
        document: Document = {}
        if "path" in parts and (text := reader.string(parts["path"], f"{where}.path", "./src")) is not None:
            if not text:
                reader.bad(parts["path"], f"{where}.path", "it is empty", "write ./src")
            document["path"] = context.absolute(text)
        action = reader.choice(parts["action"], f"{where}.action", _ACTIONS) if "action" in parts else None
        target = reader.string(parts["target"], f"{where}.target", "/app/src") if "target" in parts else None
        if action:
            document["action"] = action
        if target:
            document["target"] = target
        elif action and action not in _WITHOUT_TARGET:
            reader.bad(item, where, f"target is missing, {action} needs one", "add `target: /app/src`")
        if "exec" in parts:
            document["exec"] = hook_of(context, parts["exec"], f"{where}.exec")[1]
        for name in ("include", "ignore"):
            if name in parts and (
                listed := reader.strings(parts[name], f"{where}.{name}", "[node_modules/]")
            ):
                document[name] = listed
        if "initial_sync" in parts and reader.boolean(parts["initial_sync"], f"{where}.initial_sync"):
            document["initial_sync"] = True
        rules.append(document | context.extensions(item))

    if "watch" in entries:
        reader.each(entries["watch"], f"{path}.watch", f"a list: [{_EXAMPLE}]", read)
    return ({"watch": rules} if rules else {}) | context.extensions(node)
