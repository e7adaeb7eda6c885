"""`!reset` and `!override`: what a tree takes away from those below it. Pure.

As in Compose the paths of both tags are removed from the base before anything is merged: `!reset` leaves
nothing there, `!override` leaves room for its own value.
"""

from __future__ import annotations

from supervisor.compose.tree import OVERRIDE, RESET, Node, Value


def drop(base: Node, over: Node) -> Node:
    """`base` without what the tags in `over` replace. Both are in even form (`forms.even_out`)."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return base
    entries = dict(base.value)
    changed = False
    for key, value in over.value.items():
        old = entries.get(key)
        if old is None:
            continue
        if value.tag in (RESET, OVERRIDE):
            del entries[key]
            changed = True
        elif (kept := drop(old, value)) is not old:
            entries[key] = kept
            changed = True
    return Node(entries, base.mark, base.keys, None, base.tag) if changed else base


def settle(node: Node) -> Node:
    """The node without tags, and without what `!reset` takes away. An untagged tree is itself."""
    match node.value:
        case dict() as entries:
            settled = {key: settle(item) for key, item in entries.items() if item.tag != RESET}
            if node.tag is None and len(settled) == len(entries):
                same = all(settled[key] is item for key, item in entries.items())
                if same:
                    return node
            value: Value = settled
        case list() as items:
            listed = [settle(item) for item in items if item.tag != RESET]
            if node.tag is None and len(listed) == len(items):
                same = all(new is old for new, old in zip(listed, items, strict=True))
                if same:
                    return node
            value = listed
        case _:
            return node if node.tag is None else Node(node.value, node.mark, node.keys, node.text)
    return Node(value, node.mark, node.keys)
