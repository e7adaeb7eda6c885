"""The launch steps: how each part of a plan becomes mounts, in a child that is in its own mount namespace.

Everything that is mounted is nodev unless its step says otherwise, and private. Raises StepError only.
"""

from __future__ import annotations

import os
from typing import assert_never

from supervisor.kernel import mounts
from supervisor.kernel import syscalls as sc
from supervisor.launcher import plan

_PROPAGATION = {None: sc.MS_PRIVATE, "private": sc.MS_PRIVATE, "rprivate": sc.MS_PRIVATE}
_SLAVE = ("slave", "rslave")


class StepError(Exception):
    """What failed: the stage for the record, errno or 0, and the call with its arguments."""

    def __init__(self, stage: str, number: int, detail: str) -> None:
        super().__init__(stage, number, detail)
        self.stage = stage
        self.number = number
        self.detail = detail


def describe(step: plan.Step) -> str:
    """A step in one line, for people."""
    match step:
        case plan.Overlay():
            return f"overlay of {len(step.lowers)} layers at {step.target}"
        case plan.Bind():
            return f"bind {step.source} at {step.target}"
        case plan.Mount():
            return f"mount {step.fstype} at {step.target}"
        case plan.Symlink():
            return f"symlink {step.target} to {step.text}"
        case plan.Pivot():
            return "pivot into the new root"
        case plan.ReadOnly():
            return f"make {', '.join(step.paths)} read-only"
        case plan.Mask():
            return f"mask {', '.join(step.paths)}"
        case plan.ReadOnlyRoot():
            return "make the root read-only"
        case plan.Sysctl():
            return f"sysctl {step.name}={step.value}"
        case plan.Chown():
            return f"chown {step.target}"
        case _:
            assert_never(step)


