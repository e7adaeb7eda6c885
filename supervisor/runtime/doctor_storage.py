"""Checks of the directories: the state's file system, its space, the run directory, what dead runs left."""

from __future__ import annotations

import os
from collections.abc import Iterator

from supervisor.runtime.doctor_types import Check, Examined, existing
from supervisor.runtime.hostmounts import mount_of
from supervisor.runtime.leftovers import leftovers

_MIB = 1024 * 1024
_FULL_BYTES, _LOW_BYTES = 128 * _MIB, 1024 * _MIB
_FEW_INODES = 10_000
_SHOWN = 5


def state_directory(examined: Examined) -> Iterator[Check]:
    """Where state survives a reboot and services have their writable layers."""
    wanted = examined.paths.state_dir
    there = existing(wanted)
    if os.path.lexists(wanted) and not os.path.isdir(wanted):
        yield Check("state directory", "fail", f"{wanted} is no directory", "move it away, or set state_dir")
        return
    below = mount_of(os.path.realpath(there), examined.mounts)
    kind = "an unknown file system" if below is None else f"{below.fstype} at {below.target}"
    flags = os.statvfs(there).f_flag
    name = "state directory"
    if flags & os.ST_RDONLY:
        yield Check(name, "fail", f"{wanted} is read-only ({kind})", "mount it writable, or set state_dir")
    elif flags & os.ST_NOEXEC:
        yield Check(
            name,
            "fail",
            f"{kind} is mounted noexec: no program in a service's root could start",
            "mount it exec, or set state_dir",
        )
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Check(name, "fail", f"{there} cannot be written", "run it as root, or set state_dir")
    elif below is not None and below.fstype in ("tmpfs", "ramfs"):
        yield Check(
            name,
            "warn",
            f"{wanted} is on {kind}: what is kept there is gone after a reboot",
            "set state_dir to a directory on a disk",
        )
    elif flags & os.ST_NOSUID:
        yield Check(
            name,
            "warn",
            f"{kind} is mounted nosuid: programs like sudo do not work in services",
            "mount it suid if services need that",
        )
    else:
        yield Check(
            name, "ok", f"{wanted} on {kind}" + ("" if there == os.path.abspath(wanted) else ", to be made")
        )


def space(examined: Examined) -> Iterator[Check]:
    """Free bytes and inodes below the state directory."""
    there = existing(examined.paths.state_dir)
    status = os.statvfs(there)
    free = status.f_bavail * status.f_frsize
    detail = f"{free // _MIB} MiB free for {examined.paths.state_dir}"
    remedy = "free some, or set state_dir; logs are bounded by logging.options max-size and max-file"
    if free < _FULL_BYTES:
        yield Check("disk space", "fail", detail, remedy)
    elif free < _LOW_BYTES:
        yield Check("disk space", "warn", detail, remedy)
    elif status.f_files and status.f_favail < _FEW_INODES:
        yield Check("disk space", "warn", f"{detail}, but only {status.f_favail} inodes", remedy)
    else:
        yield Check("disk space", "ok", detail)


def run_directory(examined: Examined) -> Iterator[Check]:
    """Sockets and mount points: it must be writable, and short enough for a socket's name."""
    wanted = examined.paths.run_dir
    there = existing(wanted)
    longest = max(
        map(len, (examined.paths.api_socket, examined.paths.launcher_socket, examined.paths.log_socket))
    )
    if not os.access(there, os.W_OK | os.X_OK) or os.statvfs(there).f_flag & os.ST_RDONLY:
        yield Check("run directory", "fail", f"{there} cannot be written", "run it as root, or set run_dir")
    elif longest >= _SOCKET_NAME_BYTES:
        yield Check(
            "run directory",
            "fail",
            f"{wanted} makes socket names of {longest} bytes",
            f"set run_dir to a path that is {longest - _SOCKET_NAME_BYTES + 1} bytes shorter",
        )
    else:
        yield Check(
            "run directory", "ok", f"{wanted}" + ("" if there == os.path.abspath(wanted) else ", to be made")
        )


_SOCKET_NAME_BYTES = 108  # sun_path with its end


def left_behind(examined: Examined) -> Iterator[Check]:
    """What no known instance owns."""
    found = leftovers(
        examined.paths, examined.known_instances, examined.cgroups, examined.mounts, examined.cgroup_base
    )
    found = tuple(one for one in found if not one.instance.startswith("shipkeeper-doctor-"))
    alive = [one.path for one in found if one.alive]
    if alive:
        yield Check(
            "leftover processes",
            "fail",
            f"of no known service, in {_listed(alive)}",
            "start the daemon, which adopts or ends them, or write 1 to cgroup.kill there",
        )
    hints = {"mount": "umount", "cgroup": "rmdir", "directory": "rm -r"}
    for kind, command in hints.items():
        paths = [one.path for one in found if one.kind == kind and not one.alive]
        if paths:
            yield Check(
                f"leftover {kind}",
                "warn",
                f"{_listed(paths)} belong to no known service",
                f"if nothing in them is wanted: {command}",
            )
    if not found:
        yield Check("leftovers", "ok", "none")


def of_the_dead(examined: Examined) -> Iterator[Check]:
    """What supervisors left in the kernel that were killed and not started again."""
    found = examined.remnants
    for whose in dict.fromkeys(one.whose for one in found):
        theirs = [one for one in found if one.whose == whose]
        kinds = dict.fromkeys(one.kind for one in theirs)
        said = [f"{kind} {_listed([one.name for one in theirs if one.kind == kind])}" for kind in kinds]
        yield Check(
            f"dead supervisor {whose}",
            "warn",
            f"it left: {'; '.join(said)}",
            "shipkeeper doctor --fix removes it; a daemon that is started on its directories mends it",
        )
    if not found:
        yield Check("dead supervisors", "ok", "none has left anything")


def _to_be_made(path: str) -> str:
    return "" if os.path.isdir(path) else ", to be made"


def _listed(paths: list[str]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
