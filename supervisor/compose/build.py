"""`build` of a service, and its `pull_policy`.

What cannot be kept here is an error; what only makes Docker's builder faster or chattier is a warning.
Canonical forms are those of `docker compose config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.paths import is_remote
from supervisor.compose.tree import Node, quote
from supervisor.compose.values import plain_text, string_pairs
from supervisor.core.build import BuildSecret, BuildSpec, PullPolicy
from supervisor.core.reference import InvalidReferenceError, parse_reference

Document = dict[str, Any]
_POLICY = re.compile(
    r"always|never|build|if_not_present|missing|refresh|daily|weekly|every_(?:[0-9]+[wdhms])+"
)
_SECONDS = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_EXAMPLE = "build: ., or build: {context: ., dockerfile: Dockerfile}"
_NO_EFFECT = {
    "cache_from": "the cache is this host's own; remove the key",
    "cache_to": "the cache is this host's own; remove the key",
    "provenance": "no attestations are made; remove the key",
    "sbom": "no attestations are made; remove the key",
}


def read_policy(context: Context, node: Node, path: str) -> tuple[PullPolicy, int, str]:
    """(`pull_policy`, how old the last pull may be in seconds, its canonical form)."""
    reader = context.reader
    text = reader.string(node, path, "missing")
    if text is None or text == "":
        return "", 0, ""
    if not _POLICY.fullmatch(text):
        reader.choice(node, path, ("always", "missing", "never", "build", "daily", "weekly", "every_12h"))
        return "", 0, ""
    match "missing" if text == "if_not_present" else text:
        case "always" | "missing" | "never" | "build" as policy:
            return policy, 0, policy
        case "daily" | "weekly":
            return "every", _SECONDS[text[0]], text
        case _ if text.startswith("every_"):
            parts = re.findall(r"([0-9]+)([wdhms])", text)
            return "every", sum(int(count) * _SECONDS[unit] for count, unit in parts), text
        case _:
            return "every", _SECONDS["d"], text


def read_build(context: Context, node: Node, path: str) -> tuple[BuildSpec | None, Document]:
    """(one build, its canonical form); None where nothing can be made of it."""
    return _Build(context, node, path).read()


class _Build:
    def __init__(self, context: Context, node: Node, path: str) -> None:
        self._context = context
        self._reader = context.reader
        self._node = node
        self._path = path
        self._entries: Mapping[str, Node] = {}
        self._document: Document = {}

    def read(self) -> tuple[BuildSpec | None, Document]:
        entries = self._reader.mapping(self._node, self._path, keys.BUILD, _EXAMPLE)
        if entries is None:
            return None, {}
        self._entries = entries
        context = self._source()
        dockerfile, inline = self._recipe()
        spec = BuildSpec(
            context,
            dockerfile,
            inline,
            args=tuple(self._args().items()),
            target=self._text("target", "builder"),
            labels=tuple(self._pairs("labels").items()),
            secrets=self._secrets(),
            ssh=self._ssh(),
            contexts=tuple(self._contexts().items()),
            network=self._network(),
            no_cache=self._flag("no_cache"),
            no_cache_stages=self._list("no_cache_filter"),
            pull=self._flag("pull"),
            tags=self._tags(),
            platforms=self._list("platforms"),
        )
        self._others()
        return spec, {key: value for key, value in self._document.items() if value not in ("", [], {}, False)}

    def _where(self, key: str) -> str:
        return f"{self._path}.{key}"

    def _text(self, key: str, example: str) -> str:
        node = self._entries.get(key)
        text = None if node is None else self._reader.string(node, self._where(key), example)
        self._document[key] = text or ""
        return text or ""

    def _flag(self, key: str) -> bool:
        node = self._entries.get(key)
        value = node is not None and bool(self._reader.boolean(node, self._where(key)))
        self._document[key] = value
        return value

    def _list(self, key: str) -> tuple[str, ...]:
        node = self._entries.get(key)
        found = self._reader.strings(node, self._where(key), "[a, b]") if node is not None else None
        kept = tuple(dict.fromkeys(found or ()))
        self._document[key] = list(kept)
        return kept

    def _pairs(self, key: str) -> dict[str, str]:
        node = self._entries.get(key)
        found = string_pairs(self._context, node, self._where(key)) if node is not None else {}
        self._document[key] = dict(sorted(found.items()))
        return found

    def _resolved(self, text: str) -> str:
        """A source of files: a path becomes absolute, anything else stays."""
        return text if is_remote(text) else self._context.absolute(text)

    def _source(self) -> str:
        text = self._text("context", ".") if "context" in self._entries else "."
        if not text:
            return self._context.project_dir
        node = self._entries.get("context", self._node)
        if text.startswith(("service:", "docker-image://", "oci-layout://")):
            self._reader.bad(
                node,
                self._where("context"),
                f"{quote(text)} has no Dockerfile",
                "write a directory or an URL",
            )
        self._document["context"] = self._resolved(text)
        return self._resolved(text)

    def _recipe(self) -> tuple[str, str]:
        """(name of the Dockerfile, or its text)."""
        inline = self._text("dockerfile_inline", "FROM scratch")
        name = self._text("dockerfile", "Dockerfile") if "dockerfile" in self._entries else ""
        if inline and name:
            self._reader.bad(
                self._entries["dockerfile"],
                self._where("dockerfile"),
                "dockerfile and dockerfile_inline exclude each other",
                "remove one of the two",
            )
        if not {"dockerfile", "dockerfile_inline"} & self._entries.keys():
            self._document["dockerfile"] = "Dockerfile"
        return name or "Dockerfile", inline

    def _args(self) -> dict[str, str]:
        """A name without a value has that of the project's variables; where there is none it is not given."""
        node = self._entries.get("args")
        found: dict[str, str] = {}
        if node is None:
            return found
        where = self._where("args")
        for name, value in (self._reader.entries(node, where, "{NAME: value} or [NAME=value]") or {}).items():
            text = plain_text(self._context, value, f"{where}.{name}")
            if text is None and value.value is None:
                text = self._context.env.get(name)
            if text is not None:
                found[name] = text
        self._document["args"] = dict(sorted(found.items()))
        return found

    def _contexts(self) -> dict[str, str]:
        found = self._pairs("additional_contexts")
        for name, text in found.items():
            if not text:
                node = self._entries["additional_contexts"]
                self._reader.bad(
                    node, self._where("additional_contexts"), f"{name} has no source", f"write {name}: ./dir"
                )
        resolved = {name: self._resolved(text) for name, text in found.items() if text}
        self._document["additional_contexts"] = dict(sorted(resolved.items()))
        return resolved

    def _network(self) -> Any:
        text = self._text("network", "host")
        if text not in ("", "default", "host", "none"):
            self._reader.bad(
                self._entries["network"],
                self._where("network"),
                f"not supported yet: network {quote(text)}",
                "write default, host or none",
            )
        return text if text in ("host", "none") else "default"

    def _secrets(self) -> tuple[BuildSecret, ...]:
        node = self._entries.get("secrets")
        found: list[BuildSecret] = []
        document: list[Document] = []

        def read(item: Node, where: str) -> None:
            reader = self._reader
            parts = reader.mapping(item, where, keys.BUILD_SECRET, "token, or {source: token, target: id}")
            if parts is None:
                return
            texts: dict[str, str] = {
                str(key): text
                for key in ("source", "target", "uid", "gid")
                if key in parts and (text := reader.string(parts[key], f"{where}.{key}", "token")) is not None
            }
            source = texts.get("source", "")
            known = self._context.secrets.get(source)
            if known is None:
                reader.bad(
                    parts.get("source", item),
                    where,
                    f"the secret {quote(source)} is not defined",
                    f"add `secrets: {{{source or 'token'}: {{file: ./token}}}}` at the top level",
                )
            elif known.origin == "external":
                reader.bad(
                    parts.get("source", item),
                    where,
                    f"the secret {quote(source)} is external, and no file that a build could read",
                    "write {file: ./token} or {environment: TOKEN} at the top level",
                )
            else:
                found.append(
                    BuildSecret(
                        texts.get("target") or source,
                        known.value if known.origin == "file" else "",
                        known.value if known.origin == "environment" else "",
                    )
                )
            if "mode" in parts:
                texts["mode"] = str(parts["mode"].text or parts["mode"].value)
            if {"uid", "gid", "mode"} & parts.keys():
                reader.findings.warn(
                    item.mark,
                    where,
                    "owner and mode of a build's secret have no effect here, as in Docker",
                    "write them in the Dockerfile: RUN --mount=type=secret,id=...,uid=...,mode=...",
                )
            document.append(texts)

        if node is not None:
            self._reader.each(node, self._where("secrets"), "a list of secrets: [token]", read)
        self._document["secrets"] = document
        return tuple(found)

    def _ssh(self) -> tuple[tuple[str, str], ...]:
        found = self._pairs("ssh")
        resolved = {name: self._context.absolute(text) if text else "" for name, text in found.items()}
        for name, text in resolved.items():
            if not text and name != "default":
                self._reader.bad(
                    self._entries["ssh"],
                    self._where("ssh"),
                    f"invalid ssh key {quote(name)}",
                    f"write {name}=PATH",
                )
        self._document["ssh"] = [f"{name}={text}" if text else name for name, text in resolved.items()]
        return tuple(resolved.items())

    def _tags(self) -> tuple[str, ...]:
        found = self._list("tags")
        for text in found:
            try:
                parse_reference(text)
            except InvalidReferenceError as error:
                self._reader.bad(self._entries["tags"], self._where("tags"), str(error), "write name:tag")
        return found

    def _others(self) -> None:
        """Keys that change nothing here, and those that are allowed in one form only."""
        for key in ("cache_from", "cache_to"):
            if self._list(key):
                self._warn(key)
        for key in ("provenance", "sbom"):
            node = self._entries.get(key)
            if node is None:
                continue
            text = plain_text(self._context, node, self._where(key)) or ""
            self._document[key] = text
            if text.lower() not in ("", "false"):
                self._warn(key)
        for name in self._list("entitlements"):
            if name != "network.host":
                self._refuse("entitlements", f"entitlement {quote(name)}", "remove it")
        isolation = self._text("isolation", "default")
        if isolation not in ("", "default"):
            self._refuse("isolation", f"isolation {quote(isolation)}", "it has a meaning on Windows only")
        if self._flag("privileged"):
            self._refuse("privileged", "a privileged build", "remove it; RUN steps have Docker's own rights")

    def _warn(self, key: str) -> None:
        node = self._entries[key]
        self._reader.findings.warn(node.mark, self._where(key), f"{key} has no effect", _NO_EFFECT[key])

    def _refuse(self, key: str, what: str, hint: str) -> None:
        self._reader.bad(self._entries[key], self._where(key), f"not supported: {what}", hint)
