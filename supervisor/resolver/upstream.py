"""Which servers are asked for what no network knows, and in which order."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from typing import Any

OWN_ADDRESS = "127.0.0.11"
"""Ours in every network namespace; as an upstream it would be a loop."""

_PORT = 53
_MOST = 3
_SHUNNED_S = 30.0

Server = tuple[socket.AddressFamily, Any]
"""A family and the address for `connect`."""


def servers_of(resolv_conf: str) -> list[str]:
    """The first three `nameserver` lines of a resolv.conf (resolv.conf(5)), without our own address."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and words[1] != OWN_ADDRESS:
            found.append(words[1])
    return found[:_MOST]


@lru_cache(64)
def server(text: str) -> Server | None:
    """An address, with a scope for a link-local one; None for what is none."""
    try:
        # As bytes: the idna codec, which text would bring, is large.
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            text.encode(), _PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, UnicodeError):
        return None
    return family, address


class Upstreams:
    """The host's servers, read again when the file has changed, and who of all did not answer lately."""

    def __init__(self, resolv_conf: str) -> None:
        self._path = resolv_conf
        self._stamp: tuple[int, int, int] | None = None
        self._host: list[str] = []
        self._silent: dict[str, float] = {}

    def order(self, wanted: tuple[str, ...], now_s: float) -> list[str]:
        """The servers to ask, one after the other; those that were silent in the last 30 s come last."""
        servers = [one for one in wanted if one != OWN_ADDRESS] if wanted else self._of_host()
        if self._silent:
            self._silent = {one: until for one, until in self._silent.items() if until > now_s}
        return sorted(servers, key=lambda one: one in self._silent)

    def silent(self, one: str, now_s: float) -> None:
        """It did not answer in time."""
        self._silent[one] = now_s + _SHUNNED_S

    def answered(self, one: str) -> None:
        """It did."""
        self._silent.pop(one, None)

    def _of_host(self) -> list[str]:
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._host = servers_of(file.read())
                self._stamp = stamp
        except OSError:
            self._host, self._stamp = [], None
        return self._host
