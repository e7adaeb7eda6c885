"""The limits of a run as files of its cgroup: what is written where, on v2 and for the v1 controllers."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from supervisor.kernel.hierarchies import read_text, write_text

Row = tuple[str, str, str]
"""(controller, file, text) of one limit."""


class Limits(Protocol):
    """Limits of a run; None is the kernel's default. memory_swap_bytes is memory plus swap, -1 unlimited.

    cpuset: a list of CPUs, as in 0-2,4. blkio_weight: 10 to 1000. blkio_devices: (kind, path of a block
    device, value); a kind is `weight`, `read_bps`, `write_bps`, `read_iops` or `write_iops`.
    """

    @property
    def memory_bytes(self) -> int | None: ...
    @property
    def memory_swap_bytes(self) -> int | None: ...
    @property
    def memory_reservation_bytes(self) -> int | None: ...
    @property
    def cpu_quota_us(self) -> int | None: ...
    @property
    def cpu_period_us(self) -> int: ...
    @property
    def cpu_shares(self) -> int | None: ...
    @property
    def pids(self) -> int | None: ...
    @property
    def memory_swappiness(self) -> int | None: ...
    @property
    def oom_kill_disable(self) -> bool: ...
    @property
    def cpuset(self) -> str | None: ...
    @property
    def blkio_weight(self) -> int | None: ...
    @property
    def blkio_devices(self) -> Sequence[Sequence[str | int]]: ...


_V2_OF_KIND = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}
_ONLINE = "/sys/devices/system/cpu/online"


def weight_of_shares(shares: int) -> int:
    """cpu.weight for Docker's cpu_shares, so that 1024 becomes 100 (runc since 1.3.2)."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    power = math.log2(shares)
    return math.ceil(10 ** ((power * power + 125 * power) / 612.0 - 7.0 / 34.0))


def weight_of_block(weight: int) -> int:
    """io.weight, 1 to 10000, for Docker's blkio weight, 10 to 1000 (runc)."""
    return 1 + (weight - 10) * 9999 // 990


def v2_files(limits: Limits) -> list[Row]:
    """The limits on cgroup v2, in the order to write them. Raises OSError: no such CPUs or devices."""
    rows = []
    if limits.memory_bytes is not None:
        rows.append(("memory", "memory.max", str(limits.memory_bytes)))
    if limits.memory_swap_bytes is not None:
        if limits.memory_swap_bytes < 0:
            rows.append(("memory", "memory.swap.max", "max"))
        else:
            swap = max(limits.memory_swap_bytes - (limits.memory_bytes or 0), 0)
            rows.append(("memory", "memory.swap.max", str(swap)))
    if limits.memory_reservation_bytes is not None:
        rows.append(("memory", "memory.low", str(limits.memory_reservation_bytes)))
    if limits.cpu_quota_us is not None:
        rows.append(("cpu", "cpu.max", f"{limits.cpu_quota_us} {limits.cpu_period_us}"))
    if limits.cpu_shares is not None:
        rows.append(("cpu", "cpu.weight", str(weight_of_shares(limits.cpu_shares))))
    if limits.cpuset is not None:
        rows.append(("cpuset", "cpuset.cpus", _there(limits.cpuset)))
    if limits.pids is not None:
        rows.append(("pids", "pids.max", str(limits.pids)))
    if limits.blkio_weight is not None:
        rows.append(("io", "io.bfq.weight", str(limits.blkio_weight)))
        rows.append(("io", "io.weight", str(weight_of_block(limits.blkio_weight))))
    for kind, device, value in _devices(limits):
        if kind == "weight":
            rows.append(("io", "io.bfq.weight", f"{device} {value}"))
            rows.append(("io", "io.weight", f"{device} {weight_of_block(value)}"))
        else:
            rows.append(("io", "io.max", f"{device} {_V2_OF_KIND[kind]}={value}"))
    # The kernel gave the last ones up with cgroup v2; `write_limits` says so.
    return rows + _v1_only(limits)


