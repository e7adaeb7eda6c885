"""Checks of what networks and published ports need, and of what others' rules do to them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from supervisor.core.netrules import TABLE_PREFIX
from supervisor.runtime.doctor_types import Check, Examined

_PATIENCE_S = 10


def networks(_: Examined) -> Iterator[Check]:
    """nft, the library, forwarding, and who else drops what is passed on."""
    try:
        chains = _chains()
    except FileNotFoundError:
        yield Check(
            "networks",
            "warn",
            "there is no `nft`: no service can be in a network or publish a port",
            "apt install nftables",
        )
        return
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield Check("networks", "warn", f"nft cannot be used: {error}", "use a kernel with nf_tables")
        return
    closed = sorted(f"{chain['family']} {chain['table']} {chain['name']}" for chain in dropping(chains))
    if closed:
        yield Check(
            "forwarding",
            "warn",
            f"{', '.join(closed)} drops what it does not know: services reach nobody outside, and"
            " their ports are not reached from there",
            "let our bridges pass in there; see `Other firewalls` in docs/networking.md",
        )
    yield Check("networks", "ok", f"nft works; net.ipv4.ip_forward is {_forwarding()}")


def _chains() -> list[dict[str, Any]]:
    said = subprocess.run(
        ["nft", "-j", "list", "chains"], capture_output=True, text=True, check=True, timeout=_PATIENCE_S
    ).stdout
    return [each["chain"] for each in json.loads(said)["nftables"] if "chain" in each]


def dropping(chains: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Base chains of others that drop what is forwarded unless a rule of theirs accepts it."""
    return [
        chain
        for chain in chains
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in ("ip", "ip6", "inet")
        and not chain["table"].startswith(TABLE_PREFIX)
    ]


def _forwarding() -> str:
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        return "on" if file.read().strip() == "1" else "off, until the first network is made"
