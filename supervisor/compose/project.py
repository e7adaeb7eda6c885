"""The text of Compose files -> a `Project`, or everything that is wrong with them.

The order of things is Compose's: parse, interpolate each file by itself (values only), merge, validate,
resolve paths and names, choose services, read their env files. Nothing is validated before everything is
merged, and nodes carry their place through all of it, so a message names the file, line and column of what
was written, whichever file it came from.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.compose import keys, yamltext
from supervisor.compose.context import Context
from supervisor.compose.envfiles import project_variables, read_bytes, service_environment, why
from supervisor.compose.merge import even_out, merge
from supervisor.compose.problems import Findings, Mark, Problem, in_order
from supervisor.compose.reader import Reader
from supervisor.compose.select import select
from supervisor.compose.service import Draft, read_service, string_pairs
from supervisor.compose.template import TemplateError, substitute
from supervisor.compose.tree import Node, quote
from supervisor.core.model import Project, ServiceSpec, Volume

_SERVICE_NAME = re.compile(r"[a-zA-Z0-9._-]+")
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_VERSION = (
    "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A project with what was doubtful in its files.

    all_services: every service of the files, also those that are not part of the project because of their
        profiles or because others were named; these have no variables from their env files.
    documents: canonical form of each service of the project, of its volumes, and of top-level x- keys
        (`config_document` puts them together).
    """

    project: Project
    warnings: tuple[Problem, ...]
    all_services: tuple[ServiceSpec, ...]
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)


def load_project(
    files: Sequence[str],
    *,
    project_name: str | None,
    project_dir: str | None,
    env: Mapping[str, str],
    env_files: Sequence[str] = (),
    profiles: Sequence[str] = (),
    services: Sequence[str] = (),
    default_name: str | None = None,
) -> Loaded:
    """Load a project from its Compose files ("-" is standard input), the later over the earlier.

    project_name: -p; else COMPOSE_PROJECT_NAME, `name:`, default_name, the name of the project directory.
    project_dir: where relative paths and `.env` are; by default the directory of the first file.
    env: the shell's variables; os.environ is not read. env_files: instead of `.env`.
    profiles: active ones; by default COMPOSE_PROFILES. services: only these and what they depend on.

    Raises ComposeErrors with every problem of all files.
    """
    findings = Findings()
    directory = os.path.abspath(project_dir or _directory_of(files))  # noqa: PTH100 - links stay
    variables = project_variables(directory, env, env_files, findings)
    documents = [document for file in files for document in _read(file, findings)]
    if not files:
        findings.error(Mark(""), "", "no Compose file is named", "name one with -f FILE")
    name = _project_name(documents, project_name, default_name or directory, variables, findings)
    variables["COMPOSE_PROJECT_NAME"] = name

    interpolation = _Interpolation(variables, findings)
    tree: Node | None = None
    for document in documents:
        plain = interpolation.node(document, "")
        base = Node({}, plain.mark) if tree is None else tree
        tree = merge(base, even_out(plain), findings)
        if isinstance(plain.value, dict) and "version" in plain.value:
            findings.warn(plain.key_mark("version"), "version", _VERSION)
    if tree is None:
        findings.raise_errors(files)
        raise AssertionError("no document and no error")

    reader = Reader(findings)
    top = reader.mapping(tree, "", keys.TOP, "services: {web: {command: sleep 60}}") or {}
    if "name" in top:
        reader.string(top["name"], "name", "my-project")
    volumes, volume_documents = _volumes(reader, top.get("volumes"), name)
    context = Context(reader, directory, variables, volumes)
    drafts = _services(context, top.get("services"), tree)

    active = list(profiles) or [part.strip() for part in variables.get("COMPOSE_PROFILES", "").split(",")]
    chosen = select(drafts, active, services, findings)
    _check_container_names(drafts, chosen, findings)
    specs, service_documents = {}, {}
    for each in chosen:
        specs[each], service_documents[each] = _finish(drafts[each], chosen, variables, findings)
    findings.raise_errors(files)
    _warn_of_networks([drafts[each] for each in chosen], findings)

    used = {mount.source for spec in specs.values() for mount in spec.mounts if mount.type == "volume"}
    kept = sorted((volume for volume in volumes.values() if volume.name in used), key=lambda one: one.key)
    return Loaded(
        Project(
            name,
            directory,
            tuple(file if file == "-" else os.path.abspath(file) for file in files),  # noqa: PTH100
            tuple(specs[each] for each in sorted(specs)),
            tuple(kept),
        ),
        in_order(findings.warnings, files),
        tuple(specs.get(each, drafts[each].spec) for each in sorted(drafts)),
        {
            "services": service_documents,
            "volumes": {volume.key: volume_documents[volume.key] for volume in kept},
            "extensions": _extensions(tree),
        },
    )


