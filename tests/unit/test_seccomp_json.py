"""Docker's JSON profiles: what is read, and what is refused with which words."""

from __future__ import annotations

import json

import pytest

from supervisor.kernel.libseccomp import ALLOW, LOG, Arg, Op, Rule, SeccompError, errno_action
from supervisor.kernel.seccomp_json import Host, parse_profile

AMD64 = Host("amd64", "x86_64", (6, 1), frozenset(("CAP_SYS_PTRACE", "CAP_SYS_TIME")))
ERRNO = {"action": "SCMP_ACT_ERRNO"}
ALLOWED = {"action": "SCMP_ACT_ALLOW"}


def profile(*rules: dict[str, object], **top: object) -> str:
    """The text of a profile."""
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **top})


def names(*rules: dict[str, object], host: Host = AMD64) -> list[str]:
    """The calls of the rules that hold on a host."""
    return [name for rule in parse_profile(profile(*rules), host).rules for name in rule.names]


def test_a_rule_is_read_whole() -> None:
    """Names, action with its errno, and conditions."""
    arg = {"index": 1, "value": 5, "valueTwo": 4, "op": "SCMP_CMP_MASKED_EQ"}
    (rule,) = parse_profile(
        profile({"names": ["a", "b"], **ERRNO, "errnoRet": 38, "args": [arg], "comment": "why"}), AMD64
    ).rules
    assert rule == Rule(("a", "b"), errno_action(38), (Arg(1, Op.MASKED_EQ, 5, 4),))


def test_errno_is_eperm_where_none_is_named() -> None:
    """By default and for the default action, as runc does."""
    read = parse_profile(profile({"name": "a", **ERRNO}), AMD64)
    assert (read.default, read.rules[0].action) == (errno_action(1), errno_action(1))
    assert parse_profile(profile(defaultErrnoRet=38), AMD64).default == errno_action(38)
    assert parse_profile(profile(defaultAction="SCMP_ACT_LOG"), AMD64).default == LOG
    assert parse_profile(profile({"name": "a", **ALLOWED}), AMD64).rules[0].action == ALLOW


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"includes": {"caps": ["CAP_SYS_PTRACE"]}}, True),
        ({"includes": {"caps": ["CAP_SYS_PTRACE", "CAP_SYS_TIME"]}}, True),
        ({"includes": {"caps": ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_SYS_TIME"]}}, False),
        ({"includes": {"arches": ["amd64", "x32"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["s390x"]}}, True),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.10"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {"caps": ["CAP_SYS_TIME"], "arches": ["arm64"]}}, False),
        ({"includes": {}, "excludes": {}}, True),
        ({"includes": None, "excludes": None, "args": None}, True),
        ({"includes": {"arches": []}}, True),
    ],
)
def test_conditions_follow_docker(condition: dict[str, object], holds: bool) -> None:
    """All of includes must hold, none of excludes may."""
    assert names({"names": ["a"], **ALLOWED, **condition}) == (["a"] if holds else [])


def test_architectures_of_this_machine_are_taken() -> None:
    """From archMap those below the native one, else those listed; the native one always."""
    mapped = [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None},
    ]
    assert parse_profile(profile(archMap=mapped), AMD64).arches == ("x86_64", "x86", "x32")
    assert parse_profile(profile(architectures=["SCMP_ARCH_X86"]), AMD64).arches == ("x86_64", "x86")
    assert parse_profile(profile(), AMD64).arches == ("x86_64",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "the profile must be an object"),
        ("{}", "no defaultAction; for no filter at all write"),
        (profile(syscall=[]), "unknown key 'syscall'"),
        (profile(defaultAction="SCMP_ACT_DENY"), "'SCMP_ACT_DENY' is not known"),
        (profile(defaultAction=7), "the profile: defaultAction must be a string, not 7"),
        (profile(flags=["SECCOMP_FILTER_FLAG_LOG"]), "flags .*cannot be honoured"),
        (profile(listenerPath="/run/agent"), "listenerPath"),
        (profile({"names": ["a"], "action": "SCMP_ACT_NOTIFY"}), r"syscalls\[0\].*agent"),
        (profile({"names": ["a"], **ERRNO}, {"names": [], **ERRNO}), r"syscalls\[1\] names no system call"),
        (profile({"names": ["a"], "name": "b", **ERRNO}), "both name and names"),
        (profile({"names": ["a"]}), r"syscalls\[0\] \(a\) has no action"),
        (profile({"names": "a", **ERRNO}), "names must be a list"),
        (profile({"names": ["a"], **ERRNO, "arg": []}), "unknown key 'arg'"),
        (profile({"names": ["a"], **ERRNO, "errnoRet": 5000}), "errno 5000"),
        (profile({"names": ["a"], **ERRNO, "errnoRet": True}), "errnoRet must be a whole number"),
        (profile({"names": ["a"], **ERRNO, "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}), "from 0 to 5"),
        (profile({"names": ["a"], **ERRNO, "args": [{"index": 0, "op": "=="}]}), "unknown op '=='"),
        (
            profile({"names": ["a"], **ERRNO, "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}]}),
            "value must be",
        ),
        (profile({"names": ["a"], **ERRNO, "args": [{"value": 0, "op": "SCMP_CMP_EQ"}]}), "has no index"),
        (profile({"names": ["a"], **ERRNO, "includes": {"cap": []}}), "unknown key 'cap'"),
        (profile({"names": ["a"], **ERRNO, "includes": {"minKernel": "new"}}), 'like "4.8"'),
        (
            profile(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "SCMP_ARCH_X86"}]),
            "use archMap",
        ),
        (profile(architectures=["amd64"]), "names are like SCMP_ARCH_X86_64"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, words: str) -> None:
    """Each mistake is one clear line."""
    with pytest.raises(SeccompError, match=words) as caught:
        parse_profile(text, AMD64)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_rule_for_another_host_is_found_here() -> None:
    """Rules are checked before their conditions."""
    with pytest.raises(SeccompError, match="unknown op"):
        names({"names": ["a"], **ERRNO, "args": [{"index": 0, "op": "?"}], "includes": {"arches": ["arm64"]}})
