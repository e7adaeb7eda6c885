"""Cgroups of runs on pure v2, hybrid and pure v1 hosts, behind one class.

A run has one path below the mount point of every hierarchy that it uses. On v2 and hybrid hosts it always
has a cgroup in the v2 hierarchy (kill, freeze, events); on hybrid and v1 also one in the v1 controllers that
it needs. `hierarchies` says which there are.
"""

from __future__ import annotations

import contextlib
import errno
import os

from supervisor.kernel.hierarchies import (
    CONTROLLERS,
    CgroupSetup,
    enable_controllers,
    inherit_cpuset,
    read_text,
    write_text,
)
from supervisor.kernel.limitfiles import Limits, Row, v1_files, v2_files, write_limits


class Cgroup:
    """The cgroup of one run. Holds no descriptor: every call opens what it needs. All raise OSError."""

    __slots__ = ("_v1", "path", "setup")

    def __init__(self, setup: CgroupSetup, path: str) -> None:
        """Of what exists already (or not yet: see `create`)."""
        self.setup = setup
        self.path = path
        self._v1: dict[str, str] | None = None

    # --- making and removing --------------------------------------------------------------------
    def create(self, limits: Limits) -> None:
        """Make it, empty, with these limits. One that is left over from earlier is used again if it is empty.

        Raises OSError, ENOTSUP where the host has no controller for a limit; nothing is left behind.
        """
        wanted = self._wanted(limits)
        try:
            if self.setup.unified is not None:
                self._create_v2(v2_files(limits) if self.setup.mode == "unified" else [])
            if self.setup.mode != "unified":
                self._create_v1(limits, wanted)
        except OSError:
            self.remove()
            raise

    def _wanted(self, limits: Limits) -> list[str]:
        """v1 controllers to be in: memory for accounting and oom; the others cost, so only when limited."""
        names = ["memory"]
        if self.setup.mode == "legacy":
            names += ["freezer", "cpuacct"]
        names += [name for name, _, _ in v1_files(limits)]
        return [name for name in dict.fromkeys(names) if name in self.setup.v1]

    def _create_v2(self, rows: list[Row]) -> None:
        assert self.setup.unified is not None
        parent, _, _ = self.path.rpartition("/")
        if self.setup.mode == "unified":
            extra = {controller for controller, _, _ in rows} - set(CONTROLLERS)
            enable_controllers(self.setup.unified, parent, (*CONTROLLERS, *sorted(extra)))
        else:
            os.makedirs(f"{self.setup.unified}/{parent}", exist_ok=True)
        directory = f"{self.setup.unified}/{self.path}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        write_limits(rows, dict.fromkeys((controller for controller, _, _ in rows), directory))

    def _create_v1(self, limits: Limits, wanted: list[str]) -> None:
        rows = v1_files(limits)
        for controller, name, _ in rows:
            if controller not in self.setup.v1:
                raise OSError(errno.ENOTSUP, f"cannot set {name}: the host has no {controller} controller")
        self._v1 = {}
        for controller in wanted:
            directory = f"{self.setup.v1[controller]}/{self.path}"
            try:
                os.mkdir(directory)
            except FileNotFoundError:
                os.makedirs(directory, exist_ok=True)
            except FileExistsError:
                pass
            self._v1[controller] = directory
            if controller == "memory":
                # Without it children's pages would not count (always so since Linux 5.11).
                with contextlib.suppress(OSError):
                    write_text(f"{directory}/memory.use_hierarchy", "1")
            elif controller == "cpuset":
                inherit_cpuset(self.setup.v1[controller], self.path)
        write_limits(rows, self._v1)

    def remove(self) -> bool:
        """Remove it where it is empty, and the directory above it if that is the last one in there.

        False if something is still in it (or the kernel has not let go of it yet): call again.
        """
        gone = True
        for directory in self._directories():
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                gone = False
                continue
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(directory))
        return gone

    def _directories(self) -> list[str]:
        places = [self.setup.unified] if self.setup.unified is not None else []
        if self.setup.mode != "unified":
            places += self.setup.v1.values()
        return [f"{place}/{self.path}" for place in places]

    # --- going in -------------------------------------------------------------------------------
    def open_v2(self) -> int:
        """A descriptor for CLONE_INTO_CGROUP, the caller's; -1 on a pure v1 host."""
        if self.setup.unified is None:
            return -1
        return os.open(f"{self.setup.unified}/{self.path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_v1(self) -> list[int]:
        """Descriptors, the caller's, into each of which a process writes "0" to be in the v1 part."""
        opened: list[int] = []
        try:
            for directory in self._v1_directories().values():
                opened.append(os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))  # noqa: PERF401
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        return opened

    def _v1_directories(self) -> dict[str, str]:
        if self._v1 is None:
            places = {name: f"{place}/{self.path}" for name, place in self.setup.v1.items()}
            self._v1 = {name: place for name, place in places.items() if os.path.isdir(place)}
        return self._v1

    # --- acting ---------------------------------------------------------------------------------
    def kill(self) -> bool:
        """Kill everything in it at once. False where the kernel has no cgroup.kill (v1, or before 5.14)."""
        if self.setup.unified is None:
            return False
        try:
            write_text(f"{self.setup.unified}/{self.path}/cgroup.kill", "1")
        except FileNotFoundError:
            return not os.path.isdir(f"{self.setup.unified}/{self.path}")
        return True

    def freeze(self, frozen: bool) -> None:
        """Ask for it; `is_frozen` tells when it is so."""
        if self.setup.unified is not None:
            write_text(f"{self.setup.unified}/{self.path}/cgroup.freeze", "1" if frozen else "0")
        else:
            write_text(f"{self._freezer()}/freezer.state", "FROZEN" if frozen else "THAWED")

    def is_frozen(self) -> bool:
        """Whether all of it is frozen now."""
        if self.setup.unified is not None:
            return keyed(self._events()).get("frozen") == 1
        return read_text(f"{self._freezer()}/freezer.state").strip() == "FROZEN"

    def _freezer(self) -> str:
        try:
            return self._v1_directories()["freezer"]
        except KeyError:
            raise OSError(errno.ENOTSUP, "cannot freeze: the host has no freezer controller") from None

    def open_events(self) -> int:
        """cgroup.events, to watch with EPOLLPRI: at changes of `populated` and `frozen`. -1 on v1."""
        if self.setup.unified is None:
            return -1
        return os.open(f"{self.setup.unified}/{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)

    # --- looking --------------------------------------------------------------------------------
    def exists(self) -> bool:
        """Whether it was made, and not removed yet."""
        return os.path.isdir(f"{self.setup.unified or self.setup.v1['memory']}/{self.path}")

    def populated(self) -> bool:
        """Whether a process is in it. A cgroup that is gone has none."""
        try:
            if self.setup.unified is not None:
                return keyed(self._events()).get("populated") == 1
            return bool(self.procs())
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise

    def procs(self) -> list[int]:
        """Pids of its processes."""
        if self.setup.unified is not None:
            places = [f"{self.setup.unified}/{self.path}"]
        else:
            places = list(self._v1_directories().values())[:1]
        return [
            int(pid) for place in places for pid in read_text(f"{place}/cgroup.procs").split() if pid != "0"
        ]

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for memory. 0 where nobody counts."""
        try:
            if self.setup.mode == "unified":
                text = read_text(f"{self.setup.unified}/{self.path}/memory.events")
            else:
                place = self._v1_directories().get("memory")
                if place is None:
                    return 0
                text = read_text(f"{place}/memory.oom_control")
        except OSError:
            return 0
        return keyed(text).get("oom_kill", 0)

    def cpu_ns(self) -> int:
        """CPU time of all that ever was in it. 0 where nobody counts."""
        try:
            if self.setup.unified is not None:
                # Also there without the cpu controller.
                usage = keyed(read_text(f"{self.setup.unified}/{self.path}/cpu.stat"))
                return usage.get("usage_usec", 0) * 1000
            place = self._v1_directories().get("cpuacct")
            return int(read_text(f"{place}/cpuacct.usage")) if place is not None else 0
        except OSError:
            return 0

    def _events(self) -> str:
        return read_text(f"{self.setup.unified}/{self.path}/cgroup.events")


def kill_all(cgroup: Cgroup) -> None:
    """SIGKILL for everything that is in it now. Raises OSError."""
    if not cgroup.kill():
        for pid in cgroup.procs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


def keyed(text: str) -> dict[str, int]:
    """A flat keyed file."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in text.splitlines())}
