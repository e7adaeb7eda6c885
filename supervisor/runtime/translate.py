"""From a service's words to the kernel's numbers, by Docker's rules.

Pure: no I/O, no knowledge of the host but what is passed in. Everything that cannot be done raises
`PlanError`, whose text is what the user reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from supervisor.core import model
from supervisor.kernel import capabilities
from supervisor.launcher import plan


class PlanError(ValueError):
    """A service that can never be launched as it is written; the text says why and what to write."""


# moby daemon/pkg/oci/caps/defaults.go (DefaultCapabilities)
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

# asm-generic/resource.h; the numbers of every architecture that Debian supports but mips, sparc and alpha
RLIMIT_NUMBERS = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_SYNCHRONOUS, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 16, 128, 1024, 2048, 1 << 21
MS_STRICTATIME = 1 << 24

# option -> (flag, set it?)
_TMPFS_FLAGS = {
    "ro": (MS_RDONLY, True),
    "rw": (MS_RDONLY, False),
    "nosuid": (MS_NOSUID, True),
    "suid": (MS_NOSUID, False),
    "nodev": (MS_NODEV, True),
    "noexec": (MS_NOEXEC, True),
    "exec": (MS_NOEXEC, False),
    "sync": (MS_SYNCHRONOUS, True),
    "async": (MS_SYNCHRONOUS, False),
    "dirsync": (MS_DIRSYNC, True),
    "noatime": (MS_NOATIME, True),
    "atime": (MS_NOATIME, False),
    "nodiratime": (MS_NODIRATIME, True),
    "diratime": (MS_NODIRATIME, False),
    "relatime": (MS_RELATIME, True),
    "strictatime": (MS_STRICTATIME, True),
}
_TMPFS_DATA = re.compile(
    r"(size|nr_blocks|nr_inodes)=\d+[kKmMgG%]?|mode=0?[0-7]{1,4}|(uid|gid)=\d+|huge=\w+|inode(32|64)"
)

_IPC_SYSCTLS = frozenset(
    "kernel." + name
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_SYSCTL_NAME = re.compile(r"[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+")


def capability_numbers(
    added: Iterable[str], dropped: Iterable[str], *, privileged: bool, available: frozenset[int]
) -> list[int]:
    """The capabilities of a service, sorted, by moby's TweakCapabilities.

    ALL in `added` wins over ALL in `dropped`; names are taken with and without CAP_, in any case.
    `available` is what the launcher itself has: the default set and ALL are cut down to it, naming one
    that is missing is an error.
    """
    if privileged:
        return sorted(available)
    adds = {_capability(name, "cap_add") for name in added}
    drops = {_capability(name, "cap_drop") for name in dropped}
    default = {capabilities.NUMBERS[name] for name in DEFAULT_CAPABILITIES} & available
    named = {number for number in adds if number is not None}
    for number in sorted(named - available):
        raise PlanError(
            f"cannot add capability {capabilities.NAMES[number]}: the supervisor itself does not have it;"
            " remove it from cap_add, or start the supervisor with it"
        )
    if None in adds:
        chosen = set(available) - drops
    elif None in drops:
        chosen = named
    else:
        chosen = (default - drops) | named
    return sorted(number for number in chosen if number is not None)


def _capability(name: str, where: str) -> int | None:
    """The number of a capability; None is ALL."""
    upper = name.upper()
    if upper in ("ALL", "CAP_ALL"):
        return None
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    try:
        return capabilities.NUMBERS[full]
    except KeyError:
        raise PlanError(f'invalid {where}: unknown capability: "{name}"; see capabilities(7)') from None


# DefaultLimitNOFILE= of systemd, and so of a container of Docker since its unit leaves it alone (v25).
OPEN_FILES = (1024, 524288)


def rlimits(ulimits: Iterable[model.Ulimit], open_files: int | None = None) -> list[list[int]]:
    """[number, soft, hard] of each ulimit, -1 unlimited. Raises PlanError.

    open_files: the most that there can be. Without an ulimit of its own a service has what systemd gives one,
    for the launcher's own limit is high, and programs that use select() or close all they may have suffer.
    """
    rows = []
    for limit in ulimits:
        number = RLIMIT_NUMBERS.get(limit.name.lower().removeprefix("rlimit_"))
        if number is None:
            raise PlanError(
                f"cannot set ulimit {limit.name}: invalid ulimit type; one of"
                f" {', '.join(sorted(RLIMIT_NUMBERS))}"
            )
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise PlanError(
                f"cannot set ulimit {limit.name}: the soft limit must be less than or equal to the hard"
                f" limit: {limit.soft} > {limit.hard}"
            )
        rows.append([number, limit.soft, limit.hard])
    nofile = RLIMIT_NUMBERS["nofile"]
    if open_files is not None and all(row[0] != nofile for row in rows):
        soft, hard = OPEN_FILES
        rows.append([nofile, min(soft, open_files), min(hard, open_files)])
    return rows


def cgroup_limits(limits: model.Limits) -> plan.Limits:
    """Limits in the units of the cgroup files; memory without a swap figure allows as much swap (moby)."""
    memory = limits.memory_bytes or None
    swap = limits.memory_swap_bytes or None
    if memory is not None:
        if memory < 6 * 1024 * 1024:
            raise PlanError("cannot limit memory: minimum memory limit allowed is 6MB; raise mem_limit")
        if swap is None:
            swap = 2 * memory
        elif 0 < swap < memory:
            raise PlanError(
                "cannot limit swap: memswap_limit includes memory and must not be below mem_limit; raise it"
            )
    elif swap is not None and swap > 0:
        raise PlanError("cannot limit swap: you should always set mem_limit when using memswap_limit")
    reservation = limits.memory_reservation_bytes or None
    if memory is not None and reservation is not None and reservation > memory:
        raise PlanError("cannot reserve memory: the reservation must not be above mem_limit")
    quota = None
    if limits.cpus:
        quota = round(limits.cpus * 100_000)
        if quota < 1_000:
            raise PlanError("cannot limit cpus: range of cpus is from 0.01; raise cpus")
        if limits.cpu_quota_us or limits.cpu_period_us:
            raise PlanError("cannot limit cpus: cpus and cpu_quota exclude each other; keep cpus")
    quota = quota or limits.cpu_quota_us
    pids = limits.pids if limits.pids is not None and limits.pids > 0 else None
    return plan.Limits(
        memory_bytes=memory,
        memory_swap_bytes=swap if memory is not None else None,
        memory_reservation_bytes=reservation,
        cpu_quota_us=quota,
        cpu_period_us=limits.cpu_period_us or 100_000,
        cpu_shares=limits.cpu_shares or None,
        pids=pids,
        memory_swappiness=limits.memory_swappiness,
        oom_kill_disable=limits.oom_kill_disable,
        cpuset=limits.cpuset or None,
        blkio_weight=limits.blkio_weight or None,
        blkio_devices=[[each.kind, each.path, each.value] for each in limits.blkio_devices],
    )


def sysctl_steps(
    sysctls: Iterable[tuple[str, str]], network_mode: str, *, privileged: bool
) -> list[plan.Sysctl]:
    """Sysctl steps: only namespaced ones, `net.` only with a network namespace of the service's own.

    A private network gets Docker's two defaults first: any user may bind any port and ping.
    """
    steps = []
    if network_mode != "host" and not privileged:
        steps.append(plan.Sysctl("net.ipv4.ip_unprivileged_port_start", "0"))
        steps.append(plan.Sysctl("net.ipv4.ping_group_range", "0 2147483647"))
    for name, value in sysctls:
        if not _SYSCTL_NAME.fullmatch(name):
            raise PlanError(f"cannot set sysctl {name}: not a name of dotted words, like net.core.somaxconn")
        if name.startswith("net."):
            if network_mode == "host":
                raise PlanError(
                    f"cannot set sysctl {name}: not allowed in the host's network; use network_mode: none, or"
                    " set it on the host"
                )
        elif name not in _IPC_SYSCTLS and not name.startswith("fs.mqueue."):
            raise PlanError(
                f"cannot set sysctl {name}: it is not in a separate kernel namespace; set it on the host"
            )
        steps.append(plan.Sysctl(name, value))
    return steps


def tmpfs_mount(mount: model.Mount, target: str, default_mode: int | None) -> plan.Mount:
    """The step for a tmpfs, by default nosuid, nodev, noexec and of the mode of what it hides (runc).

    `dev` is refused: with it the service could make a device node and open it.
    """
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    data: dict[str, str] = {}
    if default_mode is not None:
        data["mode"] = f"{default_mode:04o}"
    for group in mount.tmpfs_options:
        for option in filter(None, (part.strip() for part in group.split(","))):
            if option in _TMPFS_FLAGS:
                flag, wanted = _TMPFS_FLAGS[option]
                flags = flags | flag if wanted else flags & ~flag
            elif _TMPFS_DATA.fullmatch(option):
                key, _, value = option.partition("=")
                data[key] = value
            elif option != "defaults":
                raise PlanError(f'cannot mount a tmpfs at {target}: invalid tmpfs option "{option}"')
    if mount.tmpfs_size_bytes:
        data["size"] = str(mount.tmpfs_size_bytes)
    if mount.tmpfs_mode is not None:
        data["mode"] = f"{mount.tmpfs_mode:04o}"
    if mount.read_only:
        flags |= MS_RDONLY
    text = ",".join(f"{key}={value}" if value else key for key, value in data.items())
    return plan.Mount("tmpfs", target, flags, text)
