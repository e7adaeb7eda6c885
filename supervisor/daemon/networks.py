"""Networks and the places of instances in them: decided here, carried out in a thread of its own.

An endpoint is made before the first run of its instance and stays until that is removed: same addresses over
restarts, over restarts of the daemon, and over reboots, since both are remembered on the disk. Its ports
are open while the instance is up. What somebody else removes from the kernel is put right at once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TypeVar

from supervisor.core.addresses import DEFAULT_POOLS, AddressError, unique_local_pool
from supervisor.core.attaching import plan_interfaces, plan_network
from supervisor.core.endpoints import Binding, Endpoint, Interface, NetworkRecord, Place
from supervisor.core.model import ServiceSpec
from supervisor.core.network import Attachment, Network
from supervisor.core.paths import Paths
from supervisor.core.portplan import PortError, plan_bindings
from supervisor.daemon.state import Stored
from supervisor.kernel import netns
from supervisor.runtime.etcfiles import full_name, move_addresses
from supervisor.runtime.hostports import HostPorts
from supervisor.runtime.names import NamesError, check_servers
from supervisor.runtime.networkfiles import NetworkFiles
from supervisor.runtime.nftables import RulesError
from supervisor.runtime.sharedmounts import share, unshare
from supervisor.runtime.translate import PlanError
from supervisor.runtime.wiring import Wiring

DEFAULT_NETWORK = "bridge"
"""The network of whoever asks for one and names none; made when it is first asked for."""
_PATIENCE_S = 30.0
T = TypeVar("T")


class NoNetworkError(PlanError):
    """There is no network of that name."""


class NetworkInUseError(PlanError):
    """A network that services are in."""


class Networks:
    """See the module. What is said to block may be called from any thread but the network's own."""

    def __init__(self, paths: Paths, pools: tuple[str, ...], report: Callable[[str], None]) -> None:
        """pools: where subnets are taken from, see `core.addresses`; none: its own."""
        self._paths = paths
        self._tag = paths.tag
        self._pools = pools or DEFAULT_POOLS
        self._report = report
        self._files = NetworkFiles(paths, report)
        self._ports = HostPorts()
        self._thread = ThreadPoolExecutor(1, "network")
        self._unruled = False
        self._without_loopback6 = False
        self._opened: set[int] = set()
        """UDP ports that are open with the next rules."""
        self._settled = Event()
        self._leaving: list[str] = []
        self._parting: asyncio.Task[None] | None = None
        self.wiring = Wiring(paths)
        self.records: dict[str, NetworkRecord] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.open: set[str] = set()
        """Instances whose ports are open."""
        self._heirs: dict[str, str] = {}
        """Who is to have the ports and the names of whom, and has not yet."""
        self._succeeded: set[str] = set()
        """Who is up, and has a successor that is known instead."""
        self.begun: Callable[[], None] = _nothing
        """Called, in the network's thread, whenever there is something in the kernel to look after."""
        self.changed: Callable[[], None] = _nothing
        """Called, in any thread, after endpoints have changed, but for `attach`, whose caller knows."""

    # --- in the thread ---------------------------------------------------------------------------
    def _blocking(self, work: Callable[..., T], *arguments: object) -> T:
        """Raises PlanError for whatever cannot be done."""
        return self._thread.submit(self._told, work, *arguments).result()

    async def _awaited(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.wrap_future(self._thread.submit(self._told, work, *arguments))

    @staticmethod
    def _told(work: Callable[..., T], *arguments: object) -> T:
        try:
            return work(*arguments)
        except (AddressError, PortError, RulesError) as error:
            raise PlanError(str(error)) from error
        except OSError as error:
            raise PlanError(error.strerror or str(error)) from error

    # --- the life of the daemon ------------------------------------------------------------------
    def load(self) -> None:
        """What is remembered, before anything else asks; and the directory that the launcher has to see.

        Raises OSError.
        """
        self.records = self._files.networks()
        self.endpoints = self._files.endpoints()
        share(self._paths.network_namespaces)

    async def settle(self, known: Iterable[str], up: Iterable[str]) -> None:
        """Put the kernel right after a start. known: all instances. up: those that are. Raises PlanError."""
        try:
            await self._awaited(self._settle, set(known), set(up))
        finally:
            self._settled.set()

    def _settle(self, known: set[str], up: set[str]) -> None:
        for instance in list(self.endpoints):
            if instance not in known:
                del self.endpoints[instance]
                self._files.remove_endpoint(instance)
        if not self.records and not self.wiring.begun():
            return
        self.open = {instance for instance in up if instance in self.endpoints}
        for instance in self.open:
            self._hold(self.endpoints[instance])
        self._repair()

    def _hold(self, endpoint: Endpoint) -> None:
        for binding in endpoint.bindings:
            try:
                self._ports.take(binding)
            except PortError as error:
                self._report(f"cannot hold {binding} for {endpoint.container} on this host again: {error}")

    def _repair(self) -> None:
        """All that is wanted is there afterwards, and nothing else of ours."""
        self._begin()
        for what in self.wiring.sweep(self.records.values(), self.endpoints.values()):
            self._report(f"{what} belongs to no service or network, and is removed")
        for record in self.records.values():
            self._tried(self.wiring.build, record)
        for instance in self.open:
            self._tried(self.wiring.join, self.endpoints[instance], self.records)
        self._rule(force=True)

    def _tried(self, work: Callable[..., object], *arguments: object) -> None:
        """One that cannot be made is said, and does not keep the others from being made."""
        try:
            work(*arguments)
        except OSError as error:
            self._report(error.strerror or str(error))

    async def repair(self) -> None:
        """Put right what somebody has changed. Raises PlanError."""
        await self._awaited(self._repair)

    async def close(self, *, clear: bool) -> None:
        """Let go; with `clear` leave nothing in the kernel: no service is up. Raises PlanError, OSError."""
        if clear and self.wiring.begun():
            await self._awaited(self.wiring.clear)
        if clear:
            netns.remove_all(self._paths.network_namespaces)
            unshare(self._paths.network_namespaces)
        await self._awaited(self._ports.close)
        await self._awaited(self.wiring.close)
        self._thread.shutdown()

    # --- networks --------------------------------------------------------------------------------
    async def create(self, network: Network, project: str = "") -> NetworkRecord:
        """A new network. Raises PlanError."""
        return await self._awaited(self._create, network, project)

    def _create(self, network: Network, project: str) -> NetworkRecord:
        try:
            record = plan_network(
                network,
                self._tag,
                self.records.values(),
                self.wiring.host.routes(),
                (*self._pools, unique_local_pool(_machine_id())),
                created_wall=time.time(),
                project=project,
                unique=secrets.token_hex(16),
            )
        except AddressError as error:
            raise AddressError(f"cannot make network {network.name}: {error}") from error
        self._begin()
        self._files.save_network(record)
        self.records[record.name] = record
        try:
            self.wiring.build(record)
            self._rule(force=True)
        except BaseException:
            self._drop(record)
            raise
        return record

    async def remove(self, name: str) -> None:
        """Raises NoNetworkError, NetworkInUseError, PlanError."""
        await self._awaited(self._remove, name)

    def _remove(self, name: str) -> None:
        record = self.records.get(name)
        if record is None:
            raise NoNetworkError(f"network {name} not found")
        users = self.users(name)
        if users:
            raise NetworkInUseError(
                f"cannot remove network {name}: it has active endpoints: {', '.join(users)}; remove or"
                " disconnect them first"
            )
        self._drop(record)

    def _drop(self, record: NetworkRecord) -> None:
        del self.records[record.name]
        self._files.remove_network(record.name)
        self.wiring.demolish(record)
        self._rule(force=True)

    def users(self, name: str) -> list[str]:
        """Names of the instances that have an endpoint in a network."""
        there = list(self.endpoints.values())  # the network's thread may change it meanwhile
        return sorted(each.container for each in there if each.in_network(name) is not None)

    def find(self, name: str) -> NetworkRecord:
        """By its name, its id, or the beginning of that. Raises NoNetworkError."""
        record = self.records.get(name)
        if record is not None:
            return record
        found = [r for r in list(self.records.values()) if len(name) >= 4 and r.id.startswith(name)]
        if len(found) != 1:
            raise NoNetworkError(f"network {name} not found; `shipkeeper network ls` lists them")
        return found[0]

    async def bring_up(self, project: str, networks: Iterable[Network]) -> list[str]:
        """Have the networks of a project; names of those that were made. Raises PlanError.

        One whose definition has changed is made anew if nobody is in it.
        """
        made = []
        for network in networks:
            there = self.records.get(network.name)
            if network.external:
                if there is None and network.name != DEFAULT_NETWORK:
                    raise NoNetworkError(
                        f"network {network.name} declared as external, but could not be found; make it by"
                        f" `shipkeeper network create {network.name}`"
                    )
                continue
            if there is not None and there.project != project:
                raise PlanError(
                    f"cannot make network {network.name}: it is there, and belongs to"
                    f" {there.project or 'no project'}; declare it as external, or give it another name"
                )
            if there is not None and there.network == network:
                continue
            if there is not None:
                users = self.users(network.name)
                if users:
                    raise PlanError(
                        f"cannot change network {network.name}: its definition is another one, and"
                        f" {', '.join(users)} are in it; `down` first"
                    )
                await self.remove(network.name)
            await self.create(network, project)
            made.append(network.name)
        return made

    async def take_down(self, project: str) -> list[str]:
        """Remove what a project made, as far as nobody else uses it; names of what went."""
        gone = []
        for record in sorted(self.records.values(), key=lambda record: record.name):
            if record.project == project and project and not self.users(record.name):
                await self.remove(record.name)
                gone.append(record.name)
        return gone

    # --- endpoints -------------------------------------------------------------------------------
    def attach(self, stored: Stored, find: Callable[[str, str], Stored | None]) -> Place:
        """The place of an instance that is about to start, with its ports open. Blocks.

        find: an instance of a project by its service, or (project "") of any by its name or id. Idempotent.
        Raises PlanError.
        """
        # A run that ended while no daemon lived is followed by another at once, before it is known who is up.
        if not self._settled.wait(_PATIENCE_S):
            raise PlanError(f"cannot connect {stored.name}: the networks of this host are not in order yet")
        mode = stored.spec.network_mode
        kind, _, name = mode.partition(":")
        try:
            check_servers(stored.spec.name, stored.spec.resolver)
        except NamesError as error:
            raise PlanError(str(error)) from error
        if kind in ("service", "container") and name:
            return self._shared(stored, find, (stored.instance.id,))
        if mode in ("host", "none"):
            return Place(mode)
        endpoint = self._blocking(self._attach, stored)
        self._blocking(self._rule)
        return self._place(endpoint)

    def _shared(
        self, stored: Stored, find: Callable[[str, str], Stored | None], seen: tuple[str, ...]
    ) -> Place:
        kind, _, name = stored.spec.network_mode.partition(":")
        if stored.spec.ports:
            raise PlanError(
                f"cannot publish ports of {stored.name}: conflicting options: port publishing and the"
                f" container type network mode; publish them of {name}"
            )
        target = find(stored.project if kind == "service" else "", name)
        if target is None:
            raise PlanError(f"cannot join the network of {name}: there is no such {kind}")
        mode = target.spec.network_mode
        if target.instance.id in seen:
            raise PlanError(f"cannot join the network of {name}: it joins that of {stored.name} itself")
        if mode.partition(":")[0] in ("service", "container"):
            return self._shared(target, find, (*seen, target.instance.id))
        if mode == "host":
            return Place("host")
        if mode == "none":
            raise PlanError(
                f"cannot join the network of {target.name}: it has network_mode none, which nobody can share;"
                " give it a network"
            )
        endpoint = self._blocking(self._furnish, target)
        return self._place(endpoint)

    def _place(self, endpoint: Endpoint) -> Place:
        gateways = [each.gateway4 or each.gateway6 for each in endpoint.interfaces]
        nearest = [
            self.records[each.network].subnets[0].gateway
            for each in endpoint.interfaces
            if each.network in self.records
        ]
        gateway = next(filter(None, (*gateways, *nearest)), "")
        return Place(self.path(endpoint.instance), endpoint, gateway)

    def _attach(self, stored: Stored) -> Endpoint:
        """Addresses, links and ports; the rules are for later, so that those of many are set at once."""
        instance = stored.instance.id
        before = self._furnish(stored)
        try:
            endpoint = replace(before, bindings=self._open(stored, before))
        except PortError as error:
            raise PlanError(f"cannot connect {stored.name}: {error}") from error
        if endpoint != before:
            self._files.save_endpoint(endpoint)
            self.endpoints[instance] = endpoint
        if endpoint.bindings and instance not in self.open:
            self._unruled = True
            self._opened |= {each.host_port for each in endpoint.bindings if each.protocol == "udp"}
        self.open.add(instance)
        return endpoint

    def _furnish(self, stored: Stored) -> Endpoint:
        """The addresses and links of an instance, whether it is up or not."""
        instance, spec = stored.instance.id, stored.spec
        before = self.endpoints.get(instance)
        endpoint = Endpoint(
            instance,
            stored.name,
            _service(stored),
            stored.project,
            spec.hostname or instance[:12],
            self._plan(stored, before),
            before.bindings if before is not None else (),
        )
        if endpoint != before:
            self._files.save_endpoint(endpoint)
            self.endpoints[instance] = endpoint
            self._unruled = self._unruled or bool(endpoint.bindings)
        self._begin()
        self.wiring.join(endpoint, self.records)
        return endpoint

    def _begin(self) -> None:
        self.wiring.begin()
        self.begun()

    def _plan(self, stored: Stored, before: Endpoint | None) -> tuple[Interface, ...]:
        """The interfaces that an instance is to have; may make the default network. Raises PlanError."""
        spec = stored.spec
        attachments = attachments_of(spec)
        names = (stored.name, *((_service(stored),) if stored.project else ()), stored.instance.id[:12])
        try:
            for each in attachments:
                if each.network == DEFAULT_NETWORK and DEFAULT_NETWORK not in self.records:
                    self._create(Network(DEFAULT_NETWORK, DEFAULT_NETWORK), "")
            return plan_interfaces(
                self._tag,
                stored.instance.id,
                attachments,
                self.records,
                (each for each in self.endpoints.values() if each.instance != stored.instance.id),
                names=tuple(dict.fromkeys(names)),
                before=before.interfaces if before is not None else (),
            )
        except AddressError as error:
            raise PlanError(f"cannot connect {stored.name}: {error}") from error

    def _open(self, stored: Stored, before: Endpoint | None) -> tuple[Binding, ...]:
        """The ports of an instance, held."""
        instance = stored.instance.id
        if instance in self.open and before is not None:
            return before.bindings
        if instance in self._heirs:
            return ()
        return self._bind(stored, before.bindings if before is not None else ())

    def _bind(self, stored: Stored, before: tuple[Binding, ...], heir_of: str = "") -> tuple[Binding, ...]:
        """Hold the ports that an instance asks for. before: as in `plan_bindings`.

        heir_of: who holds those of before, which are there for the taking.
        """
        held = {
            f"service {endpoint.container}": endpoint.bindings
            for endpoint in self.endpoints.values()
            if endpoint.instance in self.open - {stored.instance.id, heir_of} and endpoint.bindings
        }
        taken: list[Binding] = []

        def take(wanted: Binding) -> Binding:
            found = self._ports.take(wanted)
            if not (heir_of and found in before):
                taken.append(found)
            return found

        try:
            return plan_bindings(stored.spec.ports, held, take, before)
        except BaseException:
            for binding in taken:
                self._ports.give_back(binding)
            raise

    def _rule(self, *, force: bool = False) -> None:
        if not (force or self._unruled):
            return
        self._unruled = False
        try:
            self.wiring.rule(self.records.values(), self._published())
        except BaseException:
            self._unruled = True
            raise
        self._lead_loopback6()
        opened, self._opened = self._opened, set()
        if opened:
            self._tried(self.wiring.forget_udp, opened)

    def _lead_loopback6(self) -> None:
        """Where that cannot be had, the rest is: a client of `localhost` goes on with 127.0.0.1."""
        try:
            self.wiring.lead_loopback6(self._published())
        except OSError as error:
            if not self._without_loopback6:
                self._without_loopback6 = True
                self._report(f"published ports are not reached by ::1 on this host: {error.strerror}")

    def _published(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints.values() if endpoint.instance in self.open]

    def bindings(self, instance: str) -> tuple[Binding, ...]:
        """The open ports of an instance."""
        endpoint = self.endpoints.get(instance)
        return endpoint.bindings if endpoint is not None and instance in self.open else ()

    def path(self, instance: str) -> str:
        """The file of the network namespace of an instance that has one."""
        return self._paths.netns(instance)

    def release(self, instance: str) -> None:
        """It is down: its ports are soon free for others. Its addresses are not. Does not wait."""
        if instance in self.open:
            for work in (partial(self._release, instance), self._rule):
                self._thread.submit(self._told, work).add_done_callback(self._released)

    def _released(self, work: Future[None]) -> None:
        error = work.exception()
        if error is not None:
            self._report(str(error))

    def _release(self, instance: str) -> None:
        self.open.discard(instance)
        self._succeeded.discard(instance)
        endpoint = self.endpoints.get(instance)
        if endpoint is not None and endpoint.bindings:
            for binding in endpoint.bindings:
                self._ports.give_back(binding)
            self._unruled = True
        self.changed()

    def expect(self, heir: str, of: str) -> None:
        """One instance is to take the place of another, or ("") is so no longer.

        Until `hand_over` it has addresses, and neither ports of the host nor names that others know.
        """
        if of:
            self._heirs[heir] = of
        else:
            self._heirs.pop(heir, None)

    def is_known(self, instance: str) -> bool:
        """Whether others are to find it by its names: it is up, and neither an heir nor succeeded."""
        return instance in self.open and instance not in self._heirs and instance not in self._succeeded

    async def hand_over(self, old: str, stored: Stored) -> None:
        """From now on what arrives for one instance goes to the one that takes its place.

        It is one change of the rules: at no moment a port is closed. Connections that there are go on for as
        long as the old one runs.

        stored: the new one, under its last name. Raises PlanError: it cannot have its ports, and nothing has
        changed.
        """
        if stored.instance.id in self.endpoints:
            await self._awaited(self._hand_over, old, stored)
            self.changed()

    def _hand_over(self, old: str, stored: Stored) -> None:
        heir = stored.instance.id
        before, after = self.endpoints.get(old), self.endpoints[heir]
        # Where a daemon died in the middle, the new one may have them already.
        had = (before.bindings if before is not None and old in self.open else ()) or after.bindings
        bindings = self._bind(stored, had, old)
        interfaces = self._plan(stored, after)
        self.endpoints[heir] = replace(after, container=stored.name, interfaces=interfaces, bindings=bindings)
        self._files.save_endpoint(self.endpoints[heir])
        if before is not None:
            self.endpoints[old] = replace(before, bindings=())
            self._files.save_endpoint(self.endpoints[old])
        for binding in set(had) - set(bindings):
            self._ports.give_back(binding)
        self._heirs.pop(heir, None)
        self._succeeded.add(old)
        self.open.add(heir)
        self._opened |= {each.host_port for each in bindings if each.protocol == "udp"}
        self._rule(force=True)

    async def detach(self, instance: str) -> None:
        """It is removed, and its endpoint with it. Raises PlanError.

        Those that are removed at the same time go together, since the kernel is slow to remove each link.
        """
        if instance not in self.endpoints:
            return
        self._leaving.append(instance)
        if self._parting is None:
            self._parting = asyncio.ensure_future(self._part())
        await asyncio.shield(self._parting)

    async def _part(self) -> None:
        await asyncio.sleep(0)  # those that the loop comes to before this
        leaving, self._leaving, self._parting = self._leaving, [], None
        await self._awaited(self._detach, leaving)
        await self._awaited(self._rule)
        self.changed()

    def _detach(self, instances: Iterable[str]) -> None:
        endpoints = [self.endpoints.pop(each) for each in instances if each in self.endpoints]
        for endpoint in endpoints:
            for binding in endpoint.bindings if endpoint.instance in self.open else ():
                self._ports.give_back(binding)
            self.open.discard(endpoint.instance)
            self._unruled = self._unruled or bool(endpoint.bindings)
        self.wiring.leave(endpoints)
        for endpoint in endpoints:
            self._files.remove_endpoint(endpoint.instance)

    async def reconnect(self, stored: Stored) -> None:
        """Its networks are others: change what it has, without a gap in those that stay. Raises PlanError."""
        if stored.instance.id in self.endpoints:
            await self._awaited(self._reconnect, stored)
            self.changed()

    def _reconnect(self, stored: Stored) -> None:
        before = self.endpoints[stored.instance.id]
        interfaces = self._plan(stored, before)
        endpoint = replace(before, interfaces=interfaces, container=stored.name)
        self._files.save_endpoint(endpoint)
        self.endpoints[endpoint.instance] = endpoint
        try:
            self._leave_others(before, endpoint)
            self.wiring.join(endpoint, self.records)
            self._rule(force=True)
        except BaseException:
            # Whoever asked takes its definition back.
            self._files.save_endpoint(before)
            self.endpoints[endpoint.instance] = before
            self._tried(self._leave_others, endpoint, before)
            self._tried(self.wiring.join, before, self.records)
            raise
        names = " ".join(
            filter(None, (full_name(endpoint.hostname, stored.spec.resolver), endpoint.hostname))
        )
        self._tried(
            move_addresses,
            self._paths.instance(endpoint.instance).etc,
            [address for each in before.interfaces for address in each.addresses],
            [address for each in interfaces for address in each.addresses],
            names,
        )

    def _leave_others(self, before: Endpoint, after: Endpoint) -> None:
        left = {each.link for each in after.interfaces}
        self.wiring.part(each.link for each in before.interfaces if each.link not in left)


def attachments_of(spec: ServiceSpec) -> tuple[Attachment, ...]:
    """The places in networks that a service asks for; the default network where it names none."""
    if spec.network_mode in ("host", "none") or ":" in spec.network_mode:
        return ()
    if spec.networks:
        return spec.networks
    name = spec.network_mode if spec.network_mode != "default" else DEFAULT_NETWORK
    return (Attachment(name),)


def _nothing() -> None:
    """Nobody listens."""


def _machine_id() -> bytes:
    try:
        with open("/etc/machine-id", "rb") as file:  # noqa: PTH123 - read as it is
            return file.read().strip()
    except OSError:
        return b""


def _service(stored: Stored) -> str:
    """The name that it shares with others of its service; what is run once has only its own."""
    return stored.name if stored.spec.one_off else stored.spec.name
