"""Named and anonymous volumes: where they are, what they start with, how they go.

On the disk, `<state>/volumes/<name>/_data` is a named volume (Docker's layout) with `volume.json` beside
it; an anonymous one is the same with a name that the supervisor gave it. A volume with options of the local
driver is mounted elsewhere while in use (`runtime.heldmounts`), and its `_data` stays empty.

A volume that is empty when an instance is created starts with what the root has at its mount point, owner
and mode included (Docker's rule, unless nocopy or with a subpath); the copy appears whole or not at all, but
on a mount: that has no other place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor.core import model
from supervisor.core.anonymous import ANONYMOUS_LABEL
from supervisor.core.paths import InstancePaths, Paths
from supervisor.image.layerstack import LayerStack, copy_attributes, copy_tree
from supervisor.runtime.localdriver import LocalDriverError, check_options

PROJECT_LABEL = "com.docker.compose.project"
VOLUME_LABEL = "com.docker.compose.volume"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class VolumeError(Exception):
    """A volume that cannot be made, found or removed. The text is for the user."""


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """What is kept beside a named volume, in `<name>/volume.json`. created_wall: seconds since 1970."""

    name: str
    created_wall: float
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def anonymous(self) -> bool:
        """It was made for one instance, and named by the supervisor."""
        return any(key == ANONYMOUS_LABEL for key, _ in self.labels)


MountVolume = Callable[[VolumeRecord], str]
"""Mounts a volume that has options, if it is not mounted; where it is then."""


def volume_directory(
    mount: model.Mount,
    files: InstancePaths,
    paths: Paths,
    project: model.Project,
    mount_volume: MountVolume | None = None,
) -> str:
    """The data directory of the volume of a mount, made if it is missing. Raises VolumeError."""
    if mount.source is None:
        # An instance of before anonymous volumes had names.
        digest = hashlib.sha256(mount.target.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        data = f"{files.volumes}/{digest}/_data"
        _make_data(data)
        return data
    volume = next((each for each in project.volumes if each.name == mount.source), None)
    try:
        record = find_volume(mount.source, paths)
        if record is None and volume is not None and volume.external:
            raise external_missing(mount.source)
        record = create_volume(_wanted(mount, volume, project.name), paths)
    except VolumeError as error:
        raise VolumeError(f"cannot mount volume {mount.source} at {mount.target}: {error}") from error
    if not record.options:
        return paths.volume(record.name)
    if mount_volume is None:
        raise VolumeError(f"cannot mount volume {record.name}: there is nobody to mount its device")
    return mount_volume(record)


def external_missing(name: str) -> VolumeError:
    """What is said of an external volume that is not there."""
    return VolumeError(
        f'external volume "{name}" not found; `shipkeeper volume create {name}` first, or remove external:'
    )


def _wanted(mount: model.Mount, volume: model.Volume | None, project: str) -> VolumeRecord:
    """The volume of a mount as it is to be made."""
    labels: dict[str, str] = {}
    if volume is not None:
        labels = dict(volume.labels)
        if project and not volume.external:
            labels |= {PROJECT_LABEL: project, VOLUME_LABEL: volume.key}
    elif mount.anonymous:
        labels = {ANONYMOUS_LABEL: ""}
    options = volume.driver_opts if volume is not None and not volume.external else ()
    return VolumeRecord(mount.source or "", time.time(), tuple(sorted(labels.items())), options)


def create_volume(wanted: VolumeRecord, paths: Paths) -> VolumeRecord:
    """Make a named volume, or find it, which is what counts then. Raises VolumeError.

    One that is there with other options is an error: what they named would silently not be mounted.
    """
    data = _checked(wanted.name, paths)
    found = find_volume(wanted.name, paths)
    if found is not None:
        if wanted.options and sorted(wanted.options) != sorted(found.options):
            raise VolumeError(
                f"volume {wanted.name} exists with other options ({_options_text(found.options)});"
                f" `shipkeeper volume rm {wanted.name}` first, or name it otherwise"
            )
        _make_data(data)
        return found
    try:
        check_options(wanted.name, dict(wanted.options))
    except LocalDriverError as error:
        raise VolumeError(str(error)) from error
    base = os.path.dirname(data)
    try:
        os.makedirs(base, 0o700, exist_ok=True)
        path = f"{base}/volume.json"
        with tempfile.NamedTemporaryFile("w", dir=base, prefix=".record-", delete=False) as file:
            json.dump(
                {
                    "created": wanted.created_wall,
                    "labels": dict(wanted.labels),
                    "options": dict(wanted.options),
                },
                file,
            )
        os.rename(file.name, path)
    except OSError as error:
        raise VolumeError(f"cannot create volume at {base}: {error.strerror}") from error
    _make_data(data)
    return wanted


def find_volume(name: str, paths: Paths) -> VolumeRecord | None:
    """The record of a named volume; None if there is none. Raises VolumeError for a name that is none."""
    data = _checked(name, paths)
    base = os.path.dirname(data)
    try:
        with open(f"{base}/volume.json", encoding="utf-8") as file:
            kept = json.load(file)
        return VolumeRecord(
            name,
            float(kept["created"]),
            tuple(sorted(kept["labels"].items())),
            tuple(sorted(kept["options"].items())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Of before there were records; or torn by a power cut: the data counts.
        with contextlib.suppress(OSError):
            return VolumeRecord(name, os.stat(data).st_ctime)
        return None


def volume_records(paths: Paths) -> list[VolumeRecord]:
    """Of all named volumes, by name."""
    found = (find_volume(name, paths) for name in volume_names(paths))
    return [record for record in found if record is not None]


def _make_data(data: str) -> None:
    try:
        os.makedirs(os.path.dirname(data), 0o700, exist_ok=True)
        os.makedirs(data, 0o755, exist_ok=True)
    except OSError as error:
        raise VolumeError(
            f"cannot create volume at {data}: {error.strerror}; free space or permissions"
        ) from error


def _options_text(options: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in options) or "none"


def fill_volume(data: str, stack: LayerStack, target: str) -> None:
    """Let an empty volume start with what `stack` has at `target`. Raises VolumeError."""
    if os.listdir(data):
        return
    try:
        inner = stack.resolve(target)
        entry = stack.entry(inner)
        if entry is None or not entry.is_dir:
            return
        if os.path.ismount(data):
            copy_tree(stack, inner, data)
            copy_attributes(entry, data)
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
    if os.path.ismount(f"{base}/_data"):
        raise VolumeError(
            f"cannot remove volume {name}: something is mounted at {base}/_data; unmount it first"
        )
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


def volume_bytes(name: str, paths: Paths) -> int:
    """What the data of a volume takes on the disk; of what is mounted elsewhere nothing."""
    total = 0
    for directory, _, files in os.walk(_checked(name, paths)):
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{directory}/{file}").st_blocks * 512
    return total


def _checked(name: str, paths: Paths) -> str:
    if not _NAME.fullmatch(name):
        raise VolumeError(f"cannot use volume name {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed")
    return paths.volume(name)
