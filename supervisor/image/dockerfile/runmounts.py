"""`RUN --mount=...`: comma-separated fields to a Mount.

Source of the rules: BuildKit, frontend/dockerfile/instructions/commands_runmount.go and docs/reference.md.
"""

from __future__ import annotations

import csv
import posixpath
import re

from supervisor.core.problems import nearest
from supervisor.image.dockerfile.instructions import Mount
from supervisor.image.dockerfile.statements import StatementError

_KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_FIELDS = {
    "bind": ("target", "source", "from", "readwrite", "readonly"),
    "cache": ("id", "target", "readonly", "readwrite", "sharing", "from", "source", "mode", "uid", "gid"),
    "tmpfs": ("target", "size"),
    "secret": ("id", "target", "env", "required", "mode", "uid", "gid"),
    "ssh": ("id", "target", "required", "mode", "uid", "gid"),
}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "ro": "readonly", "rw": "readwrite"}
_SIZE = re.compile(r"(\d+)([bkmgt]?)b?", re.IGNORECASE)


def parse_mount(text: str) -> Mount:
    """The mount, its variables replaced by the caller. Raises StatementError."""
    fields = _fields(text)
    kind = fields.pop("type", "bind")
    if kind not in _KINDS:
        raise StatementError(f"unsupported mount type {kind!r}", f"write {', '.join(_KINDS)}")
    for name in fields:
        if name not in _FIELDS[kind]:
            near = nearest(name, _FIELDS[kind])
            hint = f"did you mean {near}?" if near else f"it takes {', '.join(_FIELDS[kind])}"
            raise StatementError(f"unexpected key {name!r} for mount type {kind!r}", hint)
    target = fields.get("target", "")
    source = fields.get("source", "")
    if kind in ("bind", "cache", "tmpfs") and not target:
        raise StatementError(f"invalid mount type={kind}: it has no target", "add target=/path")
    name = fields.get("id", "")
    if kind == "secret":
        name = name or source or posixpath.basename(target)
        if not name:
            raise StatementError("invalid mount type=secret: it has no id", "add id=NAME")
        if not target and "env" not in fields:
            target = f"/run/secrets/{name}"
    if kind == "ssh":
        name = name or "default"
    if kind == "cache":
        name = name or posixpath.normpath(target)
    sharing = fields.get("sharing", "shared")
    if sharing not in ("shared", "private", "locked"):
        raise StatementError(f"unsupported sharing value {sharing!r}", "write shared, private or locked")
    read_only = _switch(fields, "readonly")
    writable = _switch(fields, "readwrite")
    if read_only and writable:
        raise StatementError("a mount cannot be readonly and readwrite")
    return Mount(
        kind=kind,  # type: ignore[arg-type]  # one of _KINDS
        target=target,
        origin=fields.get("from", ""),
        source=source,
        read_only=read_only or (kind == "bind" and not writable),
        id=name,
        sharing=sharing,  # type: ignore[arg-type]  # checked above
        size_bytes=_size(fields.get("size")),
        required=_switch(fields, "required"),
        env=fields.get("env", ""),
        mode=_number(fields, "mode", 8),
        uid=_number(fields, "uid", 10),
        gid=_number(fields, "gid", 10),
    )


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in next(csv.reader([text], strict=True), []):
        name, equals, value = field.partition("=")
        name = _ALIASES.get(name.lower(), name.lower())
        if not equals:
            if name not in ("readonly", "readwrite", "required"):
                raise StatementError(f"invalid field {field!r} must be a key=value pair")
            value = "true"
        found[name] = value
    return found


def _switch(fields: dict[str, str], name: str) -> bool:
    match fields.get(name, "false").lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case other:
            raise StatementError(f"invalid value for {name}: {other}", "write true or false")


def _number(fields: dict[str, str], name: str, base: int) -> int | None:
    text = fields.get(name)
    if text is None:
        return None
    try:
        return int(text, base)
    except ValueError:
        raise StatementError(f"invalid value {text!r} for {name}") from None


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise StatementError(f"invalid size {text!r}", "write 64m or 1g")
    return int(match[1]) << (10 * "bkmgt".index((match[2] or "b").lower()))
