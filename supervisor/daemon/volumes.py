"""Named volumes as the daemon sees them: which there are, who uses each, which may go.

An instance uses a volume from when it is made until it is removed, whether it runs or not, as in Docker.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Sequence

from supervisor.core.anonymous import ANONYMOUS_LABEL
from supervisor.core.model import ServiceSpec
from supervisor.core.paths import Paths
from supervisor.daemon.engine import Engine
from supervisor.runtime.heldmounts import HeldMounts
from supervisor.runtime.volumes import (
    PROJECT_LABEL,
    VolumeError,
    VolumeRecord,
    create_volume,
    find_volume,
    remove_volume,
    volume_bytes,
    volume_records,
)


class VolumeInUseError(VolumeError):
    """Somebody uses it."""


class NoVolumeError(VolumeError):
    """There is no volume of that name."""


class Volumes:
    """Of one state directory. All methods belong to the event loop."""

    def __init__(self, engine: Engine, paths: Paths, held: HeldMounts) -> None:
        self._engine = engine
        self._paths = paths
        self._held = held

    # --- looking --------------------------------------------------------------------------------
    def users(self) -> dict[str, list[str]]:
        """Names of the instances that use each volume that is used, sorted."""
        found: dict[str, list[str]] = {}
        for entry in self._engine.entries.values():
            for name in named_volumes(entry.stored.spec):
                found.setdefault(name, []).append(entry.stored.name)
        return {name: sorted(users) for name, users in found.items()}

    async def records(self) -> list[VolumeRecord]:
        """All of them, by name."""
        return await asyncio.to_thread(volume_records, self._paths)

    async def find(self, name: str) -> VolumeRecord:
        """Raises NoVolumeError, VolumeError."""
        record = await asyncio.to_thread(find_volume, name, self._paths)
        if record is None:
            raise NoVolumeError(f"no such volume: {name}; `shipkeeper volume ls` lists what is there")
        return record

    def mountpoint(self, record: VolumeRecord) -> str:
        """Where its data is, for one with options while an instance that uses it is up."""
        if record.options:
            return self._held.place(held_name(record.name))
        return self._paths.volume(record.name)

    # --- changing -------------------------------------------------------------------------------
    async def create(
        self, name: str, labels: Iterable[tuple[str, str]], options: Iterable[tuple[str, str]]
    ) -> VolumeRecord:
        """Make one, or find it. name: "" for an anonymous one. Raises VolumeError."""
        own = dict(labels)
        if not name:
            name = secrets.token_hex(32)
            own.setdefault(ANONYMOUS_LABEL, "")
        wanted = VolumeRecord(name, time.time(), tuple(sorted(own.items())), tuple(sorted(options)))
        return await asyncio.to_thread(create_volume, wanted, self._paths)

    async def remove(self, name: str) -> bool:
        """Remove one with its data; False if there is none. Raises VolumeInUseError, VolumeError."""
        used = self.users().get(name)
        if used:
            raise VolumeInUseError(
                f"cannot remove volume {name}: volume is in use by {', '.join(used)}; remove what uses it"
                " first"
            )
        return await asyncio.to_thread(remove_volume, name, self._paths)

    async def prune(self, records: Sequence[VolumeRecord]) -> tuple[list[str], int]:
        """Remove those of these that nobody uses; their names, and the bytes that are free now."""
        gone, freed = [], 0
        for record in records:
            if record.name in self.users():
                continue
            size_bytes = await asyncio.to_thread(volume_bytes, record.name, self._paths)
            if await self.remove(record.name):
                gone.append(record.name)
                freed += size_bytes
        return gone, freed

    async def remove_anonymous(self, spec: ServiceSpec) -> None:
        """Of an instance that was removed; one that another instance uses, too, stays. Raises VolumeError."""
        used = self.users()
        for mount in spec.mounts:
            if mount.anonymous and mount.source is not None and mount.source not in used:
                await asyncio.to_thread(remove_volume, mount.source, self._paths)

    async def of_project(self, project: str) -> set[str]:
        """Names of the volumes that were made for a project."""
        return {r.name for r in await self.records() if (PROJECT_LABEL, project) in r.labels}


def held_name(volume: str) -> str:
    """What a volume with options is called among the held mounts."""
    return f"volume-{volume}"


def named_volumes(spec: ServiceSpec) -> set[str]:
    """The volumes that an instance of a definition uses, without those that have no name."""
    return {mount.source for mount in spec.mounts if mount.type == "volume" and mount.source is not None}
