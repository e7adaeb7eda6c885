"""Mounts that are there while an instance that uses them is up: volumes with options, configs and secrets.

All are below `<run>/mounts`, where the launcher sees what is mounted later (`runtime.sharedmounts`).
A holder is an instance with the run that it asked for, so that the release of an earlier run, which may be
late, takes nothing from a later one. What a service has bound from here stays its own until it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping

from supervisor.core.paths import Paths
from supervisor.kernel import syscalls as sc
from supervisor.runtime.hostmounts import mounts_here
from supervisor.runtime.sharedmounts import share, unshare

Holders = Mapping[str, Mapping[str, int]]
"""By the name of a mount: the run of each instance that holds it."""


class HeldMounts:
    """Of one run directory. All methods block, and may be called from several threads."""

    def __init__(self, paths: Paths) -> None:
        """Raises OSError."""
        self._base = share(paths.held_mounts)
        self._holders: dict[str, dict[str, int]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def place(self, name: str) -> str:
        """Where a mount is while it is held."""
        return f"{self._base}/{name}"

    def hold(self, name: str, instance: str, run: int, mount: Callable[[str], None]) -> str:
        """The place of a mount, for a run of an instance.

        mount: mounts it at the place that it is given, whole or not at all; called where nobody holds it yet.
        Raises what that raises, and OSError.
        """
        place = self.place(name)
        with self._locked(name):
            if not self._is_mounted(place):
                os.makedirs(place, 0o700, exist_ok=True)
                try:
                    mount(place)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.rmdir(place)
                    raise
            with self._guard:
                self._holders.setdefault(name, {})[instance] = run
        return place

    def release(self, instance: str, run: int) -> None:
        """That run is over and none follows; what nobody else holds is unmounted. Raises OSError."""
        with self._guard:
            names = [name for name, users in self._holders.items() if instance in users]
        for name in names:
            with self._locked(name):
                with self._guard:
                    users = self._holders.get(name, {})
                    if users.get(instance, run + 1) > run:
                        continue
                    del users[instance]
                    if users:
                        continue
                    del self._holders[name]
                self._unmount(name)

    def take_over(self, holders: Holders) -> None:
        """After a start of the daemon: who holds what from before, whether it is mounted or not.

        What is mounted and nobody holds is unmounted. Raises OSError.
        """
        with self._guard:
            for name, users in holders.items():
                mine = self._holders.setdefault(name, {})
                for instance, run in users.items():
                    mine.setdefault(instance, run)
            mounted = [target.removeprefix(f"{self._base}/") for target in self._below()]
            idle = [name for name in mounted if name not in self._holders]
        for name in idle:
            with self._locked(name):
                if name not in self._holders:
                    self._unmount(name)

    def holds(self, instance: str) -> bool:
        """Whether an instance holds something."""
        with self._guard:
            return any(instance in users for users in self._holders.values())

    def forget(self) -> None:
        """When no instance is up and none will be: leave no mount behind."""
        with self._guard:
            self._holders.clear()
        for target in self._below():
            with contextlib.suppress(OSError):
                self._unmount(target.removeprefix(f"{self._base}/"))
        with contextlib.suppress(OSError):
            unshare(self._base)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One mount at a time may take long (a server that does not answer): others do not wait for it."""
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            yield

    def _is_mounted(self, place: str) -> bool:
        """By the mount that it is on: to read the table of all of them at each start of many would add up."""
        own, above = _mount_id(place), _mount_id(self._base)
        return own is not None and own != above

    def _below(self) -> list[str]:
        above = f"{self._base}/"
        return [t for t in _targets() if t.startswith(above) and "/" not in t.removeprefix(above)]

    def _unmount(self, name: str) -> None:
        place = self.place(name)
        try:
            sc.umount2(place, sc.MNT_DETACH)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
        with contextlib.suppress(OSError):
            os.rmdir(place)


def _mount_id(path: str) -> str | None:
    """None where nothing is there."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            return next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def _targets() -> set[str]:
    return {mount.target for mount in mounts_here()}