def v1_files(limits: Limits) -> list[Row]:
    """As `v2_files` for the v1 controllers."""
    rows = []
    if limits.memory_bytes is not None:
        rows.append(("memory", "memory.limit_in_bytes", str(limits.memory_bytes)))
    if limits.memory_swap_bytes is not None:
        rows.append(("memory", "memory.memsw.limit_in_bytes", str(limits.memory_swap_bytes)))
    if limits.memory_reservation_bytes is not None:
        rows.append(("memory", "memory.soft_limit_in_bytes", str(limits.memory_reservation_bytes)))
    if limits.cpu_quota_us is not None:
        rows.append(("cpu", "cpu.cfs_period_us", str(limits.cpu_period_us)))
        rows.append(("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota_us)))
    if limits.cpu_shares is not None:
        rows.append(("cpu", "cpu.shares", str(limits.cpu_shares)))
    if limits.cpuset is not None:
        rows.append(("cpuset", "cpuset.cpus", _there(limits.cpuset)))
    if limits.pids is not None:
        rows.append(("pids", "pids.max", str(limits.pids)))
    if limits.blkio_weight is not None:
        rows.append(("blkio", "blkio.bfq.weight", str(limits.blkio_weight)))
        rows.append(("blkio", "blkio.weight", str(limits.blkio_weight)))
    for kind, device, value in _devices(limits):
        if kind == "weight":
            rows.append(("blkio", "blkio.bfq.weight_device", f"{device} {value}"))
            rows.append(("blkio", "blkio.weight_device", f"{device} {value}"))
        else:
            rows.append(("blkio", f"blkio.throttle.{kind}_device", f"{device} {value}"))
    return rows + _v1_only(limits)


def cpus_of(text: str) -> frozenset[int]:
    """The numbers of a list as in 0-2,4."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _there(cpuset: str) -> str:
    """That list, of CPUs that there are; the kernel says no more than that it cannot, or nothing."""
    online = read_text(_ONLINE).strip()
    if not cpus_of(cpuset) <= cpus_of(online):
        raise OSError(
            errno.EINVAL,
            f"cannot set cpuset.cpus to {cpuset}: requested CPUs are not available; the host has {online}",
        )
    return cpuset


def _devices(limits: Limits) -> Iterator[tuple[str, str, int]]:
    """(kind, major:minor, value) of each limit of a device."""
    for kind, path, value in limits.blkio_devices:
        yield str(kind), _number(str(path)), int(value)


def _number(path: str) -> str:
    """major:minor of a block device."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot limit the device {path}: {error.strerror}") from None
    if not stat.S_ISBLK(found.st_mode):
        raise OSError(errno.ENOTBLK, f"cannot limit the device {path}: it is no block device")
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _v1_only(limits: Limits) -> list[Row]:
    rows = []
    if limits.memory_swappiness is not None:
        rows.append(("memory", "memory.swappiness", str(limits.memory_swappiness)))
    if limits.oom_kill_disable:
        rows.append(("memory", "memory.oom_control", "1"))
    return rows


_V1_ONLY = {"memory.swappiness": "mem_swappiness", "memory.oom_control": "oom_kill_disable"}
# Swap is not accounted for on every kernel; a limit on memory holds without (Docker warns and goes on).
_OPTIONAL = ("memory.swap.max", "memory.memsw.limit_in_bytes")
# Weights are kept by the scheduler bfq, or else by what has the second file: one of them is enough (runc).
_INSTEAD = {
    "io.bfq.weight": "io.weight",
    "blkio.bfq.weight": "blkio.weight",
    "blkio.bfq.weight_device": "blkio.weight_device",
}


def write_limits(rows: Sequence[Row], places: Mapping[str, str]) -> None:
    """Write rows in their order; places: the cgroup's directory of each controller.

    Raises OSError, ENOTSUP where the kernel has no file for one.
    """
    done: set[str] = set()
    for controller, name, text in rows:
        if name in done:
            continue
        try:
            write_text(f"{places[controller]}/{name}", text)
        except FileNotFoundError:
            if name not in _OPTIONAL and name not in _INSTEAD:
                raise OSError(errno.ENOTSUP, f"cannot set {name}: {_missing(controller, name)}") from None
        else:
            # What the other file would say has been said.
            done.add(_INSTEAD.get(name, ""))


def _missing(controller: str, name: str) -> str:
    if name in _V1_ONLY:
        return f"cgroup v2 has no such file; remove `{_V1_ONLY[name]}`"
    if name in _INSTEAD.values():
        return (
            "the kernel weighs no block devices here: it has no bfq scheduler, or the host no controller;"
            " remove the weight"
        )
    return f"the host has no {controller} controller here"
