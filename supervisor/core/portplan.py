"""Which ports of the host a service is published at. Pure: whether they are free there is asked by others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from supervisor.core.endpoints import Binding
from supervisor.core.network import Port


class PortError(ValueError):
    """A port that cannot be had. The text says which, who has it, and what to do."""


def families(host_ip: str) -> tuple[int, ...]:
    """The IP versions that a host address stands for."""
    return (4, 6) if not host_ip else (ip_address(host_ip).version,)


def is_every(host_ip: str) -> bool:
    """Whether a host address stands for all addresses of its versions."""
    return host_ip in ("", "0.0.0.0", "::")  # noqa: S104 - nothing is bound here


def same_place(one: Binding, other: Binding) -> bool:
    """Whether both would take the same port of the host: an address, and every address of its version."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    if not set(families(one.host_ip)) & set(families(other.host_ip)):
        return False
    return is_every(one.host_ip) or is_every(other.host_ip) or one.host_ip == other.host_ip


def holder(wanted: Binding, held: Mapping[str, Iterable[Binding]]) -> str | None:
    """Who of those (by name) has that port."""
    for name, bindings in held.items():
        if any(same_place(wanted, each) for each in bindings):
            return name
    return None


def plan_bindings(
    ports: Iterable[Port],
    held: Mapping[str, Iterable[Binding]],
    take: Callable[[Binding], Binding],
    before: Iterable[Binding] = (),
) -> tuple[Binding, ...]:
    """A binding for each port, taken.

    held: by the names of the services that have them. take: takes one on the host (its port 0: any), and
    returns it as it is; raises PortError with who has it. before: those of the last time, tried first where
    any port or one of several will do. What was taken when one cannot be is the caller's to give back.
    Raises PortError.
    """
    others: dict[str, Iterable[Binding]] = dict(held)
    made: list[Binding] = []
    for port in ports:
        others["this service itself"] = tuple(made)
        made.append(_one(port, others, take, [each for each in before if each not in made]))
    return tuple(made)


def _one(
    port: Port,
    held: Mapping[str, Iterable[Binding]],
    take: Callable[[Binding], Binding],
    before: list[Binding],
) -> Binding:
    host_ip = str(ip_address(port.host_ip)) if port.host_ip else ""
    again = [
        each.host_port
        for each in before
        if (each.protocol, each.host_ip, each.target) == (port.protocol, host_ip, port.target)
    ]
    if port.published is None:
        candidates = [*again, 0]
    else:
        first, last = port.published
        candidates = [p for p in again if first <= p <= last] + list(range(first, last + 1))
    why = ""
    for number in candidates:
        wanted = Binding(port.protocol, host_ip, number, port.target)
        name = holder(wanted, held) if number else None
        if name is not None:
            why = why or f"{name} has {wanted}"
            continue
        try:
            return take(wanted)
        except PortError as error:
            why = why or str(error)
    said = f"{port.published[0]}" if port.published else "any port"
    if port.published and port.published[1] != port.published[0]:
        said += f"-{port.published[1]} (none of them is free)"
    raise PortError(
        f"cannot publish port {port.target}/{port.protocol} at {host_ip or '*'}:{said}: {why}; stop that one,"
        " or publish another port"
    )
