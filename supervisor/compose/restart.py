"""`restart`, `deploy.restart_policy` and `x-shipkeeper` -> the restart rules of a service.

How they go together, each over the one before:

1. `restart`: the policy and, for on-failure:N, the number of attempts.
2. `deploy.restart_policy`, if it is there, replaces 1 whole, as `docker compose up` does
   (getRestartPolicy in its pkg/compose/create.go). condition none is `no`, any is `always` and the default
   as the specification says (Compose itself passes an empty name on, and the service is never restarted).
   max_attempts 0 is without limit. delay is the wait before each restart: backoff {initial: delay,
   factor: 1}, and no run is long enough to skip it. window bounds the time over which attempts count, as
   in Swarm; 0 is without bound.
3. `x-shipkeeper`: every value that it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from supervisor.compose import health, keys, units
from supervisor.compose.context import Context
from supervisor.compose.problems import nearest
from supervisor.compose.ready import ready
from supervisor.compose.tree import Node, quote
from supervisor.core.healthcheck import Probe, Ready
from supervisor.core.model import Backoff, Policy, RestartRules, Rootfs
from supervisor.core.signals import SIGNAL_NAMES, signal_number

_CONDITIONS = {
    "none": Policy.NO,
    "no": Policy.NO,
    "on-failure": Policy.ON_FAILURE,
    "any": Policy.ALWAYS,
    "always": Policy.ALWAYS,
    "unless-stopped": Policy.UNLESS_STOPPED,
}
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_NEVER_LONG_ENOUGH_S = 3_153_600_000.0
"""A hundred years: a run never gets so old that the next restart is immediate."""


class Extension(NamedTuple):
    """`x-shipkeeper` of a service: the root file system and changes to the restart rules."""

    rootfs: Rootfs = Rootfs()
    rules: Mapping[str, Any] = MappingProxyType({})
    backoff: Mapping[str, float] = MappingProxyType({})
    document: Mapping[str, Any] = MappingProxyType({})
    probe: Probe | None = None
    on_unhealthy: Literal["ignore", "restart"] = "ignore"
    update: Literal["", "stop-first", "start-first"] = ""
    ready: Ready | None = None


def restart(context: Context, node: Node, path: str) -> tuple[RestartRules, str] | None:
    """`restart` with its canonical text. A YAML false, which an unquoted no is to some editors, is `no`."""
    if node.value is False:
        return RestartRules(), "no"
    hint = "write no, always, on-failure, on-failure:5 or unless-stopped"
    text = context.reader.string(node, path, '"no", always, on-failure:5 or unless-stopped')
    if text is None:
        return None
    name, colon, count = text.partition(":")
    if text == "":
        return RestartRules(), ""
    try:
        policy = Policy(name)
    except ValueError:
        near = nearest(name, [policy.value for policy in Policy])
        context.reader.bad(
            node,
            path,
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or"
            " 'unless-stopped'",
            f"did you mean {near}?" if near else hint,
        )
        return None
    if not colon:
        return RestartRules(policy), text
    if policy is not Policy.ON_FAILURE:
        message = "maximum retry count can only be used with 'on-failure'"
    elif re.fullmatch(r"-[0-9]+", count, re.ASCII):
        message = "maximum retry count cannot be negative"
    elif not re.fullmatch(r"[0-9]{1,9}", count, re.ASCII):
        message = f"maximum retry count must be an integer, not {quote(count)}"
    else:
        return RestartRules(policy, int(count) or None), text
    context.reader.bad(node, path, f"invalid restart policy: {message}", hint)
    return None


def deploy_policy(context: Context, node: Node, path: str) -> tuple[RestartRules, dict[str, Any]] | None:
    """`deploy.restart_policy` with its canonical form."""
    reader = context.reader
    entries = reader.mapping(node, path, keys.RESTART_POLICY, "{condition: on-failure, delay: 5s}")
    if entries is None:
        return None
    document: dict[str, Any] = {}
    rules = RestartRules(Policy.ALWAYS)
    if "condition" in entries:
        condition = reader.choice(entries["condition"], f"{path}.condition", tuple(_CONDITIONS))
        if condition:
            document["condition"] = condition
            rules = replace(rules, policy=_CONDITIONS[condition])
    if "delay" in entries and (delay := reader.duration_ns(entries["delay"], f"{path}.delay")) is not None:
        document["delay"] = units.duration_text(delay)
        if delay:
            wait = delay / 1e9
            rules = replace(
                rules,
                backoff=Backoff(initial_s=wait, factor=1.0, max_s=wait, reset_after_s=_NEVER_LONG_ENOUGH_S),
            )
    if "max_attempts" in entries:
        attempts = reader.integer(entries["max_attempts"], f"{path}.max_attempts", "3", 0, 10**9)
        if attempts is not None:
            document["max_attempts"] = attempts
            rules = replace(rules, max_attempts=attempts or None)
    if (
        "window" in entries
        and (window := reader.duration_ns(entries["window"], f"{path}.window")) is not None
    ):
        document["window"] = units.duration_text(window)
        rules = replace(rules, window_s=window / 1e9 if window else None)
    return rules, document


def extension(context: Context, node: Node, path: str) -> Extension:
    """`x-shipkeeper` of a service, strictly."""
    reader = context.reader
    entries = reader.mapping(node, path, keys.EXTENSION, "{rootfs: ./rootfs, max_attempts: 5}") or {}
    rules: dict[str, Any] = {}
    document: dict[str, Any] = {}
    rootfs = Rootfs()
    backoff: dict[str, float] = {}
    probe: Probe | None = None
    on_unhealthy: Literal["ignore", "restart"] = "ignore"
    update: Literal["", "stop-first", "start-first"] = ""
    wanted: Ready | None = None
    for key, value in entries.items():
        where = f"{path}.{key}"
        match key:
            case "rootfs":
                text = reader.string(value, where, "./rootfs or ./rootfs.tar.zst")
                if text == "":
                    reader.bad(value, where, "it is empty", "write ./rootfs or ./rootfs.tar.zst")
                elif text is not None:
                    full = context.absolute(text)
                    rootfs = Rootfs("archive" if full.endswith(_ARCHIVES) else "directory", full)
                    document[key] = full
            case "backoff":
                backoff, document[key] = _backoff(context, value, where)
            case "max_attempts":
                rules[key] = document[key] = reader.integer(value, where, "5", 0, 10**9)
                # 0 is as in on-failure:0 and in deploy: without limit.
                rules[key] = rules[key] or None
            case "window" | "resume_after":
                example = "10m" if key == "window" else "30m"
                ns = reader.duration_ns(value, where, example)
                if ns == 0:
                    reader.bad(value, where, "it must be more than 0", f"write {example}")
                elif ns is not None:
                    rules[f"{key}_s"] = ns / 1e9
                    document[key] = units.duration_text(ns)
            case "restart_on" | "no_restart_on":
                rules[key] = _exit_codes(context, value, where)
                document[key] = list(rules[key])
            case "probe":
                probe, document[key] = health.probe(context, value, where)
                document[key] = document[key] or None
            case "ready":
                wanted, document[key] = ready(context, value, where)
                document[key] = document[key] or None
            case "on_unhealthy":
                chosen = reader.choice(value, where, ("ignore", "restart"))
                if chosen:
                    document[key] = chosen
                    on_unhealthy = "restart" if chosen == "restart" else "ignore"
            case "update":
                order = reader.choice(value, where, ("stop-first", "start-first"))
                if order:
                    document[key] = order
                    update = "start-first" if order == "start-first" else "stop-first"
            case _:
                choice = reader.choice(value, where, ("ignore", "stop-project"))
                if choice:
                    rules[key] = document[key] = choice
    both = set(rules.get("restart_on", ())) & set(rules.get("no_restart_on", ()))
    if both:
        reader.bad(
            node,
            path,
            f"{', '.join(map(str, sorted(both)))} stands in restart_on and in no_restart_on",
            "no_restart_on wins: remove it from restart_on",
        )
    kept = {key: value for key, value in document.items() if value is not None}
    return Extension(rootfs, rules, backoff, kept, probe, on_unhealthy, update, wanted)


def _backoff(context: Context, node: Node, path: str) -> tuple[dict[str, float], dict[str, Any]]:
    reader = context.reader
    entries = reader.mapping(node, path, keys.BACKOFF, "{initial: 100ms, factor: 2, max: 1m}") or {}
    found: dict[str, float] = {}
    document: dict[str, Any] = {}
    for key, value in entries.items():
        where = f"{path}.{key}"
        if key in ("initial", "max", "reset_after"):
            ns = reader.duration_ns(value, where, "100ms")
            if ns is not None:
                found[f"{key}_s"] = ns / 1e9
                document[key] = units.duration_text(ns)
            continue
        low, high = (1.0, 1000.0) if key == "factor" else (0.0, 1.0)
        number = reader.number(value, where, "2" if key == "factor" else "0.1")
        if number is not None and not low <= number <= high:
            reader.bad(
                value, where, f"{number:g} is not between {low:g} and {high:g}", "write 2 (0.1 for jitter)"
            )
        elif number is not None:
            found[key] = document[key] = number
    initial, maximum = found.get("initial_s", 0.1), found.get("max_s", 60.0)
    if found.get("initial_s") == 0:
        reader.bad(
            entries["initial"],
            f"{path}.initial",
            "it must be more than 0",
            "write 100ms: no wait at all spins",
        )
    if initial > maximum:
        if "max" in entries:
            reader.bad(
                entries["max"], f"{path}.max", "it is below initial", "write at least the value of initial"
            )
        else:
            found["max_s"] = initial
    return found, document


def _exit_codes(context: Context, node: Node, path: str) -> tuple[int, ...]:
    """Exit codes; a signal's name stands for 128+n."""
    codes: set[int] = set()
    example = "[1, 143, SIGKILL]"

    def read(item: Node, where: str) -> None:
        value = item.value
        if isinstance(value, str) and value.isdecimal() and value.isascii():
            value = int(value[:9])
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value <= 255:
                codes.add(value)
            else:
                context.reader.bad(item, where, f"{value} is no exit code", "write 0 to 255")
        elif isinstance(value, str) and (number := signal_number(value)) is not None:
            codes.add(128 + number)
        elif isinstance(value, str):
            near = nearest(value, SIGNAL_NAMES)
            context.reader.bad(
                item,
                where,
                f"{quote(value)} is neither an exit code nor a signal",
                f"did you mean {near}?" if near else f"write {example}",
            )
        else:
            context.reader.wrong(item, where, "an exit code or a signal", example)

    context.reader.each(node, path, f"a list of exit codes and signals: {example}", read)
    return tuple(sorted(codes))


def combine(written: RestartRules | None, deployed: RestartRules | None, changes: Extension) -> RestartRules:
    """The rules of a service from its three sources (see the module's docstring)."""
    rules = deployed or written or RestartRules()
    if changes.backoff:
        backoff = replace(rules.backoff, **changes.backoff)
        if backoff.max_s < backoff.initial_s:
            backoff = replace(backoff, max_s=backoff.initial_s)
        rules = replace(rules, backoff=backoff)
    return replace(rules, **changes.rules)
