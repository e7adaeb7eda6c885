"""Named and anonymous volumes: where they are, what they start with, how they go.

On the disk, `<state>/volumes/<name>/_data` is a named volume (Docker's layout), and
`<instance>/volumes/<digest of the target>/_data` an anonymous one. A volume that is empty when an
instance is created starts with what the root has at its mount point, owner and mode included
(Docker's rule, unless nocopy); the copy appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from supervisor.core import model
from supervisor.core.paths import InstancePaths, Paths
from supervisor.image.layerstack import LayerStack, copy_attributes, copy_tree

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class VolumeError(Exception):
    """A volume that cannot be made, found or removed. The text is for the user."""


def volume_directory(
    mount: model.Mount, files: InstancePaths, paths: Paths, declared: dict[str, model.Volume]
) -> str:
    """The data directory of the volume of a mount, made if it is missing. Raises VolumeError."""
    if mount.source is None:
        digest = hashlib.sha256(mount.target.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        data = f"{files.volumes}/{digest}/_data"
    else:
        data = _checked(mount.source, paths)
        volume = declared.get(mount.source)
        if volume is not None and volume.external and not os.path.isdir(data):
            raise VolumeError(
                f'cannot mount volume {mount.source} at {mount.target}: external volume "{mount.source}" not'
                " found; create it first, or remove external:"
            )
    try:
        os.makedirs(os.path.dirname(data), 0o700, exist_ok=True)
        os.makedirs(data, 0o755, exist_ok=True)
    except OSError as error:
        raise VolumeError(
            f"cannot create volume at {data}: {error.strerror}; free space or permissions"
        ) from error
    return data


def fill_volume(data: str, stack: LayerStack, target: str) -> None:
    """Let an empty volume start with what `stack` has at `target`. Raises VolumeError."""
    if os.listdir(data):
        return
    try:
        inner = stack.resolve(target)
        entry = stack.entry(inner)
        if entry is None or not entry.is_dir:
            return
        making = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(data))
        try:
            copy_tree(stack, inner, making)
            copy_attributes(entry, making)
            os.rename(making, data)  # onto an empty directory only: another instance may have been quicker
        except OSError:
            if not os.listdir(data):
                raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        raise VolumeError(f"cannot copy {target} of the root into its volume {data}: {error}") from error


def remove_volume(name: str, paths: Paths) -> bool:
    """Remove a named volume with all its data; False if there is none. The caller knows that none uses it."""
    base = os.path.dirname(_checked(name, paths))
    if not os.path.isdir(base):
        return False
    try:
        doomed = tempfile.mkdtemp(prefix=".gone-", dir=os.path.dirname(base))
        os.rename(base, f"{doomed}/volume")  # gone at once, even if the removal is cut off
        shutil.rmtree(doomed)
    except OSError as error:
        raise VolumeError(f"cannot remove volume {name}: {error.strerror}: {error.filename}") from error
    return True


def volume_names(paths: Paths) -> list[str]:
    """Sorted names of the named volumes on the disk."""
    base = Path(paths.volume("x")).parent.parent
    if not base.is_dir():
        return []
    return sorted(entry.name for entry in base.iterdir() if _NAME.fullmatch(entry.name))


def _checked(name: str, paths: Paths) -> str:
    if not _NAME.fullmatch(name):
        raise VolumeError(f"cannot use volume name {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed")
    return paths.volume(name)
