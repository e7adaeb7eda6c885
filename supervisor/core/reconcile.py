"""What `up` has to do: the wanted project against what is there, as a plan that prints itself.

Pure. A plan is a list of operations in the order they are carried out; each carries its cause, the sentence
that the user reads. What has not changed is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from supervisor.core.grants import FileGrant, changed_contents
from supervisor.core.graph import waves
from supervisor.core.model import Project, ServiceSpec


@dataclass(frozen=True, slots=True)
class Observed:
    """One instance that is there. `config_hash` and `grants` are what it was made from."""

    id: str
    name: str
    service: str
    config_hash: str
    up: bool
    grants: tuple[FileGrant, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One step. `id` is empty for what is to be created."""

    verb: Literal["create", "start", "recreate", "keep", "orphan"]
    service: str
    name: str
    id: str
    cause: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Operations in dependency order; `str()` is one line each."""

    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return "\n".join(f"{op.verb:8} {op.name}: {op.cause}" for op in self.operations)


def container_name(project: str, spec: ServiceSpec, number: int = 1) -> str:
    """Compose's rule: container_name, or project-service-number."""
    return spec.container_name or f"{project}-{spec.name}-{number}"


def network_of(spec: ServiceSpec) -> str | None:
    """The service of the same project in whose network this one is (`network_mode: service:NAME`)."""
    kind, _, name = spec.network_mode.partition(":")
    return name if kind == "service" and name else None


def reconcile(project: Project, hashes: Mapping[str, str], observed: tuple[Observed, ...]) -> Plan:
    """hashes: configuration hash by service. observed: all instances of the project, by name."""
    by_service = {instance.service: instance for instance in observed}
    needs = {
        spec.name: [*(d.service for d in spec.depends_on), *filter(None, [network_of(spec)])]
        for spec in project.services
    }
    operations: list[Operation] = []
    anew: set[str] = set()
    for wave in waves(needs):
        for service in wave:
            spec = project.service(service)
            name = container_name(project.name, spec)
            there = by_service.pop(service, None)
            if there is None:
                operations.append(Operation("create", service, name, "", "it is not there yet"))
            elif there.config_hash != hashes[service]:
                contents = changed_contents(there.grants, spec.grants)
                cause = ", ".join(contents) or "its definition has changed"
                operations.append(Operation("recreate", service, name, there.id, cause))
            elif (host := network_of(spec)) in anew:
                cause = f"the network of {host} is made anew"
                operations.append(Operation("recreate", service, name, there.id, cause))
            elif not there.up:
                operations.append(Operation("start", service, name, there.id, "it is down"))
            else:
                operations.append(Operation("keep", service, name, there.id, "unchanged"))
            if operations[-1].verb in ("create", "recreate"):
                anew.add(service)
    for left in sorted(by_service.values(), key=lambda instance: instance.name):
        cause = "no such service in the files any more; `down` or `rm` removes it"
        operations.append(Operation("orphan", left.service, left.name, left.id, cause))
    return Plan(tuple(operations))
