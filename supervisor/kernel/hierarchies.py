"""The cgroup hierarchies of a host: which there are, and the part of them that a supervisor lives in.

Pure v2, hybrid (v1 controllers beside a v2 hierarchy that has cgroup.kill, freezing and events) and pure v1
are told apart by what is mounted, never assumed. A *base* is a path below the mount points: of all cgroups
of one supervisor. It is systemd's where a unit was delegated to us, else our own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Literal, NamedTuple

# What runs are limited and counted by.
CONTROLLERS = ("memory", "cpu", "pids")
_V1 = ("memory", "cpu", "cpuacct", "pids", "freezer", "cpuset", "blkio")
_RARE = ("cpuset", "blkio")  # on v2 they are switched on for a limit that needs them
_SYSTEMD = "name=systemd"


class CgroupSetup(NamedTuple):
    """What the host has. Paths are mount points.

    unified: of v2. v1: of the v1 controllers that runs are put into. others: of the other v1 hierarchies, by
    controller or `name=...`; runs stay in the launcher's cgroup of these.
    """

    mode: Literal["unified", "hybrid", "legacy"]
    unified: str | None
    v1: dict[str, str]
    others: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default is never mutated

    def places(self) -> list[str]:
        """Every mount point once."""
        first = [] if self.unified is None else [self.unified]
        return list(dict.fromkeys([*first, *self.v1.values(), *self.others.values()]))

    def controllers(self) -> dict[str, str]:
        """Each controller that can be used, of either version, and the mount point of its hierarchy."""
        found = {
            name: place for name, place in {**self.others, **self.v1}.items() if not name.startswith("name=")
        }
        if self.unified is not None:
            with contextlib.suppress(OSError):
                for name in read_text(f"{self.unified}/cgroup.controllers").split():
                    found.setdefault(name, self.unified)
        return dict(sorted(found.items()))


def detect(mountinfo: str | None = None) -> CgroupSetup:
    """From the text of a mountinfo, this process's unless given. Raises OSError (ENOENT) if there is none."""
    unified: str | None = None
    v1: dict[str, str] = {}
    for line in (read_text("/proc/self/mountinfo") if mountinfo is None else mountinfo).splitlines():
        before, _, after = line.partition(" - ")
        target = before.split(" ")[4]
        fstype, _, options = [*after.split(" "), "", "", ""][:3]
        if fstype == "cgroup2":
            unified = unified or target
        elif fstype == "cgroup":
            # Beside its controllers or its name a hierarchy has options: rw, xattr, release_agent=...
            for option in options.split(","):
                if option.startswith("name=") or ("=" not in option and option not in _OPTIONS):
                    v1.setdefault(option, target)
    used = {name: v1[name] for name in _V1 if name in v1}
    if unified is not None and set(used) <= set(_RARE):
        used = {}  # the v2 hierarchy has all that runs are counted by
    others = {name: place for name, place in v1.items() if name not in used}
    if unified is not None:
        return CgroupSetup("hybrid" if used else "unified", unified, used, others)
    if used:
        return CgroupSetup("legacy", None, used, others)
    raise OSError(errno.ENOENT, "cannot find cgroups: mount cgroup2 at /sys/fs/cgroup")


_OPTIONS = frozenset(
    ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "none", "favordynmods")
)


def moves_are_quick(mountinfo: str | None = None) -> bool:
    """Whether a process moves between cgroups without waiting for a grace period of RCU, 5 to 10 ms.

    The mount option favordynmods of one hierarchy is enough for all (Linux 6.0).
    """
    for line in (read_text("/proc/self/mountinfo") if mountinfo is None else mountinfo).splitlines():
        fstype, _, options = [*line.partition(" - ")[2].split(" "), "", ""][:3]
        if fstype in ("cgroup", "cgroup2") and "favordynmods" in options.split(","):
            return True
    return False


def enable_controllers(mount: str, path: str, names: tuple[str, ...] = CONTROLLERS) -> None:
    """Make `path` below a v2 mount, and have its children controlled by these controllers.

    Only what is missing is written, so a part of the tree that systemd owns and delegated is left alone.
    A controller that the host does not give is left out: a limit that needs it then fails. Raises OSError.
    """
    with contextlib.suppress(OSError):
        if set(names) <= set(read_text(f"{mount}/{path}/cgroup.subtree_control").split()):
            return  # what it comes to but for the first time
    directory = mount
    for part in ("", *filter(None, path.split("/"))):
        directory = f"{directory}/{part}" if part else directory
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        active = read_text(f"{directory}/cgroup.subtree_control").split()
        missing = [name for name in names if name not in active]
        if not missing:
            continue
        available = read_text(f"{directory}/cgroup.controllers").split()
        for name in missing:
            if name in available:
                write_text(f"{directory}/cgroup.subtree_control", f"+{name}")


def inherit_cpuset(mount: str, path: str) -> None:
    """Give every cgroup of v1's cpuset on the way to `path`, and itself, the CPUs and nodes of its parent.

    A new one has none, and takes no process. One that has some is left alone. Raises OSError.
    """
    directory = mount
    for part in filter(None, path.split("/")):
        above, directory = directory, f"{directory}/{part}"
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not read_text(f"{directory}/{name}").strip():
                write_text(f"{directory}/{name}", read_text(f"{above}/{name}").strip())


def enter_leaf(setup: CgroupSetup, base: str, leaf: str = "launcher") -> None:
    """Move this process, and on v2 every process of `base` itself, into the cgroup `base/leaf`.

    Inner cgroups of v2 with controllers must have no processes of their own. Of v1 it is every hierarchy in
    which somebody made the base before, as systemd does for a unit: there it looks for the unit's processes,
    and a service that has no cgroup of its own in one of them stays where the launcher is. Raises OSError.
    """
    if setup.unified is not None:
        directory = f"{setup.unified}/{base}/{leaf}"
        os.makedirs(directory, exist_ok=True)
        write_text(f"{directory}/cgroup.procs", "0")
        if base.strip("/"):
            for pid in read_text(f"{setup.unified}/{base}/cgroup.procs").split():
                with contextlib.suppress(ProcessLookupError):
                    write_text(f"{directory}/cgroup.procs", pid)
    for name, place in {**setup.v1, **setup.others}.items():
        # A new cgroup of cpuset takes no process before it was given CPUs.
        if name != "cpuset" and base.strip("/") and os.path.isdir(f"{place}/{base}"):
            os.makedirs(f"{place}/{base}/{leaf}", exist_ok=True)
            write_text(f"{place}/{base}/{leaf}/cgroup.procs", "0")


def remove_empty(setup: CgroupSetup, base: str, *, keep: bool = False) -> None:
    """Remove the cgroups of `base` and below in every hierarchy, as far as no process is in them.

    keep: leave the base itself, which is somebody else's.
    """
    for place in setup.places():
        for directory, _, _ in os.walk(f"{place}/{base}", topdown=False):
            if keep and directory == f"{place}/{base}":
                continue
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def read_text(path: str) -> str:
    """A file of the kernel's. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def write_text(path: str, text: str) -> None:
    """In one write, as cgroup files want it. Raises OSError with both in its text."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write({path}, {text}): {error.strerror}") from None
    finally:
        os.close(fd)
