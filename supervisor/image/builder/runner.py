"""What a RUN step asks of whoever runs processes: everything resolved, as data. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec


class BindMount(msgspec.Struct, frozen=True):
    """A directory, file or socket of the host at `target`."""

    target: str
    source: str
    read_only: bool = True


class OverlayMount(msgspec.Struct, frozen=True):
    """Directories over one another at `target`, topmost first; none of them is written to.

    upper, work: empty directories that take what is written, or "" for a read-only view.
    """

    target: str
    lowers: tuple[str, ...]
    upper: str = ""
    work: str = ""


class TmpfsMount(msgspec.Struct, frozen=True):
    """An empty file system in memory."""

    target: str
    size_bytes: int | None = None


RunMount = BindMount | OverlayMount | TmpfsMount


class RunRequest(msgspec.Struct, frozen=True):
    """One process, and everything that it may start, from its begin to the end of all of it.

    lowers: directories of the root, topmost first. upper, work: empty directories on the store's file system;
    what the process writes is in `upper` afterwards, as overlayfs leaves it, and nothing else is: no mount
    points, nothing of /etc's three files. mounts: in the order in which they are mounted.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    network: Literal["host", "none"]
    lowers: tuple[str, ...]
    upper: str
    work: str
    mounts: tuple[RunMount, ...] = ()
    insecure: bool = False


class RunResult(msgspec.Struct, frozen=True):
    """code: 0 to 255, as a shell says it. reason: why it was not started, or "" if it was."""

    code: int
    reason: str = ""
    oom: bool = False


class Runner(Protocol):
    """Runs RUN steps; several at once."""

    async def prepare(self) -> None:
        """Before a build: end what killed builds left running. Starts nothing. Raises OSError."""
        ...

    async def run(self, request: RunRequest, output: Callable[[bytes, bool], None]) -> RunResult:
        """Run to the end. output: bytes as they come, and whether they are of stderr.

        If the task is cancelled, every process is gone and nothing mounted before CancelledError leaves here.
        Raises BuildError if nothing can be run on this host.
        """
        ...

    async def close(self) -> None:
        """End what was started for running."""
        ...
