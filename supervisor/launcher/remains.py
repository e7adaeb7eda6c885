"""What is left of the dead until it goes: cgroups that the kernel has not let go of, helpers to be reaped."""

from __future__ import annotations

import contextlib

from supervisor.kernel import process
from supervisor.kernel.cgroups import Cgroup
from supervisor.launcher.context import Context
from supervisor.launcher.runs import Child

_AFTER_S = 0.05
_TRIES = 12


class Remains:
    """Removes and reaps, later and again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._going: dict[str, Cgroup] = {}  # by path

    def remove(self, cgroup: Cgroup, *, delay_s: float = _AFTER_S) -> None:
        """Remove a cgroup in which nothing lives, or soon nothing will."""
        self._going[cgroup.path] = cgroup
        self._context.loop.after(delay_s, self._remove, (cgroup, 0))

    def _remove(self, what: tuple[Cgroup, int]) -> None:
        cgroup, tries = what
        if self._going.get(cgroup.path) is not cgroup:
            return
        try:
            if cgroup.remove():
                del self._going[cgroup.path]
                return
            why = "it is still in use"
        except OSError as error:
            why = str(error.strerror)
        if tries < _TRIES:
            self._context.loop.after(min(0.01 * 2**tries, 2.0), self._remove, (cgroup, tries + 1))
        else:
            del self._going[cgroup.path]
            self._context.problem(f"cannot remove the cgroup {cgroup.path}: {why}")

    def reap(self, child: Child) -> None:
        """Reap a child whenever it ends, and close what it has open."""
        self._context.loop.watch_death(child, self._died)

    def _died(self, child: Child) -> None:
        if process.has_ended(child.pidfd):
            process.reap(child.pid)
            self._context.loop.unwatch_death(child)
            child.close()

    def close(self) -> None:
        """Try once more what is still to be removed."""
        for cgroup in self._going.values():
            with contextlib.suppress(OSError):
                cgroup.remove()
