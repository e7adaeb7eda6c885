"""`deploy` of a service. What only a swarm reads is checked, kept for `config`, and warned of.

`update_config` says how instances are replaced (`core.model.Update`): order, parallelism (1 where it is not
named, as a swarm has it), delay, and failure_action, where rollback is pause: what was not replaced yet runs
on, and what did not come up is left for you to look at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from supervisor.compose import keys, restart, units
from supervisor.compose.context import Context
from supervisor.compose.tree import Node
from supervisor.compose.values import string_pairs
from supervisor.core.model import RestartRules, Update

Document = dict[str, Any]
_SWARM_KEYS = ("endpoint_mode", "labels", "placement", "rollback_config")
_SWARM_UPDATE_KEYS = ("monitor", "max_failure_ratio")
_SWARM = "only a swarm reads it; remove the key"


class Deploy(NamedTuple):
    """What `deploy` says. resources: its node, which `limits` reads."""

    document: Document
    resources: Node | None = None
    rules: RestartRules | None = None
    replicas: int | None = None
    update: Update | None = None


def deploy(context: Context, node: Node, path: str) -> Deploy:
    """`deploy` with its canonical form, but for `resources`."""
    reader = context.reader
    if node.value is None:
        return Deploy({})
    entries = reader.mapping(node, path, keys.DEPLOY, "{resources: {limits: {memory: 512m}}}") or {}
    document: Document = {"resources": {}, "placement": {}}
    rules: RestartRules | None = None
    replicas: int | None = None
    update: Update | None = None
    for key, value in entries.items():
        where = f"{path}.{key}"
        match key:
            case "mode" | "endpoint_mode":
                text = reader.string(value, where, "replicated")
                if key == "mode" and text not in (None, "", "replicated"):
                    reader.bad(
                        value, where, f"not supported: mode {text}", "write replicated; there is one host"
                    )
                elif text:
                    document[key] = text
            case "labels":
                document[key] = dict(sorted(string_pairs(context, value, where).items()))
            case "replicas":
                replicas = reader.integer(value, where, "2", 0, 10_000)
                if replicas is not None:
                    document[key] = replicas
            case "restart_policy":
                found = restart.deploy_policy(context, value, where)
                if found is not None:
                    rules, document[key] = found
            case "update_config":
                update, document[key] = _updating(context, value, where)
            case "rollback_config":
                _, document[key] = _updating(context, value, where)
            case "placement":
                document[key] = _placement(context, value, where)
            case _:
                pass
        if key in _SWARM_KEYS and value.value:
            reader.findings.warn(node.key_mark(key), where, f"{where} has no effect on one host", _SWARM)
    return Deploy(document | context.extensions(node), entries.get("resources"), rules, replicas, update)


def _updating(context: Context, node: Node, path: str) -> tuple[Update, Document]:
    reader = context.reader
    document: Document = {}
    update = Update(parallelism=1)
    told = path.endswith("update_config")  # of rollback_config nothing has an effect, and that is said
    for key, value in (reader.mapping(node, path, keys.UPDATE, "{parallelism: 1}") or {}).items():
        where = f"{path}.{key}"
        if told and key in _SWARM_UPDATE_KEYS:
            reader.findings.warn(node.key_mark(key), where, f"{where} has no effect on one host", _SWARM)
        found: object = None
        match key:
            case "parallelism":
                found = reader.integer(value, where, "1", 0)
                update = replace(update, parallelism=found if isinstance(found, int) else 1)
            case "delay" | "monitor":
                ns = reader.duration_ns(value, where)
                found = None if ns is None else units.duration_text(ns)
                if key == "delay" and ns is not None:
                    update = replace(update, delay_s=ns / 1e9)
            case "max_failure_ratio":
                found = reader.number(value, where, "0.1")
            case "order":
                found = reader.choice(value, where, ("start-first", "stop-first"))
                if found == "start-first":
                    update = replace(update, order="start-first")
            case _:
                found = reader.string(value, where, "pause")
                if found == "continue":
                    update = replace(update, on_failure="continue")
        if found is not None:
            document[key] = found
    return update, document | context.extensions(node)


def _placement(context: Context, node: Node, path: str) -> Document:
    reader = context.reader
    document: Document = {}
    for key, value in (reader.mapping(node, path, keys.PLACEMENT, "{constraints: []}") or {}).items():
        where = f"{path}.{key}"
        if key == "constraints":
            document[key] = reader.strings(value, where, "[node.role==manager]") or []
        elif key == "max_replicas_per_node":
            document[key] = reader.integer(value, where, "1", 0) or 0
        else:
            spread: list[Document] = []

            def read(item: Node, inner: str, into: list[Document] = spread) -> None:
                parts = reader.mapping(item, inner, keys.PREFERENCE, "{spread: node.labels.zone}") or {}
                if "spread" in parts:
                    into.append({"spread": reader.string(parts["spread"], f"{inner}.spread", "zone") or ""})

            reader.each(value, where, "a list of preferences", read)
            document[key] = spread
    return {key: value for key, value in document.items() if value} | context.extensions(node)
