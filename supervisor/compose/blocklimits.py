"""`blkio_config` of a service: the weight of its input and output, and limits of single block devices."""

from __future__ import annotations

from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.tree import Node
from supervisor.core.model import BlockLimit, DeviceLimit

Document = dict[str, Any]

_LISTS: dict[str, BlockLimit] = {
    "weight_device": "weight",
    "device_read_bps": "read_bps",
    "device_read_iops": "read_iops",
    "device_write_bps": "write_bps",
    "device_write_iops": "write_iops",
}


def block_limits(
    context: Context, node: Node, path: str
) -> tuple[int | None, tuple[DeviceLimit, ...], Document]:
    """The weight, the limits of devices, and the canonical form."""
    entries = context.reader.mapping(node, path, keys.BLKIO, "{weight: 300}") or {}
    weight = _weight(context, entries["weight"], f"{path}.weight") if "weight" in entries else None
    document: Document = {"weight": weight} if weight else {}
    found: list[DeviceLimit] = []
    for name, kind in _LISTS.items():
        if name not in entries:
            continue
        rows: list[Document] = []

        def read(item: Node, where: str, kind: BlockLimit = kind, rows: list[Document] = rows) -> None:
            limit = _device(context, item, where, kind)
            if limit is not None:
                found.append(limit)
                value = limit.value if kind == "weight" else str(limit.value)
                rows.append({"path": limit.path, "weight" if kind == "weight" else "rate": value})

        context.reader.each(entries[name], f"{path}.{name}", _example(kind), read)
        document[name] = rows
    return weight or None, tuple(found), document


def _example(kind: str) -> str:
    return f"{{path: /dev/sda, {'weight: 300' if kind == 'weight' else 'rate: 12m'}}}"


def _device(context: Context, node: Node, path: str, kind: BlockLimit) -> DeviceLimit | None:
    reader = context.reader
    closed, key = (keys.BLKIO_WEIGHT, "weight") if kind == "weight" else (keys.BLKIO_RATE, "rate")
    entries = reader.mapping(node, path, closed, _example(kind))
    if entries is None:
        return None
    for missing in sorted(closed.known - entries.keys()):
        reader.bad(node, path, f"{missing} is missing", f"write {_example(kind)}")
    if closed.known - entries.keys():
        return None
    device = reader.string(entries["path"], f"{path}.path", "/dev/sda")
    if kind == "weight":
        value = _weight(context, entries[key], f"{path}.{key}")
    else:
        value = reader.size(entries[key], f"{path}.{key}", "12m")
        if value is not None and value <= 0:
            reader.bad(entries[key], f"{path}.{key}", f"{value} is no rate", "write 12m")
            return None
    return DeviceLimit(kind, device, value) if device and value else None


def _weight(context: Context, node: Node, path: str) -> int | None:
    weight = context.reader.integer(node, path, "300", 0, 1000)
    if weight is not None and 0 < weight < 10:
        context.reader.bad(node, path, f"{weight} is below 10", "write 10 to 1000")
    return weight
