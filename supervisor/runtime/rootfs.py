"""The root of an instance on the disk: everything that must lie ready before its first run.

On the disk, `<instance>/prepared.json` says that an instance was set up, and from which archive; without it
the set-up is done again from the start. Nothing of a set-up instance is changed afterwards: it may be
running. All functions block.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
import stat
from pathlib import Path
from urllib.parse import quote

from supervisor.core import model
from supervisor.core.endpoints import Place
from supervisor.core.paths import InstancePaths, Paths
from supervisor.image.archive import unpack_cached
from supervisor.image.layerstack import LayerStack, make_directories, without_repeats
from supervisor.image.unpacking import ArchiveError
from supervisor.runtime.etcfiles import etc_files, write_etc_files
from supervisor.runtime.hostmounts import mount_of, mounts_here
from supervisor.runtime.hostview import HostView
from supervisor.runtime.masks import BOUND_FILES
from supervisor.runtime.plan import PreparedInstance, Submount, service_hostname
from supervisor.runtime.volumes import MountVolume, VolumeError, fill_volume, volume_directory

_PROPAGATES = ("shared", "rshared", "slave", "rslave")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class PrepareError(Exception):
    """An instance that cannot be set up as things are on this host. The text is for the user."""


def prepare_instance(
    spec: model.ServiceSpec,
    instance_id: str,
    paths: Paths,
    project: model.Project,
    *,
    container_name: str,
    view: HostView,
    mount_volume: MountVolume | None = None,
    place: Place | None = None,
) -> PreparedInstance:
    """Set an instance up, or find it set up. Idempotent; safe for a running instance. Raises PrepareError.

    Makes its writable layers, /etc files, volumes and bind sources, and unpacks its root. mount_volume: for
    volumes with options. place: where it is in the networks, if it is in any.
    """
    if not _ID.fullmatch(instance_id):
        raise PrepareError(f"cannot use instance id {instance_id!r}: only letters, digits, '_', '.' and '-'")
    files = paths.instance(instance_id)
    try:
        record = _record(files)
        lowers, digest = _lowers(spec, paths, view, record)
        submounts = _submounts(files, view) if spec.rootfs.kind == "host" else ()
        stack = LayerStack(lowers)
        hostname = service_hostname(spec, instance_id, view.facts)
        for directory in (files.base, files.etc, files.upper, files.work):
            os.makedirs(directory, 0o711 if directory == files.base else 0o755, exist_ok=True)
        for submount in filter(lambda submount: submount.lowers, submounts):
            os.makedirs(submount.upper, 0o755, exist_ok=True)
            os.makedirs(submount.work, 0o755, exist_ok=True)
        if record is None:
            _fill_upper(spec, lowers, files, submounts)
        fresh = LayerStack((files.upper, *lowers)) if record is None else None
        sources = _volumes(spec, files, paths, project, fresh, mount_volume)
        images = _mounted_images(spec, paths)
        _bind_sources(spec)
        write_etc_files(files.etc, etc_files(hostname, spec.network_mode, spec.resolver, place), keep=True)
        if record is None:
            _write_record(files, digest)
    except (ArchiveError, VolumeError, ValueError) as error:
        raise PrepareError(str(error)) from error
    except OSError as error:
        raise PrepareError(
            f"cannot prepare the root of {container_name}: {error.strerror}: {error.filename or files.base}"
        ) from error
    return PreparedInstance(
        instance_id=instance_id,
        container_name=container_name,
        hostname=hostname,
        files=files,
        lowers=lowers,
        host_view=spec.rootfs.kind == "host",
        submounts=submounts,
        sources=sources,
        tmpfs_modes=_tmpfs_modes(spec, stack),
        images=images,
    )


def remove_instance(instance_id: str, paths: Paths) -> None:
    """Remove everything of an instance, anonymous volumes and log too. It must not be running. Idempotent."""
    if not _ID.fullmatch(instance_id):
        raise PrepareError(f"cannot remove instance {instance_id!r}: not an instance id")
    base = paths.instance(instance_id).base
    try:
        shutil.rmtree(base)
    except FileNotFoundError:
        if os.path.lexists(base):
            raise PrepareError(f"cannot remove {base}: it changed meanwhile; is it still running?") from None
    except OSError as error:
        raise PrepareError(f"cannot remove {base}: {error.strerror}: {error.filename}") from error


def prune_roots(paths: Paths) -> list[str]:
    """Remove unpacked archives that no instance stands on, and unfinished ones; returns what went.

    Not while an instance is being prepared.
    """
    used = set()
    for name in _names(paths.instances):
        record = _record(paths.instance(name))
        if record is not None:
            used.add(record)
    gone = [name for name in _names(paths.rootfs_cache) if name not in used]
    for name in gone:
        shutil.rmtree(f"{paths.rootfs_cache}/{name}")
    return gone


def _lowers(
    spec: model.ServiceSpec, paths: Paths, view: HostView, record: str | None
) -> tuple[tuple[str, ...], str]:
    rootfs = spec.rootfs
    match rootfs.kind:
        case "host":
            return view.lowers, ""
        case "directory":
            place = rootfs.path or ""
            if not os.path.isdir(place):
                raise PrepareError(
                    f"cannot use {place} as the root of {spec.name}: no such directory;"
                    " see x-shipkeeper.rootfs"
                )
            real, state = os.path.realpath(place), os.path.realpath(paths.state_dir)
            if state == real or state.startswith(real.rstrip("/") + "/"):
                raise PrepareError(
                    f"cannot use {place} as the root of {spec.name}: the state directory lies in it; leave"
                    " x-shipkeeper.rootfs out for a view of the host with its secrets masked"
                )
            return (real,), ""
        case "archive":
            if record and os.path.isdir(f"{paths.rootfs_cache}/{record}"):
                return (f"{paths.rootfs_cache}/{record}",), record
            digest, place = unpack_cached(rootfs.path or "", paths.rootfs_cache)
            if record and digest != record:
                raise PrepareError(
                    f"cannot prepare {spec.name}: {rootfs.path} is not the archive it was created from, which"
                    " is no longer unpacked; recreate the service"
                )
            return (place,), digest
        case "image":
            return _image_layers(rootfs, spec.name, paths), ""


def _image_layers(image: model.Rootfs, name: str, paths: Paths) -> tuple[str, ...]:
    """The layers of an image that the service `name` stands on or mounts, topmost first."""
    digests = [layer.removeprefix("sha256:") for layer in reversed(image.layers)]
    found = without_repeats(f"{paths.images}/layers/{digest}/diff" for digest in digests)
    for place in found:
        if not os.path.isdir(place):
            raise PrepareError(
                f"cannot prepare {name}: a layer of image {image.path} is missing; load it again"
            )
    return found or (_nothing(paths),)  # FROM scratch: overlayfs wants something to stand on


def _nothing(paths: Paths) -> str:
    """A directory that is and stays empty."""
    os.makedirs(f"{paths.images}/empty", exist_ok=True)
    return f"{paths.images}/empty"


def _mounted_images(spec: model.ServiceSpec, paths: Paths) -> dict[str, tuple[str, ...]]:
    """What mounts of images show, by target: the directories to stack, topmost first, or one file."""
    shown: dict[str, tuple[str, ...]] = {}
    for mount in spec.mounts:
        if mount.type != "image":
            continue
        if mount.image is None:
            raise PrepareError(f"cannot mount {mount.source} at {mount.target}: the image is not resolved")
        stack = LayerStack(_image_layers(mount.image, spec.name, paths))
        path = stack.resolve(mount.subpath or "")
        entry = stack.entry(path)
        if entry is None:
            raise PrepareError(
                f"cannot mount {mount.source} at {mount.target}: the image has no {mount.subpath};"
                " write a path in it as image.subpath"
            )
        # An overlay that is not written to wants two layers at least.
        shown[mount.target] = (*stack.merged(path), _nothing(paths)) if entry.is_dir else (entry.path,)
    return shown


def _submounts(files: InstancePaths, view: HostView) -> tuple[Submount, ...]:
    result = []
    for mount in view.mounts:
        base = f"{files.submounts}/{quote(mount.target, safe='')}"
        if mount.lowers:
            result.append(Submount(mount.target, mount.lowers, f"{base}/upper", f"{base}/work"))
        else:
            result.append(Submount(mount.target, hidden=mount.hidden))
    return tuple(result)


def _volumes(
    spec: model.ServiceSpec,
    files: InstancePaths,
    paths: Paths,
    project: model.Project,
    fresh: LayerStack | None,
    mount_volume: MountVolume | None,
) -> dict[str, str]:
    sources = {}
    for mount in spec.mounts:
        if mount.type == "volume":
            sources[mount.target] = volume_directory(mount, files, paths, project, mount_volume)
            if fresh is not None and not mount.nocopy and not mount.subpath:
                fill_volume(sources[mount.target], fresh, mount.target)
    return sources


def _bind_sources(spec: model.ServiceSpec) -> None:
    for mount in spec.mounts:
        if mount.type != "bind" or mount.source is None:
            continue
        if os.path.exists(mount.source):
            if mount.propagation in _PROPAGATES:
                _check_propagation(mount.source, mount.propagation)
            continue
        if not mount.create_host_path or os.path.lexists(mount.source):
            raise PrepareError(
                f"cannot mount {mount.source} at {mount.target}: no such file or directory; create it, or set"
                " bind.create_host_path"
            )
        os.makedirs(mount.source, 0o755)


def _check_propagation(source: str, propagation: str) -> None:
    """As moby: what cannot come about is an error. Raises PrepareError."""
    on = mount_of(os.path.realpath(source), mounts_here())
    if on is None or on.shared or (on.slave and propagation.endswith("slave")):
        return
    raise PrepareError(
        f"cannot mount {source} with propagation {propagation}: it is on {on.target}, which is no"
        f" {'slave or ' if propagation.endswith('slave') else ''}shared mount;"
        f" `mount --make-shared {on.target}` on the host first"
    )


def _fill_upper(
    spec: model.ServiceSpec,
    lowers: tuple[str, ...],
    files: InstancePaths,
    submounts: tuple[Submount, ...],
) -> None:
    """What the root lacks: plain files to bind /etc's three over, and the working directory (as moby)."""
    stack = LayerStack((files.upper, *lowers))
    layers = [
        ("/", files.upper, stack),
        *(
            (mount.target, mount.upper, LayerStack((mount.upper, *mount.lowers)))
            for mount in submounts
            if mount.lowers
        ),
    ]
    for _, upper, below in layers:
        # What shows of a merged directory is the topmost layer's owner and mode.
        status = os.stat(below.layers[-1])
        os.chown(upper, status.st_uid, status.st_gid)
        Path(upper).chmod(stat.S_IMODE(status.st_mode))
    for path in BOUND_FILES:
        entry = stack.entry(path)
        if entry is None or not stat.S_ISREG(entry.status.st_mode):
            base, upper, below = _layer_of(path, layers)
            etc = make_directories(
                below, upper, below.resolve(posixpath.dirname(path)[len(base.rstrip("/")) :])
            )
            plain = f"{etc}/{posixpath.basename(path)}"
            if not os.path.lexists(plain):
                Path(plain).touch(0o644)
    workdir = stack.resolve(spec.working_dir or "/")
    mounted = [posixpath.normpath(mount.target) for mount in spec.mounts]
    if stack.entry(workdir) is None and not any(f"{workdir}/".startswith(f"{path}/") for path in mounted):
        base, upper, below = _layer_of(workdir, layers)
        make_directories(below, upper, workdir[len(base.rstrip("/")) :])


