"""Giving up privileges, in the one order that works (capabilities(7), Docker's rules for root and others)."""

from __future__ import annotations

import os
from collections.abc import Callable

from supervisor.kernel import syscalls as sc
from supervisor.kernel.hierarchies import read_text


def last_capability() -> int:
    """The highest capability number that this kernel knows."""
    return int(read_text("/proc/sys/kernel/cap_last_cap"))


def bound(caps: list[int], last_cap: int) -> None:
    """Leave `caps` in the bounding set, and nothing else; what the process has, it keeps. Raises OSError."""
    keep = frozenset(caps)
    for number in range(last_cap + 1):
        if number not in keep:
            sc.prctl(sc.PR_CAPBSET_DROP, number)


def become(uid: int, gid: int, groups: list[int], caps: list[int]) -> None:
    """Take on an identity for good, after `bound`: groups, gid, uid, capabilities.

    Root gets `caps` as permitted and effective set, another user none. Inheritable and ambient are empty.
    Raises OSError; the process must not go on after that.
    """
    sc.prctl(sc.PR_SET_KEEPCAPS, 1)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    sc.prctl(sc.PR_SET_KEEPCAPS, 0)
    mask = sum(1 << number for number in caps) if uid == 0 else 0
    sc.capset(mask, mask, 0)
    sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)


def confine(
    identity: Callable[[], None],
    close_descriptors: Callable[[], None],
    *,
    no_new_privs: bool,
    seccomp: bytes | None,
) -> None:
    """Run `identity` and load the filter, in the order that each case needs.

    With no_new_privs the filter is the last act, so a profile need not allow what comes before. Without
    it the kernel wants CAP_SYS_ADMIN for the filter, so it is loaded before the identity changes;
    descriptors are closed before it in both cases. Raises OSError.
    """
    close_descriptors()
    if seccomp is not None and not no_new_privs:
        sc.load_seccomp(seccomp)
    identity()
    if no_new_privs:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
        if seccomp is not None:
            sc.load_seccomp(seccomp)
