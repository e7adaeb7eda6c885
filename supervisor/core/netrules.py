"""The nftables rules of a supervisor, as one script for `nft -f`. Pure.

Everything is in one table of family inet that belongs to this supervisor alone; the script replaces it as a
whole, in one transaction. New connections are looked up in maps, so their cost does not grow with the number
of ports; after the first packet the kernel's connection tracking does all of it.

Base chains only accept or drop what concerns our bridges. What another table drops stays dropped: in
netfilter every table has its say.
"""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.core.endpoints import Endpoint, NetworkRecord
from supervisor.core.portplan import families, is_every

TABLE_PREFIX = "shipkeeper_"


def table_name(tag: str) -> str:
    """The table of a supervisor."""
    return f"{TABLE_PREFIX}{tag}"


def delete_script(table: str) -> str:
    """Remove the table, whether it is there or not."""
    return f"table inet {table}\ndelete table inet {table}\n"


def script(table: str, networks: Iterable[NetworkRecord], published: Iterable[Endpoint]) -> str:
    """The whole table, in place of what is there of it. published: those whose ports are open."""
    records = sorted(networks, key=lambda record: record.name)
    maps = _maps({record.name: record for record in records}, published)
    lines = [delete_script(table), f"table inet {table} {{"]
    lines += _set("bridges", [f'"{record.bridge}"' for record in records])
    lines += _set("internal", [f'"{record.bridge}"' for record in records if record.network.internal])
    for name, family, with_address in (
        ("address4", "ipv4_addr", True),
        ("any4", "ipv4_addr", False),
        ("address6", "ipv6_addr", True),
        ("any6", "ipv6_addr", False),
    ):
        key = f"inet_proto . {family} . inet_service" if with_address else "inet_proto . inet_service"
        lines += [f"  map {name} {{", f"    type {key} : {family} . inet_service"]
        if maps[name]:
            elements = ", ".join(f"{key} : {value}" for key, value in sorted(maps[name].items()))
            lines.append(f"    elements = {{ {elements} }}")
        lines.append("  }")
    lines += _CHAINS.splitlines()
    lines += _forward(records)
    lines += _postrouting(records)
    lines.append("}")
    return "\n".join(lines) + "\n"


def _set(name: str, elements: list[str]) -> list[str]:
    lines = [f"  set {name} {{", "    type ifname"]
    if elements:
        lines.append(f"    elements = {{ {', '.join(elements)} }}")
    return [*lines, "  }"]


_CHAINS = """\
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    # route_localnet is on for the bridges, for answers; nobody there may call the host's own loopback.
    iifname @bridges ip daddr 127.0.0.0/8 drop
  }
  chain publish {
    dnat ip to meta l4proto . ip daddr . th dport map @address4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to meta l4proto . ip6 daddr . th dport map @address6
    dnat ip6 to meta l4proto . th dport map @any6
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump publish
  }
  chain output {
    type nat hook output priority -100; policy accept;
    # The kernel has no way back to ::1 from another interface: such a call is refused, and not lost.
    ip6 daddr ::1 return
    fib daddr type local jump publish
  }"""


def _forward(records: list[NetworkRecord]) -> list[str]:
    lines = [
        "  chain forward {",
        "    type filter hook forward priority filter; policy accept;",
        "    oifname @bridges jump into",
        "    iifname @bridges jump out",
        "  }",
        "  chain into {",
    ]
    for record in records:
        # Bridged packets come by here where br_netfilter is on, routed ones when a port leads back.
        same = f'iifname "{record.bridge}" oifname "{record.bridge}"'
        lines.append(f"    {same} ct status dnat accept")
        lines.append(f"    {same} {'drop' if record.isolated else 'accept'}")
    lines += [
        "    ct state established,related accept",
        "    iifname @internal drop",
        "    oifname @internal drop",
        "    ct status dnat accept",
        "    drop",
        "  }",
        "  chain out {",
        "    ct state established,related accept",
        "    iifname @internal oifname != @internal drop",
        "  }",
    ]
    return lines


def _postrouting(records: list[NetworkRecord]) -> list[str]:
    lines = [
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat; policy accept;",
        "    # From the host's loopback: a service can answer to the bridge's address only.",
        "    oifname @bridges ip saddr 127.0.0.0/8 masquerade",
    ]
    for record in records:
        for subnet in record.subnets:
            family = "ip6" if subnet.is_v6 else "ip"
            source = f"{family} saddr {subnet.subnet}"
            # A neighbour that was called by way of the host would else answer directly, as a stranger.
            lines.append(f'    {source} oifname "{record.bridge}" ct status dnat masquerade')
            if not record.network.internal and record.masquerades:
                lines.append(f'    {source} oifname != "{record.bridge}" masquerade')
    return [*lines, "  }"]


def _maps(records: dict[str, NetworkRecord], published: Iterable[Endpoint]) -> dict[str, dict[str, str]]:
    maps: dict[str, dict[str, str]] = {"address4": {}, "any4": {}, "address6": {}, "any6": {}}
    for endpoint in published:
        for binding in endpoint.bindings:
            for version in families(binding.host_ip):
                target = _target(endpoint, records, version)
                if not target:
                    continue
                value = f"{target} . {binding.target}"
                if is_every(binding.host_ip):
                    maps[f"any{version}"][f"{binding.protocol} . {binding.host_port}"] = value
                else:
                    key = f"{binding.protocol} . {binding.host_ip} . {binding.host_port}"
                    maps[f"address{version}"][key] = value
    return maps


def _target(endpoint: Endpoint, records: dict[str, NetworkRecord], version: int) -> str:
    """The address that its ports lead to: in the network of its default route, else in any."""
    found = ""
    for each in endpoint.interfaces:
        text = (each.ipv4 if version == 4 else each.ipv6).partition("/")[0]
        if not text or each.network not in records:
            continue
        if (each.gateway4 if version == 4 else each.gateway6) or not found:
            found = text
    return found
