"""The host view: the host's own root as the lower layers of a service, its secrets masked.

Masking costs nothing at a launch, because it is no mount: a *mask layer* lies on top of / in every
overlay, and overlayfs itself hides what it names (whiteouts and opaque directories).

On the disk, `<state>/mask/<boot>-<digest>` is one mask layer, named by the boot and by what it hides; it
is complete when it has that name, and never changes: a running service may stand on it, and a whiteout
that goes away would uncover a secret. Those of earlier boots are removed.

A package upgrade on the host shows in running views at once where the service has no copy of its own;
the kernel calls changes below a mounted overlay undefined but harmless: an open file stays the old
one, a directory may show old names until it is looked up again. Restarting the service settles it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from supervisor.core.paths import Paths
from supervisor.runtime.hostmounts import HostMount, mount_of, parse_mountinfo
from supervisor.runtime.layers import OPAQUE
from supervisor.runtime.masks import BOUND_FILES, Masked, MaskRules, masked_paths
from supervisor.runtime.plan import HostFacts


class HostError(Exception):
    """This host, or the place of the state directory on it, cannot hold services. The text names a remedy."""


@dataclass(frozen=True, slots=True)
class ViewMount:
    """A file system below / that is part of the view; without layers it can only be bound read-only."""

    target: str
    lowers: tuple[str, ...]
    hidden: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostView:
    """The lower layers of a service without a root of its own, topmost first, and the facts for its plan.

    masked: what is hidden, for people (`doctor`).
    """

    lowers: tuple[str, ...]
    mounts: tuple[ViewMount, ...]
    masked: tuple[Masked, ...]
    facts: HostFacts


def prepare_host(paths: Paths, rules: MaskRules | None = None) -> HostView:
    """Make the mask layer for the host as it is now, and say what the view is. Blocks for some 20 ms.

    Call it when the daemon starts, and again before an instance is prepared: what appeared on the host
    since then is hidden by the rules too. Raises HostError.
    """
    try:
        for directory in (paths.state_dir, paths.run_dir):
            os.makedirs(directory, 0o711, exist_ok=True)
        for directory in (paths.mask_layer, paths.instances, paths.rootfs_cache):
            os.makedirs(directory, 0o700, exist_ok=True)
        os.makedirs(paths.root_mountpoint, 0o755, exist_ok=True)
        mounts = parse_mountinfo(_read("/proc/self/mountinfo"))
        _check_state_directory(paths, mounts)
        given = rules or MaskRules()
        own = tuple(os.path.realpath(path) for path in (paths.state_dir, paths.run_dir))
        masked = masked_paths(MaskRules((*given.hide, *own), given.show))
        layer = _mask_layer(paths, masked)
    except OSError as error:
        raise HostError(
            f"cannot prepare the host view below {paths.state_dir}: {error.strerror}: {error.filename}"
        ) from error
    return HostView((layer, "/"), _view_mounts(mounts, masked, layer), tuple(masked), _facts(mounts))


def _check_state_directory(paths: Paths, mounts: list[HostMount]) -> None:
    place = os.path.realpath(paths.state_dir)
    mount = mount_of(place, mounts)
    if mount is None or mount.writable_layer:
        return
    raise HostError(
        f"cannot keep the roots of services in {place}: it lies on {mount.fstype} (mounted at {mount.target}),"
        " which cannot hold the upper layer of an overlay; put SHIPKEEPER_STATE_DIR on ext4, xfs or btrfs"
    )


def _view_mounts(mounts: list[HostMount], masked: list[Masked], layer: str) -> tuple[ViewMount, ...]:
    hidden = [item.path for item in masked if item.kind != "parent"]
    view = []
    for mount in sorted(mounts, key=lambda mount: mount.target.split("/")):
        target = mount.target
        if target == "/" or mount.pseudo or target in BOUND_FILES:
            continue
        if any(target == path or target.startswith(path + "/") for path in hidden):
            continue
        inside = tuple(path for path in hidden if path.startswith(target + "/"))
        if mount.layerable and os.path.isdir(target):
            top = (layer + target,) if os.path.isdir(layer + target) else ()
            view.append(ViewMount(target, (*top, target), ()))
        else:
            view.append(ViewMount(target, (), inside))
    return tuple(view)


def _mask_layer(paths: Paths, masked: list[Masked]) -> str:
    boot = _read("/proc/sys/kernel/random/boot_id").replace("-", "")[:12]
    digest = hashlib.sha256(repr(masked).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    layer = f"{paths.mask_layer}/{boot}-{digest}"
    for name in os.listdir(paths.mask_layer):
        if not name.startswith(boot):
            shutil.rmtree(f"{paths.mask_layer}/{name}")
    if os.path.isdir(layer):
        return layer
    making = f"{paths.mask_layer}/{boot}.{os.getpid()}.new"
    shutil.rmtree(making, ignore_errors=True)
    os.mkdir(making, 0o755)
    for item in masked:
        _make(making + item.path, item)
    os.rename(making, layer)
    return layer


def _make(path: str, item: Masked) -> None:
    match item.kind:
        case "absent":
            os.mknod(path, stat.S_IFCHR, 0)
            return
        case "file":
            with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
                file.write(item.content)
        case "empty" | "parent":
            os.mkdir(path)
            if item.kind == "empty":
                os.setxattr(path, OPAQUE, b"y")
    os.chown(path, item.uid, item.gid)
    Path(path).chmod(item.mode)


def _facts(mounts: list[HostMount]) -> HostFacts:
    status = dict(line.split(":\t", 1) for line in _read("/proc/self/status").splitlines() if ":\t" in line)
    held = int(status["CapPrm"], 16) & int(status["CapBnd"], 16)
    group = mount_of("/sys/fs/cgroup", mounts)
    return HostFacts(
        hostname=socket.gethostname(),
        cgroup_v2=group is not None and group.fstype == "cgroup2",
        capabilities=frozenset(number for number in range(held.bit_length()) if held >> number & 1),
    )


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()
