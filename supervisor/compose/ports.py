"""`ports` and `expose` of a service: short and long forms -> published ports.

Each reader gives the values and their canonical form. One port of one address is published once, the later
entry in the place of the earlier; a range of both sides is as many single ports, a range of the host's side
alone is a choice.
"""

from __future__ import annotations

import re
from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.tree import Node, quote
from supervisor.core.network import Port

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PROTOCOLS = ("tcp", "udp", "sctp")
_EXAMPLE = '"8080:80", "127.0.0.1:8080:80/tcp", or {target: 80, published: "8080"}'
_MAX_PORTS = 5000
"""Single ports of one entry: each costs a listener or a rule."""

Document = dict[str, Any]
Pair = tuple[Port, Document]


class _PortError(ValueError):
    """What is wrong with an entry."""


def ports(context: Context, node: Node, path: str) -> list[Pair]:
    """Published ports in their order, each with its canonical form."""
    found: dict[tuple[object, ...], Pair] = {}

    def read(item: Node, where: str) -> None:
        try:
            match item.value:
                case bool() | float() | None | list():
                    context.reader.wrong(item, where, "a port", _EXAMPLE)
                    return
                case dict():
                    pairs = _long(context, item, where)
                case text:
                    pairs = _short(str(text))
        except _PortError as error:
            context.reader.bad(item, where, str(error), f"write {_EXAMPLE}")
            return
        for port, document in pairs:
            found[port.host_ip, document.get("published"), port.target, port.protocol] = (port, document)

    context.reader.each(node, path, f"a list of ports: {_EXAMPLE}", read)
    return list(found.values())


def _span(text: str, what: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise _PortError(f"{quote(text)} is no {what}")
    first = int(match[1])
    last = int(match[2] or match[1])
    if not (0 <= first <= 65535 and last <= 65535) or last < first:
        raise _PortError(f"{quote(text)} is no {what}")
    return first, last


def _short(text: str) -> list[Pair]:
    """`[[address:]host:]container[/protocol]`, each port may be a range."""
    rest, slash, protocol = text.partition("/")
    protocol = (protocol if slash else "tcp").lower()
    if protocol not in _PROTOCOLS:
        raise _PortError(f"{quote(protocol)} is no protocol, tcp and udp are")
    head, _, inner = rest.rpartition(":")
    address, colon, outer = head.rpartition(":")
    if not colon:
        address, outer = "", head
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif address.count(":") == 1:
        raise _PortError(f"{quote(text)} has too many colons")
    if address and not is_address(address):
        raise _PortError(f"{quote(address)} is no address")
    first, last = _span(inner, "port")
    if first == 0:
        raise _PortError("0 is no port of a service")
    if last - first >= _MAX_PORTS:
        raise _PortError(f"more than {_MAX_PORTS} ports")
    base: Document = {"mode": "ingress"} | ({"host_ip": address} if address else {})
    if not outer:
        return [_pair(base, target, None, None, protocol, address) for target in range(first, last + 1)]
    low, high = _span(outer, "port of the host")
    if high - low != last - first:
        if last != first:
            raise _PortError(f"the ranges {outer} and {inner} differ in length")
        return [_pair(base, first, f"{low}-{high}", (low, high), protocol, address)]
    return [
        _pair(base, first + host - low, str(host), (host, host), protocol, address)
        for host in range(low, high + 1)
    ]


def _pair(
    base: Document,
    target: int,
    text: str | None,
    published: tuple[int, int] | None,
    protocol: str,
    address: str,
) -> Pair:
    document = base | {"target": target} | ({"published": text} if text is not None else {})
    span = None if published in (None, (0, 0)) else published
    return Port(target, protocol, span, address), document | {"protocol": protocol}  # type: ignore[arg-type] # checked by the callers


def _long(context: Context, item: Node, where: str) -> list[Pair]:
    reader = context.reader
    entries = reader.mapping(item, where, keys.PORT, _EXAMPLE)
    if entries is None:
        return []
    before = len(reader.findings.errors)
    texts = {
        key: reader.string(entries[key], f"{where}.{key}", "web")
        for key in ("name", "mode", "host_ip", "protocol", "app_protocol")
        if key in entries
    }
    if "target" not in entries:
        raise _PortError("target is missing")
    target = reader.integer(entries["target"], f"{where}.target", "80", 1, 65535)
    node = entries.get("published")
    published: str | None = None
    if node is not None:
        if isinstance(node.value, bool) or not isinstance(node.value, int | str):
            reader.wrong(node, f"{where}.published", "a port or a range", '"8080"')
        else:
            published = str(node.value)
    if len(reader.findings.errors) > before or target is None:
        return []
    protocol = texts.get("protocol") or "tcp"
    if protocol not in _PROTOCOLS:
        raise _PortError(f"{quote(protocol)} is no protocol, tcp and udp are")
    mode = texts.get("mode") or "ingress"
    if mode not in ("ingress", "host"):
        raise _PortError(f"{quote(mode)} is no mode, ingress and host are")
    address = texts.get("host_ip") or ""
    if address and not is_address(address):
        raise _PortError(f"{quote(address)} is no address")
    span = _span(published, "port of the host") if published else None
    document: Document = {
        key: value
        for key, value in (
            ("name", texts.get("name")),
            ("mode", mode),
            ("host_ip", address),
            ("target", target),
            ("published", published),
            ("protocol", protocol),
            ("app_protocol", texts.get("app_protocol")),
        )
        if value
    }
    port = Port(
        target,
        protocol,  # type: ignore[arg-type] # one of _PROTOCOLS
        None if span == (0, 0) else span,
        address,
        mode,  # type: ignore[arg-type] # one of two
        texts.get("name") or None,
        texts.get("app_protocol") or None,
    )
    return [(port, document)]


def is_address(text: str) -> bool:
    """Whether a text is an address of IPv4 or IPv6."""
    import ipaddress  # some milliseconds, and most files have none

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def expose(context: Context, node: Node, path: str) -> tuple[str, ...]:
    """`expose`: ports and ranges with their protocol, each once."""
    found: dict[str, None] = {}

    def read(item: Node, where: str) -> None:
        if isinstance(item.value, bool) or not isinstance(item.value, int | str):
            context.reader.wrong(item, where, "a port", '"80" or "90-92/udp"')
            return
        text = str(item.value)
        span, slash, protocol = text.partition("/")
        try:
            _span(span, "port")
            if slash and protocol.lower() not in _PROTOCOLS:
                raise _PortError(f"{quote(protocol)} is no protocol, tcp and udp are")
        except _PortError as error:
            context.reader.bad(item, where, str(error), 'write "80" or "90-92/udp"')
            return
        found[text] = None

    context.reader.each(node, path, "a list of ports: [80]", read)
    return tuple(found)
