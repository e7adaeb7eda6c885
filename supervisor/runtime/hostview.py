"""The host view: the host's own root as the lower layers of a service, its secrets masked.

Masking costs nothing at a launch, because it is no mount: overlayfs itself hides what an upper layer names
with a whiteout (a char device 0:0) or an opaque directory, and these are in a layer that all instances share
(`masklayer`). What is hidden that way cannot be uncovered from inside: that layer is read-only, to remove
what it has leaves a whiteout above it, and over one of its whiteouts there can only be something new.
Instances of earlier versions have masks in their writable layers, too, which do no harm.

A package upgrade on the host shows in running views at once where the service has no copy of its own;
the kernel calls changes below a mounted overlay undefined but harmless: an open file stays the old
one, a directory may show old names until it is looked up again. Restarting the service settles it.
"""

from __future__ import annotations

import os
import posixpath
import resource
import socket
from dataclasses import dataclass, replace

from supervisor.core.paths import Paths
from supervisor.runtime.hostmounts import HostMount, mount_of, mounts_here
from supervisor.runtime.masklayer import provide_masks
from supervisor.runtime.masks import BOUND_FILES, Masked, MaskRules, masked_paths
from supervisor.runtime.plan import HostFacts
from supervisor.runtime.translate import OPEN_FILES


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

    masked: what is hidden; the first of the lower layers, and of a mount's, hides it.
    """

    lowers: tuple[str, ...]
    mounts: tuple[ViewMount, ...]
    masked: tuple[Masked, ...]
    facts: HostFacts


def prepare_host(paths: Paths, rules: MaskRules | None = None) -> HostView:
    """Make the directories of the state, look at the host as it is now, and say what its view is.

    Call it when the daemon starts, and again before a person brings up or starts what stands on the view:
    what appeared on the host since then is hidden by the rules too. Raises HostError.
    """
    try:
        for directory in (paths.state_dir, paths.run_dir):
            os.makedirs(directory, 0o711, exist_ok=True)
        for directory in (paths.instances, paths.rootfs_cache):
            os.makedirs(directory, 0o700, exist_ok=True)
        os.makedirs(paths.root_mountpoint, 0o755, exist_ok=True)
        mounts = mounts_here()
        _check_state_directory(paths, mounts)
        given = rules or MaskRules()
        own = tuple(os.path.realpath(path) for path in (paths.state_dir, paths.run_dir))
        masked = masked_paths(_normal(given, own))
        view_mounts = _view_mounts(mounts, masked)
        layered = [mount.target for mount in view_mounts if mount.lowers]
        masks = provide_masks(paths, masked, ("/", *layered))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise HostError(
            f"cannot prepare the host view below {paths.state_dir}: {error.strerror}{where}"
        ) from error
    hiding = tuple(
        replace(mount, lowers=(masks[mount.target], *mount.lowers)) if mount.target in masks else mount
        for mount in view_mounts
    )
    return HostView((*([masks["/"]] if "/" in masks else []), "/"), hiding, tuple(masked), _facts(mounts))


def _normal(rules: MaskRules, own: tuple[str, ...]) -> MaskRules:
    """The rules in normal form, with the supervisor's own directories hidden whatever they say."""
    for path in (*rules.hide, *rules.show):
        if not path.startswith("/"):
            raise HostError(f"cannot hide or show {path!r} in the host view: write an absolute path")
    hide, show = (
        tuple("/" + posixpath.normpath(path).strip("/") for path in given)
        for given in (rules.hide, rules.show)
    )
    inside = tuple(path for path in show if any(f"{path}/".startswith(f"{place}/") for place in own))
    return MaskRules((*hide, *own), tuple(path for path in show if path not in inside))


def _check_state_directory(paths: Paths, mounts: list[HostMount]) -> None:
    place = os.path.realpath(paths.state_dir)
    mount = mount_of(place, mounts)
    if mount is None or mount.writable_layer:
        return
    raise HostError(
        f"cannot keep the roots of services in {place}: it lies on {mount.fstype} (mounted at {mount.target})"
        ", which cannot hold the upper layer of an overlay; put SHIPKEEPER_STATE_DIR on ext4, xfs or btrfs"
    )


def _view_mounts(mounts: list[HostMount], masked: list[Masked]) -> tuple[ViewMount, ...]:
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
            view.append(ViewMount(target, (target,), ()))
        else:
            view.append(ViewMount(target, (), inside))
    return tuple(view)


def host_facts() -> HostFacts:
    """What a plan has to know of the machine as it is now. Raises OSError."""
    return _facts(mounts_here())


def _facts(mounts: list[HostMount]) -> HostFacts:
    status = dict(line.split(":\t", 1) for line in _read("/proc/self/status").splitlines() if ":\t" in line)
    held = int(status["CapPrm"], 16) & int(status["CapBnd"], 16)
    group = mount_of("/sys/fs/cgroup", mounts)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HostFacts(
        hostname=socket.gethostname(),
        cgroup_v2=group is not None and group.fstype == "cgroup2",
        capabilities=frozenset(number for number in range(held.bit_length()) if held >> number & 1),
        dev_directories=frozenset(name for name in ("pts", "shm", "mqueue") if os.path.isdir(f"/dev/{name}")),
        open_files=OPEN_FILES[1] if most == resource.RLIM_INFINITY else min(most, OPEN_FILES[1]),
        mount_namespace=f"{os.getpid()}:{os.stat('/proc/self/ns/mnt').st_ino}",
    )


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()
