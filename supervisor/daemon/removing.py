"""Removing instances with all that is theirs, and projects with theirs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable

from supervisor.core.grants import FileGrant
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.networks import Networks
from supervisor.daemon.state import Stored
from supervisor.daemon.stopping import Stopping
from supervisor.daemon.volumes import Volumes
from supervisor.runtime.grants import GrantStore
from supervisor.runtime.volumes import VolumeError


class Removing:
    """See the module. coming: grants of instances that are not there yet, of what is being brought up."""

    def __init__(
        self,
        engine: Engine,
        stopping: Stopping,
        networks: Networks,
        volumes: Volumes,
        grants: GrantStore,
        remove_files: Callable[[Stored], None],
    ) -> None:
        self._engine = engine
        self._stopping = stopping
        self._networks = networks
        self._volumes = volumes
        self._grants = grants
        self._remove_files = remove_files
        self.coming: Counter[FileGrant] = Counter()

    async def sweep_contents(self) -> None:
        """Remove the contents of configs and secrets that no instance is granted any more."""
        granted = [g for entry in self._engine.entries.values() for g in entry.stored.spec.grants]
        await asyncio.to_thread(self._grants.sweep, [*granted, *self.coming])

    async def remove(self, entry: Entry, *, volumes: bool = False) -> None:
        """Forget an instance that is down, with its files, and with `volumes` its anonymous volumes.

        One that somebody else has removed meanwhile is no mistake. Raises PrepareError, VolumeError.
        """
        if self._engine.entries.get(entry.instance.id) is not entry:
            return
        self._engine.forget(entry)
        await self.remove_rest(entry, volumes=volumes)
        if entry.stored.spec.grants:
            await self.sweep_contents()

    async def remove_rest(self, entry: Entry, *, volumes: bool) -> None:
        """Of one that is forgotten, its place in networks first. Raises as `remove`."""
        await self._stopping.forget_hooks(entry)
        await self._networks.detach(entry.instance.id)
        for other in self._engine.entries.values():
            if other.plan is not None and other.plan.net.endswith(f"/{entry.instance.id}"):
                other.plan = None  # it shared its network
        await asyncio.to_thread(self._remove_files, entry.stored)
        if volumes:
            await self._volumes.remove_anonymous(entry.stored.spec)

    async def take_away(
        self,
        entries: Collection[Entry],
        *,
        manual: bool,
        grace_s: float | None,
        why: str = "stopped by you",
        volumes: bool = False,
    ) -> AsyncIterator[Entry]:
        """Stop instances in order, and remove them; yields each when it is gone. Raises as `remove`."""
        await self._stopping.stop(entries, manual=manual, grace_s=grace_s, why=why)
        removing = [asyncio.ensure_future(self._removed(entry, volumes=volumes)) for entry in entries]
        for gone in asyncio.as_completed(removing):
            yield await gone

    async def _removed(self, entry: Entry, *, volumes: bool) -> Entry:
        await self.remove(entry, volumes=volumes)
        return entry

    async def remove_resources(
        self, project: str, entries: Iterable[Entry], *, volumes: bool
    ) -> AsyncIterator[tuple[str, str]]:
        """What a project made beside its instances, as far as nobody uses it: networks, and named volumes.

        entries: its instances, which are gone. Yields as `Projects.down`.
        """
        declared = [volume for entry in entries for volume in entry.stored.volumes]
        if volumes:
            own = {v.name for v in declared if not v.external}
            own |= await self._volumes.of_project(project)
            own -= {v.name for v in declared if v.external}
            for name in sorted(own):
                try:
                    if await self._volumes.remove(name):
                        yield f"volume {name}", ""
                except VolumeError as error:
                    yield f"volume {name}", str(error)
        for name in await self._networks.take_down(project):
            yield f"network {name}", ""
