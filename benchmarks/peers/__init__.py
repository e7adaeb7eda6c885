"""Other supervisors, beside which ours is measured in the same run.

A peer is a module with `NAME`, `SETTLE_S` (how long a service of it must be up for its restart not to be
delayed), `missing()` (why it cannot take part, or "") and `running(base, io, names)`: a context manager in
which it supervises one probe for each name; `io` is the directory of the probe and of its socket. What it
supervises says itself when it is up. supervisord and s6 isolate nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast

from benchmarks.peers import dockerd, s6, supervisord


class Peer(Protocol):
    """See the module."""

    NAME: str
    SETTLE_S: float

    @staticmethod
    def missing() -> str:
        """Why it cannot take part; "" if it can. May download it into .cache/bench, installs nothing."""

    @staticmethod
    def running(base: Path, io: Path, names: list[str]) -> AbstractContextManager[None]:
        """From its start until everything of it is gone. base: an empty directory."""


def there() -> list[Peer]:
    """Those that can take part; the others are named."""
    found = []
    for module in (supervisord, s6, dockerd):
        peer = cast("Peer", module)
        if why := peer.missing():
            print(f"{peer.NAME}: left out: {why}")
        else:
            found.append(peer)
    return found
