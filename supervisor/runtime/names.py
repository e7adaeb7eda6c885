"""From what a service asked for to what the resolver says. Pure.

Names as Docker has them: the container's, the service's, the aliases, the host name; an address is called
`container.network`. docs/names.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from supervisor.core.network import Resolver
from supervisor.resolver.table import Endpoint, Place, Table


class NamesError(Exception):
    """Resolvers that a service cannot have; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Membership:
    """An instance in a network. network: its full name. internal: without a way out of the host."""

    network: str
    addresses: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """An instance that has an endpoint. memberships: in the order in which its networks are looked through.

    netns: the file that its network namespace is bound to. serves_dns: it publishes or exposes port 53.
    known: whether others find it; one that is down asks at most for who shares its network.
    """

    instance: str
    netns: str
    container: str
    service: str
    memberships: tuple[Membership, ...]
    hostname: str | None = None
    resolver: Resolver = field(default_factory=Resolver)
    serves_dns: bool = False
    known: bool = True


def names_table(serial: int, members: Iterable[Member]) -> Table:
    """The resolver's table. Raises NamesError for servers that cannot be asked."""
    return Table(serial, tuple(_endpoint(one) for one in sorted(members, key=lambda one: one.instance)))


def _endpoint(member: Member) -> Endpoint:
    check_servers(member.service, member.resolver)
    return Endpoint(
        member.instance,
        member.netns,
        tuple(
            Place(
                one.network,
                one.addresses,
                tuple(
                    dict.fromkeys(
                        name
                        for name in (member.container, member.service, *one.aliases, member.hostname)
                        if name and member.known
                    )
                ),
            )
            for one in member.memberships
        ),
        member.resolver.servers,
        isolated=all(one.internal for one in member.memberships),
        port=0 if member.serves_dns else 53,
        links=member.resolver.links,
    )


def check_servers(service: str, resolver: Resolver) -> None:
    """Whether `dns` of a service can be used: they are asked from the host's network. Raises NamesError."""
    for text in resolver.servers:
        try:
            address = ip_address(text)
        except ValueError:
            raise NamesError(
                f"cannot use {text!r} as dns of service {service}: it is no IP address; write one"
            ) from None
        if address.is_loopback or address.is_unspecified:
            raise NamesError(
                f"cannot use {text} as dns of service {service}: questions are passed on from the host's"
                " network, where it is another loopback; leave dns out for the host's own servers"
            )
