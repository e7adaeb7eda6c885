"""`x-shipkeeper.ready` of a service: it says itself when it is."""

from __future__ import annotations

from typing import Any

from supervisor.compose import keys, units
from supervisor.compose.context import Context
from supervisor.compose.tree import Node
from supervisor.core.healthcheck import Ready

Document = dict[str, Any]
_EXAMPLE = "notify, or {notify: true, timeout: 90s, watchdog: 30s}, or {fd: 3}"


def ready(context: Context, node: Node, path: str) -> tuple[Ready | None, Document]:
    """`notify`, or a mapping with `notify: true` or `fd: NUMBER`, and with its times."""
    reader = context.reader
    if isinstance(node.value, str):
        if node.value != "notify":
            reader.wrong(node, path, "`notify` or a mapping", _EXAMPLE)
            return None, {}
        return Ready(), {"notify": True}
    entries = reader.mapping(node, path, keys.READY, _EXAMPLE)
    if entries is None:
        return None, {}
    document: Document = {}
    fd = 0
    notify = "notify" in entries and reader.boolean(entries["notify"], f"{path}.notify")
    if notify:
        document["notify"] = True
    if "fd" in entries:
        fd = reader.integer(entries["fd"], f"{path}.fd", "3", 3, 255) or 0
        document["fd"] = fd
    if bool(notify) is ("fd" in entries):
        reader.bad(node, path, "it needs one of notify and fd", f"write {_EXAMPLE}")
        return None, {}
    times: dict[str, float] = {}
    for key in ("timeout", "watchdog"):
        if key in entries and (ns := reader.duration_ns(entries[key], f"{path}.{key}", "30s")) is not None:
            if ns < 1_000_000:
                reader.bad(entries[key], f"{path}.{key}", "it is below 1ms", "write 30s")
            times[f"{key}_s"] = ns / 1e9
            document[key] = units.duration_text(ns)
    if fd and "watchdog" in entries:
        reader.bad(
            entries["watchdog"], f"{path}.watchdog", "a descriptor has no watchdog", "use notify, or a probe"
        )
    return Ready(fd, **times), document
