"""cgroup limits and ulimits of a service: `mem_limit` and its kin, `deploy.resources`, `ulimits`.

A limit may be written at the service or below `deploy`; both is an error unless they agree, as in Compose,
for which a `deploy.resources.limits` that leaves a limit out says 0. 0 and -1 mean without limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from supervisor.compose import keys
from supervisor.compose.blocklimits import block_limits
from supervisor.compose.context import Context
from supervisor.compose.names import ULIMITS
from supervisor.compose.problems import nearest
from supervisor.compose.tree import Node, quote
from supervisor.core.cpuset import CPUSET
from supervisor.core.model import Limits, Ulimit

_MINIMUM_MEMORY = 6 * 1024 * 1024
"""moby's linuxMinMemory: less does not hold a process while it is being set up."""

_SAME = {
    "cpus": ("limits", "cpus"),
    "mem_limit": ("limits", "memory"),
    "pids_limit": ("limits", "pids"),
    "mem_reservation": ("reservations", "memory"),
}
_SIZES = ("mem_limit", "memswap_limit", "mem_reservation")
LIMIT_KEYS = (
    *_SIZES,
    "blkio_config",
    "cpu_period",
    "cpu_quota",
    "cpu_shares",
    "cpus",
    "cpuset",
    "mem_swappiness",
    "oom_kill_disable",
    "pids_limit",
)
_WHOLE = {
    # key -> (example, lowest, highest)
    "cpu_shares": ("512", 0, 262_144),
    "cpu_quota": ("50000", -1, 10**12),
    "cpu_period": ("100000", 0, 1_000_000),
    "mem_swappiness": ("60", -1, 100),
    "pids_limit": ("100, or -1 for no limit", -1, 4_194_304),
}


def _figure(context: Context, key: str, node: Node, path: str) -> float | None:
    """The number behind one limit, by its service-level key."""
    reader = context.reader
    if key in _SIZES:
        size = reader.size(node, path)
        lowest = -1
        if size is not None and size < lowest:
            reader.bad(node, path, f"{size} is no limit", "write 512m, or -1 for none")
            return None
        if size is not None and key == "mem_limit" and 0 < size < _MINIMUM_MEMORY:
            reader.bad(node, path, "minimum memory limit allowed is 6MB", "write at least 6m")
            return None
        return size
    if key == "cpus":
        cpus = reader.number(node, path, "0.5")
        if cpus is not None and (cpus < 0 or 0 < cpus < 0.01):
            reader.bad(node, path, f"range of CPUs is from 0.01 on, not {cpus:g}", "write 0.5 for half a CPU")
            return None
        return cpus
    example, low, high = _WHOLE[key]
    value = reader.integer(node, path, example, low, high)
    if value is not None and 0 < value < 1000 and key in ("cpu_quota", "cpu_period"):
        reader.bad(node, path, f"{value} is below a millisecond, 1000", f"write {example}")
        return None
    return value


def _words(
    context: Context, entries: Mapping[str, Node], path: str, model: Limits, document: dict[str, Any]
) -> Limits:
    """The limits that are no figures: `cpuset`, `oom_kill_disable`, `blkio_config`."""
    reader = context.reader
    if "cpuset" in entries:
        cpus = reader.string(entries["cpuset"], f"{path}.cpuset", '"0-1"')
        if cpus and not CPUSET.fullmatch(cpus):
            reader.bad(
                entries["cpuset"], f"{path}.cpuset", f"{quote(cpus)} is no list of CPUs", 'write "0,2-3"'
            )
        elif cpus:
            model = replace(model, cpuset=cpus)
            document["cpuset"] = cpus
    if "oom_kill_disable" in entries and reader.boolean(
        entries["oom_kill_disable"], f"{path}.oom_kill_disable"
    ):
        model = replace(model, oom_kill_disable=True)
        document["oom_kill_disable"] = True
    if "blkio_config" in entries:
        weight, devices, document["blkio_config"] = block_limits(
            context, entries["blkio_config"], f"{path}.blkio_config"
        )
        model = replace(model, blkio_weight=weight, blkio_devices=devices)
    return model


def limits(
    context: Context, entries: Mapping[str, Node], resources: Node | None, path: str
) -> tuple[Limits, dict[str, Any], dict[str, Any] | None]:
    """The limits of a service, its limit keys in canonical form, and `deploy.resources` likewise.

    resources: the node of `deploy.resources`.
    """
    found = {
        key: _figure(context, key, entries[key], f"{path}.{key}")
        for key in (*_SIZES, "cpus", *_WHOLE)
        if key in entries
    }
    deployed, sections, reserved = _resources(context, resources, f"{path}.deploy.resources")
    for key, (section, name) in _SAME.items():
        here = found.get(key)
        if here and section in sections and deployed.get(key, 0) != here:
            context.reader.bad(
                entries[key],
                f"{path}.{key}",
                f"can't set distinct values on '{key}' and 'deploy.resources.{section}.{name}'",
                f"remove `{key}`, or write the same value below deploy.resources.{section}",
            )
        elif not here and deployed.get(key) is not None:
            found[key] = deployed[key]
    _memory_rules(context, entries, resources, found, path)
    document = {key: _canonical(key, found[key]) for key in found if key in entries and found[key]}
    if found.get("cpus") and (found.get("cpu_quota") or found.get("cpu_period")):
        other = "cpu_quota" if found.get("cpu_quota") else "cpu_period"
        context.reader.bad(
            entries[other],
            f"{path}.{other}",
            f"cpus and {other} say the same in two ways, and exclude each other",
            "keep `cpus`",
        )
    below: dict[str, Any] | None = None
    if resources is not None:
        below = {section: {} for section in sections}
        if reserved:
            below["reservations"] |= reserved
        for key, (section, name) in _SAME.items():
            if deployed.get(key):
                below[section][name] = _canonical(key, deployed[key])
    model = _words(context, entries, path, _model(found), document)
    return model, document, below


