"""Networks in the kernel: bridges, namespaces, links and rules as they are wanted. Effects only.

Everything is idempotent: what is there is left, what is missing is made. All methods block and belong to one
thread, which enters namespaces; pyroute2 is imported at the first of them that needs it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from supervisor.core.attaching import link_prefix
from supervisor.core.endpoints import Endpoint, Interface, NetworkRecord
from supervisor.core.loopback import ways_from_loopback6
from supervisor.core.netrules import delete_script, script, table_name
from supervisor.core.paths import Paths
from supervisor.kernel import netns
from supervisor.kernel.hierarchies import detect
from supervisor.runtime import nftables
from supervisor.runtime.loopback6 import Loopback6

if TYPE_CHECKING:
    from supervisor.kernel.links import Links

_OWN_KEPT = 64


class Wiring:
    """Of one supervisor. `own` are the process ids of its latest `nft`, for `kernel.netevents`."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._tag = paths.tag
        self.table = table_name(paths.tag)
        self._links: Links | None = None
        self._loopback6 = Loopback6(paths.tag)
        self._root: str | None = None
        self.own: set[int] = set()
        self._latest: deque[int] = deque()

    @property
    def host(self) -> Links:
        """The host's links."""
        if self._links is None:
            from supervisor.kernel.links import Links

            self._links = Links()
        return self._links

    def close(self) -> None:
        """Let go of the socket, and of what is in force."""
        self._loopback6.close()
        if self._links is not None:
            self._links.close()
            self._links = None

    # --- is there anything ----------------------------------------------------------------------
    def begin(self) -> None:
        """Say, for the next start, that there may be something in the kernel. Raises OSError."""
        with open(self._paths.networks_active, "w") as file:
            file.write(self._paths.state_dir)

    def begun(self) -> bool:
        """Whether there may be something of ours in the kernel."""
        return os.path.exists(self._paths.networks_active)

    # --- networks -------------------------------------------------------------------------------
    def build(self, record: NetworkRecord) -> int:
        """The bridge of a network, with its addresses, up; its index. Raises OSError."""
        alias = self._alias(record.name)
        there = self.host.get(record.bridge)
        if there is not None and there.alias != alias:
            raise OSError(
                errno.EEXIST,
                f"cannot make network {record.name}: there is a link {record.bridge} that is not ours; name"
                " another with the driver option com.docker.network.bridge.name",
            )
        v6 = any(subnet.is_v6 for subnet in record.subnets)
        self._forward(v6=v6)
        bridge = self.host.add_bridge(record.bridge, alias, record.mtu)
        if netns.has_sysctl(f"ipv6/conf/{record.bridge}"):
            netns.write_sysctl(f"ipv6/conf/{record.bridge}/disable_ipv6", "0" if v6 else "1")
            netns.write_sysctl(f"ipv6/conf/{record.bridge}/accept_ra", "0")
        netns.write_sysctl(f"ipv4/conf/{record.bridge}/route_localnet", "1")
        wanted = {f"{subnet.gateway}/{subnet.prefix}" for subnet in record.subnets}
        present = self.host.addresses(bridge)
        for address in sorted(present - wanted):
            self.host.remove_address(bridge, address)
        for address in sorted(wanted - present):
            self.host.add_address(bridge, address)
        self.host.up(bridge)
        return bridge

    @staticmethod
    def _forward(*, v6: bool) -> None:
        """Let the host pass packets on. Where it gets its own IPv6 routes from a router it still does."""
        if netns.read_sysctl("ipv4/ip_forward") == "0":
            netns.write_sysctl("ipv4/ip_forward", "1")
        if v6 and netns.has_sysctl("ipv6/conf/all") and netns.read_sysctl("ipv6/conf/all/forwarding") == "0":
            for name in os.listdir("/proc/sys/net/ipv6/conf"):
                if name != "all" and netns.read_sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
                    netns.write_sysctl(f"ipv6/conf/{name}/accept_ra", "2")
            netns.write_sysctl("ipv6/conf/all/forwarding", "1")

    def demolish(self, record: NetworkRecord) -> None:
        """Remove a bridge that is ours. Raises OSError."""
        there = self.host.get(record.bridge)
        if there is not None and there.alias == self._alias(record.name):
            self.host.delete([record.bridge])

    # --- endpoints ------------------------------------------------------------------------------
    def join(self, endpoint: Endpoint, records: Mapping[str, NetworkRecord]) -> None:
        """The namespace of an instance, with all its interfaces up. Raises OSError."""
        from supervisor.kernel.links import LOOPBACK, links

        path = self._paths.netns(endpoint.instance)
        fresh = not netns.is_kept(path)
        if fresh:
            netns.remove(path)
            netns.create(path)
        bridges = {each.network: self._bridge(records[each.network]) for each in endpoint.interfaces}
        with netns.entered(path) as namespace, links() as inside:
            # What was just made is not asked what it has: half of the time went into that.
            own = set() if fresh else inside.all().keys()
            inside.up(LOOPBACK)
            for each in endpoint.interfaces:
                bridge = bridges[each.network]
                link = self.host.get(each.link) if each.name in own else None
                made = link is None
                if link is None:
                    self.host.delete([each.link])
                    alias = self._alias(f"{endpoint.container} in {each.network}")
                    self.host.add_veth(each.link, alias, bridge, each.name, each.mac, each.mtu, namespace)
                elif link.master != bridge:
                    self.host.enslave(link.number, bridge)
                _set_up(inside, each, made=made)

    def _bridge(self, record: NetworkRecord) -> int:
        """Of a network; made again if somebody has removed it. Raises OSError."""
        return self.host.number(record.bridge) or self.build(record)

    def part(self, names: Iterable[str]) -> None:
        """Remove links of instances, by their names on the host. Raises OSError."""
        self.host.delete(names)

    def leave(self, endpoints: Iterable[Endpoint]) -> None:
        """Remove the links of instances and let their namespaces go. Raises OSError."""
        leaving = list(endpoints)
        self.part(each.link for endpoint in leaving for each in endpoint.interfaces)
        for endpoint in leaving:
            netns.remove(self._paths.netns(endpoint.instance))

    # --- rules ----------------------------------------------------------------------------------
    def rule(self, records: Iterable[NetworkRecord], published: Iterable[Endpoint]) -> None:
        """Put the table in order; without networks there is none. Raises RulesError."""
        networks, open_ones = list(records), list(published)
        text = script(self.table, networks, open_ones) if networks else delete_script(self.table)
        nftables.apply(text, self._remember)

    def lead_loopback6(self, published: Iterable[Endpoint]) -> None:
        """Have published ports reached by ::1. Raises OSError where this host cannot."""
        if self._root is None:
            self._root = detect().unified or ""
        if not self._root:
            raise OSError(errno.ENOENT, "there is no cgroup v2 here")
        self._loopback6.set(ways_from_loopback6(published), self._root)

    @staticmethod
    def forget_udp(ports: set[int]) -> None:
        """Have who sent to those ports while they led elsewhere meet the new rules. Raises OSError."""
        from supervisor.kernel.conntrack import forget_udp

        forget_udp(ports)

    def _remember(self, process: int) -> None:
        self.own.add(process)
        self._latest.append(process)
        if len(self._latest) > _OWN_KEPT:
            self.own.discard(self._latest.popleft())

    # --- leftovers ------------------------------------------------------------------------------
    def sweep(self, records: Iterable[NetworkRecord], endpoints: Iterable[Endpoint]) -> list[str]:
        """Remove links and namespaces of ours that belong to nothing that is known; what went."""
        known = list(endpoints)
        wanted = {record.bridge for record in records}
        wanted |= {each.link for endpoint in known for each in endpoint.interfaces}
        stray = []
        for link in self.host.all().values():
            ours = link.alias.startswith(self._alias("")) or (
                link.name.startswith(link_prefix(self._tag)) and link.kind in ("bridge", "veth")
            )
            if ours and link.name not in wanted:
                stray.append(link.name)
        self.host.delete(stray)
        gone = [f"link {name}" for name in stray]
        kept = {endpoint.instance for endpoint in known}
        for name in netns.names(self._paths.network_namespaces):
            if name not in kept:
                netns.remove(self._paths.netns(name))
                gone.append(f"network namespace {name}")
        return gone

    def clear(self) -> None:
        """Take all of it out of the kernel: links, namespaces, rules. Raises OSError, RulesError."""
        self.sweep((), ())
        self.rule((), ())
        with contextlib.suppress(OSError):  # where it cannot be looked at there is none
            self.lead_loopback6(())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._paths.networks_active)

    def _alias(self, what: str) -> str:
        return f"shipkeeper {self._tag} {what}"[:250]


def _set_up(inside: Links, wanted: Interface, *, made: bool) -> None:
    """made: just now, so there is nothing to look at."""
    texts = [text for text in (wanted.ipv4, wanted.ipv6, *wanted.extra) if text]
    v6 = f"ipv6/conf/{wanted.name}"
    if netns.has_sysctl(v6):
        netns.write_sysctl(f"{v6}/disable_ipv6", "0" if any(":" in text for text in texts) else "1")
        netns.write_sysctl(f"{v6}/accept_ra", "0")
    for path, value in wanted.sysctls:
        try:
            netns.write_sysctl(path, value)
        except OSError as error:
            name = f"net.{path.replace('/', '.')}"
            raise OSError(error.errno, f"cannot set sysctl {name} to {value}: {error.strerror}") from error
    number = inside.number(wanted.name)
    present = set() if made else inside.addresses(number)
    for address in texts:
        if address not in present:
            inside.add_address(number, address)
    inside.up(number)
    for gateway in (wanted.gateway4, wanted.gateway6):
        if gateway:
            inside.default_route(number, gateway)
