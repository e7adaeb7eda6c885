"""`volumes`, `tmpfs` and `devices` of a service: short and long forms -> mounts and devices.

Each reader gives the values and their canonical form side by side. Two entries for one target: the later
one wins and takes the place of the earlier, also within one file, as in Compose.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from supervisor.compose import keys, units
from supervisor.compose.context import Context
from supervisor.compose.names import TMPFS_FLAGS, TMPFS_VALUES
from supervisor.compose.problems import nearest
from supervisor.compose.tree import Node, describe, quote
from supervisor.compose.values import string_pairs
from supervisor.core.model import CONSISTENCIES, PROPAGATIONS, Device, Mount
from supervisor.core.reference import InvalidReferenceError, parse_reference

_SHORT_OPTIONS = ("ro", "rw", "nocopy", "z", "Z", *PROPAGATIONS, *CONSISTENCIES)
_KINDS = ("bind", "volume", "tmpfs", "image")
_EXAMPLE = "./data:/data, name:/data, or {type: bind, source: ./data, target: /data}"

Pair = tuple[Mount, dict[str, Any]]


def volumes(context: Context, node: Node, path: str) -> list[Pair]:
    """`volumes`: mounts in their order, each with its canonical form."""
    found: dict[str, Pair] = {}

    def read(item: Node, where: str) -> None:
        match item.value:
            case str():
                pair = _short(context, item, where)
            case dict():
                pair = _long(context, item, where)
            case _:
                context.reader.wrong(item, where, "a string or a mapping", _EXAMPLE)
                return
        if pair is not None:
            found[pair[0].target] = pair

    context.reader.each(node, path, f"a list of mounts: {_EXAMPLE}", read)
    return list(found.values())


def _short(context: Context, item: Node, where: str) -> Pair | None:
    text = context.reader.string(item, where, _EXAMPLE)
    if text is None:
        return None
    parts = text.split(":")
    if "" in parts or len(parts) > 3:
        why = "an empty section between colons" if "" in parts else "too many colons"
        context.reader.bad(item, where, f"{quote(text)} has {why}", f"write {_EXAMPLE}")
        return None
    source, target = (None, parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    options = parts[2].split(",") if len(parts) == 3 else []
    for option in options:
        if option not in _SHORT_OPTIONS:
            near = nearest(option, _SHORT_OPTIONS)
            context.reader.bad(
                item,
                where,
                f"unknown mount option {quote(option)}",
                f"did you mean {near}?" if near else f"one of {', '.join(_SHORT_OPTIONS)}",
            )
            return None
    selinux = [option for option in options if option in ("z", "Z")]
    propagation = next((option for option in reversed(options) if option in PROPAGATIONS), None)
    read_only = next((option == "ro" for option in reversed(options) if option in ("ro", "rw")), False)
    inner: dict[str, Any] = {}
    if source is not None and source[0] in "./~":
        if propagation:
            inner["propagation"] = propagation
        if selinux:
            inner["selinux"] = selinux[-1]
        bind = {"type": "bind", "source": context.absolute(source), "inner": inner}
        return _mount(context, item, where, bind, target, read_only=read_only)
    if "nocopy" in options:
        inner["nocopy"] = True
    volume = {"type": "volume", "source": source, "inner": inner}
    return _mount(context, item, where, volume, target, read_only=read_only)


def _long(context: Context, item: Node, where: str) -> Pair | None:
    reader = context.reader
    entries = reader.mapping(item, where, keys.MOUNT, _EXAMPLE)
    if entries is None:
        return None
    if "type" not in entries:
        reader.bad(item, where, "a mount needs a type", "add `type: bind`, `volume` or `tmpfs`")
        return None
    kind = reader.string(entries["type"], f"{where}.type", "bind")
    if kind in ("cluster", "npipe"):
        reader.bad(
            entries["type"], f"{where}.type", f"not supported: type {kind}", "use bind, volume or tmpfs"
        )
        return None
    kind = kind and reader.choice(entries["type"], f"{where}.type", _KINDS)
    target = _given(context, entries, where, "target", "/data")
    source = _given(context, entries, where, "source", "./data")
    read_only = "read_only" in entries and reader.boolean(entries["read_only"], f"{where}.read_only")
    consistency = ""
    if "consistency" in entries:
        consistency = reader.string(entries["consistency"], f"{where}.consistency", "cached") or ""
    for other in _KINDS:
        if other in entries and kind and other != kind:
            reader.bad(
                entries[other],
                f"{where}.{other}",
                f"a mount of type {kind} has no {other} options",
                "remove them",
            )
    if kind is None:
        return None
    if "target" not in entries:
        reader.bad(item, where, "a mount needs a target", "add `target: /path/in/the/service`")
    if kind == "bind" and "source" not in entries:
        reader.bad(item, where, "a bind mount needs a source", "add `source: ./path`")
    if kind == "image" and "source" not in entries:
        reader.bad(item, where, "an image mount needs a source", "add `source: debian:bookworm`")
    if kind == "image" and source is not None:
        try:
            source_image = str(parse_reference(source))
        except InvalidReferenceError as error:
            reader.bad(entries["source"], f"{where}.source", str(error), "write name:tag")
            return None
    else:
        source_image = ""
    if kind == "tmpfs" and source is not None:
        reader.bad(entries["source"], f"{where}.source", "a tmpfs has no source", "remove it")
    inner = _options(context, entries.get(kind), kind, f"{where}.{kind}")
    if target is None or (kind in ("bind", "image") and source is None):
        return None
    if kind == "bind" and source is not None:
        source = context.absolute(source)
    described = {
        "type": kind,
        "source": source,
        "image": source_image,
        "inner": inner,
        "bare": kind not in entries,
        "consistency": consistency,
        "extensions": context.extensions(item),
    }
    return _mount(context, item, where, described, target, read_only=bool(read_only))


def _given(context: Context, entries: dict[str, Node], where: str, key: str, example: str) -> str | None:
    if key not in entries:
        return None
    text = context.reader.string(entries[key], f"{where}.{key}", example)
    if text == "":
        context.reader.bad(entries[key], f"{where}.{key}", "it is empty", f"write {example}")
        return None
    return text


def _options(context: Context, node: Node | None, kind: str, where: str) -> dict[str, Any]:
    """The options of a long mount in canonical form."""
    reader = context.reader
    closed = {
        "bind": keys.MOUNT_BIND,
        "volume": keys.MOUNT_VOLUME,
        "tmpfs": keys.MOUNT_TMPFS,
        "image": keys.MOUNT_IMAGE,
    }[kind]
    entries = reader.mapping(node, where, closed, "{}") if node is not None else None
    found: dict[str, Any] = {}
    for key, value in (entries or {}).items():
        inner = f"{where}.{key}"
        match key:
            case "propagation":
                found[key] = reader.choice(value, inner, PROPAGATIONS)
            case "create_host_path":
                if reader.boolean(value, inner) is False:
                    found[key] = False
            case "recursive":
                found[key] = reader.choice(value, inner, ("enabled", "disabled", "writable", "readonly"))
            case "selinux":
                found[key] = reader.choice(value, inner, ("z", "Z"))
            case "nocopy":
                if reader.boolean(value, inner):
                    found[key] = True
            case "subpath":
                found[key] = _subpath(context, value, inner) or None
            case "labels":
                found[key] = dict(sorted(string_pairs(context, value, inner).items())) or None
            case "size":
                size = reader.size(value, inner, "64m")
                if size is not None and size < 0:
                    reader.bad(value, inner, "a size cannot be negative", "write 64m")
                elif size is not None:
                    found[key] = str(size)
            case _:
                found[key] = file_mode(context, value, inner)
    return {key: value for key, value in found.items() if value is not None}


def _subpath(context: Context, node: Node, where: str) -> str | None:
    """A path inside a volume or an image, that does not lead out of it."""
    text = context.reader.string(node, where, "data/app")
    if text and (text.startswith("/") or ".." in text.split("/")):
        context.reader.bad(node, where, f"{quote(text)} leads out of the volume", "write data/app")
        return None
    return text


def file_mode(context: Context, node: Node, where: str) -> int | None:
    """A file mode: an octal number, or a string of octal digits."""
    value = node.value
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,5}", value):
        value = int(value.removeprefix("0o"), 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o7777:
        context.reader.wrong(node, where, "a file mode", "0o1777")
        return None
    return value


def _mount(
    context: Context, item: Node, where: str, described: dict[str, Any], target: str, *, read_only: bool
) -> Pair | None:
    kind, source, inner = described["type"], described["source"], described["inner"]
    clean = mount_point(context, item, where, target)
    if clean is None:
        return None
    if "selinux" in inner:
        context.reader.findings.warn(
            item.mark, where, f"{where}: SELinux labels ({inner['selinux']}) are not set", "remove the option"
        )
    document: dict[str, Any] = {"type": kind}
    if source is not None:
        document["source"] = source
    document["target"] = clean
    if read_only:
        document["read_only"] = True
    if described.get("consistency"):
        document["consistency"] = described["consistency"]
    if not described.get("bare"):
        document[kind] = inner
    document |= described.get("extensions", {})
    if kind == "image":
        source, read_only = described["image"], True
    if kind == "volume" and source is not None:
        declared = context.volumes.get(source)
        if declared is None:
            near = nearest(source, context.volumes)
            context.reader.bad(
                item,
                where,
                f"the volume {quote(source)} is not declared",
                f"did you mean {near}?"
                if near
                else f"add `volumes: {{{source}: {{}}}}` at the top level, or write ./{source}",
            )
            return None
        source = declared.name
    return (
        Mount(
            kind,
            clean,
            source,
            read_only,
            inner.get("create_host_path", True),
            inner.get("propagation"),
            inner.get("nocopy", False),
            inner.get("subpath"),
            int(inner["size"]) if "size" in inner else None,
            inner.get("mode"),
            recursive=inner.get("recursive", "enabled"),
        ),
        document,
    )


def mount_point(context: Context, item: Node, where: str, target: str) -> str | None:
    """The clean path of a mount point inside a service."""
    if not target.startswith("/"):
        context.reader.bad(
            item, where, f"{quote(target)} is no absolute path inside the service", f"write /{target}"
        )
        return None
    clean = "/" + posixpath.normpath(target).strip("/")
    if clean == "/":
        context.reader.bad(
            item, where, "the destination of a mount can't be /", "use `x-shipkeeper: {rootfs: DIR}`"
        )
        return None
    if clean == "/proc" or clean.startswith("/proc/"):
        context.reader.bad(item, where, f"{clean} is inside /proc", "mount it elsewhere")
        return None
    return clean


def tmpfs(context: Context, node: Node, path: str) -> list[tuple[Mount, str]]:
    """`tmpfs`: `/path` or `/path:size=64m,mode=1777,uid=1000`, each with the text as written."""
    found: dict[str, tuple[Mount, str]] = {}

    def read(item: Node, where: str) -> None:
        text = context.reader.string(item, where, "/run:size=64m")
        if text is None:
            return
        target, _, words = text.partition(":")
        clean = mount_point(context, item, where, target)
        options = _tmpfs_options(context, item, where, words)
        if clean is None or options is None:
            return
        mount = Mount("tmpfs", clean, **options)
        if clean in found and found[clean][1] != text:
            context.reader.bad(
                item, where, f"target {clean} already mounted as tmpfs", "remove one of the two"
            )
        found[clean] = (mount, text)

    context.reader.each(node, path, "a path or a list of paths: /run:size=64m", read)
    return list(found.values())


def _tmpfs_options(context: Context, item: Node, where: str, words: str) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    rest: list[str] = []
    for option in filter(None, words.split(",")):
        name, equals, value = option.partition("=")
        if name == "size" and re.fullmatch(r"[0-9.]+ ?[a-zA-Z]{0,3}", value):
            try:
                found["tmpfs_size_bytes"] = units.size_bytes(value)
                continue
            except ValueError:
                pass
        elif name == "mode" and re.fullmatch(r"[0-7]{1,5}", value):
            found["tmpfs_mode"] = int(value, 8)
            continue
        elif (equals and value and name in TMPFS_VALUES and name not in ("size", "mode")) or (
            option in TMPFS_FLAGS or re.fullmatch(r"size=[0-9]{1,3}%", option)
        ):
            rest.append(option)
            continue
        near = None if name in TMPFS_VALUES else nearest(name, (*TMPFS_VALUES, *TMPFS_FLAGS))
        context.reader.bad(
            item,
            where,
            f"invalid tmpfs option {quote(option)}",
            f"did you mean {near}?" if near else "write size=64m, mode=1777, uid=1000, gid=1000 or noexec",
        )
        return None
    return found | {"tmpfs_options": tuple(rest)}


def devices(context: Context, node: Node, path: str) -> list[tuple[Device, dict[str, Any]]]:
    """`devices`: /dev/x[:/dev/y[:rwm]], or {source, target, permissions}."""
    found: dict[str, tuple[Device, dict[str, Any]]] = {}
    reader = context.reader
    example = "/dev/fuse or /dev/sda:/dev/disk:rw"

    def read(item: Node, where: str) -> None:
        match item.value:
            case str() as text:
                parts = text.split(":")
                if len(parts) > 3:
                    reader.bad(item, where, f"{quote(text)} has too many colons", f"write {example}")
                    return
                source, target, permissions = (*parts, *("", "", "")[len(parts) :])
            case dict():
                entries = reader.mapping(item, where, keys.DEVICE, "{source: /dev/fuse}") or {}
                texts = {
                    key: reader.string(value, f"{where}.{key}", example) for key, value in entries.items()
                }
                if None in texts.values():
                    return
                source, target, permissions = (
                    texts.get(key) or "" for key in ("source", "target", "permissions")
                )
            case _:
                reader.wrong(item, where, "a string or a mapping", example)
                return
        if not source.startswith("/") or (target and not target.startswith("/")):
            reader.bad(
                item, where, f"{describe(item)} does not name a device by its path", f"write {example}"
            )
            return
        # Compose fills the permissions in for the short form only.
        written = permissions or isinstance(item.value, str)
        permissions = permissions or "rwm"
        if not {"r", "w"} <= set(permissions) <= set("rwm"):
            reader.bad(
                item,
                where,
                f"the permissions {quote(permissions)} cannot be kept, only rw and rwm",
                "restrict it by the mode of the node on the host",
            )
            return
        target = target or source
        document = {"source": source, "target": target, "permissions": permissions}
        if not written:
            del document["permissions"]
        found[target] = (Device(source, target, permissions), document)

    reader.each(node, path, f"a list of devices: {example}", read)
    return list(found.values())
