"""Docker's JSON profiles (`security_opt: seccomp=FILE.json`), read strictly.

The format is that of moby/profiles (seccomp/seccomp.go): an OCI `linux.seccomp` whose rules may be
conditional on capabilities, architectures and the kernel. An unknown key is refused: in a rule whose
`args` is misspelt everything would be allowed that was to be looked at.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from supervisor.kernel.libseccomp import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    TRAP,
    Arg,
    Op,
    Profile,
    Rule,
    SeccompError,
    errno_action,
    trace_action,
)


class Host(NamedTuple):
    """What the conditions of a profile are held against.

    machine: as Go and Docker name it ("amd64", "arm64"); arch: libseccomp's name of it ("x86_64", "aarch64").
    caps: the bounding set of the service. kernel: major and minor version.
    """

    machine: str
    arch: str
    kernel: tuple[int, int]
    caps: frozenset[str]


_TOP_KEYS = frozenset(
    [
        "defaultAction",
        "defaultErrnoRet",
        "defaultErrno",
        "architectures",
        "archMap",
        "syscalls",
        "flags",
        "comment",
        "listenerPath",
        "listenerMetadata",
    ]
)
_RULE_KEYS = frozenset(
    ["name", "names", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"]
)
_ARG_KEYS = frozenset(["index", "value", "valueTwo", "op"])
_CONDITION_KEYS = frozenset(["caps", "arches", "minKernel"])
_PLAIN_ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_TRAP": TRAP,
}
_OPERATORS = {f"SCMP_CMP_{op.name}": op for op in Op}
_EPERM = 1
_LAST_ARGUMENT = 5


def parse_profile(text: str, host: Host) -> Profile:
    """The rules of a profile that hold on this host. Raises SeccompError, which says where and what."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise SeccompError(f"it is no JSON: {problem}") from problem
    top = _Node(raw, "the profile").object(_TOP_KEYS)
    if "defaultAction" not in top:
        raise SeccompError(
            "it has no defaultAction; for no filter at all write security_opt: [seccomp=unconfined]"
        )
    for key in ("flags", "listenerPath", "listenerMetadata"):
        wanted = top[key].value if key in top else None
        # TSYNC is without effect: a service begins as one thread.
        if wanted not in (None, "", [], ["SECCOMP_FILTER_FLAG_TSYNC"]):
            raise SeccompError(f"its {key} ({json.dumps(wanted)}) cannot be honoured here; remove the key")
    default_errno = top["defaultErrnoRet"].optional_number(0xFFFF) if "defaultErrnoRet" in top else None
    rules: list[Rule] = []
    if "syscalls" in top:
        for node in top["syscalls"].items():
            rule = _rule(node, host)
            if rule is not None:
                rules.append(rule)
    return Profile(_action(top["defaultAction"], default_errno), _arches(top, host), tuple(rules))


