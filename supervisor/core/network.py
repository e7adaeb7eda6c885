"""What a user asked of networks: networks, a service's place in them, and published ports.

Frozen and plain as `core.model` is, which has these as fields. Meanings and defaults are the Compose
specification's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PROJECT_NETWORKS = "bridge"
"""`network_mode` of a service that is in networks of its project (Docker's word for it)."""


Protocol = Literal["tcp", "udp", "sctp"]
"""Of a published port."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One entry of `ipam.config`. subnet, ip_range: CIDR. gateway: None is the pool's first address."""

    subnet: str | None = None
    gateway: str | None = None
    ip_range: str | None = None
    aux_addresses: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """A network of a project. `name` is its name on this host; an external one is never made or removed."""

    key: str
    name: str
    driver: str = "bridge"
    driver_opts: tuple[tuple[str, str], ...] = ()
    external: bool = False
    internal: bool = False
    attachable: bool = False
    ipv4: bool = True
    ipv6: bool = False
    pools: tuple[Pool, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Attachment:
    """A service's place in a network.

    network: its full name. aliases: names beside the service's and the container's, which are always known.
    priority: order of connecting, the highest first. gw_priority: the highest has the default route.
    """

    network: str
    aliases: tuple[str, ...] = ()
    ipv4_address: str | None = None
    ipv6_address: str | None = None
    link_local_ips: tuple[str, ...] = ()
    mac_address: str | None = None
    interface_name: str | None = None
    driver_opts: tuple[tuple[str, str], ...] = ()
    priority: int = 0
    gw_priority: int = 0


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a service that is reachable from outside.

    published: first and last host port that may be taken, the lowest free one is; None: any free port.
    host_ip: "" is every address of the host, v4 and v6. mode, name and app_protocol are for
    readers and proxies; nothing here acts by them, but a change of one is a change of the definition.
    """

    target: int
    protocol: Protocol = "tcp"
    published: tuple[int, int] | None = None
    host_ip: str = ""
    mode: Literal["ingress", "host"] = "ingress"
    name: str | None = None
    app_protocol: str | None = None


@dataclass(frozen=True, slots=True)
class Resolver:
    """`dns`, `dns_search`, `dns_opt`, `domainname`, `extra_hosts` of a service. Empty: left to the default.

    extra_hosts: (name, address) in the order of the file; the address `host-gateway` is the host.
    links: (service or container name, the name by which it is known here).
    """

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    domainname: str | None = None
    extra_hosts: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
