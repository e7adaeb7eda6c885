"""The networks of Docker's document of a container: its mode, its endpoints and its ports. Pure."""

from __future__ import annotations

from typing import Any

from supervisor.core.network import Attachment, Port, Protocol, Resolver

_PROTOCOLS: dict[str, Protocol] = {"": "tcp", "tcp": "tcp", "udp": "udp", "sctp": "sctp"}


class RefusedError(Exception):
    """A document that asks for what there is not. The text is for the user."""


def attachment_of(network: str, config: dict[str, Any]) -> Attachment:
    """An EndpointSettings document. Raises RefusedError."""
    ipam = config.get("IPAMConfig") or {}
    return Attachment(
        network,
        aliases=tuple(config.get("Aliases") or ()),
        ipv4_address=ipam.get("IPv4Address") or None,
        ipv6_address=ipam.get("IPv6Address") or None,
        link_local_ips=tuple(ipam.get("LinkLocalIPs") or ()),
        mac_address=config.get("MacAddress") or None,
        driver_opts=tuple(sorted((config.get("DriverOpts") or {}).items())),
        gw_priority=int(config.get("GwPriority") or 0),
    )


def network_of(document: dict[str, Any], host: dict[str, Any]) -> tuple[str, tuple[Attachment, ...]]:
    """(network_mode, networks). Raises RefusedError.

    Without a word it is the host's network, unless ports are published: these need one of its own.
    """
    mode = host.get("NetworkMode") or "default"
    endpoints = (document.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    if mode == "default":
        asks = host.get("PortBindings") or host.get("PublishAllPorts")
        if not asks and not endpoints:
            return "host", ()
        mode = "bridge"
    if mode in ("host", "none") or mode.partition(":")[0] in ("container", "service"):
        others = [name for name in endpoints if name not in (mode, "default")]
        if others:
            raise RefusedError(
                f"cannot be in network {others[0]} with the network mode {mode}: conflicting options"
            )
        return mode, ()
    named = {("bridge" if name == "default" else name): config or {} for name, config in endpoints.items()}
    mac = document.get("MacAddress")
    first = dict(named.pop(mode, {}))
    if mac and not first.get("MacAddress"):
        first["MacAddress"] = mac
    attachments = [attachment_of(mode, first), *(attachment_of(n, c) for n, c in named.items())]
    return "bridge", tuple(attachments)


def ports_of(document: dict[str, Any], host: dict[str, Any]) -> tuple[tuple[Port, ...], tuple[str, ...]]:
    """(published ports, exposed ones). Raises RefusedError, ValueError."""
    ports: list[Port] = []
    bindings = host.get("PortBindings") or {}
    exposed = [*(document.get("ExposedPorts") or {}), *bindings]
    for name, places in bindings.items():
        target, protocol = _port(name)
        for place in places or [{}]:
            numbers = _published(place.get("HostPort") or "")
            ports.append(Port(target, protocol, numbers, place.get("HostIp") or ""))
    if host.get("PublishAllPorts"):
        for name in exposed:
            target, protocol = _port(name)
            if name not in bindings:
                ports.append(Port(target, protocol))
    plain = ["{}/{}".format(*_port(name)) for name in exposed]
    return tuple(ports), tuple(dict.fromkeys(plain))


def _port(text: str) -> tuple[int, Protocol]:
    number, _, said = text.partition("/")
    protocol = _PROTOCOLS.get(said)
    if protocol is None or not number.isdigit() or not 0 < int(number) < 65536:
        raise RefusedError(
            f"cannot publish port {text!r}: write a number from 1 to 65535, /tcp, /udp or /sctp"
        )
    return int(number), protocol


def _published(text: str) -> tuple[int, int] | None:
    if text in ("", "0"):
        return None
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def resolver_of(document: dict[str, Any], host: dict[str, Any]) -> Resolver:
    """Names and addresses that it is told of. Raises RefusedError."""
    hosts = []
    for text in host.get("ExtraHosts") or ():
        name, separator, address = text.partition("=" if "=" in text else ":")
        if not separator or not name or not address:
            raise RefusedError(f"cannot add the host {text!r}: write NAME:ADDRESS")
        hosts.append((name, address.strip("[]")))
    return Resolver(
        servers=tuple(host.get("Dns") or ()),
        search=tuple(host.get("DnsSearch") or ()),
        options=tuple(host.get("DnsOptions") or ()),
        domainname=document.get("Domainname") or None,
        extra_hosts=tuple(hosts),
    )
