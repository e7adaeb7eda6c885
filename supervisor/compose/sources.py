"""The files of a project -> one merged tree: interpolation, `include`, `extends`, `!reset`, merging.

The order is Compose's (compose-go's loader): each document is interpolated by itself and evened out; what it
includes is loaded as a project of its own, with paths and variables of its own, and copied in; its services
get what they extend; then it is merged over the documents before it. Nothing is validated here but what this
needs, and every node keeps the place where it was written, whichever file that was.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from supervisor.compose import keys, yamltext
from supervisor.compose.envfiles import file_variables
from supervisor.compose.extends import Extending
from supervisor.compose.filebytes import read_bytes, why
from supervisor.compose.forms import as_list, even_out
from supervisor.compose.interpolation import Interpolation
from supervisor.compose.merge import merge
from supervisor.compose.paths import Anchoring, absolute, is_remote
from supervisor.compose.problems import Findings, Mark
from supervisor.compose.reader import Reader
from supervisor.compose.reset import drop, settle
from supervisor.compose.tree import Node, quote, size

MAX_FILES = 500
"""Files of one project with all that they include and extend; includes can double at each level."""

MAX_VALUES = 200_000
"""Values of all that is included and extended, as often as it is: what keeps a load within some seconds."""

_SHARED = ("services", "volumes", "networks", "secrets", "configs", "models")
_VERSION = (
    "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion"
)


class _Place(NamedTuple):
    """Where a file is loaded: relative paths start at `directory`; `chain` are the files that include it."""

    directory: str
    variables: Mapping[str, str]
    chain: tuple[str, ...] = ()


class Sources:
    """Reads files and makes one tree of them. `plain` leaves variables as they are written."""

    def __init__(self, findings: Findings, *, plain: bool = False) -> None:
        self.findings = findings
        self.files: list[str] = []
        self._plain = plain
        self._parsed: dict[str, list[Node]] = {}
        self._told: set[str] = set()
        self._loads = 0
        self._left = MAX_VALUES
        # With the variables themselves, as an identity means nothing once its owner is gone.
        self._extended: dict[tuple[str, int], tuple[Mapping[str, str], Node | None]] = {}

    def documents(self, file: str, place: Mark | None = None, what: str = "the Compose file") -> list[Node]:
        """The documents of a file as they are written ("-" is standard input); read once.

        place: where the file is named, if in another file. What is wrong is noted.
        """
        known = self._parsed.get(file)
        if known is None:
            known = self._parsed[file] = self._read(file, place, what)
            self.files.append(file)
        return known

    def tree(self, files: Iterable[str], directory: str, variables: Mapping[str, str]) -> Node | None:
        """All files merged, the later over the earlier; None where there is nothing to read."""
        return self._merged(files, _Place(directory, variables))

    # --- files -------------------------------------------------------------------------------------

    def _read(self, file: str, place: Mark | None, what: str) -> list[Node]:
        try:
            data = sys.stdin.buffer.read(yamltext.MAX_BYTES + 1) if file == "-" else read_bytes(file)
        except (OSError, ValueError) as error:
            reason = why(error) if isinstance(error, OSError) else str(error)
            if place is None:
                self.findings.error(
                    Mark(file), "", f"cannot read {what}: {reason}", "name another with -f FILE"
                )
            else:
                self.findings.error(place, "", f"cannot read {what} {file}: {reason}", "check the path")
            return []
        before = len(self.findings.errors)
        documents = yamltext.parse(data, file, self.findings)
        if not documents and len(self.findings.errors) == before:
            self.findings.error(
                Mark(file), "", "cannot use the Compose file: it is empty", "write `services:` and a service"
            )
        return [document for document in documents if self._is_mapping(document)]

    def _is_mapping(self, document: Node) -> bool:
        if isinstance(document.value, dict):
            return True
        self.findings.error(
            document.mark, "", "the file must be a mapping at its top level", "write `services:`"
        )
        return False

    def _merged(
        self, files: Iterable[str], place: _Place, named: Mark | None = None, what: str = "the Compose file"
    ) -> Node | None:
        tree: Node | None = None
        for file in files:
            for document in self.documents(file, named, what):
                even = self._even(document, place.variables)
                even = self._include(even, place._replace(chain=(*place.chain, file)))
                base = drop(Node({}, even.mark) if tree is None else tree, even)
                even = Extending(self, file, place.directory, place.variables).document(even)
                tree = merge(base, settle(even), self.findings)
                if isinstance(even.value, dict) and "version" in even.value:
                    self.findings.warn(even.key_mark("version"), "version", _VERSION)
        return tree

    def _even(self, document: Node, variables: Mapping[str, str]) -> Node:
        if self._plain:
            return even_out(document)
        return even_out(Interpolation(variables, self.findings, self._told).node(document, ""))

    def extended(self, file: str, mark: Mark, variables: Mapping[str, str]) -> Node | None:
        """The services of a file that something extends, in even form, paths absolute; not extended yet."""
        key = (file, id(variables))
        if key not in self._extended:
            self._extended[key] = (variables, self._services_of(file, mark, variables))
        return self._extended[key][1]

    def _services_of(self, file: str, mark: Mark, variables: Mapping[str, str]) -> Node | None:
        if not self._count(mark):
            return None
        tree: Node | None = None
        for document in self.documents(file, mark, "the file that is extended,"):
            if not self.afford(document, mark):
                return None
            even = self._even(document, variables)
            base = drop(Node({}, even.mark) if tree is None else tree, even)
            tree = merge(base, even, self.findings)
        if tree is None or not isinstance(tree.value, dict):
            return None
        home = variables.get("HOME", "~")
        anchored = Anchoring(posixpath.dirname(file), home).document(tree)
        assert isinstance(anchored.value, dict)
        return anchored.value.get("services", Node({}, tree.mark))

    def _count(self, mark: Mark) -> bool:
        self._loads += 1
        if self._loads == MAX_FILES + 1:
            self.findings.error(
                mark, "", f"more than {MAX_FILES} files are included or extended", "include each once"
            )
        return self._loads <= MAX_FILES

    def afford(self, node: Node, mark: Mark) -> bool:
        """Whether another tree may be taken in; noted, once, where all of them have become too much."""
        if self._left <= 0:
            return False
        self._left -= size(node, self._left)
        if self._left <= 0:
            self.findings.error(
                mark,
                "",
                f"more than {MAX_VALUES} values are included or extended",
                "include each file once, and extend smaller services",
            )
        return self._left > 0

    # --- include -----------------------------------------------------------------------------------

    def _include(self, document: Node, place: _Place) -> Node:
        assert isinstance(document.value, dict)
        node = document.value.get("include")
        if node is None:
            return document
        reader = Reader(self.findings)
        entries = {key: value for key, value in document.value.items() if key != "include"}
        if node.value is None:
            return document.with_value(entries)
        example = "include: [./other/compose.yaml]"

        def read(item: Node, where: str) -> None:
            imported = self._included(reader, item, where, place)
            if imported is not None:
                self._import(imported, entries)

        reader.each(node, "include", example, read)
        return document.with_value(entries)

    def _included(self, reader: Reader, item: Node, where: str, place: _Place) -> Node | None:
        if isinstance(item.value, str):
            item = Node({"path": item}, item.mark)
        parts = reader.mapping(item, where, keys.INCLUDE, "./other/compose.yaml, or {path: ./other.yaml}")
        if parts is None:
            return None
        if "path" not in parts:
            reader.bad(item, where, "path is missing", "add `path: ./other/compose.yaml`")
            return None
        names = reader.strings(as_list(parts["path"]), f"{where}.path", "./other/compose.yaml")
        home = place.variables.get("HOME", "~")
        if not names:
            return None
        mark = parts["path"].mark
        if any(is_remote(name) for name in names):
            remote = next(name for name in names if is_remote(name))
            reader.bad(
                parts["path"],
                where,
                f"{quote(remote)} is not a file of this host",
                "fetch it, and name its path",
            )
            return None
        files = [absolute(name, place.directory, home) for name in names]
        if files[0] in place.chain or not self._count(mark):
            if files[0] in place.chain:
                self._cycle(mark, where, (*place.chain, files[0]))
            return None
        directory = posixpath.dirname(files[0])
        if "project_directory" in parts:
            text = reader.string(parts["project_directory"], f"{where}.project_directory", "./other")
            directory = absolute(text, place.directory, home) if text else directory
        variables = self._variables(reader, parts.get("env_file"), where, place, directory)
        inner = _Place(directory, variables, place.chain)
        what = "the file that is included,"
        documents = [document for file in files for document in self.documents(file, mark, what)]
        if not all(self.afford(document, mark) for document in documents):
            return None
        tree = self._merged(files, inner, mark, what)
        if tree is None:
            return None
        return _with_values(Anchoring(directory, home).document(tree), variables)

    def _variables(
        self, reader: Reader, node: Node | None, where: str, place: _Place, directory: str
    ) -> Mapping[str, str]:
        """Those of the including file, over those of the environment files of the included project."""
        if node is None:
            default = posixpath.join(directory, ".env")
            files = [default] if os.path.isfile(default) else []  # noqa: PTH113 - paths are texts here
        else:
            names = reader.strings(as_list(node), f"{where}.env_file", "./other/.env") or []
            home = place.variables.get("HOME", "~")
            files = [absolute(name, place.directory, home) for name in names if name != "/dev/null"]
        found = file_variables(
            files, place.variables.get, self.findings, node.mark if node is not None else None
        )
        return found | dict(place.variables)

    def _cycle(self, mark: Mark, where: str, chain: Sequence[str]) -> None:
        start = chain.index(chain[-1])
        self.findings.error(
            mark, where, f"include cycle: {' -> '.join(chain[start:])}", "remove one of these includes"
        )

    def _import(self, imported: Node, entries: dict[str, Node]) -> None:
        """Copy the resources of an included project into a document; its own say more than those."""
        assert isinstance(imported.value, dict)
        for section in _SHARED:
            source = imported.value.get(section)
            if source is None or not isinstance(source.value, dict):
                continue
            own = entries.get(section)
            if own is None or own.value is None:
                entries[section] = source
                continue
            if not isinstance(own.value, dict):
                continue
            merged = dict(own.value)
            marks = source.keys | own.keys
            for name, value in source.value.items():
                local = own.value.get(name)
                if local is not None:
                    value = merge(drop(value, local), local, self.findings, (section, name))
                merged[name] = value
            entries[section] = Node(merged, own.mark, marks, None, own.tag)


def _with_values(document: Node, variables: Mapping[str, str]) -> Node:
    """Names without a value in `environment` have that of the variables of the file that they stand in."""
    assert isinstance(document.value, dict)
    services = document.value.get("services")
    if services is None or not isinstance(services.value, dict):
        return document
    changed = {}
    for name, service in services.value.items():
        environment = service.value.get("environment") if isinstance(service.value, dict) else None
        if environment is not None and isinstance(environment.value, dict):
            assert isinstance(service.value, dict)
            filled = {
                key: Node(variables[key], item.mark) if item.value is None and key in variables else item
                for key, item in environment.value.items()
            }
            service = service.with_value(
                service.value | {"environment": environment.with_value(dict(filled))}
            )
        changed[name] = service
    return document.with_value(document.value | {"services": services.with_value(changed)})