class _Node:
    """A value and where it stands; each method checks the kind and raises SeccompError."""

    def __init__(self, value: object, where: str) -> None:
        self.value = value
        self.where = where

    def fail(self, what: str) -> SeccompError:
        return SeccompError(f"{self.where} {what}, not {json.dumps(self.value)[:60]}")

    def object(self, keys: frozenset[str]) -> dict[str, _Node]:
        if not isinstance(self.value, dict):
            raise self.fail("must be an object")
        unknown = sorted(str(key) for key in self.value if key not in keys)
        if unknown:
            raise SeccompError(
                f"{self.where} has an unknown key {unknown[0]!r}; known are {', '.join(sorted(keys))}"
            )
        return {
            key: _Node(value, f"{self.where}: {key}")
            for key, value in self.value.items()
            if value is not None
        }

    def items(self) -> list[_Node]:
        if not isinstance(self.value, list):
            raise self.fail("must be a list")
        return [_Node(value, f"{self.where}[{number}]") for number, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.fail("must be a string")
        return self.value

    def texts(self) -> list[str]:
        return [node.text() for node in self.items()]

    def number(self, last: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value <= last:
            raise self.fail(f"must be a whole number from 0 to {last}")
        return self.value

    def optional_number(self, last: int) -> int | None:
        return None if self.value is None else self.number(last)


def _rule(node: _Node, host: Host) -> Rule | None:
    fields = node.object(_RULE_KEYS)
    # Checked in full before its conditions, so that an error does not wait for another host.
    names = fields["names"].texts() if "names" in fields else []
    if "name" in fields:
        if names:
            raise SeccompError(f"{node.where} has both name and names; use names")
        names = [fields["name"].text()]
    if not names or "" in names:
        raise SeccompError(f"{node.where} names no system call")
    if "action" not in fields:
        raise SeccompError(f"{node.where} ({names[0]}) has no action")
    returned = fields["errnoRet"].number(0xFFFF) if "errnoRet" in fields else None
    action = _action(fields["action"], returned)
    args = tuple(_arg(arg) for arg in fields["args"].items()) if "args" in fields else ()
    excluded = "excludes" in fields and any(_conditions(fields["excludes"], host))
    included = "includes" not in fields or all(_conditions(fields["includes"], host))
    return Rule(tuple(names), action, args) if included and not excluded else None


def _conditions(node: _Node, host: Host) -> list[bool]:
    """One truth for each condition: a rule is included if all hold, excluded if one does (moby)."""
    fields = node.object(_CONDITION_KEYS)
    held = [cap in host.caps for cap in fields["caps"].texts()] if "caps" in fields else []
    if "arches" in fields and (arches := fields["arches"].texts()):
        held.append(host.machine in arches)
    if "minKernel" in fields:
        text = fields["minKernel"].text()
        match = re.fullmatch(r"(\d+)\.(\d+)", text)
        if match is None:
            raise SeccompError(f'{fields["minKernel"].where} must be like "4.8", not {text!r}')
        held.append(host.kernel >= (int(match[1]), int(match[2])))
    return held


def _action(node: _Node, returned: int | None) -> int:
    name = node.text()
    try:
        match name:
            case "SCMP_ACT_ERRNO":
                return errno_action(_EPERM if returned is None else returned)
            case "SCMP_ACT_TRACE":
                return trace_action(_EPERM if returned is None else returned)
            case "SCMP_ACT_NOTIFY":
                raise SeccompError("SCMP_ACT_NOTIFY needs an agent that decides, and there is none here")
    except SeccompError as problem:
        raise SeccompError(f"{node.where}: {problem}") from problem
    if name not in _PLAIN_ACTIONS:
        raise SeccompError(
            f"{node.where} {name!r} is not known; use SCMP_ACT_ERRNO, SCMP_ACT_ALLOW, SCMP_ACT_LOG ..."
        )
    return _PLAIN_ACTIONS[name]


def _arg(node: _Node) -> Arg:
    fields = node.object(_ARG_KEYS)
    for key in ("index", "op"):
        if key not in fields:
            raise SeccompError(f"{node.where} has no {key}")
    op = fields["op"].text()
    if op not in _OPERATORS:
        raise SeccompError(f"{node.where} has an unknown op {op!r}; use {', '.join(_OPERATORS)}")
    value, value_two = (
        fields[key].number(2**64 - 1) if key in fields else 0 for key in ("value", "valueTwo")
    )
    return Arg(fields["index"].number(_LAST_ARGUMENT), _OPERATORS[op], value, value_two)


def _arches(top: dict[str, _Node], host: Host) -> tuple[str, ...]:
    """The native architecture is always among them, named or not: libseccomp begins with it."""
    listed = top["architectures"].items() if "architectures" in top else []
    mapped = top["archMap"].items() if "archMap" in top else []
    if listed and mapped:
        raise SeccompError("it has both architectures and archMap; use archMap")
    names = [_arch(node) for node in listed]
    for node in mapped:
        fields = node.object(frozenset(("architecture", "subArchitectures")))
        if "architecture" not in fields:
            raise SeccompError(f"{node.where} has no architecture")
        subs = fields["subArchitectures"].items() if "subArchitectures" in fields else []
        if _arch(fields["architecture"]) == host.arch:
            names += [host.arch, *(_arch(sub) for sub in subs)]
    return tuple(dict.fromkeys((host.arch, *names)))


def _arch(node: _Node) -> str:
    name = node.text()
    if not name.startswith("SCMP_ARCH_"):
        raise SeccompError(f"{node.where} {name!r} is not known; names are like SCMP_ARCH_X86_64")
    return name.removeprefix("SCMP_ARCH_").lower()