def _resources(
    context: Context, node: Node | None, path: str
) -> tuple[dict[str, float | None], tuple[str, ...], dict[str, float]]:
    """What `deploy.resources` limits, by the service-level key, its sections, and what it only reserves."""
    reserved: dict[str, float] = {}
    if node is None:
        return {}, (), reserved
    reader = context.reader
    sections = reader.mapping(node, path, keys.RESOURCES, "{limits: {memory: 512m}}") or {}
    found: dict[str, float | None] = {}
    for section, closed in (("limits", keys.LIMITS), ("reservations", keys.RESERVATIONS)):
        if section not in sections:
            continue
        where = f"{path}.{section}"
        for name, value in (reader.mapping(sections[section], where, closed, "{memory: 512m}") or {}).items():
            if (section, name) == ("reservations", "cpus"):
                # It says where a swarm may put a service; on one host every place is the same.
                cpus = _figure(context, "cpus", value, f"{where}.{name}")
                extra = cpus if cpus is None or cpus != int(cpus) else int(cpus)
                if extra:
                    reserved[name] = extra
                continue
            key = next(key for key, place in _SAME.items() if place == (section, name))
            found[key] = _figure(context, key, value, f"{where}.{name}")
    return found, tuple(sections), reserved


def _memory_rules(
    context: Context,
    entries: Mapping[str, Node],
    resources: Node | None,
    found: Mapping[str, float | None],
    path: str,
) -> None:
    """The engine's rules between the three figures."""
    memory = max(found.get("mem_limit") or 0, 0)
    swap = found.get("memswap_limit") or 0
    if swap > 0 and not memory:
        context.reader.bad(
            entries["memswap_limit"],
            f"{path}.memswap_limit",
            "it is memory and swap together, and needs a memory limit",
            "add `mem_limit`",
        )
    elif 0 < swap < memory:
        context.reader.bad(
            entries["memswap_limit"],
            f"{path}.memswap_limit",
            "it includes the memory and must not be below mem_limit",
            "raise it, or write -1 for unlimited swap",
        )
    reservation = found.get("mem_reservation") or 0
    place = entries.get("mem_reservation") or resources
    if memory and reservation > memory and place is not None:
        context.reader.bad(
            place, f"{path}.mem_reservation", "the reservation is above the memory limit", "lower it"
        )


def _canonical(key: str, value: float | None) -> object:
    if value is None:
        return None
    if key in _SIZES:
        return str(int(value))
    if key == "mem_swappiness":
        return str(int(value))
    return float(value) if key == "cpus" and value != int(value) else int(value)


def _model(found: Mapping[str, float | None]) -> Limits:
    def positive(key: str) -> int | None:
        value = found.get(key)
        return int(value) if value is not None and value > 0 else None

    swap = found.get("memswap_limit")
    swappiness = found.get("mem_swappiness")
    return Limits(
        memory_bytes=positive("mem_limit"),
        memory_swap_bytes=int(swap) if swap else None,
        memory_reservation_bytes=positive("mem_reservation"),
        cpus=found.get("cpus") or None,
        cpu_shares=positive("cpu_shares"),
        pids=positive("pids_limit"),
        cpu_quota_us=positive("cpu_quota"),
        cpu_period_us=positive("cpu_period"),
        memory_swappiness=None if swappiness is None or swappiness < 0 else int(swappiness),
    )


def ulimits(context: Context, node: Node, path: str) -> tuple[tuple[Ulimit, ...], dict[str, Any]]:
    """`ulimits`: a number for both limits, or {soft, hard}; -1 is without limit."""
    reader = context.reader
    found: list[Ulimit] = []
    document: dict[str, Any] = {}
    for name, value in (reader.entries(node, path, "{nofile: 65536}") or {}).items():
        where = f"{path}.{name}"
        if name.startswith("x-"):
            continue
        if name not in ULIMITS:
            near = nearest(name, ULIMITS)
            reader.findings.error(
                node.key_mark(name),
                where,
                f"unknown ulimit {quote(name)}",
                f"did you mean `{near}`?" if near else f"one of {', '.join(sorted(ULIMITS))}",
            )
            continue
        if not isinstance(value.value, dict):
            both = reader.integer(value, where, "65536, or {soft: 1024, hard: 65536}", -1)
            if both is not None:
                found.append(Ulimit(name, both, both))
                document[name] = both
            continue
        parts = reader.mapping(value, where, keys.ULIMIT, "{soft: 1024, hard: 65536}") or {}
        for missing in sorted(keys.ULIMIT.known - parts.keys()):
            reader.bad(value, where, f"{missing} is missing", f"add {missing}, or write one number for both")
        soft, hard = (
            reader.integer(parts[part], f"{where}.{part}", "65536", -1) if part in parts else None
            for part in ("soft", "hard")
        )
        if soft is None or hard is None:
            continue
        if hard != -1 and (soft == -1 or soft > hard):
            reader.bad(
                parts["soft"],
                f"{where}.soft",
                f"the soft limit must be less than or equal to the hard limit: {soft} > {hard}",
                "lower it",
            )
        found.append(Ulimit(name, soft, hard))
        document[name] = {"soft": soft, "hard": hard}
    return tuple(sorted(found, key=lambda limit: limit.name)), document
