"""Several Compose files -> one tree, by the specification's merge rules.

Mappings merge key by key, lists append, anything else is replaced; what a key is written as (list or
mapping, string or list) is evened out before. Replaced whole are `command`, `entrypoint`, each ulimit, and
`logging` when the drivers differ. `!reset` takes a key away, `!override` replaces instead of merging.
Lists whose entries are unique by some key (mounts by target, capabilities ...) are cleared of repetitions
where they are read, after merging: the later entry wins and takes the place of the earlier one.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.compose.problems import Findings
from supervisor.compose.tree import OVERRIDE, RESET, Node, Value

Path = tuple[str, ...]

_REPLACED = {"command", "entrypoint"}
# Each entry is one thing; in `environment` also nothing is a value: "take it from the project".
_WHOLE_ENTRIES = {"ulimits", "environment", "labels", "sysctls"}
_WHOLE_IN_BUILD = {"args", "labels", "additional_contexts"}


def merge(base: Node, over: Node, findings: Findings) -> Node:
    """`over` on top of `base`; both are whole documents. Positions stay those of what won."""
    return _merge(base, even_out(over), (), findings)


def _merge(base: Node, over: Node, path: Path, findings: Findings) -> Node:
    if over.tag == OVERRIDE:
        return _settle(over)
    if _is_service_key(path, _REPLACED):
        return _settle(over)
    if len(path) == 4 and path[0] in ("services", "volumes") and path[2] in _WHOLE_ENTRIES:
        return _settle(over)
    if len(path) == 5 and _is_service_key(path[:3], {"build"}) and path[3] in _WHOLE_IN_BUILD:
        return _settle(over)
    if over.value is None:
        return base
    match base.value, over.value:
        case dict(), dict():
            if _is_service_key(path, {"logging"}) and _drivers_differ(base, over):
                return _settle(over)
            return _merge_mappings(base, over, path, findings)
        case list() as first, list() as second:
            return Node([*first, *(_settle(item) for item in second)], base.mark, base.keys)
        case (dict() | list() as kept, _):
            findings.error(
                over.mark,
                ".".join(path),
                f"cannot override {'.'.join(path)}: "
                f"{'a mapping' if isinstance(kept, dict) else 'a list'} in {base.mark.file}"
                f" line {base.mark.line} is something else here",
                "write it in the same form in both files, or put !override before it",
            )
            return base
        case _:
            return _settle(over)


def _merge_mappings(base: Node, over: Node, path: Path, findings: Findings) -> Node:
    assert isinstance(base.value, dict)
    assert isinstance(over.value, dict)
    entries = dict(base.value)
    keys = dict(base.keys)
    for key, value in over.value.items():
        if value.tag == RESET:
            entries.pop(key, None)
            continue
        old = entries.get(key)
        entries[key] = _settle(value) if old is None else _merge(old, value, (*path, key), findings)
        keys[key] = over.key_mark(key)
    return Node(entries, base.mark, keys)


def _settle(node: Node) -> Node:
    """The node without tags, and without what `!reset` takes away."""
    match node.value:
        case dict() as entries:
            value: Value = {key: _settle(item) for key, item in entries.items() if item.tag != RESET}
        case list() as items:
            value = [_settle(item) for item in items if item.tag != RESET]
        case _:
            return node if node.tag is None else Node(node.value, node.mark, node.keys, node.text)
    return Node(value, node.mark, node.keys)


def _is_service_key(path: Path, keys: set[str]) -> bool:
    return len(path) == 3 and path[0] == "services" and path[2] in keys


def _drivers_differ(base: Node, over: Node) -> bool:
    assert isinstance(base.value, dict)
    assert isinstance(over.value, dict)
    first, second = base.value.get("driver"), over.value.get("driver")
    return first is not None and second is not None and first.value != second.value


# --- one shape for what may be written in several ---------------------------------------------------


def even_out(document: Node) -> Node:
    """The document with every key in the form in which it merges; wrong types are left to validation."""
    if not isinstance(document.value, dict):
        return document
    entries = dict(document.value)
    for section, change in (("services", _service), ("volumes", _volume)):
        node = entries.get(section)
        if node is not None and isinstance(node.value, dict):
            entries[section] = node.with_value({key: change(item) for key, item in node.value.items()})
    return document.with_value(entries)


def _service(node: Node) -> Node:
    if not isinstance(node.value, dict):
        return node
    entries = dict(node.value)
    for key, change in _SERVICE_FORMS.items():
        if key in entries:
            entries[key] = change(entries[key])
    return node.with_value(entries)


def _volume(node: Node) -> Node:
    if not isinstance(node.value, dict) or "labels" not in node.value:
        return node
    return node.with_value(node.value | {"labels": pairs(node.value["labels"])})


def pairs(node: Node) -> Node:
    """`[K=V, K]` as the mapping `{K: V, K: null}`."""
    items = node.value
    if not isinstance(items, list) or not all(isinstance(item.value, str) for item in items):
        return node
    entries: dict[str, Node] = {}
    keys = {}
    for item in items:
        assert isinstance(item.value, str)
        name, equals, value = item.value.partition("=")
        entries[name] = Node(value if equals else None, item.mark, tag=item.tag)
        keys[name] = item.mark
    return Node(entries, node.mark, keys, None, node.tag)


def _as_list(node: Node) -> Node:
    if not isinstance(node.value, str):
        return node
    return Node([Node(node.value, node.mark)], node.mark, tag=node.tag)


def _env_files(node: Node) -> Node:
    listed = _as_list(node)
    if not isinstance(listed.value, list):
        return node
    return listed.with_value([_env_file(item) for item in listed.value])


def _env_file(item: Node) -> Node:
    if not isinstance(item.value, str):
        return item
    return Node({"path": Node(item.value, item.mark)}, item.mark, {"path": item.mark}, None, item.tag)


def _dependencies(node: Node) -> Node:
    items = node.value
    if not isinstance(items, list) or not all(isinstance(item.value, str) for item in items):
        return node
    entries = {
        str(item.value): Node(
            {"condition": Node("service_started", item.mark)},
            item.mark,
            {"condition": item.mark},
            None,
            item.tag,
        )
        for item in items
    }
    return Node(entries, node.mark, {str(item.value): item.mark for item in items}, None, node.tag)


def _build(node: Node) -> Node:
    if isinstance(node.value, str):
        node = Node(
            {"context": Node(node.value, node.mark)}, node.mark, {"context": node.mark}, None, node.tag
        )
    if not isinstance(node.value, dict):
        return node
    entries = dict(node.value)
    for key in ("args", "labels", "additional_contexts", "ssh"):
        if key in entries:
            entries[key] = pairs(entries[key])
    if "secrets" in entries and isinstance(entries["secrets"].value, list):
        listed = entries["secrets"]
        entries["secrets"] = listed.with_value([_build_secret(item) for item in entries["secrets"].value])
    return node.with_value(entries)


def _build_secret(item: Node) -> Node:
    if not isinstance(item.value, str):
        return item
    return Node({"source": Node(item.value, item.mark)}, item.mark, {"source": item.mark}, None, item.tag)


_SERVICE_FORMS: dict[str, Callable[[Node], Node]] = {
    "build": _build,
    "environment": pairs,
    "labels": pairs,
    "sysctls": pairs,
    "tmpfs": _as_list,
    "env_file": _env_files,
    "depends_on": _dependencies,
}
