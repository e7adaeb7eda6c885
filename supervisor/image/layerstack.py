"""Reading a stack of overlayfs layers without mounting it, and copying out of it.

A volume starts with what the root has at its mount point, before any root is mounted; so whiteouts
(char devices 0:0) and opaque directories are followed here by the kernel's rules
(Documentation/filesystems/overlayfs.rst). Symbolic links are followed inside the stack only.
Nothing here is safe against someone who changes the layers meanwhile: layers belong to the administrator.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

OPAQUE = "trusted.overlay.opaque"
_MAX_LINKS = 40


class Entry(msgspec.Struct, frozen=True):
    """Something in the merged view: the file that shows (`path`, on the host) and what it is."""

    path: str
    status: os.stat_result

    @property
    def is_dir(self) -> bool:
        """A directory, which may be merged of several."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        """A symbolic link."""
        return stat.S_ISLNK(self.status.st_mode)


class LayerStack(msgspec.Struct, frozen=True):
    """Directories over one another, topmost first."""

    layers: tuple[str, ...]

    def resolve(self, path: str) -> str:
        """The path with every link followed inside the stack; parts that do not exist stay as they are.

        Raises OSError (ELOOP) after 40 links.
        """
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            entry = self._find([*done, part])
            if entry is None or not entry.is_link:
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(40, "too many symbolic links", path)
            text = os.readlink(entry.path)
            if text.startswith("/"):
                done = []
            todo += [step for step in reversed(text.split("/")) if step not in ("", ".")]
        return "/" + "/".join(done)

    def entry(self, path: str) -> Entry | None:
        """What shows at a path whose parents are no symbolic links (see `resolve`), itself not followed."""
        return self._find([part for part in path.split("/") if part])

    def names(self, path: str) -> list[str]:
        """Sorted names in a directory of the merged view; empty if it is none."""
        merged: dict[str, bool] = {}
        for directory in self._directories([part for part in path.split("/") if part]):
            for name in os.listdir(directory):
                merged.setdefault(name, not is_whiteout(os.lstat(f"{directory}/{name}")))
        return sorted(name for name, shown in merged.items() if shown)

    def merged(self, path: str) -> tuple[str, ...]:
        """The directories of the host that show together at a path without links, topmost first."""
        return tuple(self._directories([part for part in path.split("/") if part]))

    def _find(self, parts: Sequence[str]) -> Entry | None:
        if not parts:
            return Entry(self.layers[0], os.lstat(self.layers[0]))
        for directory in self._directories(parts[:-1]):
            path = f"{directory.rstrip('/')}/{parts[-1]}"
            status = _lstat(path)
            if status is not None:
                return None if is_whiteout(status) else Entry(path, status)
        return None

    def _directories(self, parts: Sequence[str]) -> list[str]:
        """The directories that are merged at a path, topmost first."""
        current = list(self.layers)
        for part in parts:
            below = []
            for directory in current:
                path = f"{directory.rstrip('/')}/{part}"
                status = _lstat(path)
                if status is None:
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    break
                below.append(path)
                if is_opaque(path):
                    break
            current = below
        return current


def without_repeats(layers: Iterable[str]) -> tuple[str, ...]:
    """Layers, topmost first, each once, where it is highest: overlayfs takes none twice (ELOOP).

    What the lower one shows or hides the higher one shows or hides too, so nothing is lost.
    """
    return tuple(dict.fromkeys(layers))


def copy_tree(stack: LayerStack, path: str, target: str) -> None:
    """Copy what the directory `path` of the stack holds into the directory `target`, owners and modes too.

    Sockets and devices are left out: neither means anything in a volume.
    """
    for name in stack.names(path):
        inner = f"{path.rstrip('/')}/{name}"
        entry = stack.entry(inner)
        if entry is None:
            continue
        copy = f"{target}/{name}"
        mode = entry.status.st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(copy, 0o700)
            copy_tree(stack, inner, copy)
        elif stat.S_ISLNK(mode):
            os.symlink(os.readlink(entry.path), copy)
        elif stat.S_ISREG(mode):
            shutil.copyfile(entry.path, copy, follow_symlinks=False)
        elif stat.S_ISFIFO(mode):
            os.mkfifo(copy)
        else:
            continue
        copy_attributes(entry, copy)


def copy_attributes(entry: Entry, target: str) -> None:
    """Give `target` the owner, mode, times and (but overlayfs' own) extended attributes of an entry."""
    os.lchown(target, entry.status.st_uid, entry.status.st_gid)
    if entry.is_link:
        return
    for name in os.listxattr(entry.path, follow_symlinks=False):
        if not name.startswith("trusted."):
            os.setxattr(target, name, os.getxattr(entry.path, name, follow_symlinks=False))
    Path(target).chmod(stat.S_IMODE(entry.status.st_mode))
    os.utime(target, ns=(entry.status.st_atime_ns, entry.status.st_mtime_ns))


def make_directories(stack: LayerStack, upper: str, path: str) -> str:
    """Make `path` a directory of `upper` (the writable layer over the stack); returns the host's path.

    A directory that the stack has keeps the stack's owner and mode: the topmost layer's are what shows.
    """
    made = upper
    inner = ""
    for part in filter(None, path.split("/")):
        inner += f"/{part}"
        made += f"/{part}"
        if _lstat(made) is not None:
            continue
        entry = stack.entry(inner)  # before it is made: `upper` may be the top of the stack
        os.mkdir(made, 0o755)
        if entry is not None and entry.is_dir:
            copy_attributes(entry, made)
    return made


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_whiteout(status: os.stat_result) -> bool:
    """Whether it hides what lower layers have at its name."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: str | bytes) -> bool:
    """Whether a directory hides what lower layers have in it."""
    try:
        return os.getxattr(path, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
