"""What is made of networks and of services' places in them: frozen values that are stored and sent.

`core.network` says what was asked for; here stands what it came to: subnets, addresses, names of links, host
ports. All texts of addresses are in their normal form.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.network import Network

# Docker's driver options that mean something here.
MTU = "com.docker.network.driver.mtu"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
ICC = "com.docker.network.bridge.enable_icc"

# And of a place in a network.
IFNAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"


@dataclass(frozen=True, slots=True)
class Subnet:
    """One range of a network. subnet, ip_range: CIDR ("" is the whole subnet). reserved: never given away."""

    subnet: str
    gateway: str
    ip_range: str = ""
    reserved: tuple[str, ...] = ()

    @property
    def prefix(self) -> int:
        """Length of the network part."""
        return int(self.subnet.partition("/")[2])

    @property
    def is_v6(self) -> bool:
        return ":" in self.subnet


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network that is there. id: 64 hex digits. bridge: its link on the host. project: "" for none."""

    network: Network
    id: str
    bridge: str
    subnets: tuple[Subnet, ...]
    created_wall: float
    project: str = ""

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def mtu(self) -> int:
        """0: the kernel's default."""
        return int(self._option(MTU, "0"))

    @property
    def masquerades(self) -> bool:
        """Whether what goes out has the host's address."""
        return self._option(MASQUERADE, "true").lower() != "false"

    @property
    def isolated(self) -> bool:
        """Whether services of this network do not reach each other (enable_icc=false)."""
        return self._option(ICC, "true").lower() == "false"

    def _option(self, name: str, default: str) -> str:
        return dict(self.network.driver_opts).get(name, default)


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a service in a network.

    name: inside. link: the other end, on the host. ipv4, ipv6: with the prefix length, "" for none.
    gateway4, gateway6: of the default route, "" where it goes another way. names: all that it is known by.
    extra: further addresses with their prefix lengths, which have no names. sysctls: paths below
    /proc/sys/net, with values.
    """

    network: str
    name: str
    link: str
    mac: str
    ipv4: str = ""
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    names: tuple[str, ...] = ()
    mtu: int = 0
    extra: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Without prefix lengths, v4 first."""
        return tuple(text.partition("/")[0] for text in (self.ipv4, self.ipv6) if text)


@dataclass(frozen=True, slots=True)
class Binding:
    """A port of the host that leads to a service. host_ip: "" is every address, v4 and v6."""

    protocol: str
    host_ip: str
    host_port: int
    target: int

    def __str__(self) -> str:
        where = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip or "*"
        return f"{where}:{self.host_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service instance in its networks. bindings: as they are, or were when it was last up.

    container, service, project: its names, for what answers questions about names.
    """

    instance: str
    container: str
    service: str
    project: str
    hostname: str
    interfaces: tuple[Interface, ...]
    bindings: tuple[Binding, ...] = ()

    def in_network(self, name: str) -> Interface | None:
        """Its place in that network."""
        return next((each for each in self.interfaces if each.network == name), None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance runs: the network that its launch joins, and what it has to know of it.

    net: `host`, `none`, or the file of a network namespace. endpoint: whose addresses these are, which is
    another instance's where the network is shared. gateway: the host, as seen from there; "" for none.
    """

    net: str
    endpoint: Endpoint | None = None
    gateway: str = ""
