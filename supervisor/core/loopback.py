"""Where a connection to ::1 goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.core.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class Way:
    """An address of a service and its port."""

    address: str
    port: int


def ways_from_loopback6(published: Iterable[Endpoint]) -> dict[tuple[str, int], Way]:
    """By (protocol, port of the host) what is published at every IPv6 address, or at ::1 itself.

    A service that has an IPv6 address is reached by it, as it is by any other IPv6 address of the host.
    """
    found = {}
    for endpoint in published:
        addresses = [address for each in endpoint.interfaces for address in each.addresses]
        address = next((text for text in addresses if ":" in text), addresses[0] if addresses else "")
        for binding in endpoint.bindings:
            if address and binding.host_ip in ("", "::", "::1"):
                found[binding.protocol, binding.host_port] = Way(address, binding.target)
    return found