class Root:
    """The root under construction. Holds descriptors until the process execs."""

    def __init__(self, place: str, cwd: str) -> None:
        """place: the directory that "/" is mounted over. cwd: made once the root is complete."""
        self._place = place
        self._cwd = cwd
        self._fd = -1
        self._null = -1
        self._empty = -1

    def run(self, steps: list[plan.Step]) -> None:
        """Execute them in order."""
        with_slaves = any(isinstance(step, plan.Bind) and step.propagation in _SLAVE for step in steps)
        try:
            # Ours is a slave of the launcher's namespace so far; private is cheaper for later mounts.
            sc.mount("none", "/", None, sc.MS_REC | (sc.MS_SLAVE if with_slaves else sc.MS_PRIVATE))
            # A copy of the host's null device, to mask with: the one inside is not ours to trust.
            self._null = mounts.tree(sc.AT_FDCWD, "/dev/null")
            if not mounts.is_null(self._null):
                raise StepError("mount", 0, "/dev/null of the host is not the null device")
            mounts.set_attributes(
                self._null, sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NOEXEC, propagation=sc.MS_PRIVATE
            )
        except OSError as error:
            raise StepError("mount", error.errno or 0, str(error.strerror)) from error
        for step in steps:
            try:
                self._step(step)
            except OSError as error:
                stage = _STAGES.get(type(step), "mount")
                detail = f"{describe(step)}: {error.strerror}" + (
                    f": {error.filename}" if error.filename else ""
                )
                raise StepError(stage, error.errno or 0, detail) from error

    def _step(self, step: plan.Step) -> None:
        match step:
            case plan.Overlay():
                self._overlay(step)
            case plan.Bind():
                self._bind(step)
            case plan.Mount():
                self._mount(step)
            case plan.Symlink():
                self._symlink(step)
            case plan.Pivot():
                self._pivot()
            case plan.ReadOnly():
                for path in step.paths:
                    self._read_only(path)
            case plan.Mask():
                for path in step.paths:
                    self._mask(path)
            case plan.ReadOnlyRoot():
                sc.mount_setattr(sc.AT_FDCWD, "/", 0, sc.MOUNT_ATTR_RDONLY)
            case plan.Sysctl():
                _write(f"/proc/sys/{step.name.replace('.', '/')}", step.value)
            case plan.Chown():
                self._chown(step)
            case _:
                assert_never(step)

    def _overlay(self, step: plan.Overlay) -> None:
        made = mounts.overlay(step.lowers, step.upper, step.work, dev=step.dev)
        if step.target == "/" and self._fd < 0:
            sc.move_mount(made, sc.AT_FDCWD, self._place, 0)
            self._fd = made  # from here on the place has this on top
            return
        self._attach(made, mounts.make_directory(self._fd, step.target))

    def _bind(self, step: plan.Bind) -> None:
        made = mounts.tree(sc.AT_FDCWD, step.source, recursive=step.recursive)
        attributes = (0 if step.dev else sc.MOUNT_ATTR_NODEV) | (
            sc.MOUNT_ATTR_RDONLY if step.read_only else 0
        )
        if step.propagation in _SLAVE:
            propagation = sc.MS_SLAVE
        elif step.propagation in _PROPAGATION:
            propagation = _PROPAGATION[step.propagation]
        else:
            raise StepError(
                "mount",
                0,
                f"cannot bind {step.source} with propagation {step.propagation}: services share no"
                " mounts back with the host; use rslave",
            )
        mounts.set_attributes(made, attributes, propagation=propagation)
        if step.target == "/" and self._fd < 0:
            sc.move_mount(made, sc.AT_FDCWD, self._place, 0)
            self._fd = made
            return
        make = mounts.make_directory if mounts.is_directory(made) else mounts.make_file
        self._attach(made, make(self._fd, step.target))

    def _mount(self, step: plan.Mount) -> None:
        # A devpts without its nodes would be of no use, and has no other nodes.
        flags = step.flags if step.fstype == "devpts" else step.flags | sc.MS_NODEV
        made = mounts.file_system(step.fstype, flags, step.data)
        self._attach(made, mounts.make_directory(self._fd, step.target))

    def _symlink(self, step: plan.Symlink) -> None:
        parent, _, name = step.target.rpartition("/")
        above = mounts.make_directory(self._fd, parent or "/")
        try:
            try:
                os.symlink(step.text, name, dir_fd=above)
            except FileExistsError:
                os.unlink(name, dir_fd=above)
                os.symlink(step.text, name, dir_fd=above)
        finally:
            os.close(above)

    def _pivot(self) -> None:
        os.fchdir(self._fd)
        sc.pivot_root(".", ".")
        # The old root is mounted over ours now; what happens to it must not reach the host.
        sc.mount("none", ".", None, sc.MS_SLAVE | sc.MS_REC)
        sc.umount2(".", sc.MNT_DETACH)
        os.chdir("/")
        os.close(self._fd)
        self._fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._cwd:
            try:
                os.close(mounts.make_directory(self._fd, self._cwd))
            except OSError as error:
                detail = f"cannot make the working directory {self._cwd}: {error.strerror}"
                raise StepError("cwd", error.errno or 0, detail) from error

    def _read_only(self, path: str) -> None:
        place = self._existing(path)
        if place < 0:
            return
        made = mounts.tree(place, "", recursive=True)
        mounts.set_attributes(made, sc.MOUNT_ATTR_RDONLY)
        self._attach(made, place)

    def _mask(self, path: str) -> None:
        place = self._existing(path)
        if place < 0:
            return
        if mounts.is_directory(place):
            if self._empty < 0:
                flags = sc.MS_RDONLY | sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
                made = self._empty = mounts.file_system("tmpfs", flags, "nr_blocks=1,nr_inodes=1,mode=755")
            else:
                made = mounts.tree(self._empty, "")
            mounts.attach(made, place)
            if made != self._empty:
                os.close(made)
        else:
            # The first is the copy itself; once it is in our namespace it can be copied again.
            first = self._null
            made = first if not self._null_used else mounts.tree(first, "")
            mounts.attach(made, place)
            self._null_used = True
            if made != first:
                os.close(made)
        os.close(place)

    _null_used = False

    def _chown(self, step: plan.Chown) -> None:
        place = mounts.resolve(self._fd, step.target, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fchown(place, step.uid, step.gid)
            os.fchmod(place, step.mode)
        finally:
            os.close(place)

    def _existing(self, path: str) -> int:
        try:
            return mounts.resolve(self._fd, path)
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def _attach(self, made: int, place: int) -> None:
        mounts.attach(made, place)
        os.close(place)
        os.close(made)


_STAGES: dict[type, str] = {
    plan.Pivot: "pivot",
    plan.Sysctl: "sysctl",
    plan.Mask: "mask",
    plan.ReadOnly: "mask",
    plan.ReadOnlyRoot: "mask",
}


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
