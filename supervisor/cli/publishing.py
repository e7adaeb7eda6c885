"""The options of `run` and `create` that concern networks, and their part of Docker's document."""

from __future__ import annotations

import ipaddress
from typing import Any

import click

Json = dict[str, Any]

OPTIONS = (
    click.option(
        "-p",
        "--publish",
        multiple=True,
        metavar="[[IP:]HOST:]PORT[/PROTO]",
        help="Let a port be reached at one of the host; ranges FIRST-LAST; without HOST at any free one.",
    ),
    click.option("-P", "--publish-all", is_flag=True, help="All ports that are exposed, at free ones."),
    click.option("--expose", multiple=True, metavar="PORT[/PROTO]", help="A port that -P publishes."),
    click.option(
        "--network",
        multiple=True,
        metavar="NAME|host|none|container:NAME",
        help="A network; several times for several. Without: host, or with -p the network `bridge`.",
    ),
    click.option("--network-alias", multiple=True, help="A further name in its networks."),
    click.option("--ip", help="Its IPv4 address in the first network."),
    click.option("--ip6", help="Its IPv6 address there."),
    click.option("--mac-address", help="Its MAC address there."),
    click.option(
        "--add-host",
        multiple=True,
        metavar="NAME:ADDRESS",
        help="A line of /etc/hosts; host-gateway: the host.",
    ),
    click.option("--dns", multiple=True, metavar="ADDRESS", help="A name server instead of the host's."),
    click.option("--dns-search", multiple=True, metavar="DOMAIN", help="A domain to look for names in."),
    click.option("--dns-option", multiple=True, help="An option of resolv.conf."),
)


def networks(given: dict[str, Any]) -> tuple[Json, Json]:
    """(fields of the document, fields of its HostConfig). Raises ValueError."""
    bindings: dict[str, list[Json]] = {}
    for text in given["publish"]:
        for port, place in publication(text):
            bindings.setdefault(port, []).append(place)
    names = list(given["network"])
    first = names[0] if names else "default"
    for name in names:
        if "=" in name or "," in name:
            raise ValueError(f"--network {name}: only a name is built; see --ip, --network-alias")
    shared = first in ("host", "none") or ":" in first
    special = [n for n in ("ip", "ip6", "mac_address", "network_alias") if given[n]]
    if shared and (special or len(names) > 1):
        raise ValueError(f"--network {first} goes with no other network, address or alias")
    if shared and (bindings or given["publish_all"]):
        raise ValueError(f"ports cannot be published with --network {first}: leave -p out")
    endpoints: Json = {}
    if not shared and (names or special):
        endpoints = {name: {"Aliases": list(given["network_alias"])} for name in names or ["bridge"]}
        place = endpoints[names[0] if names else "bridge"]
        place["IPAMConfig"] = {"IPv4Address": given["ip"], "IPv6Address": given["ip6"]}
        place["MacAddress"] = given["mac_address"]
    exposed = [text if "/" in text else f"{text}/tcp" for text in given["expose"]]
    document = {
        "ExposedPorts": {name: {} for name in dict.fromkeys((*exposed, *bindings))},
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }
    host = {
        "NetworkMode": first if names else "bridge" if special else "default",
        "PortBindings": bindings,
        "PublishAllPorts": given["publish_all"],
        "ExtraHosts": list(given["add_host"]),
        "Dns": list(given["dns"]),
        "DnsSearch": list(given["dns_search"]),
        "DnsOptions": list(given["dns_option"]),
    }
    return document, host


def publication(text: str) -> list[tuple[str, Json]]:
    """`-p` as (port/protocol, its binding), one for each port of a range. Raises ValueError.

    Source: docker/go-connections, nat.ParsePortSpec.
    """
    rest, _, protocol = text.partition("/")
    rest, _, target = rest.rpartition(":")
    host_ip, _, host = rest.rpartition(":")
    host_ip = host_ip.removeprefix("[").removesuffix("]")
    if host_ip:
        try:
            ipaddress.ip_address(host_ip)
        except ValueError:
            raise ValueError(f"-p {text}: {host_ip} is no address") from None
    first, last = _range(target, text)
    if not host:
        return [(f"{n}/{protocol or 'tcp'}", _place(host_ip, "")) for n in range(first, last + 1)]
    low, high = _range(host, text)
    if first == last:
        said = f"{low}" if low == high else f"{low}-{high}"
        return [(f"{first}/{protocol or 'tcp'}", _place(host_ip, said))]
    if high - low != last - first:
        raise ValueError(f"-p {text}: the two ranges have different lengths")
    return [
        (f"{number}/{protocol or 'tcp'}", _place(host_ip, str(low + number - first)))
        for number in range(first, last + 1)
    ]


def _place(host_ip: str, port: str) -> Json:
    return {"HostIp": host_ip, "HostPort": port}


def _range(text: str, whole: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    high = high or low
    if not (low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) < 65536):
        raise ValueError(f"-p {whole}: {text or 'nothing'} is no port, nor a range FIRST-LAST")
    return int(low), int(high)
