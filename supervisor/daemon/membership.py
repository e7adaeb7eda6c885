"""Between networks and names: who is in which network, under which names, for the resolver.

`Networks` knows endpoints, `Names` has the resolver; neither knows the other. What changed is in force before
the service that it is about is launched, and soon in any other case.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from supervisor.core.endpoints import Endpoint
from supervisor.core.model import ServiceSpec
from supervisor.core.network import Resolver
from supervisor.daemon.names import Names
from supervisor.daemon.networks import Networks
from supervisor.daemon.resolverlink import ResolverError
from supervisor.daemon.state import Stored
from supervisor.kernel import netns
from supervisor.runtime.names import Member, Membership, NamesError, check_servers
from supervisor.runtime.translate import PlanError

_DNS_PORT = 53


class Memberships:
    """Made in the event loop that `Names` is used from."""

    def __init__(
        self,
        networks: Networks,
        names: Names,
        find: Callable[[str], Stored | None],
        report: Callable[[str], None],
    ) -> None:
        """find: the instance of an id."""
        self._networks = networks
        self._names = names
        self._find = find
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._news = False
        self._said: dict[str, str] = {}

    def changed(self) -> None:
        """There is news. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is over
            self._loop.call_soon_threadsafe(self._soon)

    def _soon(self) -> None:
        self._news = True
        if self._task is None:
            self._task = self._loop.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            while self._news:
                self._news = False
                await self.settle()
        finally:
            self._task = None

    async def settle(self) -> dict[str, str]:
        """Have what is so now in force; what went wrong, by instance id. Each problem is reported once."""
        try:
            problems = await self._names.tell(self.members)
        except (ResolverError, NamesError, OSError) as error:
            # The sockets are there: what is asked waits in them for a resolver, which is tried again.
            self._report(f"{error}; services find each other by address only until it is there")
            return {}
        for instance, text in problems.items():
            if self._said.get(instance) != text:
                self._report(text)
        self._said = problems
        return problems

    async def admit(self, stored: Stored) -> None:
        """Before the launch of an instance: it can ask, and others find it. Raises PlanError."""
        if stored.instance.id not in self._networks.endpoints and ":" not in stored.spec.network_mode:
            return
        problems = await self.settle()
        if stored.instance.id in problems:
            raise PlanError(problems[stored.instance.id])

    async def close(self) -> None:
        """Say no more."""
        self._news = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def members(self) -> list[Member]:
        """Everybody who has an endpoint with a network namespace, those that are down unknown to others."""
        networks = self._networks
        found = []
        for endpoint in list(networks.endpoints.values()):
            known = networks.is_known(endpoint.instance)
            path = networks.path(endpoint.instance)
            stored = self._find(endpoint.instance)
            if stored is not None and (endpoint.instance in networks.open or netns.of_file(path)):
                found.append(self._member(endpoint, stored, path, known=known))
        return found

    def _member(self, endpoint: Endpoint, stored: Stored, path: str, *, known: bool) -> Member:
        records = self._networks.records
        return Member(
            endpoint.instance,
            path,
            stored.name,
            endpoint.service if endpoint.project else "",
            tuple(
                Membership(each.network, each.addresses, each.names, record.network.internal)
                for each in endpoint.interfaces
                if (record := records.get(each.network)) is not None
            ),
            stored.spec.hostname,
            _usable(stored.spec.resolver),
            _serves_dns(stored.spec),
            known,
        )


def _usable(resolver: Resolver) -> Resolver:
    """One that was stored before its servers were looked at must not keep all others from their names."""
    try:
        check_servers("", resolver)
    except NamesError:
        return replace(resolver, servers=())
    return resolver


def _serves_dns(spec: ServiceSpec) -> bool:
    exposed = {text.partition("/")[0] for text in spec.expose}
    return str(_DNS_PORT) in exposed or any(port.target == _DNS_PORT for port in spec.ports)
