"""The text of Compose files -> a `Project`, or everything that is wrong with them.

The order of things is Compose's: `sources` makes one tree of all files; then it is validated and resolved,
services are chosen, and their env files read. Nothing is validated before everything is merged, and nodes
carry their place through all of it, so a message names the file, line and column of what was written,
whichever file it came from.

The canonical form that `config` prints is made beside the model, by the same readers: one place knows both
what a key means and how Compose writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.compose import grants, keys
from supervisor.compose.context import Context
from supervisor.compose.document import normalized
from supervisor.compose.envfiles import project_variables, service_environment, service_labels
from supervisor.compose.naming import project_name as name_of
from supervisor.compose.networks import read_networks
from supervisor.compose.paths import Anchoring
from supervisor.compose.problems import Findings, Mark, Problem, in_order
from supervisor.compose.reader import Reader
from supervisor.compose.select import select
from supervisor.compose.service import Draft, read_service
from supervisor.compose.sources import Sources
from supervisor.compose.tree import Node, plain, quote
from supervisor.compose.variables import Variable, variables_of
from supervisor.compose.volumes import read_volumes
from supervisor.core.build import ImageSource
from supervisor.core.model import Mount, Project, ServiceSpec

_SERVICE_NAME = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A project with what was doubtful in its files.

    all_services: every service of the files, also those that are not part of the project because of their
        profiles or because others were named; these have no variables from their env files.
    documents: canonical form of each service of the project, of its volumes, networks, configs and secrets,
        and of top-level x- keys (`config_document` puts them together).
    unresolved: of each service of the project, what its canonical form has where env files are left apart.
    sources: where the image of each service of the files comes from, by service, if it has one.
    profiles: all that the files name. variables: what the files could use, `.env` and shell.
    """

    project: Project
    warnings: tuple[Problem, ...]
    all_services: tuple[ServiceSpec, ...]
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    sources: Mapping[str, ImageSource] = field(default_factory=dict, repr=False)
    unresolved: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    profiles: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


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
    not_yet: Mapping[tuple[str, str], str] = keys.NOT_YET,
    keep_paths: bool = False,
    read_env_files: bool = True,
    dependencies: bool = True,
) -> Loaded:
    """Load a project from its Compose files ("-" is standard input), the later over the earlier.

    project_name: -p; else COMPOSE_PROJECT_NAME, `name:`, default_name, the name of the project directory.
    project_dir: where relative paths and `.env` are; by default the directory of the first file.
    env: the shell's variables; os.environ is not read. env_files: instead of `.env`.
    profiles: active ones; by default COMPOSE_PROFILES. services: only these and, with `dependencies`, what
    they depend on.
    not_yet: what is refused, as it has no executing part. keep_paths: relative ones stay, and
    read_env_files: those of services are not read if it is False, for `config` alone.

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

    reader = Reader(findings, not_yet)
    top = reader.mapping(tree, "", keys.TOP, "services: {web: {command: sleep 60}}") or {}
    if "name" in top:
        reader.string(top["name"], "name", "my-project")
    context = Context(reader, directory, variables, project=name, keep_paths=keep_paths)
    volumes, volume_documents = read_volumes(context, top.get("volumes"))
    networks, network_documents = read_networks(context, top.get("networks"))
    configs, config_documents, config_places = grants.read_sources(context, top.get("configs"), "config")
    secrets, secret_documents, secret_places = grants.read_sources(context, top.get("secrets"), "secret")
    context = context._replace(volumes=volumes, networks=networks, configs=configs, secrets=secrets)
    drafts = _services(context, top.get("services"), tree)

    active = list(profiles) or [part.strip() for part in variables.get("COMPOSE_PROFILES", "").split(",")]
    members = select(drafts, active, services, findings)
    chosen = members if dependencies or not services else sorted(set(services).intersection(members))
    _check_container_names(drafts, chosen, findings)
    _check_contexts(drafts, chosen, findings)
    specs: dict[str, ServiceSpec] = {}
    service_documents: dict[str, dict[str, Any]] = {}
    unresolved: dict[str, dict[str, Any]] = {}
    for each in chosen:
        specs[each], service_documents[each], unresolved[each] = _finish(
            drafts, each, members, context, read_env_files=read_env_files
        )
    used = _Used([drafts[each] for each in chosen], specs.values())
    kept_sources = [
        grants.with_digest(source, variables, place, findings)
        for known, places, wanted in (
            (configs, config_places, used.configs),
            (secrets, secret_places, used.secrets),
        )
        for key, source in sorted(known.items())
        if key in wanted
        for place in [places[key]]
    ]
    findings.raise_errors(sources.files)

    kept = sorted(
        (volume for volume in volumes.values() if volume.name in used.volumes), key=lambda one: one.key
    )
    joined = sorted(key for key, network in networks.items() if network.name in used.networks)
    return Loaded(
        Project(
            name,
            directory,
            tuple(file if file == "-" else os.path.abspath(file) for file in files),  # noqa: PTH100
            tuple(specs[each] for each in sorted(specs)),
            tuple(kept),
            tuple(networks[key] for key in joined),
            tuple(kept_sources),
            named=bool(project_name or env.get("COMPOSE_PROJECT_NAME")),
        ),
        in_order(findings.warnings, sources.files),
        tuple(specs.get(each, drafts[each].spec) for each in sorted(drafts)),
        {
            "services": service_documents,
            "networks": {key: network_documents[key] for key in joined},
            "volumes": {volume.key: volume_documents[volume.key] for volume in kept},
            "secrets": {
                key: secret_documents[key]
                for key in sorted(secrets)
                if key in used.secrets | used.build_secrets
            },
            "configs": {key: config_documents[key] for key in sorted(configs) if key in used.configs},
            "extensions": _extensions(tree),
        },
        {each: source for each in sorted(drafts) if (source := drafts[each].source) is not None},
        unresolved,
        tuple(sorted({profile for draft in drafts.values() for profile in draft.spec.profiles})),
        variables,
    )


def merged_document(
    files: Sequence[str],
    *,
    project_name: str | None,
    project_dir: str | None,
    env: Mapping[str, str],
    env_files: Sequence[str] = (),
    interpolate: bool = True,
    normalize: bool = True,
    keep_paths: bool = False,
) -> dict[str, Any]:
    """The files as one document: what they include and extend filled in and merged, but nothing validated.

    Lists of pairs are mappings; other short forms stay as they are written. interpolate: variables are
    replaced. normalize: names of resources and the default network are filled in. Raises ComposeErrors.
    """
    findings = Findings()
    directory = os.path.abspath(project_dir or _directory_of(files))  # noqa: PTH100 - links stay
    variables = project_variables(directory, env, env_files, findings)
    sources = Sources(findings, plain=not interpolate)
    documents = [document for file in files for document in sources.documents(file)]
    name = name_of(documents, project_name, directory, variables, findings)
    variables["COMPOSE_PROJECT_NAME"] = name
    tree = sources.tree(files, directory, variables)
    findings.raise_errors(sources.files)
    assert tree is not None, "no document and no error"
    if not keep_paths:
        tree = Anchoring(directory, variables.get("HOME", "~")).document(tree)
    document: dict[str, Any] = plain(tree)
    document.pop("version", None)
    if not normalize:
        return document
    return {"name": name} | normalized(document, name)


def file_variables(files: Sequence[str]) -> list[Variable]:
    """The variables that files name, by name. Raises ComposeErrors."""
    findings = Findings()
    sources = Sources(findings)
    documents = [document for file in files for document in sources.documents(file)]
    findings.raise_errors(sources.files)
    return variables_of(documents)


class _Used:
    """Which resources the services of a project use: full names of volumes and networks, keys of files."""

    def __init__(self, drafts: Sequence[Draft], specs: Iterable[ServiceSpec]) -> None:
        specs = list(specs)
        self.volumes = {mount.source for spec in specs for mount in spec.mounts if mount.type == "volume"}
        self.networks = {place.network for spec in specs for place in spec.networks}
        self.configs = self._grants(specs, "config")
        self.secrets = self._grants(specs, "secret")
        self.build_secrets = {
            secret["source"]
            for draft in drafts
            for secret in draft.document.get("build", {}).get("secrets", ())
            if "source" in secret
        }

    @staticmethod
    def _grants(specs: Sequence[ServiceSpec], kind: str) -> set[str]:
        return {grant.source for spec in specs for grant in spec.grants if grant.kind == kind}


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
    drafts: Mapping[str, Draft], name: str, chosen: Collection[str], context: Context, *, read_env_files: bool
) -> tuple[ServiceSpec, dict[str, Any], dict[str, Any]]:
    """A service with all its variables, labels and shared volumes, without optional dependencies that are not
    in the project; its canonical form; and what that has where env files are left apart.
    """
    draft, findings = drafts[name], context.reader.findings
    read = draft if read_env_files else draft._replace(env_files=())
    environment = service_environment(read, context.env, findings)
    labels = service_labels(draft, findings)
    spec = replace(
        draft.spec,
        environment=tuple(sorted((key, value) for key, value in environment.items() if value is not None)),
        labels=tuple(sorted(labels.items())),
        depends_on=tuple(need for need in draft.spec.depends_on if need.service in chosen),
        mounts=_shared(drafts, draft, findings, ()),
    )
    document = dict(draft.document)
    if labels:
        document["labels"] = dict(sorted(labels.items()))
    alone = dict(document)
    document.pop("env_file", None)
    document.pop("label_file", None)
    if environment:
        document["environment"] = dict(sorted(environment.items()))
    written = service_environment(draft._replace(env_files=()), context.env, findings)
    alone.pop("environment", None)
    if written:
        alone["environment"] = dict(sorted(written.items()))
    return spec, document, alone


def _shared(
    drafts: Mapping[str, Draft], draft: Draft, findings: Findings, chain: tuple[str, ...]
) -> tuple[Mount, ...]:
    """The mounts of a service with those of `volumes_from`, which its own replace by their target."""
    found: dict[str, Mount] = {}
    for name, read_only, node in draft.volumes_from:
        other = drafts.get(name)
        if other is None or name in chain or other is draft:
            continue  # an unknown or circular dependency, which is noted
        for mount in _shared(drafts, other, findings, (*chain, draft.spec.name)):
            if mount.type == "volume" and mount.source is None:
                findings.error(
                    node.mark,
                    f"services.{draft.spec.name}.volumes_from",
                    f"the volume {mount.target} of {quote(name)} has no name, and cannot be shared",
                    "declare a volume, and mount it in both services",
                )
            elif mount.type != "tmpfs":
                found[mount.target] = replace(mount, read_only=mount.read_only or read_only)
    if not found:
        return draft.spec.mounts
    return tuple((found | {mount.target: mount for mount in draft.spec.mounts}).values())


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


def _extensions(tree: Node) -> dict[str, Any]:
    assert isinstance(tree.value, dict)
    return {key: plain(value) for key, value in tree.value.items() if key.startswith("x-")}
