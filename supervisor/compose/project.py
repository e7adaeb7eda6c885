"""The text of Compose files -> a `Project`, or everything that is wrong with them.

The order of things is Compose's: parse, interpolate each file by itself (values only), merge, validate,
resolve paths and names, choose services, read their env files. Nothing is validated before everything is
merged, and nodes carry their place through all of it, so a message names the file, line and column of what
was written, whichever file it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.compose import keys
from supervisor.compose.build import read_secrets
from supervisor.compose.context import Context
from supervisor.compose.envfiles import project_variables, service_environment
from supervisor.compose.naming import project_name as name_of
from supervisor.compose.problems import Findings, Mark, Problem, in_order
from supervisor.compose.reader import Reader
from supervisor.compose.select import select
from supervisor.compose.service import Draft, read_service
from supervisor.compose.sources import Sources
from supervisor.compose.tree import Node, quote
from supervisor.compose.volumes import read_volumes
from supervisor.core.build import ImageSource
from supervisor.core.model import Project, ServiceSpec

_SERVICE_NAME = re.compile(r"[a-zA-Z0-9._-]+")
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
    sources: where the image of each service of the files comes from, by service, if it has one.
    """

    project: Project
    warnings: tuple[Problem, ...]
    all_services: tuple[ServiceSpec, ...]
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    sources: Mapping[str, ImageSource] = field(default_factory=dict, repr=False)


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
    sources = Sources(findings)
    documents = [document for file in files for document in sources.documents(file)]
    if not files:
        findings.error(Mark(""), "", "no Compose file is named", "name one with -f FILE")
    name = name_of(documents, project_name, default_name or directory, variables, findings)
    variables["COMPOSE_PROJECT_NAME"] = name
    tree = sources.tree(files, directory, variables)
    if tree is None:
        findings.raise_errors(sources.files)
        raise AssertionError("no document and no error")

    reader = Reader(findings)
    top = reader.mapping(tree, "", keys.TOP, "services: {web: {command: sleep 60}}") or {}
    if "name" in top:
        reader.string(top["name"], "name", "my-project")
    volumes, volume_documents = read_volumes(reader, top.get("volumes"), name)
    context = Context(reader, directory, variables, volumes, name)
    context = context._replace(secrets=read_secrets(context, top.get("secrets")))
    drafts = _services(context, top.get("services"), tree)

    active = list(profiles) or [part.strip() for part in variables.get("COMPOSE_PROFILES", "").split(",")]
    chosen = select(drafts, active, services, findings)
    _check_container_names(drafts, chosen, findings)
    _check_contexts(drafts, chosen, findings)
    specs, service_documents = {}, {}
    for each in chosen:
        specs[each], service_documents[each] = _finish(drafts[each], chosen, variables, findings)
    findings.raise_errors(sources.files)
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
        in_order(findings.warnings, sources.files),
        tuple(specs.get(each, drafts[each].spec) for each in sorted(drafts)),
        {
            "services": service_documents,
            "volumes": {volume.key: volume_documents[volume.key] for volume in kept},
            "secrets": _secret_documents(context, [drafts[each] for each in chosen], name),
            "extensions": _extensions(tree),
        },
        {each: source for each in sorted(drafts) if (source := drafts[each].source) is not None},
    )


# --- files and names -----------------------------------------------------------------------------


def _directory_of(files: Sequence[str]) -> str:
    first = next((file for file in files if file != "-"), None)
    return "." if first is None else os.path.dirname(os.path.abspath(first))  # noqa: PTH100, PTH120 - links stay


# --- sections ------------------------------------------------------------------------------------


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


def _secret_documents(context: Context, drafts: Sequence[Draft], project: str) -> dict[str, dict[str, Any]]:
    """Canonical forms of the secrets that builds of the project use."""
    used = {
        secret["source"]
        for draft in drafts
        for secret in draft.document.get("build", {}).get("secrets", ())
        if "source" in secret
    }
    return {
        key: {"name": f"{project}_{key}"}
        | ({"file": secret.path} if secret.path else {"environment": secret.env})
        for key, secret in sorted(context.secrets.items())
        if key in used
    }


def _check_contexts(drafts: Mapping[str, Draft], chosen: Sequence[str], findings: Findings) -> None:
    """`service:NAME` in a build is another service that is built."""
    for name in chosen:
        draft = drafts[name]
        build = draft.source.build if draft.source is not None else None
        for key, text in build.contexts if build is not None else ():
            other = drafts.get(text.removeprefix("service:")) if text.startswith("service:") else draft
            if other is None or other.source is None or other.source.build is None:
                findings.error(
                    draft.node.mark,
                    f"services.{name}.build.additional_contexts",
                    f'service "{name}" declares unknown service {quote(text.removeprefix("service:"))} as'
                    f" additional context {key}",
                    "name a service that has `build`",
                )


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