def _layer_of(path: str, layers: list[tuple[str, str, LayerStack]]) -> tuple[str, str, LayerStack]:
    """The file system of the view on which a path lies: mount point, upper directory, layers below."""
    fitting = [layer for layer in layers if f"{path}/".startswith(layer[0].rstrip("/") + "/")]
    return max(fitting, key=lambda layer: len(layer[0]))


def _tmpfs_modes(spec: model.ServiceSpec, stack: LayerStack) -> dict[str, int]:
    modes = {}
    for mount in spec.mounts:
        if mount.type == "tmpfs":
            entry = stack.entry(stack.resolve(mount.target))
            if entry is not None and entry.is_dir:
                modes[mount.target] = stat.S_IMODE(entry.status.st_mode)
    return modes


def _record(files: InstancePaths) -> str | None:
    """The digest that an instance was set up from ("" for none); None if it was not set up."""
    try:
        with open(f"{files.base}/prepared.json", encoding="utf-8") as file:
            return str(json.load(file)["archive"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _write_record(files: InstancePaths, digest: str) -> None:
    """On the disk before the first run only if it says more than that there was a set-up.

    A power cut may lose the rest: then the set-up is done again, which changes nothing that is there. Waiting
    for the disk would be most of the time that the set-up takes.
    """
    path = f"{files.base}/prepared.json"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump({"archive": digest}, file)
        if digest:
            file.flush()
            os.fsync(file.fileno())
    os.rename(f"{path}.new", path)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
