"""Which place an instance gets in its networks. Pure: from what is asked for and what is taken to values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address

from supervisor.core.addresses import AddressError, choose_address, mac_of, overlapping, plan_subnets
from supervisor.core.endpoints import (
    ICC,
    IFNAME,
    MASQUERADE,
    MTU,
    SYSCTLS,
    Endpoint,
    Interface,
    NetworkRecord,
)
from supervisor.core.network import Attachment, Network

_LINK = re.compile(r"[^\s/:]{1,15}")
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_BRIDGE = "com.docker.network.bridge.name"
_BOOLEANS = (MASQUERADE, ICC, "com.docker.network.bridge.default_bridge")
_IGNORED = ("com.docker.network.container_iface_prefix", "com.docker.network.bridge.host_binding_ipv4")
_PLANNED = ("host", "none", "container", "service")


def link_prefix(tag: str) -> str:
    """How all links begin that a supervisor of this tag makes without being told a name."""
    return f"sk{tag[:4]}"


def bridge_name(tag: str, network: str) -> str:
    """The bridge of a network, as long as nobody names another."""
    return f"{link_prefix(tag)}b{_digest(network)[:7]}"


def veth_name(tag: str, instance: str, network: str) -> str:
    """The host's end of an instance's link to a network."""
    return f"{link_prefix(tag)}v{_digest(f'{instance} {network}')[:8]}"


def plan_network(
    network: Network,
    tag: str,
    there: Iterable[NetworkRecord],
    routes: Iterable[str],
    pools: Iterable[str],
    *,
    created_wall: float,
    project: str,
    unique: str,
) -> NetworkRecord:
    """A network to be made. there: those that are. unique: makes its id. Raises AddressError."""
    if not _NAME.fullmatch(network.name) or network.name in _PLANNED:
        raise AddressError(
            f"cannot use the network name {network.name!r}: letters, digits, _ . - are allowed"
        )
    if network.driver not in ("bridge", "default", ""):
        raise AddressError(f"cannot use the driver {network.driver!r}: there is bridge; leave driver out")
    others = list(there)
    if any(record.name == network.name for record in others):
        raise AddressError(f"network with name {network.name} already exists")
    bridge = _options(network).get(_BRIDGE) or bridge_name(tag, network.name)
    if any(record.bridge == bridge for record in others):
        raise AddressError(f"cannot use the bridge name {bridge}: another network has it")
    theirs = [(record.name, subnet.subnet) for record in others for subnet in record.subnets]
    subnets = plan_subnets(network, pools, [*routes, *(text for _, text in theirs)])
    clash = overlapping(subnets, theirs)
    if clash is not None:
        raise AddressError(
            f"cannot use the subnet {clash[0]}: Pool overlaps with other one on this address space:"
            f" {clash[1]} of network {clash[2]}"
        )
    if not subnets:
        raise AddressError("cannot make a network without addresses: IPv4 and IPv6 are both off")
    return NetworkRecord(
        network, hashlib.sha256(unique.encode()).hexdigest(), bridge, subnets, created_wall, project
    )


def _options(network: Network) -> dict[str, str]:
    options = dict(network.driver_opts)
    for name, value in options.items():
        if name == _BRIDGE:
            if not _LINK.fullmatch(value) or value in (".", "..", "lo"):
                raise AddressError(
                    f"cannot use the bridge name {value!r}: 15 characters at most, without / : "
                )
        elif name == MTU:
            if not value.isdigit() or not 68 <= int(value) <= 65535:
                raise AddressError(f"cannot use the mtu {value!r}: it is a number from 68 to 65535")
        elif name in _BOOLEANS:
            if value.lower() not in ("true", "false"):
                raise AddressError(f"cannot use {name}={value}: write true or false")
        elif name not in _IGNORED:
            raise AddressError(f"cannot use the driver option {name}: it is not known here; leave it out")
    return options


def plan_interfaces(
    tag: str,
    instance: str,
    attachments: Iterable[Attachment],
    records: Mapping[str, NetworkRecord],
    others: Iterable[Endpoint],
    *,
    names: tuple[str, ...],
    before: tuple[Interface, ...] = (),
) -> tuple[Interface, ...]:
    """The interfaces of an instance, in the order of their making. Raises AddressError.

    others: every other endpoint. names: what it is known by in every network of its own. before: the
    interfaces that it has, which keep their addresses as far as they fit.
    """
    ordered = sorted(attachments, key=lambda each: -each.priority)  # stable: else as they were written
    endpoints = list(others)
    kept = {each.network: each for each in before}
    made: list[Interface] = []
    for number, wanted in enumerate(ordered):
        options = _place_options(wanted)
        record = records.get(wanted.network)
        if record is None:
            raise AddressError(f"network {wanted.network} not found; `shipkeeper network ls` lists them")
        if any(each.network == wanted.network for each in made):
            raise AddressError(f"cannot be in network {wanted.network} twice; write it once")
        taken = [
            address
            for endpoint in endpoints
            for each in endpoint.interfaces
            if each.network == record.name
            for address in each.addresses
        ]
        old = kept.get(record.name)
        v4 = _address(record, taken, wanted.ipv4_address, old.ipv4 if old else None, v6=False)
        v6 = _address(record, taken, wanted.ipv6_address, old.ipv6 if old else None, v6=True)
        name = wanted.interface_name or options.get(IFNAME) or _free_name(number, made, ordered)
        if not _LINK.fullmatch(name) or name == "lo" or any(each.name == name for each in made):
            raise AddressError(f"cannot use the interface name {name!r}: 15 characters at most, each once")
        made.append(
            Interface(
                record.name,
                name,
                veth_name(tag, instance, record.name),
                _mac(wanted.mac_address) or (mac_of(v4 or v6)),
                v4,
                v6,
                names=tuple(dict.fromkeys((*names, *wanted.aliases))),
                mtu=record.mtu,
                extra=tuple(_link_local(text) for text in wanted.link_local_ips),
                sysctls=_sysctls(options.get(SYSCTLS, ""), name),
            )
        )
    return _routed(made, ordered, records)


def _place_options(wanted: Attachment) -> dict[str, str]:
    options = dict(wanted.driver_opts)
    for name in options:
        if name not in (IFNAME, SYSCTLS):
            raise AddressError(
                f"cannot use the driver option {name} of a place in network {wanted.network}: {IFNAME} and"
                f" {SYSCTLS} are known here; leave it out"
            )
    return options


def _link_local(text: str) -> str:
    """With the prefix length that libnetwork gives it."""
    address = ip_address(text)
    return f"{address}/{16 if address.version == 4 else 64}"


def _sysctls(text: str, interface: str) -> tuple[tuple[str, str], ...]:
    """`net.ipv4.conf.IFNAME.log_martians=1,...`, as Docker has it: of this interface alone."""
    found = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        words = name.strip().split(".")
        if not equals or len(words) != 5 or words[0] != "net" or words[3] != "IFNAME" or ".." in name:
            raise AddressError(
                f"cannot use the sysctl {part!r}: write net.ipv4.conf.IFNAME.log_martians=1, IFNAME as it is"
            )
        found.append(("/".join((*words[1:3], interface, words[4])), value.strip()))
    return tuple(found)


def _free_name(number: int, made: list[Interface], ordered: list[Attachment]) -> str:
    said = {each.interface_name or dict(each.driver_opts).get(IFNAME) for each in ordered} | {
        each.name for each in made
    }
    while f"eth{number}" in said:
        number += 1
    return f"eth{number}"


def _address(
    record: NetworkRecord, taken: list[str], wanted: str | None, old: str | None, *, v6: bool
) -> str:
    subnet = next((each for each in record.subnets if each.is_v6 == v6), None)
    if subnet is None:
        if wanted:
            raise AddressError(
                f"cannot use the address {wanted}: network {record.name} has no IPv{6 if v6 else 4} subnet;"
                f" write {'enable_ipv6: true or ' if v6 else ''}a subnet under its `ipam`"
            )
        return ""
    if wanted:
        # Where there are several subnets of a version, in that which it is of.
        fitting = [each for each in record.subnets if each.is_v6 == v6]
        errors = []
        for each in fitting:
            try:
                return choose_address(each, taken, wanted)
            except AddressError as error:
                errors.append(error)
        raise errors[-1]
    if old:
        try:
            return choose_address(subnet, taken, old.partition("/")[0])
        except AddressError:
            pass  # the network was made anew with other addresses
    return choose_address(subnet, taken)


def _mac(text: str | None) -> str:
    if not text:
        return ""
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1:
        raise AddressError(
            f"cannot use the mac_address {text!r}: write one of a host, like 02:42:0a:00:00:07"
        )
    return text.lower().replace("-", ":")


def _routed(
    made: list[Interface], ordered: list[Attachment], records: Mapping[str, NetworkRecord]
) -> tuple[Interface, ...]:
    """The default routes: by gw_priority, else the first interface that leads out, per IP version."""
    result = list(made)
    order = sorted(range(len(made)), key=lambda at: -ordered[at].gw_priority)
    for version in (4, 6):
        for at in order:
            record = records[made[at].network]
            own = made[at].ipv6 if version == 6 else made[at].ipv4
            subnet = next((s for s in record.subnets if s.is_v6 == (version == 6)), None)
            if record.network.internal or not own or subnet is None:
                continue
            if version == 4:
                result[at] = replace(result[at], gateway4=subnet.gateway)
            else:
                result[at] = replace(result[at], gateway6=subnet.gateway)
            break
    return tuple(result)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
