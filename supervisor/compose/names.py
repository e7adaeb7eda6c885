"""Words that the kernel and Docker give a meaning: capabilities, ulimits, sysctls, tmpfs options."""

from __future__ import annotations

import re


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


CAPABILITIES = words(
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE"
    " DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE"
    " MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID"
    " SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE"
    " SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM ALL"
)

ULIMITS = words(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
)

TMPFS_FLAGS = words(
    "defaults ro rw suid nosuid nodev exec noexec sync async dirsync atime noatime diratime nodiratime"
    " relatime norelatime strictatime nostrictatime"
)
TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol")

_IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in words("msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced")
)
_SYSCTL = re.compile(r"[a-zA-Z0-9_-]+(?:[./][a-zA-Z0-9_*-]+)+")


def sysctl_problem(name: str, network_mode: str) -> tuple[str, str] | None:
    """(why a service cannot have a sysctl, what to do), or None: only namespaced ones are its own."""
    if not _SYSCTL.fullmatch(name):
        return f'"{name}" is no sysctl', "write dotted names, like net.core.somaxconn"
    if name.startswith("net."):
        if network_mode == "host":
            return (
                f"sysctl {name} is not allowed in the host's network",
                "use `network_mode: none`, or set it on the host",
            )
        return None
    if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        return None
    return f"sysctl {name} is not in a separate kernel namespace", "set it on the host"
