"""From a resolved project and what is there to a plan, and the instances that it makes. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.core.graph import DependencyCycleError
from supervisor.core.model import Project
from supervisor.core.reconcile import Observed, Operation, Options, Plan, reconcile
from supervisor.core.replicas import ReplicaError, check_replicas
from supervisor.daemon.engine import Entry
from supervisor.daemon.making import config_hash, is_stand_in, new_instance, stand_in_name
from supervisor.daemon.outcomes import is_down
from supervisor.daemon.state import Stored
from supervisor.runtime.translate import PlanError


def observe(entries: Iterable[Entry]) -> tuple[Observed, ...]:
    """Instances of a project as a plan sees them."""
    return tuple(
        Observed(
            entry.instance.id,
            entry.stored.name,
            entry.stored.spec.name,
            entry.stored.config_hash,
            not is_down(entry.instance),
            entry.stored.spec.grants,
            entry.stored.number,
            is_stand_in(entry.stored),
        )
        for entry in entries
    )


def make_plan(project: Project, entries: Iterable[Entry], options: Options) -> Plan:
    """What `up` would do. entries: those of the project.

    Raises PlanError: services that wait for each other, or that cannot run as often as they should.
    """
    try:
        for spec in project.services:
            check_replicas(spec)
        hashes = {spec.name: config_hash(spec) for spec in project.services}
        return reconcile(project, hashes, observe(entries), options)
    except (DependencyCycleError, ReplicaError) as error:
        raise PlanError(f"cannot bring up {project.name}: {error}") from error


def make_instances(
    project: Project, plan: Plan, everybody: Iterable[Entry], *, renew_volumes: bool
) -> dict[Operation, Stored]:
    """The instances that a plan makes, by its operations. everybody: all instances of this daemon.

    One that takes the place of another has its anonymous volumes, unless `renew_volumes`. Raises PlanError.
    """
    specs = {spec.name: spec for spec in project.services}
    there = {entry.instance.id: entry for entry in everybody}
    going = {op.id for op in plan.operations if op.verb == "remove"}
    names = {
        entry.stored.name: entry.instance.id for entry in there.values() if entry.instance.id not in going
    }
    made = {}
    for op in plan.operations:
        if op.verb not in ("create", "recreate"):
            continue
        if names.get(op.name, op.id) != op.id:
            raise PlanError(
                f"cannot create {op.name}: the name is taken; remove that one, or set container_name"
            )
        spec = specs[op.service]
        before = there.get(op.id)
        kept = None if before is None or renew_volumes else before.stored.spec
        name = stand_in_name(op.id, op.name) if op.start_first else op.name
        made[op] = new_instance(project, spec, name, kept, op.number)
    return made
