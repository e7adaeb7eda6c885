"""How a service finds others: `dns`, `dns_search`, `dns_opt`, `domainname`, `extra_hosts`, `links`."""

from __future__ import annotations

import re

from supervisor.compose.context import Context
from supervisor.compose.ports import is_address
from supervisor.compose.tree import Node, quote

_DOMAIN = re.compile(r"\.|[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_.])?")
_GATEWAY = "host-gateway"


def servers(context: Context, node: Node, path: str) -> tuple[str, ...]:
    """`dns`: addresses, each once."""
    found: dict[str, None] = {}

    def read(item: Node, where: str) -> None:
        text = context.reader.string(item, where, "10.0.0.53")
        if text is not None and not is_address(text):
            context.reader.bad(item, where, f"{quote(text)} is no address", "write 10.0.0.53")
        elif text is not None:
            found[text] = None

    context.reader.each(node, path, "an address, or a list of addresses", read)
    return tuple(found)


def domains(context: Context, node: Node, path: str) -> tuple[str, ...]:
    """`dns_search`: domains, each once; `.` is none."""
    found: dict[str, None] = {}

    def read(item: Node, where: str) -> None:
        text = context.reader.string(item, where, "example.com")
        if text is not None and not _DOMAIN.fullmatch(text):
            context.reader.bad(item, where, f"{quote(text)} is no domain", "write example.com")
        elif text is not None:
            found[text] = None

    context.reader.each(node, path, "a domain, or a list of domains", read)
    return tuple(found)


def options(context: Context, node: Node, path: str) -> tuple[str, ...]:
    """`dns_opt`: options of resolv.conf, each once."""
    return tuple(dict.fromkeys(context.reader.strings(node, path, "[ndots:2]") or ()))


def domainname(context: Context, node: Node, path: str) -> str | None:
    """`domainname`."""
    text = context.reader.string(node, path, "example.com")
    if text and not _DOMAIN.fullmatch(text):
        context.reader.bad(node, path, f"{quote(text)} is no domain", "write example.com")
        return None
    return text or None


def extra_hosts(context: Context, node: Node, path: str) -> tuple[tuple[str, str], ...]:
    """`extra_hosts`: (name, address) in their order."""
    found: dict[tuple[str, str], None] = {}
    example = "db=10.0.0.5"

    def read(item: Node, where: str) -> None:
        text = context.reader.string(item, where, example)
        if text is None:
            return
        name, equals, rest = text.partition("=")
        if not equals:
            name, equals, rest = text.partition(":")
        if not equals or not name or ":" in name:
            context.reader.bad(item, where, f"{quote(text)} is no name with its address", f"write {example}")
            return
        for address in rest.split(","):
            bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
            if bare != _GATEWAY and not is_address(bare):
                context.reader.bad(item, where, f"{quote(bare)} is no address", f"write {example}")
            else:
                found[name, bare] = None

    context.reader.each(node, path, f"a list of names with addresses: [{example}]", read)
    return tuple(found)


def links(context: Context, node: Node, path: str) -> tuple[tuple[str, str], ...]:
    """`links` and `external_links`: (service or container, name by which it is known); a text once."""
    found: dict[str, tuple[str, str]] = {}

    def read(item: Node, where: str) -> None:
        text = context.reader.string(item, where, "db:database")
        if text is None:
            return
        name, _, alias = text.partition(":")
        if not name or ":" in alias:
            context.reader.bad(item, where, f"{quote(text)} is no link", "write db, or db:database")
            return
        found[text] = (name, alias or name)

    context.reader.each(node, path, "a list of services: [db]", read)
    return tuple(found.values())


def written(pairs: tuple[tuple[str, str], ...], node: Node) -> list[str]:
    """Links as they are written, each once."""
    items = node.value if isinstance(node.value, list) else []
    return list(dict.fromkeys(str(item.value) for item in items)) if pairs else []
