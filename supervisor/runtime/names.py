"""From what a service asked for to what the resolver and /etc/resolv.conf say. Pure.

Names as Docker has them: the container's, the service's, the aliases, the host name; an address is called
`container.network`. docs/names.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from supervisor.core.network import Resolver
from supervisor.resolver.table import Endpoint, Place, Table
from supervisor.resolver.upstream import OWN_ADDRESS


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
    """

    instance: str
    netns: str
    container: str
    service: str
    memberships: tuple[Membership, ...]
    hostname: str | None = None
    resolver: Resolver = field(default_factory=Resolver)
    serves_dns: bool = False


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
                        if name
                    )
                ),
            )
            for one in member.memberships
        ),
        member.resolver.servers,
        isolated=all(one.internal for one in member.memberships),
        port=0 if member.serves_dns else 53,
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


def resolv_conf_text(resolver: Resolver, host: str) -> str:
    """/etc/resolv.conf of a service that is in networks: our address, its own search list and options.

    host: the host's file, whose search list and options count where the service says nothing. `ndots:0`, as
    Docker has it, unless there is an ndots: so a plain service name is asked for as it is first. A search
    list of `.` alone is none (as for `docker run --dns-search=.`).
    """
    search, options = _host_words(host)
    if resolver.search:
        search = [] if resolver.search == (".",) else list(resolver.search)
    if resolver.options:
        options = list(resolver.options)
    if not any(option.startswith("ndots:") for option in options):
        options.append("ndots:0")
    lines = [f"nameserver {OWN_ADDRESS}"]
    if search:
        lines.append(f"search {' '.join(search)}")
    lines.append(f"options {' '.join(options)}")
    return "\n".join([*lines, ""])


def _host_words(text: str) -> tuple[list[str], list[str]]:
    """The search list (the last line of its kind counts) and all options of a resolv.conf(5)."""
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("search", "domain"):
            search = [word for word in words[1:] if word != "."]
        elif words and words[0] == "options":
            options += words[1:]
    return search, options
