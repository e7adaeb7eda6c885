"""What the resolver knows: which endpoint is in which networks, under which names and addresses. Pure.

The daemon makes a `Table` and writes it as JSON; the resolver makes a `Directory` of it, in which a look-up
costs one dictionary for each network of the asker, however many services there are.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field

Key = bytes
"""A name in lower case, without a trailing dot. DNS compares ASCII letters only (RFC 4343)."""


@dataclass(frozen=True, slots=True)
class Place:
    """An endpoint in one network.

    network: its full name. addresses: IPv4 and IPv6, without a prefix length. names: all that it answers to
    there; the first one is what an address is called (PTR).
    """

    network: str
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One that may ask and be asked for.

    places: the order in which its networks are looked through. upstream: servers for what no network knows,
    in order; none: those of the host. isolated: nothing is forwarded for it (all its networks are internal).
    port: 53, or 0 where the service itself may want port 53 of all its addresses: then any port, to which
    packets for port 53 are redirected. links: (name, by what this one alone calls it).
    """

    instance: str
    netns: str
    places: tuple[Place, ...] = ()
    upstream: tuple[str, ...] = ()
    isolated: bool = False
    port: int = 53
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """All of it. serial: grows with each table that a daemon writes."""

    serial: int = 0
    endpoints: tuple[Endpoint, ...] = ()

    @staticmethod
    def decode(data: bytes) -> Table:
        """From JSON: an object of the fields. Raises ValueError where it is something else."""
        try:
            raw = json.loads(data)
            endpoints = tuple(
                Endpoint(
                    one["instance"],
                    one["netns"],
                    tuple(
                        Place(place["network"], tuple(place["addresses"]), tuple(place["names"]))
                        for place in one["places"]
                    ),
                    tuple(one["upstream"]),
                    bool(one["isolated"]),
                    int(one["port"]),
                    tuple((name, alias) for name, alias in one["links"]),
                )
                for one in raw["endpoints"]
            )
            return Table(int(raw["serial"]), endpoints)
        except (KeyError, TypeError) as error:
            raise ValueError(f"cannot read a table of names: {error!r} is missing or wrong") from error


def key_of(name: str) -> Key:
    """The form in which names are compared."""
    return name.rstrip(".").encode().lower()


@dataclass(slots=True)
class Addresses:
    """Of one name in one network, packed as in a DNS answer."""

    v4: list[bytes] = field(default_factory=list)
    v6: list[bytes] = field(default_factory=list)

    def add(self, text: str) -> None:
        """One more; the same one twice is one. Raises OSError for what is no address."""
        family, into = (socket.AF_INET6, self.v6) if ":" in text else (socket.AF_INET, self.v4)
        packed = socket.inet_pton(family, text)
        if packed not in into:
            into.append(packed)


@dataclass(slots=True)
class _Network:
    names: dict[Key, Addresses] = field(default_factory=dict)
    pointers: dict[bytes, str] = field(default_factory=dict)


class Directory:
    """A table, made ready for look-ups."""

    def __init__(self, table: Table) -> None:
        """Raises ValueError for an address that is none."""
        self.serial = table.serial
        self.endpoints = {one.instance: one for one in table.endpoints}
        self._networks: dict[Key, _Network] = {}
        self._of: dict[str, list[tuple[Key, _Network]]] = {}
        self._links: dict[str, dict[Key, list[Key]]] = {}
        for one in table.endpoints:
            for name, alias in one.links:
                if alias != name:
                    self._links.setdefault(one.instance, {}).setdefault(key_of(alias), []).append(
                        key_of(name)
                    )
            self._of[one.instance] = [self._enter(place) for place in one.places]

    def _enter(self, place: Place) -> tuple[Key, _Network]:
        network_key = key_of(place.network)
        network = self._networks.setdefault(network_key, _Network())
        try:
            for name in place.names:
                addresses = network.names.setdefault(key_of(name), Addresses())
                for text in place.addresses:
                    addresses.add(text)
            for text in place.addresses if place.names else ():
                family = socket.AF_INET6 if ":" in text else socket.AF_INET
                pointer = f"{place.names[0]}.{place.network}"
                network.pointers.setdefault(socket.inet_pton(family, text), pointer)
        except OSError as error:
            raise ValueError(f"cannot use the addresses {place.addresses}: {error}") from error
        return network_key, network

    def find(self, instance: str, name: Key, *, v6: bool) -> list[bytes] | None:
        """Addresses of a family; empty if the name has none of it; None if nobody is called so.

        Of the asker's networks the first one that has an answer gives it, as in Docker. `name.network` is
        tried after the whole name; both parts may have dots. What the asker calls another by a link of its
        own comes before all.
        """
        for linked in self._links.get(instance, {}).get(name, ()):
            found_there = self._find(instance, linked, v6=v6)
            if found_there is not None:
                return found_there
        return self._find(instance, name, v6=v6)

    def _find(self, instance: str, name: Key, *, v6: bool) -> list[bytes] | None:
        networks = self._of.get(instance, ())
        known = False
        for _, network in networks:
            found = network.names.get(name)
            if found is not None:
                known = True
                if wanted := (found.v6 if v6 else found.v4):
                    return wanted
        dot = name.rfind(b".")
        while dot > 0 and not known:
            for network_key, network in networks:
                if network_key == name[dot + 1 :] and (found := network.names.get(name[:dot])) is not None:
                    return found.v6 if v6 else found.v4
            dot = name.rfind(b".", 0, dot)
        return [] if known else None

    def pointer(self, instance: str, packed: bytes) -> str | None:
        """What an address is called, `name.network`; None if it is in no network of the asker's."""
        for _, network in self._of.get(instance, ()):
            if (found := network.pointers.get(packed)) is not None:
                return found
        return None
