"""The order of services by what they depend on: for starting, and reversed for stopping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter


class DependencyCycleError(Exception):
    """Services that wait for each other; `path` starts and ends with the same one."""

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(f"cannot order the services: {' -> '.join(path)} depend on each other")
        self.path = path


def waves(dependencies: Mapping[str, Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups of names: all that a name depends on is in earlier groups; each group is sorted.

    A dependency that is no key orders nothing. Raises DependencyCycleError.
    """
    known = {
        name: [need for need in sorted(needs) if need in dependencies] for name, needs in dependencies.items()
    }
    sorter = TopologicalSorter(known)
    try:
        sorter.prepare()
    except CycleError as error:
        raise DependencyCycleError(tuple(reversed(error.args[1]))) from None
    result = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        result.append(tuple(ready))
        sorter.done(*ready)
    return tuple(result)
