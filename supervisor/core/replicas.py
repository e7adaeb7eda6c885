"""What several instances of one service cannot share, found before anything is touched. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.model import ServiceSpec


class ReplicaError(ValueError):
    """A service that cannot run as often as is asked for. The text says why, and what to do."""


def check_replicas(spec: ServiceSpec) -> None:
    """Several instances, also those that are several only while one takes the place of another.

    Raises ReplicaError.
    """
    many = f"cannot run {spec.replicas} instances of {spec.name}"
    if spec.replicas > 1:
        if spec.container_name is not None:
            raise ReplicaError(
                f"{many}: its container_name {spec.container_name} is a name for one; remove it, or run one"
            )
        for what in _fixed_ports(spec):
            raise ReplicaError(f"{many}: {what}")
    for what, key in _fixed_places(spec):
        if spec.replicas > 1:
            raise ReplicaError(f"{many}: each would have {what}; remove {key}, or run one")
        if spec.update.order == "start-first":
            raise ReplicaError(
                f"cannot update {spec.name} start-first: the new instance would have {what} while the old one"
                f" has it; remove {key}, or write `update: stop-first`"
            )


def _networked(spec: ServiceSpec) -> bool:
    return spec.network_mode not in ("host", "none") and ":" not in spec.network_mode


def _fixed_ports(spec: ServiceSpec) -> Iterator[str]:
    """Ports of the host of which there are too few."""
    for port in spec.ports if _networked(spec) else ():
        if port.published is None:
            continue
        first, last = port.published
        if last - first + 1 < spec.replicas:
            said = f"port {first}" if first == last else f"one of the ports {first}-{last}"
            enough = f"{first}-{first + spec.replicas - 1}"
            yield (
                f"each would be published at {said} of the host; publish a range ({enough}:{port.target}), or"
                f' any port ("{port.target}")'
            )


def _fixed_places(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    """Addresses that only one can have, and the keys that ask for them."""
    for place in spec.networks if _networked(spec) else ():
        for key, value in (
            ("ipv4_address", place.ipv4_address),
            ("ipv6_address", place.ipv6_address),
            ("mac_address", place.mac_address),
        ):
            if value is not None:
                yield f"the address {value}", key
