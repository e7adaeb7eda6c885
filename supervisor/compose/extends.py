"""`extends`: a service on top of another, of the same file or of another one."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from supervisor.compose import keys
from supervisor.compose.merge import merge
from supervisor.compose.paths import absolute, is_remote
from supervisor.compose.problems import Mark, nearest
from supervisor.compose.reader import Reader
from supervisor.compose.reset import drop, settle
from supervisor.compose.tree import Node, quote

if TYPE_CHECKING:
    from supervisor.compose.sources import Sources

_MAX_CHAIN = 100


class _Link(NamedTuple):
    """A service of a file, and where it was named."""

    file: str
    service: str
    mark: Mark


class Extending:
    """Fills in what the services of one file extend. directory: relative names of files start there."""

    def __init__(self, sources: Sources, file: str, directory: str, variables: Mapping[str, str]) -> None:
        self._sources = sources
        self._reader = Reader(sources.findings)
        self._file = file
        self._directory = directory
        self._variables = variables
        self._done: dict[tuple[str, str], Node | None] = {}

    def document(self, node: Node) -> Node:
        """A document in even form, without `extends` but where it cannot be followed, which is noted."""
        assert isinstance(node.value, dict)
        services = node.value.get("services")
        if services is None or not isinstance(services.value, dict):
            return node
        if not any(
            isinstance(item.value, dict) and "extends" in item.value for item in services.value.values()
        ):
            return node
        extended = {
            name: self._service(services, _Link(self._file, name, services.key_mark(name)), ()) or service
            for name, service in services.value.items()
        }
        return node.with_value(node.value | {"services": services.with_value(extended)})

    def _service(self, services: Node, link: _Link, chain: tuple[_Link, ...]) -> Node | None:
        """A service of `services` with all that it extends; None where that cannot be found out."""
        key = (link.file, link.service)
        if key not in self._done:
            found = self._extended(services, link, chain)
            if any(link[:2] == other[:2] for other in chain):
                return found
            self._done[key] = found
        return self._done[key]

    def _extended(self, services: Node, link: _Link, chain: tuple[_Link, ...]) -> Node | None:
        assert isinstance(services.value, dict)
        own = services.value[link.service]
        if not isinstance(own.value, dict) or "extends" not in own.value:
            return own
        node = own.value["extends"]
        rest = own.with_value({key: value for key, value in own.value.items() if key != "extends"})
        where = f"services.{link.service}.extends"
        circle = next((at for at, other in enumerate(chain) if other[:2] == link[:2]), None)
        if circle is not None or len(chain) > _MAX_CHAIN:
            self._cycle(node, where, (*chain[circle or 0 :], link))
            return None
        base = self._base(services, node, where, link, (*chain, link))
        if base is None or not self._sources.afford(base, node.mark):
            return own
        if not isinstance(base.value, dict):
            return rest
        return merge(drop(settle(base), rest), rest, self._sources.findings, ("services", link.service))

    def _base(
        self, services: Node, node: Node, where: str, link: _Link, chain: tuple[_Link, ...]
    ) -> Node | None:
        reader = self._reader
        parts = reader.mapping(
            node, where, keys.EXTENDS, "{service: base}, or {file: ./base.yaml, service: base}"
        )
        if parts is None:
            return None
        if "service" not in parts:
            reader.bad(node, where, "service is missing", "add `service: NAME`")
            return None
        name = reader.string(parts["service"], f"{where}.service", "base")
        file = link.file
        if "file" in parts:
            text = reader.string(parts["file"], f"{where}.file", "./base.yaml")
            if name is None or not text:
                return None
            if is_remote(text):
                reader.bad(
                    parts["file"], where, f"{quote(text)} is not a file of this host", "fetch it first"
                )
                return None
            file = absolute(text, self._directory, self._variables.get("HOME", "~"))
            found = self._sources.extended(file, parts["file"].mark, self._variables)
            if found is None:
                return None
            services = found
        if name is None:
            return None
        known = services.value if isinstance(services.value, dict) else {}
        if name not in known:
            near = nearest(name, known.keys() - {link.service})
            reader.bad(
                parts["service"],
                where,
                f"cannot extend {quote(link.service)}:"
                f" {posixpath.basename(file)} has no service {quote(name)}",
                f"did you mean {near}?" if near else "define it, or remove `extends`",
            )
            return None
        return self._service(services, _Link(file, name, parts["service"].mark), chain)

    def _cycle(self, node: Node, where: str, chain: tuple[_Link, ...]) -> None:
        shown = " -> ".join(link.service for link in chain[:12])
        places = ", ".join(
            f"{posixpath.basename(link.mark.file)} line {link.mark.line}"
            for link in chain[:12]
            if link.mark.line
        )
        self._reader.bad(node, where, f"circular extends: {shown} ({places})", "remove one of them")
