"""Several trees -> one, by the specification's merge rules; for files, `extends` and `include` alike. Pure.

Mappings merge key by key, lists append, anything else is replaced. Replaced whole are `command`,
`entrypoint`, the test of a health check, each ulimit, each entry of a list of pairs, and `logging` when the
drivers differ. What `!reset` and `!override` say was done before (`reset`), and both trees are in even form.
Lists whose entries are unique by some key (mounts by target, capabilities ...) are cleared of repetitions
where they are read, after merging: the later entry wins and takes the place of the earlier one.
"""

from __future__ import annotations

from supervisor.compose.problems import Findings
from supervisor.compose.tree import Node

Path = tuple[str, ...]

_REPLACED = {("command",), ("entrypoint",), ("healthcheck", "test")}
# Each entry is one thing; in `environment` also nothing is a value: "take it from the project".
_WHOLE_IN_SERVICE = {
    ("ulimits",),
    ("environment",),
    ("labels",),
    ("annotations",),
    ("sysctls",),
    ("build", "args"),
    ("build", "labels"),
    ("build", "additional_contexts"),
    ("deploy", "labels"),
}
_HOSTS = {("extra_hosts",), ("build", "extra_hosts")}


def merge(base: Node, over: Node, findings: Findings, path: Path = ()) -> Node:
    """`over` on top of `base`, at `path` of a document. Positions stay those of what won."""
    inner = path[2:] if path[:1] == ("services",) and len(path) > 2 else ()
    if inner in _REPLACED or inner[:-1] in _WHOLE_IN_SERVICE:
        return over
    if len(path) == 4 and path[0] in ("volumes", "networks") and path[2] == "labels":
        return over
    if over.value is None:
        return base
    match base.value, over.value:
        case dict() as first, dict() as second:
            if inner == ("logging",) and _drivers_differ(first, second):
                return over
            return _mappings(base, over, path, findings)
        case list() as first, list() as second:
            if inner in _HOSTS:
                known = {item.value for item in first if isinstance(item.value, str)}
                second = [
                    item for item in second if not (isinstance(item.value, str) and item.value in known)
                ]
            if path[:1] == ("networks",) and path[2:] == ("ipam", "config"):
                return Node(list(_pools(first, second, path, findings)), base.mark, base.keys)
            return Node([*first, *second], base.mark, base.keys)
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
            return over


def _mappings(base: Node, over: Node, path: Path, findings: Findings) -> Node:
    assert isinstance(base.value, dict)
    assert isinstance(over.value, dict)
    entries = dict(base.value)
    keys = dict(base.keys)
    for key, value in over.value.items():
        old = entries.get(key)
        entries[key] = value if old is None else merge(old, value, findings, (*path, key))
        keys[key] = over.key_mark(key)
    return Node(entries, base.mark, keys)


def _drivers_differ(base: dict[str, Node], over: dict[str, Node]) -> bool:
    first, second = base.get("driver"), over.get("driver")
    return first is not None and second is not None and first.value != second.value


def _pools(base: list[Node], over: list[Node], path: Path, findings: Findings) -> list[Node]:
    """Address pools: those of one subnet are one, the others stand side by side."""
    found: dict[object, Node] = {}
    for item in (*base, *over):
        subnet = item.value.get("subnet") if isinstance(item.value, dict) else None
        key = subnet.value if subnet is not None and isinstance(subnet.value, str) else None
        known = found.get(key)
        found[key] = item if known is None else merge(known, item, findings, (*path, "pool"))
    return list(found.values())
