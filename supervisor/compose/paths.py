"""Relative paths of a file that is included or extended: they start at its own directory, not the project's.

Works on trees in even form, before they become part of another. Paths of the project's own files are made
absolute where they are read (`Context.absolute`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

from supervisor.compose.tree import Node

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|git@|github\.com/|service:|docker-image:|oci-layout:")


def is_remote(text: str) -> bool:
    """Whether a text names something that is not a path of this host."""
    return _REMOTE.match(text) is not None


def absolute(text: str, directory: str, home: str) -> str:
    """A path as Compose resolves it: `~` is the caller's home, an absolute path stays as it is written."""
    if text == "~" or text.startswith("~/"):
        text = home + text[1:]
    if text.startswith("/") or not text:
        return text
    return posixpath.normpath(posixpath.join(directory, text))


class Anchoring:
    """Makes the paths of trees absolute, starting at `directory`."""

    def __init__(self, directory: str, home: str) -> None:
        self._directory = directory
        self._home = home

    def document(self, node: Node) -> Node:
        """A whole document in even form."""
        return self._keys(node, {key: self._within(change) for key, change in self._sections().items()})

    def _sections(self) -> Mapping[str, Callable[[Node], Node]]:
        return {
            "services": self._service,
            "configs": lambda node: self._keys(node, {"file": self._path}),
            "secrets": lambda node: self._keys(node, {"file": self._path}),
            "volumes": self._volume,
        }

    def _service(self, node: Node) -> Node:
        return self._keys(
            node,
            {
                "build": self._build,
                "env_file": self._each(lambda item: self._keys(item, {"path": self._path})),
                "label_file": self._each(self._path),
                "extends": lambda item: self._keys(item, {"file": self._path}),
                "volumes": self._each(self._mount),
                "develop": lambda item: self._keys(
                    item, {"watch": self._each(lambda rule: self._keys(rule, {"path": self._path}))}
                ),
                "x-shipkeeper": lambda item: self._keys(item, {"rootfs": self._path}),
                "security_opt": self._each(self._profile),
            },
        )

    def _build(self, node: Node) -> Node:
        if isinstance(node.value, dict) and "context" not in node.value:
            node = node.with_value({"context": Node(".", node.mark)} | node.value)
        contexts = self._within(self._source)
        return self._keys(node, {"context": self._source, "additional_contexts": contexts})

    def _mount(self, node: Node) -> Node:
        if isinstance(node.value, str):
            source, colon, rest = node.value.partition(":")
            if colon and source[:1] in (".", "~"):
                return node.with_value(absolute(source, self._directory, self._home) + colon + rest)
            return node
        kind = node.value.get("type") if isinstance(node.value, dict) else None
        return self._keys(node, {"source": self._path}) if kind is not None and kind.value == "bind" else node

    def _volume(self, node: Node) -> Node:
        options = node.value.get("driver_opts") if isinstance(node.value, dict) else None
        if options is None or not isinstance(options.value, dict):
            return node
        kind = options.value.get("o")
        if kind is None or kind.value != "bind":
            return node
        return self._keys(node, {"driver_opts": lambda item: self._keys(item, {"device": self._path})})

    def _profile(self, node: Node) -> Node:
        text = node.value
        if not isinstance(text, str) or not text.startswith(("seccomp=", "seccomp:")):
            return node
        head, value = text[:8], text[8:]
        if value in ("unconfined", "default", "builtin", ""):
            return node
        return node.with_value(head + absolute(value, self._directory, self._home))

    def _source(self, node: Node) -> Node:
        return node if isinstance(node.value, str) and is_remote(node.value) else self._path(node)

    def _path(self, node: Node) -> Node:
        if not isinstance(node.value, str):
            return node
        return node.with_value(absolute(node.value, self._directory, self._home))

    @staticmethod
    def _keys(node: Node, changes: Mapping[str, Callable[[Node], Node]]) -> Node:
        if not isinstance(node.value, dict):
            return node
        found = {key: changes[key](item) for key, item in node.value.items() if key in changes}
        return node.with_value(node.value | found)

    @staticmethod
    def _each(change: Callable[[Node], Node]) -> Callable[[Node], Node]:
        def listed(node: Node) -> Node:
            return (
                node.with_value([change(item) for item in node.value])
                if isinstance(node.value, list)
                else node
            )

        return listed

    @staticmethod
    def _within(change: Callable[[Node], Node]) -> Callable[[Node], Node]:
        def entries(node: Node) -> Node:
            if not isinstance(node.value, dict):
                return node
            return node.with_value({key: change(item) for key, item in node.value.items()})

        return entries
