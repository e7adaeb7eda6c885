"""The host's mounts: which file systems below / belong to the host view, and what can hold a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Can be read as an overlay's lower layer and held to it: local, case-sensitive, with stable inode numbers.
_LAYERABLE = frozenset(
    (
        "bcachefs",
        "btrfs",
        "erofs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "jfs",
        "overlay",
        "reiserfs",
        "squashfs",
        "tmpfs",
        "xfs",
        "zfs",
    )
)
_UPPER = frozenset(["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"])
_PSEUDO = frozenset(
    (
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "ramfs",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    )
)


@dataclass(frozen=True, slots=True)
class HostMount:
    """One line of /proc/self/mountinfo. shared, slave: how events of mounts go from it, and come to it."""

    target: str
    fstype: str
    source: str
    shared: bool = False
    slave: bool = False

    @property
    def layerable(self) -> bool:
        """Can be a lower layer of an overlay."""
        return self.fstype in _LAYERABLE

    @property
    def writable_layer(self) -> bool:
        """Can hold the upper layer of an overlay."""
        return self.fstype in _UPPER

    @property
    def pseudo(self) -> bool:
        """Belongs to the kernel, not to the files of the host."""
        return self.fstype in _PSEUDO


def parse_mountinfo(text: str) -> list[HostMount]:
    """The mounts, in the order of the table; of several at one place only the last, which shows."""
    mounts: dict[str, HostMount] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        target = _unescaped(fields[4])
        mounts.pop(target, None)
        words = [word.partition(":")[0] for word in fields[6:]]
        mounts[target] = HostMount(
            target, rest[0], _unescaped(rest[1]), shared="shared" in words, slave="master" in words
        )
    return list(mounts.values())


def mounts_here() -> list[HostMount]:
    """Those of this process's namespace, now; see `parse_mountinfo`. Raises OSError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def mount_of(path: str, mounts: Iterable[HostMount]) -> HostMount | None:
    """The mount on which a path lies (the path must be free of symbolic links)."""
    best = None
    for mount in mounts:
        base = mount.target.rstrip("/")
        if (path == mount.target or path.startswith(base + "/")) and (
            best is None or len(mount.target) >= len(best.target)
        ):
            best = mount
    return best


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
