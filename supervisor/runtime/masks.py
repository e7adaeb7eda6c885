"""Which parts of the host a service may see in the host view: the rules, and what they hide on this host.

The view is a list of what is shown, not of what is hidden, wherever that is possible:

- Of the top level only /usr, /etc, /opt, /var and the links or directories /bin, /sbin, /lib* are shown.
  /boot /dev /home /media /mnt /proc /root /run /srv /sys /tmp are there, empty; anything else is not there.
- In /etc, everything that not every user of the host may read is hidden: a file is not there, a directory
  is empty. /etc/shadow and gshadow are replaced by copies in which no password is valid. What is readable
  by all and yet the host's own business is listed in `_HIDDEN`.
- In /var, /var/lib, /var/log and /var/spool each directory is there with its owner and mode,
  so that a program finds its place, but empty; files are not there. The package databases are shown.
- The supervisor's own directories are always hidden.
- /usr and /opt are shown as they are; what is secret there is for the administrator to `hide`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

_SHOWN_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "var")
_EMPTY_TOP = ("boot", "dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp")
_ROOMS = ("/var", "/var/lib", "/var/log", "/var/spool")
_KEPT = (
    *_ROOMS,
    *(
        f"/var/lib/{name}"
        for name in (
            "apt",
            "aspell",
            "dictionaries-common",
            "dpkg",
            "emacsen-common",
            "ghostscript",
            "ispell",
            "pacman",
            "pam",
            "python",
            "rpm",
            "sgml-base",
            "texmf",
            "ucf",
            "xml-core",
        )
    ),
)
_HIDDEN = (
    "/etc/*-",
    "/etc/NetworkManager/system-connections",
    "/etc/cloud",
    "/etc/containerd",
    "/etc/crypttab",
    "/etc/docker",
    "/etc/fstab",
    "/etc/krb5.keytab",
    "/etc/kubernetes",
    "/etc/letsencrypt",
    "/etc/machine-id",
    "/etc/rancher",
    "/etc/shipkeeper",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/wireguard",
)
_LOCKED = ("/etc/shadow", "/etc/gshadow")
BOUND_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
"""Every service has its own; they must be plain files in the view, so that they can be bound over."""


@dataclass(frozen=True, slots=True)
class MaskRules:
    """What the administrator changes: absolute normal paths to hide as well, or to show after all.

    The longest rule that covers a path counts; of two alike, `hide`.
    """

    hide: tuple[str, ...] = ()
    show: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Masked:
    """One path of the mask layer.

    absent: not there. empty: an empty directory. file: a file with `content`. parent: a directory that only
    leads to others, and must look as the host's does.
    """

    path: str
    kind: Literal["absent", "empty", "file", "parent"]
    mode: int = 0
    uid: int = 0
    gid: int = 0
    content: str = ""


def masked_paths(rules: MaskRules, root: str = "/") -> list[Masked]:
    """Everything that is hidden on the host whose root is `root`, parents before children, without overlap.

    Only names, owners and modes of the host are looked at, and the text of the two shadow files.
    Raises OSError if `root` cannot be read.
    """
    found: list[Masked] = []
    _walk(_Walk(rules, root.rstrip("/"), found), "", closed=False)
    parents = sorted({parent for item in found for parent in _ancestors(item.path)})
    leading = []
    for path in parents:
        status = os.stat(root.rstrip("/") + path)
        leading.append(Masked(path, "parent", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid))
    return sorted([*leading, *found], key=lambda item: item.path.split("/"))


@dataclass(frozen=True, slots=True)
class _Walk:
    rules: MaskRules
    root: str
    found: list[Masked]


def _walk(walk: _Walk, directory: str, *, closed: bool) -> None:
    """Visit a directory that is shown; `closed`: only because something below it is."""
    try:
        names = sorted(os.listdir(walk.root + directory or "/"))
    except FileNotFoundError:
        return
    for name in names:
        path = f"{directory}/{name}"
        try:
            status = os.lstat(walk.root + path)
        except FileNotFoundError:
            continue
        _visit(walk, path, status, closed=closed)
    if directory == "/etc":
        for path in BOUND_FILES:
            if os.path.basename(path) not in names:
                walk.found.append(Masked(path, "file", 0o644))


def _visit(walk: _Walk, path: str, status: os.stat_result, *, closed: bool) -> None:
    rules, mode = walk.rules, stat.S_IMODE(status.st_mode)
    is_dir = stat.S_ISDIR(status.st_mode)
    ruling = _ruling(path, rules)
    if ruling == "show":
        if is_dir and _leads_to(path, rules.hide):
            _walk(walk, path, closed=False)
        return
    hidden = ruling == "hide" or closed or _hidden_by_default(path, status)
    if is_dir and _leads_to(path, rules.show):
        _walk(walk, path, closed=hidden)
    elif path in _LOCKED and not closed and ruling != "hide":
        content = _locked(_read(walk.root + path))
        walk.found.append(Masked(path, "file", mode, status.st_uid, status.st_gid, content))
    elif hidden:
        placed = path.count("/") > 1 or path[1:] in _EMPTY_TOP or path[1:] in _SHOWN_TOP
        if is_dir and placed and not closed:
            walk.found.append(Masked(path, "empty", mode, status.st_uid, status.st_gid))
        else:
            walk.found.append(Masked(path, "absent"))
    elif path in BOUND_FILES and not stat.S_ISREG(status.st_mode):
        walk.found.append(Masked(path, "file", 0o644))
    elif is_dir and (
        path == "/etc" or path.startswith("/etc/") or path in _ROOMS or _leads_to(path, rules.hide)
    ):
        _walk(walk, path, closed=False)


def _hidden_by_default(path: str, status: os.stat_result) -> bool:
    if path.count("/") == 1:
        return path[1:] not in _SHOWN_TOP
    is_link = stat.S_ISLNK(status.st_mode)
    if any(fnmatchcase(path, pattern) for pattern in _HIDDEN):
        return True
    if path.startswith("/etc/"):
        return not is_link and not status.st_mode & stat.S_IROTH and path not in _LOCKED
    if os.path.dirname(path) in _ROOMS:
        return not is_link and path not in _KEPT
    return False


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _locked(text: str) -> str:
    """A shadow file in which no password is valid: "*" is the hash of nothing (shadow(5))."""
    rows = []
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon:
            rows.append(":".join([name, "*", *rest.split(":")[1:]]) + "\n")
    return "".join(rows)


def _ruling(path: str, rules: MaskRules) -> Literal["hide", "show"] | None:
    """What the administrator said of a path: the longest rule that covers it, of two alike `hide`."""
    hide, show = (
        max((len(rule) for rule in given if path == rule or path.startswith(rule + "/")), default=-1)
        for given in (rules.hide, rules.show)
    )
    if hide == show == -1:
        return None
    return "hide" if hide >= show else "show"


def _leads_to(path: str, places: tuple[str, ...]) -> bool:
    return any(place.startswith(path + "/") for place in places)


def _ancestors(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
