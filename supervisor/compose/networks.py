"""`networks` of a file and of a service: networks with their address pools, and a service's place in each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from supervisor.compose import keys
from supervisor.compose.context import Context
from supervisor.compose.ports import is_address
from supervisor.compose.problems import nearest
from supervisor.compose.resources import external, resource_name
from supervisor.compose.tree import Node, quote
from supervisor.compose.values import option_pairs
from supervisor.core.network import Attachment, Network, Pool

DEFAULT = "default"
"""The network of every service that says nothing."""

_DRIVERS = ("", "bridge", "default")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_INTERFACE = re.compile(r"[^\s/:%]{1,15}")
Document = dict[str, Any]


def read_networks(context: Context, node: Node | None) -> tuple[dict[str, Network], dict[str, Document]]:
    """Networks by key with their canonical forms; `default` is among them, declared or not."""
    reader = context.reader
    found = {DEFAULT: Network(DEFAULT, f"{context.project}_{DEFAULT}")}
    documents: dict[str, Document] = {DEFAULT: {"name": found[DEFAULT].name}}
    if node is None:
        return found, documents
    for key, value in (reader.entries(node, "networks", "networks: {front: {}}") or {}).items():
        path = f"networks.{key}"
        entries = {} if value.value is None else reader.mapping(value, path, keys.NETWORK, "{}") or {}
        is_external = external(reader, value, entries, path, ())
        name = resource_name(context, node, key, entries, is_external, path)
        document: Document = {"name": name}
        flags = {}
        for flag in ("internal", "attachable", "enable_ipv4", "enable_ipv6"):
            if flag in entries:
                flags[flag] = reader.boolean(entries[flag], f"{path}.{flag}")
                if flags[flag] or flag.startswith("enable"):
                    document[flag] = flags[flag]
        driver = ""
        if "driver" in entries:
            driver = reader.string(entries["driver"], f"{path}.driver", "bridge") or ""
            if driver not in _DRIVERS:
                reader.bad(
                    entries["driver"],
                    f"{path}.driver",
                    f"not supported: the network driver {quote(driver)}",
                    "write bridge, or `network_mode: host` or `none` in the service",
                )
            elif driver:
                document["driver"] = driver
        options = option_pairs(context, entries, "driver_opts", path, document)
        labels = option_pairs(context, entries, "labels", path, document)
        pools = _ipam(context, entries["ipam"], f"{path}.ipam", document) if "ipam" in entries else ()
        if is_external:
            document["external"] = True
        found[key] = Network(
            key,
            name,
            driver if driver not in ("", "default") else "bridge",
            tuple(sorted(options.items())),
            is_external,
            bool(flags.get("internal")),
            bool(flags.get("attachable")),
            flags.get("enable_ipv4") is not False,
            bool(flags.get("enable_ipv6")),
            pools,
            tuple(sorted(labels.items())),
        )
        documents[key] = document | context.extensions(value)
    return found, documents


def _ipam(context: Context, node: Node, path: str, document: Document) -> tuple[Pool, ...]:
    reader = context.reader
    entries = reader.mapping(node, path, keys.IPAM, "{config: [{subnet: 10.10.0.0/24}]}") or {}
    ipam: Document = {}
    if "driver" in entries:
        driver = reader.string(entries["driver"], f"{path}.driver", "default")
        if driver not in (None, "", "default"):
            reader.bad(
                entries["driver"], f"{path}.driver", f"not supported: {quote(str(driver))}", "write default"
            )
        elif driver:
            ipam["driver"] = driver
    found: list[Pool] = []
    listed: list[Document] = []

    def read(item: Node, where: str) -> None:
        parts = reader.mapping(item, where, keys.POOL, "{subnet: 10.10.0.0/24}") or {}
        texts = {
            key: text
            for key in ("subnet", "gateway", "ip_range")
            if key in parts and (text := reader.string(parts[key], f"{where}.{key}", "10.10.0.0/24"))
        }
        aux: dict[str, str] = {}
        if "aux_addresses" in parts:
            inner = f"{where}.aux_addresses"
            for name, value in (reader.entries(parts["aux_addresses"], inner, "{host: IP}") or {}).items():
                if (text := reader.string(value, f"{inner}.{name}", "10.10.0.5")) is not None:
                    aux[name] = text
                    _address(context, value, f"{inner}.{name}", text)
        for key, text in texts.items():
            if key == "gateway":
                _address(context, parts[key], f"{where}.{key}", text)
            elif not _is_subnet(text):
                reader.bad(parts[key], f"{where}.{key}", f"{quote(text)} is no subnet", "write 10.10.0.0/24")
        found.append(
            Pool(texts.get("subnet"), texts.get("gateway"), texts.get("ip_range"), tuple(sorted(aux.items())))
        )
        listed.append(texts | ({"aux_addresses": aux} if aux else {}) | context.extensions(item))

    if "config" in entries:
        reader.each(entries["config"], f"{path}.config", "a list of pools: [{subnet: 10.10.0.0/24}]", read)
    if listed:
        ipam["config"] = listed
    option_pairs(context, entries, "options", path, ipam)
    document["ipam"] = ipam | context.extensions(node)
    return tuple(found)


def _is_subnet(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _address(context: Context, node: Node, path: str, text: str) -> None:
    if not is_address(text):
        context.reader.bad(node, path, f"{quote(text)} is no address", "write 10.10.0.5")


def mac_address(context: Context, node: Node, path: str) -> str | None:
    """A hardware address."""
    text = context.reader.string(node, path, "02:42:ac:11:00:02")
    if text and not _MAC.fullmatch(text.replace("-", ":")):
        context.reader.bad(node, path, f"{quote(text)} is no hardware address", "write 02:42:ac:11:00:02")
        return None
    return text or None


def attachments(
    context: Context, node: Node, path: str, networks: Mapping[str, Network]
) -> tuple[tuple[Attachment, ...], Document]:
    """A service's places in networks, the one of the highest priority first, and their canonical form."""
    reader = context.reader
    found: list[tuple[int, int, Attachment]] = []
    documents: Document = {}
    for key, value in (reader.entries(node, path, "[front] or {front: {aliases: [web]}}") or {}).items():
        where = f"{path}.{key}"
        entries = {} if value.value is None else reader.mapping(value, where, keys.ATTACHMENT, "{}") or {}
        network = networks.get(key)
        if network is None:
            near = nearest(key, networks)
            reader.findings.error(
                node.key_mark(key),
                where,
                f"the network {quote(key)} is not declared",
                f"did you mean {near}?" if near else f"add `networks: {{{key}: {{}}}}` at the top level",
            )
        document: Document = {}
        lists: dict[str, tuple[str, ...]] = {}
        for name in ("aliases", "link_local_ips"):
            lists[name] = ()
            if name in entries:
                listed = dict.fromkeys(reader.strings(entries[name], f"{where}.{name}", "[web]") or [])
                lists[name] = tuple(listed)
                document[name] = list(listed)
        options = option_pairs(context, entries, "driver_opts", where, document)
        numbers = {}
        for name in ("gw_priority", "priority"):
            numbers[name] = 0
            if name in entries:
                numbers[name] = reader.integer(entries[name], f"{where}.{name}", "100") or 0
                if numbers[name]:
                    document[name] = numbers[name]
        texts = {}
        for name in ("ipv4_address", "ipv6_address", "interface_name"):
            text = reader.string(entries[name], f"{where}.{name}", "10.10.0.5") if name in entries else None
            if text and name != "interface_name":
                _address(context, entries[name], f"{where}.{name}", text)
            elif text and not _INTERFACE.fullmatch(text):
                reader.bad(
                    entries[name],
                    f"{where}.{name}",
                    f"{quote(text)} is no name of an interface",
                    "write eth1",
                )
            texts[name] = text or None
            if text:
                document[name] = text
        mac = (
            mac_address(context, entries["mac_address"], f"{where}.mac_address")
            if "mac_address" in entries
            else None
        )
        if mac:
            document["mac_address"] = mac
        documents[key] = None if value.value is None else document | context.extensions(value)
        if network is not None:
            found.append(
                (
                    -numbers["priority"],
                    len(found),
                    Attachment(
                        network.name,
                        lists["aliases"],
                        texts["ipv4_address"],
                        texts["ipv6_address"],
                        lists["link_local_ips"],
                        mac,
                        texts["interface_name"],
                        tuple(sorted(options.items())),
                        numbers["priority"],
                        numbers["gw_priority"],
                    ),
                )
            )
    ordered = tuple(attachment for _, _, attachment in sorted(found, key=lambda one: one[:2]))
    return ordered, dict(sorted(documents.items()))
