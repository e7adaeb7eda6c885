"""`configs` and `secrets`: the top-level ones, and where a service sees them.

Canonical forms are Compose's. Contents are looked at here for what can be said of them in time, and for a
digest in the model; `core.grants` says where they are read for use.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.filebytes import read_bytes, why
from supervisor.compose.mounts import file_mode
from supervisor.compose.problems import Findings, Mark, nearest
from supervisor.compose.resources import external, resource_name
from supervisor.compose.tree import Node, quote
from supervisor.compose.values import option_pairs
from supervisor.core.grants import FileGrant, FileSource

Kind = Literal["config", "secret"]
Document = dict[str, Any]
_SECRETS = "/run/secrets/"
_MAX_BYTES = 1024 * 1024
"""Of a config or secret, moby's bound for a config (a secret's is half of it)."""


def read_sources(
    context: Context, node: Node | None, kind: Kind
) -> tuple[dict[str, FileSource], dict[str, Document], dict[str, Mark]]:
    """The top-level section by key: sources without digests, canonical forms, places; mistakes are noted."""
    reader = context.reader
    found: dict[str, FileSource] = {}
    documents: dict[str, Document] = {}
    places: dict[str, Mark] = {}
    if node is None:
        return found, documents, places
    section = f"{kind}s"
    closed = keys.CONFIG if kind == "config" else keys.SECRET
    origins = ("file", "environment", "content") if kind == "config" else ("file", "environment")
    words = " or ".join(origins)
    for key, value in (
        reader.entries(node, section, f"{section}: {{token: {{file: ./token}}}}") or {}
    ).items():
        path = f"{section}.{key}"
        entries = reader.mapping(value, path, closed, "{file: ./token}")
        if entries is None:
            continue
        is_external = external(reader, value, entries, path, ())
        name = resource_name(context, node, key, entries, is_external, path)
        texts = {
            origin: text
            for origin in origins
            if origin in entries
            and (text := reader.string(entries[origin], f"{path}.{origin}", "./token")) is not None
        }
        document: Document = {"name": name}
        if len(texts) > 1:
            reader.bad(value, path, f"{' and '.join(texts)} exclude each other", "keep one of them")
        elif not texts and not is_external and not {*origins} & entries.keys():
            reader.bad(value, path, f"it has neither {words}", "write {file: ./token}")
        elif "environment" in texts and not texts["environment"]:
            reader.bad(value, path, "the variable has no name", "write {environment: TOKEN}")
        if texts.get("file"):
            texts["file"] = context.absolute(texts["file"])
        document |= texts
        if is_external:
            document["external"] = True
        labels = option_pairs(context, entries, "labels", path, document)
        origin, text = next(iter(texts.items()), ("external" if is_external else "content", ""))
        found[key] = FileSource(kind, key, name, origin, text, "", tuple(sorted(labels.items())))  # type: ignore[arg-type] # one of its words
        documents[key] = document | context.extensions(value)
        places[key] = entries[origin].mark if origin in entries else value.mark
    return found, documents, places


def with_digest(source: FileSource, env: Mapping[str, str], place: Mark, findings: Findings) -> FileSource:
    """The source with the digest of what it gives now; a warning and no digest where it gives nothing.

    Looking at a project, or taking it down, needs no secrets: bringing it up does, and fails there.
    """
    path = f"{source.kind}s.{source.key}"
    match source.origin:
        case "external":
            return source
        case "content":
            data = source.value.encode()
        case "environment":
            if source.value not in env:
                findings.warn(
                    place,
                    path,
                    f'the variable "{source.value}" of {source.kind} "{source.key}" is not set',
                    f"set {source.value} in the environment or in .env",
                )
                return source
            data = env[source.value].encode("utf-8", "surrogateescape")
        case "file":
            try:
                data = read_bytes(source.value)
            except (OSError, ValueError) as error:
                reason = why(error) if isinstance(error, OSError) else str(error)
                findings.warn(
                    place, path, f"cannot read {source.kind} {source.value}: {reason}", "`up` will need it"
                )
                return source
    import hashlib  # some milliseconds, and most files have neither

    if len(data) > _MAX_BYTES:
        findings.error(place, path, f"the {source.kind} is larger than 1 MiB", "bind the file with `volumes`")
    return replace(source, digest=hashlib.sha256(data).hexdigest())


def grants(
    context: Context, node: Node, path: str, kind: Kind, sources: Mapping[str, FileSource]
) -> list[tuple[FileGrant, Document]]:
    """`configs` or `secrets` of a service, each with its canonical form; a target once, the later wins."""
    reader = context.reader
    found: dict[str, tuple[FileGrant, Document]] = {}

    def read(item: Node, where: str) -> None:
        parts = reader.mapping(item, where, keys.GRANT, "token, or {source: token, target: /run/token}")
        if parts is None:
            return
        texts = {
            key: text
            for key in ("source", "target", "uid", "gid")
            if key in parts and (text := reader.string(parts[key], f"{where}.{key}", '"1000"')) is not None
        }
        source = texts.get("source", "")
        if source not in sources:
            near = nearest(source, sources)
            reader.bad(
                parts.get("source", item),
                where,
                f"the {kind} {quote(source)} is not defined",
                f"did you mean {near}?"
                if near
                else f"add `{kind}s: {{{source or 'token'}: {{file: ./token}}}}` at the top level",
            )
            return
        for key in ("uid", "gid"):
            if texts.get(key) and not (texts[key].isdecimal() and texts[key].isascii()):
                reader.bad(parts[key], f"{where}.{key}", f"{quote(texts[key])} is no number", 'write "1000"')
        mode = file_mode(context, parts["mode"], f"{where}.mode") if "mode" in parts else None
        written = texts.get("target", "")
        document: Document = {key: texts[key] for key in ("source", "target", "uid", "gid") if texts.get(key)}
        if kind == "secret":
            target = posixpath.join(_SECRETS, written or source)
            document["target"] = written or target
        else:
            target = posixpath.join("/", written or source)
        if mode is not None:
            document["mode"] = f"0{mode:o}"
        clean = posixpath.normpath(target)
        found[clean] = (
            FileGrant(
                kind,
                source,
                clean,
                texts.get("uid") or "0",
                texts.get("gid") or "0",
                0o444 if mode is None else mode,
            ),
            document | context.extensions(item),
        )

    reader.each(node, path, f"a list of {kind}s: [token]", read)
    return list(found.values())
