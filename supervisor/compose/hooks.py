"""`pre_start`, `post_start` and `pre_stop` of a service: commands around its life."""

from __future__ import annotations

from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.tree import Node
from supervisor.compose.values import plain_text, words
from supervisor.core.healthcheck import Hook
from supervisor.core.reference import InvalidReferenceError, parse_reference

Document = dict[str, Any]


def hooks(context: Context, key: str, node: Node, path: str) -> tuple[tuple[Hook, ...], list[Document]]:
    """The hooks of one key in their order, with their canonical forms."""
    found: list[Hook] = []
    documents: list[Document] = []

    def read(item: Node, where: str) -> None:
        hook, document = hook_of(context, item, where, before=key == "pre_start")
        documents.append(document)
        if hook is not None:
            found.append(hook)

    context.reader.each(node, path, "a list of commands: [{command: [./migrate]}]", read)
    return tuple(found), documents


def hook_of(
    context: Context, item: Node, where: str, *, before: bool = False
) -> tuple[Hook | None, Document]:
    """One hook. before: it is one of `pre_start`, which has an own instance."""
    reader = context.reader
    closed = keys.PRE_START if before else keys.HOOK
    entries = reader.mapping(item, where, closed, "{command: [./migrate]}")
    if entries is None:
        return None, {}
    document: Document = {}
    command = words(context, entries["command"], f"{where}.command") if "command" in entries else None
    if command is not None:
        document["command"] = list(command)
    if not command:
        place = entries.get("command", item)
        reader.bad(place, where, "a hook needs a command", "add `command: [./migrate]`")
    texts: dict[str, str] = {}
    for name, example in (("user", "root"), ("working_dir", "/app"), ("image", "debian:bookworm")):
        if name in entries and (text := reader.string(entries[name], f"{where}.{name}", example)):
            texts[name] = document[name] = text
    if "image" in texts:
        try:
            texts["image"] = str(parse_reference(texts["image"]))
        except InvalidReferenceError as error:
            reader.bad(entries["image"], f"{where}.image", str(error), "write name:tag")
    flags = {
        name: bool(reader.boolean(entries[name], f"{where}.{name}"))
        for name in ("privileged", "per_replica")
        if name in entries
    }
    document |= {name: True for name, value in flags.items() if value}
    environment: dict[str, str | None] = {}
    if "environment" in entries:
        inner = f"{where}.environment"
        for name, value in (reader.entries(entries["environment"], inner, "{NAME: value}") or {}).items():
            environment[name] = plain_text(context, value, f"{inner}.{name}")
    if environment:
        document["environment"] = dict(sorted(environment.items()))
    given = {name: context.env.get(name) if text is None else text for name, text in environment.items()}
    if not command:
        return None, document
    hook = Hook(
        command,
        texts.get("user"),
        flags.get("privileged", False),
        texts.get("working_dir"),
        tuple(sorted((name, text) for name, text in given.items() if text is not None)),
        texts.get("image"),
        flags.get("per_replica", False),
    )
    return hook, document | context.extensions(item)
