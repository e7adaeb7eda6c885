"""Sockets of the resolver inside network namespaces, opened by a thread that enters them and ends."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from supervisor.kernel import netns
from supervisor.kernel.netsocket import apart
from supervisor.resolver.table import Endpoint
from supervisor.resolver.upstream import OWN_ADDRESS
from supervisor.runtime import nftables

_FREEBIND = 15  # IP_FREEBIND, linux/in.h: before the loopback device is up, too
_BACKLOG = 32

Sockets = tuple[int, int]
"""Descriptors of a UDP socket and of a listening TCP socket."""


def open_sockets(endpoints: Sequence[Endpoint]) -> dict[str, Sockets | OSError]:
    """For each instance the sockets at 127.0.0.11, the caller's; or why not. Waits for the thread."""
    found: dict[str, Sockets | OSError] = {}

    def work() -> None:
        for one in endpoints:
            try:
                found[one.instance] = _enter_and_open(one)
            except OSError as error:
                found[one.instance] = error

    apart(work)
    return found


def redirection(udp_port: int, tcp_port: int) -> str:
    """nft rules that bring port 53 of our address to other ports of it.

    For a service that serves DNS itself: a socket at 127.0.0.11:53 would keep it from binding port 53 of all
    its addresses. Connection tracking costs something for each packet, so others go without.
    """
    rules = "\n".join(
        f"    ip daddr {OWN_ADDRESS} {kind} dport 53 dnat to {OWN_ADDRESS}:{port}"
        for kind, port in (("udp", udp_port), ("tcp", tcp_port))
    )
    return (
        "table ip shipkeeper_names\ndelete table ip shipkeeper_names\n"
        "table ip shipkeeper_names {\n"
        "  chain output {\n"
        "    type nat hook output priority -100; policy accept;\n"
        f"{rules}\n"
        "  }\n"
        "}\n"
    )


def _enter_and_open(endpoint: Endpoint) -> Sockets:
    netns.enter(endpoint.netns)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        for sock in (udp, tcp):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_IP, _FREEBIND, 1)
            sock.setblocking(False)  # of the socket, so of all descriptors of it
            sock.bind((OWN_ADDRESS, endpoint.port))
        tcp.listen(_BACKLOG)
        if not endpoint.port:
            _redirect(udp.getsockname()[1], tcp.getsockname()[1])
        return udp.detach(), tcp.detach()


def _redirect(udp_port: int, tcp_port: int) -> None:
    """A child is in the network namespace of the thread that starts it."""
    try:
        nftables.apply(redirection(udp_port, tcp_port))
    except nftables.RulesError as error:
        raise OSError(0, f"cannot redirect port 53 to the resolver: {error}") from error
