"""Whose processor time and memory: a cgroup for the processes of each side, so that no helper is missed.

The side's own processes are in `own`, what it supervises in cgroups elsewhere; both are counted, since a
container's first instructions are its supervisor's. cpuacct of v1 where it is mounted, else v2.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisor.kernel import hierarchies


@dataclass(frozen=True, slots=True)
class Meter:
    """Of one side. `runs` is the cgroup of what it supervises, below the mount point; "" if not known yet."""

    mount: Path
    own: str
    runs: str

    def words(self) -> tuple[str, ...]:
        """To stand before a command: it and all that it starts are counted."""
        return (
            "sh",
            "-c",
            'echo $$ > "$0" && exec "$@"',
            f"{self.mount}/{self.own}/cgroup.procs",
        )

    def cpu_s(self) -> float:
        """Seconds of a processor until now, of what has ended, too."""
        return sum(_used_s(self.mount / group) for group in (self.own, self.runs) if group)

    def processes(self) -> list[psutil.Process]:
        """The side's own processes, as far as they stay where they were started."""
        found = []
        for line in (self.mount / self.own / "cgroup.procs").read_text().split():
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(int(line)))
        return found


@contextlib.contextmanager
def metered(name: str, runs: str = "") -> Iterator[Meter]:
    """A cgroup of its own, gone afterwards with all that is in it.

    runs: the cgroup of what is supervised, where it is another's; without it there is one beside `own`.
    """
    setup = hierarchies.detect()
    mount = Path(setup.v1.get("cpuacct") or setup.unified or "")
    base = f"bench-{name}-{os.getpid()}"
    (mount / base / "own").mkdir(parents=True)
    try:
        yield Meter(mount, f"{base}/own", runs or f"{base}/runs")
    finally:
        hierarchies.remove_empty(setup, base)


def pss_mb(processes: list[psutil.Process]) -> dict[str, float]:
    """MB of each, by what it is called; those of one name together."""
    found: dict[str, float] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            name = next((word for word in words if word.startswith("supervisor.")), process.name())
            name = name.removeprefix("supervisor.")
            found[name] = found.get(name, 0.0) + process.memory_full_info().pss / 1e6
    return found


def _used_s(group: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return int((group / "cpuacct.usage").read_text()) / 1e9
    with contextlib.suppress(FileNotFoundError):
        return int((group / "cpu.stat").read_text().split()[1]) / 1e6
    return 0.0
