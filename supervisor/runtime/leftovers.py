"""What dead runs left on a host: instance directories, cgroups and mounts that belong to no known instance.

Looking only. Whoever removes something decides with the daemon's state in hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from supervisor.core.paths import Paths, build_of_cgroup
from supervisor.kernel.hierarchies import CgroupSetup
from supervisor.runtime.hostmounts import HostMount

# Below the base of all cgroups, beside those of the instances.
_OWN_CGROUPS = frozenset(("launcher", "daemon", "logwriter", "log-writer", "resolver"))


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing without an owner.

    instance: the id in its path, empty where there is none. alive: a cgroup in which processes run; it must
    not simply be removed.
    """

    kind: Literal["directory", "cgroup", "mount"]
    path: str
    instance: str
    alive: bool = False


def leftovers(
    paths: Paths,
    known_instances: frozenset[str],
    cgroups: CgroupSetup | None,
    mounts: list[HostMount],
    cgroup_base: str = "shipkeeper",
) -> tuple[Leftover, ...]:
    """Everything that belongs to no instance of `known_instances`, mounts first: the order to remove it in.

    mounts: of the host's own namespace; runs mount in theirs, so that any mount below the instances or the
    run directory is a leftover, but where the daemon has its own. cgroup_base: of all instances, below each
    hierarchy. Raises OSError.
    """
    found = [
        *_mounts(paths, mounts),
        *_cgroups(paths, known_instances, cgroups, cgroup_base),
        *_directories(paths, known_instances),
    ]
    return tuple(found)


def begun_runs(setup: CgroupSetup, cgroup_base: str) -> list[tuple[str, int]]:
    """(instance, run) of every run that has a cgroup: whoever began it, and whether or not it lives."""
    root = f"{setup.unified or setup.v1['memory']}/{cgroup_base}"
    return [
        (instance, int(run))
        for instance in _names(root)
        for run in _names(f"{root}/{instance}")
        if run.isdigit()
    ]


def _mounts(paths: Paths, mounts: list[HostMount]) -> Iterator[Leftover]:
    # The innermost first, since the outer ones are busy until then.
    for target in sorted((mount.target for mount in mounts), reverse=True):
        if target.startswith(f"{os.path.realpath(paths.instances)}/"):
            yield Leftover(
                "mount", target, target[len(os.path.realpath(paths.instances)) + 1 :].partition("/")[0]
            )
        elif target.startswith(f"{os.path.realpath(paths.run_dir)}/") and not _is_the_daemons(target, paths):
            yield Leftover("mount", target, "")


def _is_the_daemons(target: str, paths: Paths) -> bool:
    """In a place from which the daemon, when it starts, removes what is not wanted."""
    places = map(os.path.realpath, (paths.network_namespaces, paths.held_mounts, paths.masks))
    return any(f"{target}/".startswith(f"{place}/") for place in places)


def _cgroups(
    paths: Paths, known: frozenset[str], cgroups: CgroupSetup | None, base: str
) -> Iterator[Leftover]:
    for root in sorted(cgroups.places()) if cgroups is not None else ():
        parent = f"{root}/{base.strip('/')}"
        for name in _names(parent):
            if name in known or name in _OWN_CGROUPS or not os.path.isdir(f"{parent}/{name}"):
                continue
            build = build_of_cgroup(name)
            # Of a build that is under way, or that the next build or prune ends.
            if build is None or not os.path.isdir(f"{paths.builds}/{build}"):
                yield Leftover("cgroup", f"{parent}/{name}", name, alive=_populated(f"{parent}/{name}"))


def _directories(paths: Paths, known: frozenset[str]) -> Iterator[Leftover]:
    for name in _names(paths.instances):
        if name not in known:
            yield Leftover("directory", f"{paths.instances}/{name}", name)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _populated(cgroup: str) -> bool:
    for directory, _, _ in os.walk(cgroup):
        try:
            with open(f"{directory}/cgroup.procs") as file:
                if file.read(1):
                    return True
        except OSError:  # removed meanwhile
            continue
    return False
