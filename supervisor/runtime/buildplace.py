"""Where a build's launcher is: a run directory and cgroups of its own, and the end of both.

`<run_dir>/builds/<id>` is held by whoever builds (`kernel.locks.claim`). The cgroups are `build-<id>` below
the base that a daemon noted, else `shipkeeper-<hash>-build-<id>` at the top, which keeps supervisors of one
host apart; the file `cgroup-base` says which. A launcher outlives whoever started it, so what a killed build
left, running or not, the next build or prune ends (`end_killed_builds`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from supervisor.core.paths import Paths, build_cgroup
from supervisor.kernel import hierarchies, locks
from supervisor.kernel.cgroups import Cgroup, kill_all

_ROUNDS = 20
_DEATH_S = 5.0


@dataclass(slots=True)
class BuildPlace:
    """See the module. cgroups: their path below each hierarchy. Made by `make`, and gone with `end`."""

    paths: Paths
    directory: str
    cgroups: str
    _lock: int

    @classmethod
    def make(cls, paths: Paths) -> BuildPlace:
        """A new one, with nothing running in it. Raises OSError."""
        os.makedirs(paths.builds, 0o700, exist_ok=True)
        name = secrets.token_hex(4)
        lock = locks.claim(paths.builds, name)
        made = cls(paths, f"{paths.builds}/{name}", f"{_parent(paths)}{build_cgroup(name)}", lock)
        Path(made._cgroup_file).write_text(f"{made.cgroups}\n")
        os.mkdir(f"{made.directory}/root", 0o755)
        return made

    @property
    def _cgroup_file(self) -> str:
        return Paths(run_dir=self.directory).cgroup_base

    def end(self) -> None:
        """Kill what runs there, and remove all of it. Blocks until that is so."""
        _end_cgroups(self.paths, self.cgroups)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)


def end_killed_builds(paths: Paths) -> None:
    """End what killed builds left running, and remove what they left. Blocks. Raises OSError."""
    if not os.path.isdir(paths.builds):
        return
    for name in locks.unclaimed(paths.builds):
        place = f"{paths.builds}/{name}"
        with contextlib.suppress(OSError):
            _end_cgroups(paths, Path(Paths(run_dir=place).cgroup_base).read_text().strip())
        shutil.rmtree(place, ignore_errors=True)


def _noted(paths: Paths) -> str:
    """The base of the daemon's cgroups; "" where it has none."""
    with contextlib.suppress(OSError):
        return Path(paths.cgroup_base).read_text().strip()
    return ""


def _parent(paths: Paths) -> str:
    noted = _noted(paths)
    return f"{noted}/" if noted else f"{paths.own_cgroup}-"


def _end_cgroups(paths: Paths, base: str) -> None:
    """Kill what is in the cgroups of a build, its launcher too, and remove them."""
    if not base:
        return
    setup = hierarchies.detect()
    for _ in range(_ROUNDS):
        with contextlib.suppress(OSError):
            kill_all(Cgroup(setup, base))  # all at once where the kernel can, also what forks
        members = list(_members(setup, base))
        for pid in members:
            _kill(pid)
        if not members:
            break
    hierarchies.remove_empty(setup, base)
    parent = os.path.dirname(base)
    if parent == paths.own_cgroup and not _noted(paths):
        # The daemon that made it has ended meanwhile, and could not remove what we were in.
        for place in setup.places():
            with contextlib.suppress(OSError):
                os.rmdir(f"{place}/{parent}")


def _members(setup: hierarchies.CgroupSetup, base: str) -> set[int]:
    found: set[int] = set()
    for place in setup.places():
        for directory, _, _ in os.walk(f"{place}/{base}"):
            with contextlib.suppress(OSError):
                text = hierarchies.read_text(f"{directory}/cgroup.procs")
                found.update(int(pid) for pid in text.split() if pid != "0")
    return found


def _kill(pid: int) -> None:
    """End one process and wait for it, for a moment."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], _DEATH_S)
    except OSError:
        pass
    finally:
        os.close(pidfd)