def normalize_project_name(text: str) -> str:
    """The project name that a directory's name gives: lower case, of letters, digits, `-` and `_`."""
    return re.sub(r"[^a-z0-9_-]", "", text.lower()).lstrip("_-")


# --- files and names -----------------------------------------------------------------------------


def _directory_of(files: Sequence[str]) -> str:
    first = next((file for file in files if file != "-"), None)
    return "." if first is None else os.path.dirname(os.path.abspath(first))  # noqa: PTH100, PTH120 - links stay


def _read(file: str, findings: Findings) -> list[Node]:
    """The documents of one file; what is wrong is noted."""
    try:
        data = sys.stdin.buffer.read(yamltext.MAX_BYTES + 1) if file == "-" else read_bytes(file)
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        findings.error(Mark(file), "", f"cannot read the Compose file: {reason}", "name another with -f FILE")
        return []
    before = len(findings.errors)
    documents = yamltext.parse(data, file, findings)
    if not documents and len(findings.errors) == before:
        findings.error(
            Mark(file), "", "cannot use the Compose file: it is empty", "write `services:` and a service"
        )
    return [document for document in documents if _is_mapping(document, findings)]


def _is_mapping(document: Node, findings: Findings) -> bool:
    if isinstance(document.value, dict):
        return True
    findings.error(document.mark, "", "the file must be a mapping at its top level", "write `services:`")
    return False


def _project_name(
    documents: Sequence[Node],
    given: str | None,
    directory: str,
    variables: Mapping[str, str],
    findings: Findings,
) -> str:
    """The name of the project; a wrong one is noted."""
    chosen = given or variables.get("COMPOSE_PROJECT_NAME")
    if chosen:
        if normalize_project_name(chosen) != chosen:
            source = "-p" if given else "COMPOSE_PROJECT_NAME"
            near = normalize_project_name(chosen) or "my-project"
            findings.error(
                Mark(""),
                "",
                f'invalid project name "{chosen}": must consist only of lowercase alphanumeric characters,'
                " hyphens, and underscores as well as start with a letter or number",
                f"write {source} {near}" if given else f"set {source}={near}",
            )
        return chosen
    written = ""
    for document in documents:
        node = document.value.get("name") if isinstance(document.value, dict) else None
        if node is not None and isinstance(node.value, str) and node.value:
            try:
                written = normalize_project_name(substitute(node.value, variables.get))
            except TemplateError:
                continue  # it is noted when the whole file is interpolated
    name = written or normalize_project_name(directory.rpartition("/")[2])
    if not name:
        findings.error(
            Mark(documents[0].mark.file if documents else ""),
            "name",
            "project name must not be empty",
            "add `name: my-project`, or use -p my-project",
        )
    return name


class _Interpolation:
    """Replaces variables in the values of a document, and notes those without a value once each."""

    def __init__(self, variables: Mapping[str, str], findings: Findings) -> None:
        self.variables = variables
        self.findings = findings
        self.told: set[str] = set()

    def node(self, node: Node, path: str) -> Node:
        match node.value:
            case str() as text if "$" in text:
                return node.with_value(self._text(text, node, path))
            case dict() as entries:
                changed = {
                    key: self.node(item, f"{path}.{key}" if path else key) for key, item in entries.items()
                }
                return Node(changed, node.mark, node.keys, None, node.tag)
            case list() as items:
                listed = [self.node(item, f"{path}[{index}]") for index, item in enumerate(items)]
                return Node(listed, node.mark, node.keys, None, node.tag)
            case _:
                return node

    def _text(self, text: str, node: Node, path: str) -> str:
        def unset(name: str) -> None:
            if name not in self.told:
                self.told.add(name)
                self.findings.warn(
                    node.mark,
                    path,
                    f'the variable "{name}" is not set, a blank string is used',
                    f"set it, or write ${{{name}:-}}",
                )

        try:
            return substitute(text, self.variables.get, unset)
        except TemplateError as error:
            self.findings.error(node.mark, path, f"{path}: {error}", error.hint)
            return text


# --- sections ------------------------------------------------------------------------------------


