"""What `up` has to do: the wanted project against what is there, as a plan that prints itself.

Pure. A plan is a list of operations in the order they are carried out; each carries its cause, the sentence
that the user reads. What has not changed is not touched.

Rules: docker/compose pkg/compose/convergence.go. Where a service has more instances than wanted, those go
that are out of date, then those of the highest numbers. New ones have the lowest numbers that are free
(Compose counts on from the highest, so that its names wander).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from supervisor.core.grants import FileGrant, changed_contents
from supervisor.core.graph import waves
from supervisor.core.model import Project, ServiceSpec

Recreate = Literal["changed", "always", "never"]


@dataclass(frozen=True, slots=True)
class Options:
    """What `up` is asked beside the project itself.

    named: the services that were asked for; the others of the project are there for them. Empty: all.
    others: services of the files that are no part of the project now, and so no orphans.
    recreate: what is done with the instances of those named, recreate_needed: with those of the others.
    start: `new` starts what is made only, as at a boot, where policies decide of the rest; `none` nothing.
    grace_s: for what is stopped, instead of its own.
    """

    named: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    recreate: Recreate = "changed"
    recreate_needed: Recreate = "changed"
    start: Literal["all", "new", "none"] = "all"
    orphans: Literal["tell", "ignore", "remove"] = "tell"
    renew_volumes: bool = False
    grace_s: float | None = None

    def of(self, service: str) -> Recreate:
        """What is done with the instances of a service."""
        return self.recreate if not self.named or service in self.named else self.recreate_needed


DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Observed:
    """One instance that is there. `config_hash` and `grants` are what it was made from.

    stand_in: it was to take the place of another one of its number, and has not got there.
    """

    id: str
    name: str
    service: str
    config_hash: str
    up: bool
    grants: tuple[FileGrant, ...] = ()
    number: int = 1
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One step. `id` is empty for what is to be created. start_first: the old one goes when the new is up."""

    verb: Literal["create", "start", "recreate", "keep", "remove", "orphan"]
    service: str
    name: str
    id: str
    cause: str
    number: int = 1
    start_first: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Operations: what goes, then the rest in dependency order; `str()` is one line each."""

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


def reconcile(
    project: Project, hashes: Mapping[str, str], observed: Iterable[Observed], options: Options = DEFAULTS
) -> Plan:
    """hashes: configuration hash by service. observed: all instances of the project."""
    by_service: dict[str, list[Observed]] = {}
    for instance in observed:
        by_service.setdefault(instance.service, []).append(instance)
    specs = {spec.name: spec for spec in project.services}
    needs = {
        spec.name: [*(d.service for d in spec.depends_on), *filter(None, [network_of(spec)])]
        for spec in project.services
    }
    going: list[Operation] = []
    operations: list[Operation] = []
    anew: set[str] = set()
    for wave in waves(needs):
        for service in wave:
            spec = specs[service]
            there = by_service.pop(service, [])
            surplus, staying = _divided(spec, hashes[service], there, options.of(service))
            going += surplus
            made = [
                _of_instance(project.name, spec, hashes[service], each, options, anew) for each in staying
            ]
            made += [
                Operation(
                    "create", service, container_name(project.name, spec, n), "", "it is not there yet", n
                )
                for n in _free_numbers(staying, spec.replicas - len(staying))
            ]
            made.sort(key=lambda op: op.number)
            if made and _first_is_another(there, made[0]):
                anew.add(service)
            operations += made
    left = [each for service in by_service if service not in options.others for each in by_service[service]]
    orphans = [_orphan(each, options) for each in sorted(left, key=lambda each: each.name)]
    going += [op for op in orphans if op.verb == "remove"]
    told = [op for op in orphans if op.verb == "orphan" and options.orphans == "tell"]
    return Plan((*going, *operations, *told))


def _divided(
    spec: ServiceSpec, wanted: str, there: list[Observed], recreate: Recreate
) -> tuple[list[Operation], list[Observed]]:
    """What of a service goes, and the instances that stay."""

    def rank(each: Observed) -> tuple[bool, int]:
        return each.config_hash != wanted and recreate != "never", each.number

    ranked = sorted((each for each in there if not each.stand_in), key=rank)
    unfinished = [each for each in there if each.stand_in]
    count = spec.replicas
    many = "1 instance is wanted" if count == 1 else f"{count} instances are wanted"
    going = [
        *((each, "an update did not come to its end") for each in unfinished),
        *((each, many) for each in sorted(ranked[count:], key=lambda each: -each.number)),
    ]
    surplus = [
        Operation("remove", spec.name, each.name, each.id, cause, each.number) for each, cause in going
    ]
    return surplus, ranked[:count]


def _first_is_another(there: Iterable[Observed], first: Operation) -> bool:
    """Whether the first instance of a service, whose network others may share, is not the one of before."""
    before = min((each for each in there if not each.stand_in), key=lambda each: each.number, default=None)
    return before is None or first.id != before.id or first.verb == "recreate"


def _free_numbers(taken: Iterable[Observed], count: int) -> list[int]:
    """The lowest numbers that nobody has."""
    used = {each.number for each in taken}
    found: list[int] = []
    number = 1
    while len(found) < count:
        if number not in used:
            found.append(number)
        number += 1
    return found


def _of_instance(
    project: str, spec: ServiceSpec, wanted: str, there: Observed, options: Options, anew: set[str]
) -> Operation:
    """What becomes of an instance that stays one. anew: services whose network is made anew."""
    recreate = options.of(spec.name)
    cause = ""
    if recreate == "always":
        cause = "you asked for it"
    elif recreate == "changed" and there.config_hash != wanted:
        cause = ", ".join(changed_contents(there.grants, spec.grants)) or "its definition has changed"
    elif (host := network_of(spec)) in anew:
        cause = f"the network of {host} is made anew"
    name = container_name(project, spec, there.number)
    if cause:
        first = spec.update.order == "start-first" and there.up and options.start != "none"
        return Operation("recreate", spec.name, name, there.id, cause, there.number, first)
    if there.up:
        return Operation("keep", spec.name, there.name, there.id, "unchanged", there.number)
    if options.start != "all":
        return Operation("keep", spec.name, there.name, there.id, "left down", there.number)
    return Operation("start", spec.name, there.name, there.id, "it is down", there.number)


def _orphan(each: Observed, options: Options) -> Operation:
    cause = "no such service in the files any more"
    if options.orphans == "remove":
        return Operation("remove", each.service, each.name, each.id, cause, each.number)
    cause = f"{cause}; `up --remove-orphans`, `down` or `rm` removes it"
    return Operation("orphan", each.service, each.name, each.id, cause, each.number)
