"""One shape for what may be written in several: lists of pairs, strings for mappings, one string for a list.

Every file is evened out before anything is merged, so that a list in one file and a mapping in another meet.
Wrong types are left as they are, for validation to name. Short forms with a grammar of their own (ports,
mounts, devices) stay strings until they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.compose.tree import Node

Change = Callable[[Node], Node]


def even_out(document: Node) -> Node:
    """The document with every key in the form in which it merges."""
    if not isinstance(document.value, dict):
        return document
    entries = dict(document.value)
    for section, change in _SECTIONS.items():
        node = entries.get(section)
        if node is not None and isinstance(node.value, dict):
            entries[section] = node.with_value({key: change(item) for key, item in node.value.items()})
    return document.with_value(entries)


def _changed(changes: Mapping[str, Change]) -> Change:
    def change(node: Node) -> Node:
        if not isinstance(node.value, dict):
            return node
        found = {key: changes[key](item) for key, item in node.value.items() if key in changes}
        return node.with_value(node.value | found) if found else node

    return change


def _each(change: Change) -> Change:
    def listed(node: Node) -> Node:
        if not isinstance(node.value, list):
            return node
        return node.with_value([change(item) for item in node.value])

    return listed


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


def as_list(node: Node) -> Node:
    """One string as the list of it."""
    if not isinstance(node.value, str):
        return node
    return Node([Node(node.value, node.mark, None, node.text)], node.mark, tag=node.tag)


def _named(key: str) -> Change:
    """A string as the mapping that has it below `key`."""

    def change(item: Node) -> Node:
        if not isinstance(item.value, str):
            return item
        return Node({key: Node(item.value, item.mark)}, item.mark, {key: item.mark}, None, item.tag)

    return change


def _keyed(node: Node) -> Node:
    """A list of names as a mapping without values."""
    items = node.value
    if not isinstance(items, list) or not all(isinstance(item.value, str) for item in items):
        return node
    entries = {str(item.value): Node(None, item.mark, tag=item.tag) for item in items}
    return Node(entries, node.mark, {str(item.value): item.mark for item in items}, None, node.tag)


def _dependencies(node: Node) -> Node:
    keyed = _keyed(node)
    if keyed is node or not isinstance(keyed.value, dict):
        return node
    entries = {
        name: Node(
            {"condition": Node("service_started", item.mark)},
            item.mark,
            {"condition": item.mark},
            None,
            item.tag,
        )
        for name, item in keyed.value.items()
    }
    return keyed.with_value(dict(entries))


def _hosts(node: Node) -> Node:
    """`extra_hosts` as a list of `name=address`, one for each address."""
    if not isinstance(node.value, dict):
        return node
    items: list[Node] = []
    for name, value in node.value.items():
        for one in value.value if isinstance(value.value, list) else [value]:
            if not isinstance(one.value, str):
                return node
            items.append(Node(f"{name}={one.value}", one.mark, tag=value.tag))
    return Node(items, node.mark, None, None, node.tag)


def _external(node: Node) -> Node:
    """`external: {name: N}`, the form before `name:`, as the two keys; what contradicts it stays."""
    if not isinstance(node.value, dict):
        return node
    external = node.value.get("external")
    if external is None or not isinstance(external.value, dict):
        return node
    inner = external.value.get("name")
    if set(external.value) - {"name"} or (inner is not None and "name" in node.value):
        return node
    entries = node.value | {"external": Node(True, external.mark)}
    if inner is not None:
        entries["name"] = inner
    return Node(entries, node.mark, node.keys | {"name": external.mark}, None, node.tag)


_WITH_LABELS = _changed({"labels": pairs})
_GRANTS = _each(_named("source"))
_build_keys = _changed(
    {
        "args": pairs,
        "labels": pairs,
        "additional_contexts": pairs,
        "ssh": pairs,
        "secrets": _GRANTS,
        "extra_hosts": _hosts,
        "no_cache_filter": as_list,
    }
)


def _build(node: Node) -> Node:
    return _build_keys(_named("context")(node))


def _env_files(node: Node) -> Node:
    return _each(_named("path"))(as_list(node))


_HOOKS = _each(_changed({"environment": pairs}))
_service = _changed(
    {
        "annotations": pairs,
        "build": _build,
        "configs": _GRANTS,
        "depends_on": _dependencies,
        "deploy": _WITH_LABELS,
        "develop": _changed({"watch": _each(_changed({"ignore": as_list, "include": as_list}))}),
        "dns": as_list,
        "dns_search": as_list,
        "env_file": _env_files,
        "environment": pairs,
        "extends": _named("service"),
        "extra_hosts": _hosts,
        "label_file": as_list,
        "labels": pairs,
        "networks": _keyed,
        "post_start": _HOOKS,
        "pre_start": _HOOKS,
        "pre_stop": _HOOKS,
        "secrets": _GRANTS,
        "sysctls": pairs,
        "tmpfs": as_list,
        "volumes": _each(_changed({"volume": _WITH_LABELS})),
    }
)


def _resource(node: Node) -> Node:
    return _WITH_LABELS(_external(node))


_SECTIONS: dict[str, Change] = {
    "services": _service,
    "volumes": _resource,
    "networks": _resource,
    "configs": _resource,
    "secrets": _resource,
}
