"""What running instances use, read from their cgroups and processes. Blocks on /proc: use a thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.kernel.cgroups import Cgroup
from supervisor.kernel.hierarchies import CgroupSetup
from supervisor.kernel.usage import Usage, read_usage


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process of a service, as the host sees it. started_wall: seconds since the epoch."""

    pid: int
    parent: int
    user: str
    started_wall: float
    tty: str
    cpu_s: float
    memory_bytes: int
    command: str


def usages(setup: CgroupSetup, cgroups: Iterable[tuple[str, str]]) -> dict[str, Usage]:
    """Usage by instance id, for (id, path of its cgroup); what has just ended is left out."""
    read = ((name, read_usage(Cgroup(setup, path))) for name, path in cgroups if path)
    return {name: usage for name, usage in read if usage is not None}


def processes(setup: CgroupSetup, path: str) -> list[ProcessRow]:
    """The processes in a cgroup, by pid. Those that end meanwhile are left out."""
    import psutil  # 2 MB, for `top` alone

    pids: list[int] = []
    with contextlib.suppress(OSError):
        pids = Cgroup(setup, path).procs()
    rows = []
    for pid in sorted(pids):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                rows.append(
                    ProcessRow(
                        pid,
                        process.ppid(),
                        process.username(),
                        process.create_time(),
                        (process.terminal() or "?").removeprefix("/dev/"),
                        times.user + times.system,
                        process.memory_info().rss,
                        " ".join(process.cmdline()) or f"[{process.name()}]",
                    )
                )
    return rows


def host_memory_bytes() -> int:
    """What a service without a limit may use at most."""
    import psutil

    return int(psutil.virtual_memory().total)


def clock_text(wall: float) -> str:
    """STIME of ps(1): the time of day for today, else the day."""
    began, now = time.localtime(wall), time.localtime()
    return time.strftime("%H:%M" if began[:3] == now[:3] else "%b%d", began)
