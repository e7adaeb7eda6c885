"""What a run uses: memory, processor time, processes and block I/O, read from its cgroup's files.

A figure that this host does not keep (no controller for it) is None, never a guess.
"""

from __future__ import annotations

from typing import NamedTuple

from supervisor.kernel.cgroups import Cgroup, keyed
from supervisor.kernel.hierarchies import read_text

_UNLIMITED = 1 << 62  # v1 writes "no limit" as the largest number of pages


class Usage(NamedTuple):
    """At one moment. memory_bytes: without inactive page cache, as `docker stats` counts it.

    memory_limit_bytes: None without a limit. pids: threads, as Docker's `pids_stats` counts them.
    """

    memory_bytes: int | None
    memory_limit_bytes: int | None
    user_ns: int
    system_ns: int
    processes: int
    pids: int
    read_bytes: int | None
    written_bytes: int | None

    @property
    def cpu_ns(self) -> int:
        """Of all that ever ran in it."""
        return self.user_ns + self.system_ns


def read_usage(cgroup: Cgroup) -> Usage | None:
    """None once the cgroup is gone."""
    setup = cgroup.setup
    v2 = f"{setup.unified}/{cgroup.path}" if setup.unified is not None else None
    v1 = {name: f"{place}/{cgroup.path}" for name, place in setup.v1.items()}
    try:
        if v2 is not None:
            cpu = keyed(read_text(f"{v2}/cpu.stat"))
            user_ns, system_ns = cpu.get("user_usec", 0) * 1000, cpu.get("system_usec", 0) * 1000
            processes = len(cgroup.procs())
            pids = len(read_text(f"{v2}/cgroup.threads").split())
        else:
            user_ns = _number(f"{v1.get('cpuacct')}/cpuacct.usage_user") or 0
            system_ns = _number(f"{v1.get('cpuacct')}/cpuacct.usage_sys") or 0
            processes = len(cgroup.procs())
            pids = len(read_text(f"{v1.get('freezer') or v1.get('memory')}/tasks").split())
    except OSError:
        return None
    if setup.mode == "unified":
        memory, limit = _number(f"{v2}/memory.current"), _number(f"{v2}/memory.max")
        cache = "inactive_file"
        stat = f"{v2}/memory.stat"
        read, written = _io(f"{v2}/io.stat")
    else:
        place = v1.get("memory")
        memory, limit = _number(f"{place}/memory.usage_in_bytes"), _number(f"{place}/memory.limit_in_bytes")
        cache = "total_inactive_file"
        stat = f"{place}/memory.stat"
        read, written = None, None
    if memory is not None:
        try:
            memory = max(0, memory - keyed(read_text(stat)).get(cache, 0))
        except OSError:
            return None
    if limit is not None and limit >= _UNLIMITED:
        limit = None
    return Usage(memory, limit, user_ns, system_ns, processes, pids, read, written)


def _io(path: str) -> tuple[int | None, int | None]:
    """Sums of io.stat over all devices."""
    try:
        words = read_text(path).split()
    except OSError:
        return None, None
    read = sum(int(word[7:]) for word in words if word.startswith("rbytes="))
    written = sum(int(word[7:]) for word in words if word.startswith("wbytes="))
    return read, written


def _number(path: str) -> int | None:
    try:
        text = read_text(path).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
