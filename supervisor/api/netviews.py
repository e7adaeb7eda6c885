"""Networks and endpoints in Docker's words: inspect of a network, NetworkSettings, Ports. Pure.

Source: the Engine API's NetworkInspect, ContainerInspect and ContainerList.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from supervisor.api.views import stamp
from supervisor.core.endpoints import Binding, Endpoint, Interface, NetworkRecord
from supervisor.core.model import ServiceSpec
from supervisor.core.portplan import families

Json = dict[str, Any]
_EVERY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - nothing is bound here


def network_view(record: NetworkRecord, endpoints: Iterable[Endpoint] = ()) -> Json:
    """One network. endpoints: all that there are; those in it are its Containers."""
    network = record.network
    inside = [(each, each.in_network(record.name)) for each in endpoints]
    labels = dict(network.labels)
    if record.project:
        labels = {
            "com.docker.compose.project": record.project,
            "com.docker.compose.network": network.key,
            **labels,
        }
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": stamp(record.created_wall),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": any(not subnet.is_v6 for subnet in record.subnets),
        "EnableIPv6": any(subnet.is_v6 for subnet in record.subnets),
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {
                    "Subnet": subnet.subnet,
                    "Gateway": subnet.gateway,
                    **({"IPRange": subnet.ip_range} if subnet.ip_range else {}),
                }
                for subnet in record.subnets
            ],
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            endpoint.instance: {
                "Name": endpoint.container,
                "EndpointID": endpoint_id(endpoint, place),
                "MacAddress": place.mac,
                "IPv4Address": place.ipv4,
                "IPv6Address": place.ipv6,
            }
            for endpoint, place in inside
            if place is not None
        },
        "Options": dict(network.driver_opts),
        "Labels": labels,
        "Bridge": record.bridge,
        "Project": record.project,
    }


def endpoint_id(endpoint: Endpoint, place: Interface) -> str:
    """64 hex digits that stay."""
    return hashlib.sha256(f"{endpoint.instance} {place.network}".encode()).hexdigest()


def settings_view(
    endpoint: Endpoint | None,
    records: dict[str, NetworkRecord],
    bindings: tuple[Binding, ...],
    spec: ServiceSpec,
    path: str,
) -> Json:
    """NetworkSettings. bindings: the open ports. path: of the network namespace."""
    places = {} if endpoint is None else {each.network: each for each in endpoint.interfaces}
    networks = {
        name: _place_view(endpoint, place, records) for name, place in places.items() if endpoint is not None
    }
    if not networks and spec.network_mode in ("host", "none"):
        networks = {spec.network_mode: _NO_PLACE}
    first: Json = next(iter(networks.values()), _NO_PLACE)
    return {
        "SandboxKey": path if endpoint is not None else "",
        "Ports": ports_view(spec, bindings),
        "Networks": networks,
        **{name: first[name] for name in ("IPAddress", "IPPrefixLen", "Gateway", "MacAddress")},
        **{name: first[name] for name in ("GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPv6Gateway")},
    }


_NO_PLACE: Json = {
    "IPAMConfig": None,
    "Aliases": None,
    "DNSNames": None,
    "NetworkID": "",
    "EndpointID": "",
    "MacAddress": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "IPv6Gateway": "",
    "DriverOpts": None,
    "Links": None,
}


def _place_view(endpoint: Endpoint, place: Interface, records: dict[str, NetworkRecord]) -> Json:
    record = records.get(place.network)
    gateways = {subnet.is_v6: subnet.gateway for subnet in record.subnets} if record is not None else {}
    v4, _, length4 = place.ipv4.partition("/")
    v6, _, length6 = place.ipv6.partition("/")
    return {
        **_NO_PLACE,
        "Aliases": list(place.names),
        "DNSNames": list(place.names),
        "NetworkID": record.id if record is not None else "",
        "EndpointID": endpoint_id(endpoint, place),
        "MacAddress": place.mac,
        "IPAddress": v4,
        "IPPrefixLen": int(length4 or 0),
        "Gateway": gateways.get(False, "") if v4 else "",
        "GlobalIPv6Address": v6,
        "GlobalIPv6PrefixLen": int(length6 or 0),
        "IPv6Gateway": gateways.get(True, "") if v6 else "",
        "Interface": place.name,
    }


def ports_view(spec: ServiceSpec, bindings: Iterable[Binding]) -> Json:
    """By `80/tcp`: where it is published, None where it is only exposed."""
    ports: Json = {text if "/" in text else f"{text}/tcp": None for text in spec.expose if "-" not in text}
    for binding in bindings:
        found = ports.get(f"{binding.target}/{binding.protocol}") or []
        found += [{"HostIp": ip, "HostPort": str(binding.host_port)} for ip in _addresses(binding)]
        ports[f"{binding.target}/{binding.protocol}"] = found
    return ports


def port_rows(spec: ServiceSpec, bindings: Iterable[Binding]) -> list[Json]:
    """Ports of a row of `docker ps`."""
    rows: list[Json] = []
    for name, places in ports_view(spec, bindings).items():
        number, _, protocol = name.partition("/")
        row = {"PrivatePort": int(number), "Type": protocol}
        rows += [{"IP": p["HostIp"], "PublicPort": int(p["HostPort"]), **row} for p in places or ()]
        if places is None:
            rows.append(row)
    return rows


def _addresses(binding: Binding) -> list[str]:
    return [binding.host_ip or _EVERY[version] for version in families(binding.host_ip)]
