"""The files of an instance from outside: its root as a descriptor, whether it runs or not.

Of one that runs it is what its main process sees, with its volumes. Of one that does not, the root and its
volumes are mounted as a launch would, in a mount namespace that only one thread has and that ends with it.
All functions block, and raise OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from supervisor.kernel import mounts
from supervisor.kernel import syscalls as sc
from supervisor.launcher import plan

Result = TypeVar("Result")
_QUIET = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV


class NotYetError(Exception):
    """The process is there, and its root is not yet."""


@contextlib.contextmanager
def root_of_process(pid: int, pidfd: int) -> Iterator[int]:
    """The root that a process sees, with everything that is mounted in it. Raises NotYetError.

    What is mounted stays so to the end of the context, though the process may end before.
    """
    with contextlib.ExitStack() as stack:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, namespace)
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        signal.pidfd_send_signal(pidfd, 0)  # the number is still that process's
        # A child of the launcher that has not changed its root yet would show the host's.
        if os.path.samestat(os.fstat(root), os.stat("/")):
            raise NotYetError
        yield root


def root_of_plan(
    steps: Sequence[plan.Step], place: str, work: Callable[[int], Result], *, writable: bool = False
) -> Result:
    """Call `work` with the root that a launch by these steps would have, and its volumes; nothing else of it.

    place: an empty directory. The instance neither runs nor is launched meanwhile, but see `read_only`.
    """
    done: list[Result] = []
    failed: list[BaseException] = []

    def alone() -> None:
        try:
            sc.unshare(sc.CLONE_NEWNS)
            sc.mount("none", "/", None, sc.MS_REC | sc.MS_PRIVATE)
            done.append(_with_root(steps, place, work, writable))
        except BaseException as error:  # noqa: BLE001 - raised again, where somebody waits
            failed.append(error)

    # A thread of its own, as it can never go back into the namespace that the others are in.
    thread = threading.Thread(target=alone, name="root of a stopped instance")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def read_only(steps: Sequence[plan.Step]) -> list[plan.Step]:
    """The same root to read only: the writable layer is one more below. The instance may be running.

    The kernel takes no lower layer that lies in another one, as that of a host view does: such a root stays
    as it is, and `root_of_plan` mounts it read-only.
    """
    return [_to_read(step) if isinstance(step, plan.Overlay) else step for step in steps]


def root_alone(steps: Sequence[plan.Step]) -> plan.Overlay:
    """Of the steps of a launch, that of the root itself."""
    return next(step for step in steps if isinstance(step, plan.Overlay) and step.target == "/")


@contextlib.contextmanager
def without_links(directory: str) -> Iterator[str]:
    """A path of `directory` below which no symbolic link is followed, whoever makes one meanwhile."""
    fd = mounts.tree(sc.AT_FDCWD, directory)
    try:
        mounts.set_attributes(fd, sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NOSYMFOLLOW)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _to_read(step: plan.Overlay) -> plan.Overlay:
    uppers = [] if step.upper is None else [step.upper]
    if any(f"{upper}/".startswith(f"{lower.rstrip('/')}/") for upper in uppers for lower in step.lowers):
        return step
    return plan.Overlay(step.target, list(dict.fromkeys([*uppers, *step.lowers])), None, None)


def _with_root(
    steps: Sequence[plan.Step], place: str, work: Callable[[int], Result], writable: bool
) -> Result:
    attributes = _QUIET if writable else _QUIET | sc.MOUNT_ATTR_RDONLY
    root = -1
    try:
        for step in steps:
            match step:
                case plan.Overlay(target="/"):
                    _attach(_overlay(step, place, attributes), sc.AT_FDCWD, place)
                    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                case plan.Overlay(target=target):
                    _place(root, _overlay(step, place, attributes), target)
                case plan.Bind(target=target) if not f"{target}/".startswith("/dev/"):
                    bound = _tree(step)
                    read_only = sc.MOUNT_ATTR_RDONLY if step.read_only else 0
                    mounts.set_attributes(bound, _QUIET | read_only, propagation=sc.MS_PRIVATE)
                    _place(root, bound, target)
                case _:
                    pass  # what only means something to a process
        return work(root)
    finally:
        if root >= 0:
            os.close(root)


def _tree(step: plan.Bind) -> int:
    """What a launch binds, with the same rule for a subpath; of a shared mount a copy of our own."""
    if not step.subpath:
        return mounts.tree(sc.AT_FDCWD, step.source, recursive=step.recursive)
    source = os.open(step.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        within = sc.RESOLVE_BENEATH | sc.RESOLVE_NO_MAGICLINKS
        part = sc.openat2(source, step.subpath, os.O_PATH, within)
    finally:
        os.close(source)
    try:
        return mounts.tree(part, "", recursive=step.recursive)
    finally:
        os.close(part)


def _place(root: int, mount_fd: int, target: str) -> None:
    """Where a launch would put it, made if missing; nowhere, if the root is not to be changed."""
    try:
        make = mounts.make_directory if mounts.is_directory(mount_fd) else mounts.make_file
        over = make(root, target)
    except OSError as error:
        os.close(mount_fd)
        if error.errno == errno.EROFS:
            return
        raise
    try:
        _attach(mount_fd, over, "")
    finally:
        os.close(over)


def _attach(mount_fd: int, over: int, path: str) -> None:
    try:
        if path:
            sc.move_mount(mount_fd, over, path, 0)
        else:
            mounts.attach(mount_fd, over)
    finally:
        os.close(mount_fd)


def _overlay(step: plan.Overlay, place: str, attributes: int) -> int:
    """A detached overlay. place: a directory to mount it over for a moment, on kernels that need one."""
    if not mounts.takes_layers_one_by_one():
        options = mounts.overlay_options(step.lowers, step.upper, step.work)
        sc.mount("overlay", place, "overlay", sc.MS_NODEV | sc.MS_NOSUID, options)
        try:
            made = mounts.tree(sc.AT_FDCWD, place)
            mounts.set_attributes(made, attributes)
            return made
        finally:
            sc.umount2(place, sc.MNT_DETACH)
    context = sc.fsopen("overlay")
    try:
        for lower in step.lowers:
            sc.fsconfig_string(context, "lowerdir+", lower)
        if step.upper is not None and step.work is not None:
            sc.fsconfig_string(context, "upperdir", step.upper)
            sc.fsconfig_string(context, "workdir", step.work)
        for key, value in mounts.OVERLAY_OPTIONS:
            sc.fsconfig_string(context, key, value)
        sc.fsconfig_create(context)
        return sc.fsmount(context, attributes)
    finally:
        os.close(context)
