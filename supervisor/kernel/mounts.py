"""Mounts and the places for them, by descriptor, inside a root that is not ours to trust.

A path inside a root is resolved by openat2(RESOLVE_IN_ROOT), so that no symbolic link of a service leads
out of it. Needs Linux 5.12 (mount_setattr). All functions raise OSError with the call in the text.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat

from supervisor.kernel import syscalls as sc

_ATTRIBUTES = (
    (sc.MS_RDONLY, sc.MOUNT_ATTR_RDONLY),
    (sc.MS_NOSUID, sc.MOUNT_ATTR_NOSUID),
    (sc.MS_NODEV, sc.MOUNT_ATTR_NODEV),
    (sc.MS_NOEXEC, sc.MOUNT_ATTR_NOEXEC),
    (sc.MS_NOATIME, sc.MOUNT_ATTR_NOATIME),
    (sc.MS_STRICTATIME, sc.MOUNT_ATTR_STRICTATIME),
    (sc.MS_NODIRATIME, sc.MOUNT_ATTR_NODIRATIME),
)
_SUPERBLOCK_FLAGS = ((sc.MS_SYNCHRONOUS, "sync"), (sc.MS_DIRSYNC, "dirsync"))

# Features that the kernel allows neither with a lower layer that changes (the host's own root does) nor with
# layers from elsewhere: Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems".
# xino: the masks of the host view lie on a tmpfs; without it the files of a view would have another device
# number than its directories, as with any layers from two file systems.
OVERLAY_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "off"), ("xino", "on"))


def resolve(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open a path inside the root that `root` is a descriptor of. The caller owns the result."""
    return sc.openat2(root, path, flags, sc.RESOLVE_IN_ROOT)


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """Open the directory `path` inside the root, made with its parents where missing (owned by root)."""
    with contextlib.suppress(FileNotFoundError):
        return resolve(root, path, os.O_PATH | os.O_DIRECTORY)
    parent, _, name = path.rstrip("/").rpartition("/")
    above = make_directory(root, parent or "/")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=above)
    finally:
        os.close(above)
    return resolve(root, path, os.O_PATH | os.O_DIRECTORY)


def make_file(root: int, path: str) -> int:
    """Open `path` inside the root (O_PATH), made as an empty file with its parents where missing."""
    with contextlib.suppress(FileNotFoundError):
        return resolve(root, path)
    parent, _, name = path.rpartition("/")
    above = make_directory(root, parent or "/")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileExistsError):
            os.close(os.open(name, flags, 0o644, dir_fd=above))
    finally:
        os.close(above)
    return resolve(root, path)


def attach(mount_fd: int, target_fd: int) -> None:
    """Put a detached mount over the place that `target_fd` is."""
    sc.move_mount(mount_fd, target_fd, "", sc.MOVE_MOUNT_T_EMPTY_PATH)


@functools.cache
def takes_layers_one_by_one() -> bool:
    """Whether overlayfs has "lowerdir+" (Linux 6.7). Asked once: a launcher asks before its first child.

    Before Linux 6.5 overlayfs is mounted by the old interface: every option is taken here, whatever it is,
    and refused only when mounting, with a line in the kernel's log.
    """
    context = sc.fsopen("overlay")
    try:
        sc.fsconfig_string(context, "no_such_option", "x")
    except OSError:
        pass
    else:
        os.close(context)
        return False
    try:
        sc.fsconfig_string(context, "lowerdir+", "/")
    except OSError:
        return False
    finally:
        os.close(context)
    return True


def overlay_options(lowers: list[str], upper: str | None, work: str | None) -> bytes:
    """The option string for mount(2). Raises OSError (E2BIG) where the kernel would cut it."""
    parts = ["lowerdir=" + ":".join(_escape(lower, ":,\\") for lower in lowers)]
    if upper is not None and work is not None:
        parts += [f"upperdir={_escape(upper, ',' + chr(92))}", f"workdir={_escape(work, ',' + chr(92))}"]
    parts += [f"{key}={value}" for key, value in OVERLAY_OPTIONS]
    data = os.fsencode(",".join(parts))
    if len(data) >= os.sysconf("SC_PAGE_SIZE"):
        raise OSError(
            errno.E2BIG,
            f"mount(overlay): the options for {len(lowers)} layers take {len(data)} bytes, over one page;"
            " use fewer layers, shorter paths, or Linux 6.7",
        )
    return data


def _escape(path: str, special: str) -> str:
    return "".join(f"\\{char}" if char in special else char for char in path)


def file_system(fstype: str, flags: int, data: str, *, source: str | None = None) -> int:
    """A detached new file system; `flags` are MS_* bits, `data` its options, separated by commas.

    source: what mountinfo says that it is of; the type, unless given.
    """
    context = sc.fsopen(fstype)
    try:
        sc.fsconfig_string(context, "source", source or fstype)
        for option in filter(None, data.split(",")):
            key, equals, value = option.partition("=")
            if equals:
                sc.fsconfig_string(context, key, value)
            else:
                sc.fsconfig_flag(context, key)
        for word in superblock_options(flags):
            sc.fsconfig_flag(context, word)
        sc.fsconfig_create(context)
        return sc.fsmount(context, attributes_of(flags))
    finally:
        os.close(context)


def attach_read_only(mount_fd: int, place: str) -> None:
    """Put a detached new file system at the directory `place`, never to be written to again.

    The file system itself, not the mount of it, is read-only before it is anywhere to be seen: through no
    other mount can it be written to either.
    """
    context = sc.fspick(mount_fd)
    try:
        sc.fsconfig_flag(context, "ro")
        sc.fsconfig_reconfigure(context)
    finally:
        os.close(context)
    onto = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        attach(mount_fd, onto)
    finally:
        os.close(onto)


def superblock_options(flags: int) -> list[str]:
    """The options of the MS_* bits that a file system has, not the mount of it."""
    return [word for flag, word in _SUPERBLOCK_FLAGS if flags & flag]


def attributes_of(flags: int) -> int:
    """MOUNT_ATTR_* of the MS_* bits that a mount (not its file system) has."""
    return sum(attribute for flag, attribute in _ATTRIBUTES if flags & flag)


def tree(dirfd: int, path: str, *, recursive: bool = False) -> int:
    """A detached copy of what is mounted at `path` ("": at `dirfd` itself), owned by the caller."""
    flags = sc.OPEN_TREE_CLONE | (sc.AT_RECURSIVE if recursive else 0)
    return sc.open_tree(dirfd, path, flags | (0 if path else sc.AT_EMPTY_PATH))


def set_attributes(mount_fd: int, attributes: int, *, propagation: int = 0) -> None:
    """Add attributes to a mount and every mount below it, and set their propagation."""
    sc.mount_setattr(mount_fd, "", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, attributes, propagation=propagation)


def is_directory(fd: int) -> bool:
    """What a descriptor is of."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def is_null(fd: int) -> bool:
    """Whether a descriptor is of the null device, and not of something in its place (CVE-2025-31133)."""
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)
