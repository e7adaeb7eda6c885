"""The mask layer of the host view: what is hidden, once for all instances, above the host's own layers.

A directory tree of whiteouts, opaque directories and files, one for each file system of the view. It lies on
a small tmpfs of its own, because overlayfs refuses a layer that lies below another one (ELOOP), and / lies
above everything else that is on its file system.

What makes it safe to share:

- The tmpfs is complete and read-only, as a file system, before it is anywhere to be seen. Nobody can take a
  mask out of it below a running view, which would show what it hid; not even the host's root by mistake.
- Its place has the digest of what it hides, and what is there is never changed: other masks are another
  tmpfs. One that is unmounted stays with the views that stand on it, and goes with the last of them.
- The layers are directories *in* it: where it is not mounted they are not there, and a launch fails.

They are below `<run>/masks`, where the launcher sees what is mounted later (`runtime.sharedmounts`), until
`forget_masks`; the daemon makes them again when it starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence

from supervisor.core.paths import Paths
from supervisor.image.layerstack import OPAQUE
from supervisor.kernel import mounts
from supervisor.kernel import syscalls as sc
from supervisor.runtime.hostmounts import mounts_here
from supervisor.runtime.masks import Masked
from supervisor.runtime.sharedmounts import share, unshare

_SOURCE = "shipkeeper-masks"
_OPTIONS = "mode=0700,size=64m"
_FLAGS = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC


def provide_masks(paths: Paths, masked: Sequence[Masked], targets: Iterable[str]) -> dict[str, str]:
    """The layer that hides what lies on each file system of the view, by its mount point; made where missing.

    targets: mount points of the view that can be layered; one with nothing to hide has no layer.
    Raises OSError: then nothing may be started, since nothing would be hidden.
    """
    here = _by_target(masked, targets)
    place = f"{os.path.realpath(paths.masks)}/{_digest(here)}"
    layers = {target: f"{place}/{number}" for number, target in enumerate(here)}
    if place not in _mounted(paths):
        share(paths.masks)
        os.makedirs(place, 0o700, exist_ok=True)
        made = mounts.file_system("tmpfs", _FLAGS, _OPTIONS, source=_SOURCE)
        try:
            for number, items in enumerate(here.values()):
                _write(made, str(number), items)
            mounts.attach_read_only(made, place)
        finally:
            os.close(made)
    for layer in layers.values():
        os.stat(layer)
    return layers


def forget_masks(paths: Paths, but: Iterable[str] = ()) -> None:
    """Unmount every mask layer but those in which the directories `but` are. Views that run keep theirs."""
    kept = {os.path.dirname(layer) for layer in but}
    for place in _mounted(paths):
        if place not in kept:
            with contextlib.suppress(OSError):
                sc.umount2(place, sc.MNT_DETACH)
                os.rmdir(place)
    if not kept:
        with contextlib.suppress(OSError):
            unshare(paths.masks)


def _mounted(paths: Paths) -> list[str]:
    """Where mask layers are; each is complete, for it was before it was put there."""
    above = os.path.realpath(paths.masks) + "/"
    return [
        mount.target for mount in mounts_here() if mount.target.startswith(above) and mount.source == _SOURCE
    ]


def _by_target(masked: Sequence[Masked], targets: Iterable[str]) -> dict[str, list[tuple[str, Masked]]]:
    """What is hidden on each file system, by its path there."""
    deepest_first = sorted(targets, key=lambda target: -len(target))
    found: dict[str, list[tuple[str, Masked]]] = {}
    for item in masked:
        for target in deepest_first:
            base = target.rstrip("/")
            if item.path.startswith(f"{base}/"):
                found.setdefault(target, []).append((item.path[len(base) + 1 :], item))
                break
    return dict(sorted(found.items()))


def _digest(here: Mapping[str, Sequence[tuple[str, Masked]]]) -> str:
    """Of all that the layers are made from; with the number of how they are made."""
    return hashlib.sha256(repr((1, here)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _write(made: int, name: str, items: Iterable[tuple[str, Masked]]) -> None:
    os.mkdir(name, 0o755, dir_fd=made)
    for path, item in items:
        _make(made, f"{name}/{path}", item)


def _make(made: int, path: str, item: Masked) -> None:
    if item.kind == "absent":
        os.mknod(path, stat.S_IFCHR, 0, dir_fd=made)
        return
    if item.kind == "file":
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=made)
    else:
        os.mkdir(path, 0o700, dir_fd=made)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=made)
    try:
        if item.kind == "file":
            content = item.content.encode("utf-8", "surrogateescape")
            while content:
                content = content[os.write(fd, content) :]
        elif item.kind == "empty":
            os.setxattr(fd, OPAQUE, b"y")
        os.fchown(fd, item.uid, item.gid)
        os.fchmod(fd, item.mode)
    finally:
        os.close(fd)
