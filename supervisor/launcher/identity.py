"""Who a process is to be, by the files of its own root and Docker's rules (moby/sys/user GetExecUser).

Plain parsing of /etc/passwd and /etc/group: the modules pwd and grp would ask the host's name services.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

_MAX_ID = 0x7FFF_FFFF


class UnknownIdentityError(Exception):
    """A user or group that the root's files do not know; the text says which."""


class Identity(NamedTuple):
    """groups: for setgroups, the primary one first (CVE-2022-36109)."""

    uid: int
    gid: int
    groups: list[int]
    home: str


class _Passwd(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: list[str]


def resolve(user: str, additional: list[str], root: str = "") -> Identity:
    """Identity of `user` ("", name, uid, name:group, uid:gid) with additional groups (names or numbers).

    A number needs no entry (its group is 0 then); root's is looked up for "". Raises UnknownIdentityError.
    """
    name, _, group = user.partition(":")
    groups = _groups(f"{root}/etc/group")
    entry = _find_user(name or "0", f"{root}/etc/passwd")
    uid = entry.uid if entry else _number(name or "0")
    if uid is None:
        raise UnknownIdentityError(f"unable to find user {name}: no matching entries in passwd file")
    gid, home = (entry.gid, entry.home or "/") if entry else (0, "/")
    supplementary: list[int] = []
    if group:
        gid = _gid(group, groups)
    elif entry:
        supplementary = [item.gid for item in groups if entry.name in item.members]
    supplementary += [_gid(item, groups) for item in additional]
    return Identity(uid, gid, list(dict.fromkeys([gid, *supplementary])), home)


def _find_user(name: str, path: str) -> _Passwd | None:
    """The first entry of that name or number."""
    for row in _lines(path):
        if len(row) >= 6 and name in (row[0], row[2].lstrip("0") or "0"):
            uid, gid = _number(row[2]), _number(row[3])
            if uid is not None and gid is not None:
                return _Passwd(row[0], uid, gid, row[5])
    return None


def _gid(name: str, groups: list[_Group]) -> int:
    for entry in groups:
        if entry.name == name or str(entry.gid) == name:
            return entry.gid
    number = _number(name)
    if number is None:
        raise UnknownIdentityError(f"unable to find group {name}: no matching entries in group file")
    return number


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) <= _MAX_ID else None


def _lines(path: str) -> Iterator[list[str]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return  # a root without the file: numbers still work
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
    except OSError:
        return
    finally:
        os.close(fd)
    for row in b"".join(parts).decode("utf-8", "surrogateescape").split("\n"):
        if row and not row.startswith("#"):
            yield row.strip().split(":")


def _groups(path: str) -> list[_Group]:
    found = []
    for row in _lines(path):
        if len(row) >= 4:
            gid = _number(row[2])
            if gid is not None:
                found.append(_Group(row[0], gid, row[3].split(",")))
    return found
