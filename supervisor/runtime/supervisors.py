"""Which supervisors live on this host, of whatever directories: told by the sockets that they have bound.

A run directory is a living one's while its daemon, launcher or log writer has a socket in it. What is in the
kernel has the tag of a state directory in its name (`core.paths`); the files of a run directory say which.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass

from supervisor.core.paths import Paths
from supervisor.kernel.hierarchies import CgroupSetup, read_text

_SOCKETS = ("shipkeeper.sock", "launcher.sock", "log.sock")
CGROUP = re.compile(r"shipkeeper-([0-9a-f]{8})")
_RESOLVER = "resolver"


@dataclass(frozen=True, slots=True)
class Living:
    """run_dirs: of supervisors that live. tags: theirs. unknown: run directories whose tag cannot be told."""

    run_dirs: frozenset[str]
    tags: frozenset[str]
    unknown: tuple[str, ...] = ()


def living(cgroups: CgroupSetup | None, sockets: str = "/proc/net/unix") -> Living:
    """Those of this network namespace, where their bridges are, too. Raises OSError."""
    run_dirs = set()
    for line in read_text(sockets).splitlines():
        directory, _, name = line.rpartition(" ")[2].rpartition("/")
        if name in _SOCKETS:
            run_dirs.add(_without_build(directory))
    tags, unknown = set(), []
    for directory in sorted(run_dirs):
        told = tags_of(directory)
        tags |= told
        # Without a note of its cgroup it is in one with its tag, or at its end.
        if not told and os.path.exists(Paths(run_dir=directory).cgroup_base):
            unknown.append(directory)
    for place in cgroups.places() if cgroups is not None else ():
        tags |= {tag for tag, path in own_cgroups(place) if lives(path)}
    return Living(frozenset(run_dirs), frozenset(tags), tuple(unknown))


def tags_of(run_dir: str) -> set[str]:
    """Of the supervisor of a run directory, as far as its files say it."""
    paths, found = Paths(run_dir=run_dir), set()
    with contextlib.suppress(OSError):
        if state_dir := read_text(paths.networks_active).strip():
            found.add(Paths(state_dir).tag)
    with contextlib.suppress(OSError):
        if named := CGROUP.match(read_text(paths.cgroup_base)):
            found.add(named[1])
    return found


def has_services(run_dir: str, cgroups: CgroupSetup | None) -> bool:
    """Whether somebody lives in the cgroups of a run directory's supervisor: its own, or systemd's unit."""
    base = ""
    with contextlib.suppress(OSError):
        base = read_text(Paths(run_dir=run_dir).cgroup_base).strip()
    places = cgroups.places() if cgroups is not None and base else ()
    return any(lives(f"{place}/{base}") for place in places)


def is_run_dir(directory: str) -> bool:
    """Whether a directory is, or was, some supervisor's."""
    paths = Paths(run_dir=directory)
    return os.path.exists(paths.cgroup_base) or os.path.exists(paths.networks_active)


def own_cgroups(place: str) -> list[tuple[str, str]]:
    """(tag, path) of the cgroups of supervisors in a hierarchy, but for those that are systemd's units."""
    with contextlib.suppress(OSError):
        named = [(CGROUP.fullmatch(name), name) for name in sorted(os.listdir(place))]
        return [(found[1], f"{place}/{name}") for found, name in named if found is not None]
    return []


def lives(cgroup: str) -> bool:
    """Whether somebody is in a supervisor's cgroup but a resolver, which serves nobody alone."""
    for directory, _, _ in os.walk(cgroup):
        if directory == f"{cgroup}/{_RESOLVER}":
            continue
        with contextlib.suppress(OSError):
            if read_text(f"{directory}/cgroup.procs").strip():
                return True
    return False


def _without_build(directory: str) -> str:
    above, builds, _ = directory.rpartition("/builds/")
    return above if builds else directory
