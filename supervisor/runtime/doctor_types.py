"""What a check says, and what all checks look at: gathered once, when the first of them asks."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Literal

from supervisor.core.paths import Paths
from supervisor.kernel import hierarchies, seccomp, trial
from supervisor.runtime.hostmounts import HostMount, mounts_here
from supervisor.runtime.remnants import Remnant, remnants
from supervisor.runtime.supervisors import living


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `shipkeeper doctor`.

    fail: services cannot run, or not as isolated as they should. warn: something is worse than it could be.
    remedy: what to do, empty when all is well.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


class Examined:
    """The host under examination. Close it: `close` removes what was made to try things in."""

    def __init__(self, paths: Paths, known_instances: frozenset[str], cgroup_base: str) -> None:
        self.paths = paths
        self.known_instances = known_instances
        self.cgroup_base = _cgroup_base(paths) or cgroup_base.strip("/")
        self._made: list[str] = []

    @functools.cached_property
    def mounts(self) -> list[HostMount]:
        """Mounts of this process's namespace."""
        return mounts_here()

    @functools.cached_property
    def cgroups(self) -> hierarchies.CgroupSetup | None:
        """How cgroups are mounted; None where they are not."""
        try:
            return hierarchies.detect()
        except OSError:
            return None

    @functools.cached_property
    def remnants(self) -> tuple[Remnant, ...]:
        """What dead supervisors left in the kernel. Raises OSError."""
        return remnants(self.paths, living(self.cgroups), self.cgroups, self.mounts)

    def mount_of(self, controller: str) -> str | None:
        """Mount point of a controller's hierarchy, or None where it cannot be used."""
        return None if self.cgroups is None else self.cgroups.controllers().get(controller)

    @property
    def unified(self) -> str | None:
        """Mount point of the v2 hierarchy."""
        return None if self.cgroups is None else self.cgroups.unified

    @functools.cached_property
    def filter(self) -> bytes | seccomp.SeccompError:
        """The default filter for a service without capabilities, or why there is none."""
        try:
            return seccomp.compile_default(frozenset())
        except seccomp.SeccompError as problem:
            return problem

    @functools.cached_property
    def attempts(self) -> tuple[trial.Attempt, ...] | OSError:
        """What came of trying a launch on the state directory's file system, or why nothing was tried."""
        try:
            directory = tempfile.mkdtemp(prefix=".shipkeeper-doctor-", dir=existing(self.paths.state_dir))
        except OSError as problem:
            return problem
        try:
            cgroup = None
            if self.unified is not None:
                made = self.trial_cgroup(self.unified)
                cgroup = None if isinstance(made, OSError) else made
            program = self.filter if isinstance(self.filter, bytes) else None
            return trial.trial(directory, cgroup, program)
        except OSError as problem:
            return problem
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def trial_cgroup(self, hierarchy: str) -> str | OSError:
        """An empty cgroup in a hierarchy, beside the instances' if there are any. `close` removes it."""
        base = f"{hierarchy}/{self.cgroup_base}"
        path = f"{base if os.path.isdir(base) else hierarchy}/shipkeeper-doctor-{os.getpid()}"
        if path in self._made:
            return path
        try:
            os.mkdir(path)
        except OSError as problem:
            return problem
        self._made.append(path)
        return path

    def close(self) -> None:
        """Remove the cgroups. One that cannot be removed stays: an empty cgroup does no harm."""
        for path in self._made:
            try:
                os.rmdir(path)
            except OSError:
                continue
        self._made.clear()


def _cgroup_base(paths: Paths) -> str:
    """What the daemon wrote down, which may be a unit's of systemd; empty where none runs."""
    try:
        with open(paths.cgroup_base) as file:
            return file.read().strip()
    except OSError:
        return ""


def existing(path: str) -> str:
    """The path itself or its nearest parent that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