def _volumes(
    reader: Reader, node: Node | None, project: str
) -> tuple[dict[str, Volume], dict[str, dict[str, Any]]]:
    found: dict[str, Volume] = {}
    documents: dict[str, dict[str, Any]] = {}
    if node is None:
        return found, documents
    for key, value in (reader.entries(node, "volumes", "volumes: {data: {}}") or {}).items():
        path = f"volumes.{key}"
        if not _VOLUME_NAME.fullmatch(key):
            reader.findings.error(
                node.key_mark(key), path, f"{quote(key)} is no name of a volume", "use letters, digits, _ . -"
            )
        entries = {} if value.value is None else reader.mapping(value, path, keys.VOLUME, "{}") or {}
        external = _external(reader, entries, path)
        name = reader.string(entries["name"], f"{path}.name", "my-volume") if "name" in entries else None
        if name and not _VOLUME_NAME.fullmatch(name):
            reader.bad(
                entries["name"], f"{path}.name", f"{quote(name)} is no name", "use letters, digits, _ . -"
            )
        if "driver" in entries:
            driver = reader.string(entries["driver"], f"{path}.driver", "local")
            if driver not in (None, "", "local", "default"):
                reader.bad(
                    entries["driver"],
                    f"{path}.driver",
                    f"not supported yet: driver {quote(str(driver))}",
                    "write local",
                )
        labels = (
            string_pairs(Context(reader, "", {}), entries["labels"], f"{path}.labels")
            if "labels" in entries
            else {}
        )
        if external and {"driver", "labels"} & entries.keys():
            reader.bad(
                value,
                path,
                "an external volume is not made here, and has neither driver nor labels",
                "remove them",
            )
        full = name or (key if external else f"{project}_{key}")
        found[key] = Volume(key, full, external, tuple(sorted(labels.items())))
        documents[key] = {"name": full}
        documents[key] |= {"external": True} if external else {}
        documents[key] |= {"driver": "local"} if "driver" in entries else {}
        documents[key] |= {"labels": dict(sorted(labels.items()))} if labels else {}
    return found, documents


def _external(reader: Reader, entries: Mapping[str, Node], path: str) -> bool:
    if "external" not in entries:
        return False
    if isinstance(entries["external"].value, dict):
        reader.bad(
            entries["external"],
            f"{path}.external",
            "external.name is deprecated",
            "write `name:` and `external: true`",
        )
        return True
    return bool(reader.boolean(entries["external"], f"{path}.external"))


def _services(context: Context, node: Node | None, tree: Node) -> dict[str, Draft]:
    reader = context.reader
    example = "services: {web: {command: sleep 60}}"
    if node is None:
        reader.findings.error(tree.mark, "services", "the file has no services", f"write {example}")
        return {}
    drafts: dict[str, Draft] = {}
    for name, value in (reader.entries(node, "services", example) or {}).items():
        if not _SERVICE_NAME.fullmatch(name):
            reader.findings.error(
                node.key_mark(name),
                f"services.{name}",
                f"{quote(name)} is no name of a service",
                "use letters, digits, _ . -",
            )
        draft = read_service(context, name, value)
        if draft is not None:
            drafts[name] = draft
    return drafts


def _finish(
    draft: Draft, chosen: Sequence[str], variables: Mapping[str, str], findings: Findings
) -> tuple[ServiceSpec, dict[str, Any]]:
    """A service with its whole environment, and without optional dependencies that are not in the project."""
    environment = service_environment(draft, variables, findings)
    given = sorted((name, value) for name, value in environment.items() if value is not None)
    spec = replace(
        draft.spec,
        environment=tuple(given),
        depends_on=tuple(need for need in draft.spec.depends_on if need.service in chosen),
    )
    document = dict(draft.document)
    if environment:
        document["environment"] = dict(sorted(environment.items()))
    return spec, document


def _check_container_names(drafts: Mapping[str, Draft], chosen: Sequence[str], findings: Findings) -> None:
    owners: dict[str, str] = {}
    for name in chosen:
        draft = drafts[name]
        container = draft.spec.container_name
        if container is None:
            continue
        if container in owners:
            assert isinstance(draft.node.value, dict)
            findings.error(
                draft.node.value["container_name"].mark,
                f"services.{name}.container_name",
                f'the container name "{container}" is already in use by service "{owners[container]}"',
                "choose another, or remove it",
            )
        owners.setdefault(container, name)


def _warn_of_networks(drafts: Sequence[Draft], findings: Findings) -> None:
    """One line for all services that share the host's network without saying so."""
    silent = [draft for draft in drafts if not draft.network_named]
    if silent:
        names = ", ".join(draft.spec.name for draft in silent)
        findings.warn(
            silent[0].node.mark,
            f"services.{silent[0].spec.name}.network_mode",
            f"no network mode is named for {names}: the host's network is shared, as project networks come in"
            " a later version",
            "write `network_mode: host` to agree, or `none` for no network",
        )


def _extensions(tree: Node) -> dict[str, Any]:
    assert isinstance(tree.value, dict)
    return {key: _plain(value) for key, value in tree.value.items() if key.startswith("x-")}


def _plain(node: Node) -> Any:
    match node.value:
        case dict() as entries:
            return {key: _plain(item) for key, item in entries.items()}
        case list() as items:
            return [_plain(item) for item in items]
        case value:
            return value
