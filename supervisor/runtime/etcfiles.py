"""/etc/hostname, hosts and resolv.conf of an instance: what they say, and where they lie.

They are bound into the root, so a file is rewritten in place, never replaced: a running service holds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from supervisor.core.endpoints import Place
from supervisor.core.network import Resolver
from supervisor.runtime.resolvconf import resolv_conf

_UPSTREAM = "/run/systemd/resolve/resolv.conf"

_NO_RESOLVER = Resolver()

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts_text(hostname: str, host_file: str | None) -> str:
    """/etc/hosts: the host's (`host_file`) in the host's network, else loopback; the own name resolves."""
    text = _HOSTS if host_file is None else host_file
    if text and not text.endswith("\n"):
        text += "\n"
    names = {name for line in text.splitlines() for name in line.partition("#")[0].split()[1:]}
    if hostname and hostname not in names:
        text += f"127.0.1.1\t{hostname}\n"
    return text


def named_hosts(hostname: str, resolver: Resolver, place: Place | None, host_file: str | None) -> str:
    """/etc/hosts with an instance's own addresses and its `extra_hosts`.

    `host-gateway` is the host: its address in the instance's network, its loopback where they share one.
    Raises ValueError: there is no way to the host.
    """
    lines = []
    endpoint = place.endpoint if place is not None else None
    if endpoint is not None:
        names = " ".join(filter(None, (full_name(hostname, resolver), hostname)))
        for each in endpoint.interfaces:
            lines += [f"{address}\t{names}" for address in each.addresses]
    for name, address in resolver.extra_hosts:
        if address == "host-gateway":
            address = "127.0.0.1" if host_file is not None else place.gateway if place is not None else ""
            if not address:
                raise ValueError(f"cannot say where {name} is: there is no way to the host without a network")
        lines.append(f"{address}\t{name}")
    own = "".join(f"{line}\n" for line in lines)
    text = _HOSTS if host_file is None else host_file
    if text and not text.endswith("\n"):
        text += "\n"
    return hosts_text(hostname, text + own)


def full_name(hostname: str, resolver: Resolver) -> str:
    """The host name with its domain; empty without one."""
    return f"{hostname}.{resolver.domainname}" if resolver.domainname else ""


def moved_hosts(text: str, before: Sequence[str], after: Sequence[str], names: str) -> str:
    """/etc/hosts when an instance's own addresses are others; what else is in there stays as it is."""
    gone = set(before) - set(after)
    lines = [line for line in text.splitlines(keepends=True) if line.partition("\t")[0] not in gone]
    there = {line.partition("\t")[0] for line in lines}
    fresh = [f"{address}\t{names}\n" for address in after if address not in there]
    at = next((number for number, line in enumerate(lines) if line.partition("\t")[0] in after), len(lines))
    while at < len(lines) and lines[at].partition("\t")[0] in after:
        at += 1
    if fresh and at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += "\n"
    return "".join((*lines[:at], *fresh, *lines[at:]))


def move_addresses(directory: str, before: Sequence[str], after: Sequence[str], names: str) -> None:
    """Have `hosts` of an instance say its new addresses, while it runs, too. Raises OSError."""
    try:
        file = open(os.open(f"{directory}/hosts", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b")  # noqa: SIM115
    except FileNotFoundError:
        return  # it never ran: it is written at its first start
    with file:
        text = file.read().decode("utf-8", "surrogateescape")
        moved = moved_hosts(text, before, after, names)
        if moved != text:
            file.seek(0)
            file.write(moved.encode("utf-8", "surrogateescape"))
            file.truncate()


def etc_files(
    hostname: str,
    network_mode: str,
    resolver: Resolver = _NO_RESOLVER,
    place: Place | None = None,
) -> dict[str, str]:
    """The three texts for an instance, from the host's files as they are now; a missing one is empty.

    Raises ValueError: see `named_hosts`.
    """
    if place is not None and place.net == "host":
        network_mode = "host"  # shared with one that is in the host's network
    host_hosts = _text("/etc/hosts") if network_mode == "host" else None
    in_networks = place is not None and place.endpoint is not None
    mode: Literal["host", "networks", "none"] = (
        "host" if network_mode == "host" else "networks" if in_networks else "none"
    )
    return {
        "hostname": f"{hostname}\n",
        "hosts": named_hosts(hostname, resolver, place, host_hosts),
        "resolv.conf": resolv_conf(resolver, mode, _text("/etc/resolv.conf"), _text(_UPSTREAM) or None),
    }


def write_etc_files(directory: str, texts: Mapping[str, str], *, keep: bool) -> None:
    """Write the files into `directory`; with `keep` one that is there stays as it is. Raises OSError."""
    os.makedirs(directory, 0o755, exist_ok=True)
    for name, text in texts.items():
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_EXCL if keep else 0)
        try:
            descriptor = os.open(f"{directory}/{name}", flags, 0o644)
        except FileExistsError:
            continue
        with open(descriptor, "wb") as file:
            file.truncate(0)
            file.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(file.fileno(), 0o644)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
