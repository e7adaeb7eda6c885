"""Network namespaces for a benchmark: the host that a daemon believes to be on, and another host beside it.

So a dockerd changes no iptables of this machine, the machine's own rules slow nobody down, and each side has
the same surroundings. Needs root and `ip`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

HOST_ADDRESS, FAR_ADDRESS = "10.197.253.1", "10.197.253.2"
"""Of the host in its link to the other one, and of that."""


@dataclass(frozen=True, slots=True)
class Space:
    """A host, and `far`, another one, with a cable between them."""

    name: str
    far: str

    def words(self) -> tuple[str, ...]:
        """To stand before a command that is to run on the host."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def words_far(self) -> tuple[str, ...]:
        """The same on the other one."""
        return ("nsenter", f"--net=/run/netns/{self.far}")


@contextlib.contextmanager
def space(name: str) -> Iterator[Space]:
    """Two namespaces, which are gone afterwards."""
    made = Space(f"bench-{name}-{os.getpid()}", f"bench-{name}-{os.getpid()}-far")
    with contextlib.ExitStack() as stack:
        for each in (made.name, made.far):
            _ip("netns", "add", each)
            stack.callback(_ip, "netns", "delete", each)
            _ip("-n", each, "link", "set", "lo", "up")
        _ip("-n", made.name, "link", "add", "far", "type", "veth", "peer", "name", "near", "netns", made.far)
        for each, link, address in ((made.name, "far", HOST_ADDRESS), (made.far, "near", FAR_ADDRESS)):
            _ip("-n", each, "addr", "add", f"{address}/24", "dev", link)
            _ip("-n", each, "link", "set", link, "up")
        yield made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
