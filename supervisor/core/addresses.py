"""Which subnet a network gets, and which address an endpoint. Pure: the same question has the same answer.

A pool is `BASE/LENGTH:SIZE`: subnets of that size are taken out of the base, the first that overlaps nothing.
Docker's own pools (172.17.0.0/16 and on, 192.168.0.0/20) are not used, so that both live on one host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from supervisor.core.endpoints import Subnet
from supervisor.core.network import Network, Pool

DEFAULT_POOLS = ("10.213.0.0/16:24", "10.214.0.0/16:24", "172.31.0.0/16:24", "192.168.192.0/18:24")

Net = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class AddressError(ValueError):
    """An address or a subnet that cannot be had. The text says which and why."""


def unique_local_pool(seed: bytes) -> str:
    """The IPv6 pool of a host: a /48 of its own out of fd00::/8 (RFC 4193), with /64 subnets."""
    digest = hashlib.sha256(b"shipkeeper ula " + seed).digest()
    base = bytes([0xFD]) + digest[:5] + bytes(10)
    return f"{IPv6Address(base)}/48:64"


def read_pool(text: str) -> tuple[Net, int]:
    """A pool's base and the prefix length of its subnets. Raises AddressError."""
    base, _, size = text.rpartition(":")
    try:
        network = ip_network(base)
        length = int(size)
    except ValueError as error:
        raise AddressError(
            f"cannot use the pool {text!r}: {error}; write it like 10.213.0.0/16:24"
        ) from error
    if not network.prefixlen <= length <= network.max_prefixlen - 2:
        raise AddressError(f"cannot use the pool {text!r}: subnets of /{length} do not fit into {network}")
    return network, length


def choose_subnet(pools: Iterable[str], taken: Iterable[str], version: int) -> str:
    """The first subnet of the pools of an IP version that overlaps nothing that is taken.

    taken: CIDR texts: routes of the host, subnets of other networks. Raises AddressError.
    """
    used = _of_version((_network(text) for text in taken), version)
    for text in pools:
        base, length = read_pool(text)
        if base.version != version:
            continue
        at, end, step = (
            int(base.network_address),
            int(base.broadcast_address),
            1 << base.max_prefixlen - length,
        )
        while at <= end:
            candidate = ip_network((at, length)) if version == 4 else IPv6Network((at, length))
            blocker = next((net for net in used if _overlap(net, candidate)), None)
            if blocker is None:
                return str(candidate)
            # Past the whole of what is in the way, however wide it is.
            at = max(at + step, int(blocker.broadcast_address) + 1)
            at += -(at - int(base.network_address)) % step
    raise AddressError(
        f"cannot find a free IPv{version} subnet: all of the pools are taken by networks or routes of the"
        " host; name one under `ipam`, or give `network_pools` in the settings"
    )


def plan_subnets(network: Network, pools: Iterable[str], taken: Iterable[str]) -> tuple[Subnet, ...]:
    """The subnets of a network: its own, and one of the pools for each version that it names none for.

    taken: of other networks and of the host's routes; one that is named may overlap the host's, as in Docker.
    Raises AddressError.
    """
    pools, taken = list(pools), list(taken)
    subnets = [_configured(pool) for pool in network.pools if pool.subnet]
    found = {6 if subnet.is_v6 else 4 for subnet in subnets}
    for version, wanted in ((4, network.ipv4), (6, network.ipv6)):
        if wanted and version not in found:
            text = choose_subnet(pools, [*taken, *(s.subnet for s in subnets)], version)
            loose = next((p for p in network.pools if not p.subnet), None) if version == 4 else None
            made = Pool(text, loose.gateway if loose else None, loose.ip_range if loose else None)
            subnets.append(_configured(made))
    return tuple(sorted(subnets, key=lambda subnet: subnet.is_v6))


def _configured(pool: Pool) -> Subnet:
    net = _network(pool.subnet or "")
    if net.num_addresses < 4:
        raise AddressError(f"cannot use the subnet {net}: it has no room for a gateway and a service")
    gateway = ip_address(pool.gateway) if pool.gateway else net[1]
    if gateway not in net:
        raise AddressError(f"cannot use the gateway {gateway}: it is not in the subnet {net}")
    part = _network(pool.ip_range) if pool.ip_range else None
    if part is not None and not _inside(part, net):
        raise AddressError(f"cannot use the ip_range {part}: it is not in the subnet {net}")
    reserved = tuple(str(ip_address(text)) for _, text in pool.aux_addresses)
    return Subnet(str(net), str(gateway), "" if part is None else str(part), reserved)


def overlapping(subnets: Iterable[Subnet], others: Iterable[tuple[str, str]]) -> tuple[str, str, str] | None:
    """(subnet, other's subnet, other's name) of the first two that overlap. others: (name, CIDR)."""
    rest = list(others)
    for subnet in subnets:
        mine = _network(subnet.subnet)
        for name, text in rest:
            theirs = _network(text)
            if mine.version == theirs.version and _overlap(theirs, mine):
                return subnet.subnet, text, name
    return None


def choose_address(subnet: Subnet, taken: Iterable[str], wanted: str | None = None) -> str:
    """An address with its prefix length: the wanted one, else the lowest that is free. Raises AddressError.

    taken: addresses without prefix lengths, or with.
    """
    net = _network(subnet.subnet)
    used = {text.partition("/")[0] for text in taken} | {subnet.gateway}
    if wanted is not None:
        try:
            address = ip_address(wanted)
        except ValueError as error:
            raise AddressError(f"cannot use the address {wanted}: {error}") from error
        if address not in net or address in _unusable(net):
            raise AddressError(f"cannot use the address {wanted}: it is not one of the subnet {net}")
        if str(address) in used:
            raise AddressError(f"cannot use the address {wanted}: Address already in use")
        return f"{address}/{net.prefixlen}"
    used |= set(subnet.reserved)
    part = _network(subnet.ip_range) if subnet.ip_range else net
    at, end = int(part.network_address), int(part.broadcast_address)
    unusable = {int(address) for address in _unusable(net)}
    numbers = {int(ip_address(text)) for text in used if (":" in text) == subnet.is_v6}
    while at <= end:
        if at not in numbers and at not in unusable:
            return f"{IPv6Address(at) if subnet.is_v6 else IPv4Address(at)}/{net.prefixlen}"
        at += 1
    raise AddressError(f"cannot find a free address in {part}: all are taken; give a wider subnet")


def mac_of(address: str) -> str:
    """A locally administered MAC address that follows from an IP address, so that it never changes.

    Of a v4 address its four bytes are in it (as in Docker up to v27), of a v6 one a digest.
    """
    parsed = ip_address(address.partition("/")[0])
    tail = parsed.packed if parsed.version == 4 else hashlib.sha256(parsed.packed).digest()[:4]
    return ":".join(f"{byte:02x}" for byte in bytes([0x02, 0x42]) + tail)


def _network(text: str) -> Net:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise AddressError(f"cannot use the subnet {text!r}: {error}") from error


def _unusable(net: Net) -> tuple[Address, ...]:
    return (net.network_address, net.broadcast_address) if net.version == 4 else (net.network_address,)


def _of_version(nets: Iterable[Net], version: int) -> list[Net]:
    return [net for net in nets if net.version == version]


def _overlap(one: Net, other: Net) -> bool:
    return int(one.network_address) <= int(other.broadcast_address) and int(other.network_address) <= int(
        one.broadcast_address
    )


def _inside(part: Net, whole: Net) -> bool:
    return (
        part.version == whole.version
        and int(whole.network_address) <= int(part.network_address)
        and int(part.broadcast_address) <= int(whole.broadcast_address)
    )
