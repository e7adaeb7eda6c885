"""Names of services: the daemon's part. It tells the resolver who is called what, and keeps one running.

Before the first endpoint there is no resolver, and soon after the last one none. It outlives the daemon; the
next one finds it, and takes a second descriptor of each of its sockets. With these a resolver that died is
followed by another that finds in them what was asked meanwhile; one of another version is replaced the same
way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from supervisor.core.paths import Paths
from supervisor.daemon import resolverlink
from supervisor.daemon.resolverlink import ResolverError, ResolverLink
from supervisor.kernel import netns
from supervisor.resolver import protocol
from supervisor.resolver.table import Endpoint, Table
from supervisor.runtime.names import Member, names_table
from supervisor.runtime.namesockets import Sockets, open_sockets

_RETRY_S = 1.0
LINGER_S = 60.0
"""How long a resolver that nobody needs stays, so that containers that come and go share one."""
_QUICK_DEATHS = 5
"""So many are replaced at once; after that one that dies within `_RETRY_S` of its start is waited out."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Our descriptors of an instance's sockets, and the network namespace that they are in."""

    sockets: Sockets
    namespace: int

    def close(self) -> None:
        protocol.close(list(self.sockets))


class Names:
    """See the module. `adopt`, then `tell` as often as there is news, then `close`; used from one loop."""

    def __init__(
        self,
        paths: Paths,
        report: Callable[[str], None],
        cgroup_base: Callable[[], str | None],
        linger_s: float = LINGER_S,
    ) -> None:
        self._linger_s = linger_s
        self._idle: asyncio.Task[None] | None = None
        self._paths = paths
        self._report = report
        self._cgroup_base = cgroup_base
        self._link: ResolverLink | None = None
        self._held: dict[str, _Held] = {}
        self._table = Table()
        self._wanted = 0
        self._in_force = 0
        self._fresh: list[str] = []
        self._lock = asyncio.Lock()
        self._started_s = 0.0
        self._leaving: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._closing = False
        self._problems: dict[str, str] = {}
        self.lost = 0
        """Resolvers that died, since the start of this daemon."""

    async def adopt(self) -> None:
        """Find the resolver of an earlier daemon. It answers from its table until the next `tell`."""
        async with self._lock:
            self._link = await ResolverLink.connect(self._paths.names_socket, self._on_lost)
            if self._link is None:
                return
            self._table = Table(self._link.serial)
            try:
                await self._take_copies(self._link)
            except ResolverError as error:
                self._report(str(error))

    async def _take_copies(self, link: ResolverLink) -> None:
        words, fds = await link.ask({"do": "give"})
        while True:
            for number, name in enumerate(words["of"]):
                pair = (fds[2 * number], fds[2 * number + 1])
                self._held[name] = _Held(pair, netns.of_socket(pair[0]))
            if not words["more"]:
                return
            words, fds = await link.hear()

    async def tell(self, members: Callable[[], Iterable[Member]]) -> dict[str, str]:
        """Have exactly these names in force; returns when they are, with what went wrong, by instance id.

        members: asked when it is their turn. Many calls at once cost little more than one: the last one
        counts for all. After `close` nothing is said. Raises NamesError, and ResolverError where there is no
        resolver to be had; then it is tried again in the background.
        """
        self._wanted += 1
        mine = self._wanted
        async with self._lock:
            if self._in_force < mine and not self._closing:
                newest = self._wanted
                self._table = names_table(self._table.serial + 1, members())
                await self._put_in_force(self._table)
                self._in_force = newest
        return dict(self._problems)

    async def _put_in_force(self, table: Table) -> None:
        await self._open(table.endpoints)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not table.endpoints:
            if self._link is None:
                await self._end()
                return
            self._idle = asyncio.get_running_loop().create_task(self._end_when_idle())
        await asyncio.to_thread(_write, self._paths.names_table, msgspec.json.encode(table))
        try:
            link = self._link
            if link is None or link.version != protocol.VERSION:
                await self._start()
            else:
                await self._inform(link)
        except ResolverError:
            self._replace()
            raise

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self._linger_s)
        async with self._lock:
            if not self._table.endpoints:
                await self._end()
            self._idle = None

    async def _open(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Sockets in namespaces that are new; those in namespaces that are gone are let go."""
        there = {one.instance: netns.of_file(one.netns) for one in endpoints}
        for name in [name for name, held in self._held.items() if there.get(name) != held.namespace]:
            self._held.pop(name).close()
        self._fresh, self._problems = [], {}
        new = [one for one in endpoints if one.instance not in self._held]
        if not new:
            return
        for name, found in (await asyncio.to_thread(open_sockets, new)).items():
            if isinstance(found, OSError):
                self._problems[name] = (
                    f"cannot answer names in the network of {name}: {found.strerror or found}"
                )
            else:
                self._held[name] = _Held(found, there[name])
                self._fresh.append(name)

    async def _start(self) -> None:
        """A new resolver with all sockets; an earlier one is told to end when this one answers."""
        before, self._link = self._link, None
        await resolverlink.start(self._paths, self._cgroup_base())
        link = await ResolverLink.connect(self._paths.names_socket, self._on_lost)
        if link is None:
            raise ResolverError("cannot use the resolver: it ends as soon as it has started")
        self._link, self._started_s = link, asyncio.get_running_loop().time()
        self._fresh = list(self._held)
        if before is not None:
            await before.hush()  # what is asked from now on waits in the sockets for the new one's table
        await self._inform(link)
        if before is not None:
            self._leaving = asyncio.get_running_loop().create_task(before.gone())

    async def _inform(self, link: ResolverLink) -> None:
        for at in range(0, len(self._fresh), protocol.PER_PACKET):
            some = self._fresh[at : at + protocol.PER_PACKET]
            fds = [fd for name in some for fd in self._held[name].sockets]
            await link.say({"do": "sockets", "of": some}, fds)
        descriptor = os.open(self._paths.names_table, os.O_RDONLY | os.O_CLOEXEC)
        try:
            words, _ = await link.ask({"do": "table"}, [descriptor])
        finally:
            os.close(descriptor)
        if "problem" in words:
            raise ResolverError(f"the resolver refused the table of names: {words['problem']}")

    def _on_lost(self) -> None:
        if self._closing:
            return
        self.lost += 1
        self._link = None
        if self._held:
            self._report("the resolver died; another one takes over what it was asked")
            self._replace()

    def _replace(self) -> None:
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.get_running_loop().create_task(self._bring_back())

    async def _bring_back(self) -> None:
        if asyncio.get_running_loop().time() - self._started_s < _RETRY_S and self.lost > _QUICK_DEATHS:
            await asyncio.sleep(_RETRY_S)
        while not self._closing:
            async with self._lock:
                if self._link is not None and self._link.version == protocol.VERSION:
                    return
                try:
                    await self._start()
                except (ResolverError, OSError) as error:
                    self._report(f"{error}; trying again in {_RETRY_S:g} s")
                else:
                    return
            await asyncio.sleep(_RETRY_S)

    async def counters(self) -> dict[str, int] | None:
        """The resolver's own, since its start; None where there is none, or it is being told something."""
        if self._link is None or self._lock.locked():
            return None
        async with self._lock:
            try:
                words, _ = await self._link.ask({"do": "counters"})
            except ResolverError:
                return None
        return {name: value for name, value in words.items() if isinstance(value, int)}

    async def close(self, *, end: bool) -> None:
        """Let go of the resolver, which goes on; with `end`, have it end, and leave nothing of it."""
        self._closing = True
        if self._replacing is not None:
            self._replacing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._replacing
        if self._leaving is not None:
            await self._leaving
        async with self._lock:  # it may be in the middle of it
            if self._idle is not None:
                self._idle.cancel()
        if end:
            await self._end()
        elif self._link is not None:
            self._link.close()
        for held in self._held.values():
            held.close()
        self._held.clear()

    async def _end(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.hush()
            await link.gone()
        for path in (self._paths.names_socket, self._paths.names_table):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108


def _write(path: str, data: bytes) -> None:
    """Whole or not at all; it need not survive the host."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    os.replace(f"{path}.new", path)  # noqa: PTH105
