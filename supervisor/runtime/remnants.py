"""What supervisors that are dead left in the kernel: found, and removed. Nothing of a living one is touched.

A daemon that is started on the same directories mends all of it itself; this is for those that nobody starts
again. No data is removed: what services wrote is below the state directory, which is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, assert_never

from supervisor.core.netrules import TABLE_PREFIX, delete_script
from supervisor.core.paths import Paths
from supervisor.kernel import bpf, netns
from supervisor.kernel import syscalls as sc
from supervisor.kernel.hierarchies import CgroupSetup, read_text, remove_empty
from supervisor.runtime import nftables
from supervisor.runtime.hostmounts import HostMount
from supervisor.runtime.loopback6 import NAME_PREFIX, Loopback6
from supervisor.runtime.supervisors import Living, has_services, is_run_dir, own_cgroups, tags_of

_ALIAS = re.compile(r"shipkeeper ([0-9a-f]{8}) ")
_TABLE = re.compile(rf"{TABLE_PREFIX}([0-9a-f]{{8}})")
_SHARED = re.compile(r"(/.+)/(?:masks|mounts|netns)(?:/[^/]+)?")
"""What is mounted in a run directory from its beginning (`runtime.sharedmounts`), and in it."""
_PATIENCE_S = 10
_TRIES, _LET_GO_S = 40, 0.05


@dataclass(frozen=True, slots=True)
class Remnant:
    """One thing that nobody looks after. whose: a tag, or a run directory."""

    kind: Literal["process", "table", "program", "link", "mount", "cgroup"]
    name: str
    whose: str


def remnants(
    paths: Paths, living: Living, cgroups: CgroupSetup | None, mounts: list[HostMount]
) -> tuple[Remnant, ...]:
    """In the order to remove them in. mounts: of the host's own namespace. Raises OSError."""
    dead = [
        run_dir
        for run_dir in _dead_run_dirs(paths, living, mounts)
        if not tags_of(run_dir) & living.tags and not has_services(run_dir, cgroups)
    ]
    found = [*_resolvers(dead)]
    if not living.unknown:  # else a tag that seems to be nobody's may be that of a living one
        found += [*_tables(living), *_programs(living, cgroups), *_links(living)]
    return (*found, *_mounts(dead, mounts), *_cgroups(living, cgroups))


def _dead_run_dirs(paths: Paths, living: Living, mounts: list[HostMount]) -> list[str]:
    known = {os.path.realpath(paths.run_dir)}
    known |= {found[1] for mount in mounts if (found := _SHARED.fullmatch(mount.target)) is not None}
    alive = {os.path.realpath(each) for each in living.run_dirs}
    return sorted(each for each in known - alive if is_run_dir(each))


def _resolvers(dead: list[str]) -> Iterator[Remnant]:
    for run_dir in dead:
        if pid := _listener(Paths(run_dir=run_dir).names_socket):
            yield Remnant("process", str(pid), run_dir)


def _listener(path: str) -> int:
    """Who answers at a socket; 0 for nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking, contextlib.suppress(OSError):
        asking.connect(path)
        return int(struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    return 0


def _tables(living: Living) -> Iterator[Remnant]:
    command = ["nft", "-j", "list", "tables"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, timeout=_PATIENCE_S).stdout
    except (OSError, subprocess.SubprocessError):
        return  # `doctor` says elsewhere that there is no nft
    for each in json.loads(said)["nftables"]:
        table = each.get("table", {})
        found = _TABLE.fullmatch(table.get("name", ""))
        if found is not None and table["family"] == "inet" and found[1] not in living.tags:
            yield Remnant("table", table["name"], found[1])


def _programs(living: Living, cgroups: CgroupSetup | None) -> Iterator[Remnant]:
    """Those that lead ::1 to services."""
    names: list[str] = []
    if cgroups is not None and cgroups.unified is not None:
        with contextlib.suppress(OSError):  # this kernel has none
            names = bpf.attached_names(cgroups.unified)
    for name in names:
        tag = name.removeprefix(NAME_PREFIX)
        if tag != name and tag not in living.tags:
            yield Remnant("program", name, tag)


def _links(living: Living) -> Iterator[Remnant]:
    for name in sorted(os.listdir("/sys/class/net")):
        try:
            found = _ALIAS.match(read_text(f"/sys/class/net/{name}/ifalias"))
        except OSError:
            continue  # gone meanwhile, or none of the kind
        if found is not None and found[1] not in living.tags:
            yield Remnant("link", name, found[1])


def _mounts(dead: list[str], mounts: list[HostMount]) -> Iterator[Remnant]:
    for mount in reversed(mounts):  # the innermost first
        for run_dir in dead:
            if mount.target.startswith(f"{run_dir}/"):
                yield Remnant("mount", mount.target, run_dir)


def _cgroups(living: Living, cgroups: CgroupSetup | None) -> Iterator[Remnant]:
    for place in cgroups.places() if cgroups is not None else ():
        for tag, path in own_cgroups(place):
            if tag not in living.tags:
                yield Remnant("cgroup", path, tag)


def mend(remnant: Remnant, cgroups: CgroupSetup | None) -> None:
    """Remove it. What is gone is no error. Raises OSError, RulesError."""
    match remnant.kind:
        case "process":
            _end(int(remnant.name), Paths(run_dir=remnant.whose))
        case "table":
            nftables.apply(delete_script(remnant.name))
        case "program":
            if cgroups is not None and cgroups.unified is not None:
                Loopback6(remnant.whose).clear(cgroups.unified)
        case "link":
            from supervisor.kernel.links import links

            with links() as host:
                host.delete([remnant.name])
        case "mount":
            _unmount(remnant.name)
        case "cgroup":
            _remove_cgroup(remnant.name, cgroups)
        case _:
            assert_never(remnant.kind)


def _remove_cgroup(path: str, cgroups: CgroupSetup | None) -> None:
    """Wait a little for the kernel, which lets go of one some time after its last process."""
    for _ in range(_TRIES):
        if cgroups is not None:
            remove_empty(cgroups, os.path.basename(path))
        if not os.path.isdir(path):
            return
        time.sleep(_LET_GO_S)
    raise OSError(errno.EBUSY, "something is in it")


def _unmount(target: str) -> None:
    if os.path.isdir(target):
        sc.umount2(target, sc.MNT_DETACH)
        with contextlib.suppress(OSError):
            os.rmdir(target)
    else:
        netns.remove(target)


def _end(pid: int, paths: Paths) -> None:
    """A resolver; its sockets are with nobody else, so what is asked finds nobody."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], _PATIENCE_S)
    finally:
        os.close(pidfd)
    for path in (paths.names_socket, paths.names_table):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
