"""From the steps of a launch to the program that carries them out, and back from a row to words.

Everything that is mounted is nodev unless its step says otherwise, and private. A target is resolved inside
the new root by openat2(RESOLVE_IN_ROOT), so that no link of a service leads out of it; only in a tmpfs that
the program itself has just mounted names are used as they are, since nothing is in it but the program's own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import assert_never

from supervisor.kernel import mounts
from supervisor.kernel import syscalls as sc
from supervisor.launcher import plan
from supervisor.launcher.ahead import NOTHING, Ahead, Made
from supervisor.launcher.program import Jump, Program, Writer
from supervisor.launcher.steps import STAGES, StepError, describe

_PROPAGATIONS = {
    None: sc.MS_PRIVATE,
    "private": sc.MS_PRIVATE,
    "rprivate": sc.MS_PRIVATE,
    "slave": sc.MS_SLAVE,
    "rslave": sc.MS_SLAVE,
    "shared": sc.MS_SHARED,
    "rshared": sc.MS_SHARED,
}
_SHARED = ("shared", "rshared")
_OF_ONE = ("private", "slave", "shared")
_MISSING = (errno.ENOENT, errno.ENOTDIR)


def assemble(launch: plan.LaunchPlan, base: int, made: Made) -> Program:
    """The program of a launch, for an arena at the address `base`. Raises StepError.

    Its results are descriptors of its writable overlays, one for each. If these are kept it does not mount
    them, but is given what an earlier run of the same plan had as results. After them it is given the results
    of the program of what was made ahead.
    """
    root = _Root(launch, base, made)
    for number, step in enumerate(launch.steps):
        root.writer.step = number
        try:
            root.step(step)
        except OSError as error:
            raise _failed(step, error.errno or 0, str(error.strerror)) from error
    return root.writer.program()


def assemble_ahead(ahead: Ahead, place: str, base: int) -> Program:
    """The program that makes `ahead` in a root of its own over the directory `place`. Raises StepError.

    Its results are descriptors of /proc, /dev and /sys there, as far as they are in it.
    """
    steps: list[plan.Step] = [plan.Mount("tmpfs", "/", 0, "mode=755"), *ahead.steps]
    steps += [plan.ReadOnly(list(ahead.read_only)), plan.Mask(list(ahead.masked))]
    nothing = plan.Process([], []), plan.LogPlan("", 0, 0)
    launch = plan.LaunchPlan("", 0, "", plan.Limits(), None, "host", place, steps, *nothing)
    root = _Root(launch, base, Made())
    for step in steps:
        root.step(step)
    for top in ahead.tops():
        root.writer.result(root.made[top])
    return root.writer.program()


def explain(launch: plan.LaunchPlan, row: int, number: int, detail: str, made: Made) -> StepError:
    """What it means that a row of the program failed with that errno, and with those words or none."""
    at, call = assemble(launch, 0, made).notes[row]
    said = os.strerror(number) + (f" ({detail})" if detail else "") if number else detail
    if at < 0:
        return StepError("mount", number, f"{call}: {said}")
    step = launch.steps[at]
    if isinstance(step, plan.Pivot) and call == _MAKE_CWD:
        return StepError("cwd", number, f"{call} {launch.process.cwd}: {said}")
    return _failed(step, number, f"{call}: {said}")


def _failed(step: plan.Step, number: int, detail: str) -> StepError:
    return StepError(STAGES.get(type(step), "mount"), number, f"{describe(step)}: {detail}")


_MAKE_CWD = "cannot make the working directory"


class _Root:
    """The root under construction, as rows."""

    def __init__(self, launch: plan.LaunchPlan, base: int, made: Made) -> None:
        self.writer = writer = Writer(base)
        overlays = sum(isinstance(s, plan.Overlay) and s.upper is not None for s in launch.steps)
        self._kept = [writer.register() for _ in range(overlays)] if made.kept else []
        self._ahead = made.ahead
        self._moved = frozenset(made.ahead.steps)
        self._tops = {top: writer.register() for top in made.ahead.tops()}
        self.made: dict[plan.Step, int] = {}  # the registers of file systems
        self._launch = launch
        self._root: int | None = None
        self._new: dict[str, int] = {}  # tmpfs that the program has just mounted, by target
        self._in_new: set[str] = set()
        self._any = writer.bytes(_how(os.O_PATH))
        self._directory = writer.bytes(_how(os.O_PATH | os.O_DIRECTORY))
        self._nothing = writer.text("")
        self._null = -1
        if made.ahead is NOTHING:
            # As the launcher's namespace is: what happens here does not reach the host. Copies are private.
            none, slash = writer.text("none"), writer.text("/")
            flags = sc.MS_REC | sc.MS_SLAVE
            writer.call("mount", none, slash, 0, flags, 0, note=f"mount(none, /, {flags:#x})")
        if any(
            _without(step.paths, made.ahead.masked) for step in launch.steps if isinstance(step, plan.Mask)
        ):
            # A copy of the host's null device, to mask with: the one inside is not ours to trust.
            self._null = self._tree(sc.AT_FDCWD, "/dev/null")
            writer.call("is_null", self._null, note="open(/dev/null)")
            self._attributes(self._null, sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NOEXEC, sc.MS_PRIVATE)

    def step(self, step: plan.Step) -> None:
        """Append the rows of a step. Raises OSError, StepError."""
        match step:
            case plan.Mount() if step in self._tops:
                self._place(self._tops[step], step.target, directory=True)
            case plan.Bind() | plan.Mount() | plan.Symlink() if step in self._moved:
                pass  # moved with what it is in
            case plan.Overlay():
                writable = step.upper is not None
                made = self._again(self._kept.pop(0)) if writable and self._kept else self._overlay(step)
                self._place(made, step.target)
                if writable:
                    self.writer.result(self._tree(made, ""))
            case plan.Bind():
                self._place(self._bind(step), step.target)
            case plan.Mount():
                self._mount(step)
            case plan.Symlink():
                self._symlink(step)
            case plan.Pivot():
                self._pivot()
            case plan.ReadOnly():
                for path in _without(step.paths, self._ahead.read_only):
                    self._read_only(path)
            case plan.Mask():
                for path in _without(step.paths, self._ahead.masked):
                    place = self.writer.text(path)
                    self.writer.call("mask", self.root, place, self._null, note=f"mask({path})")
            case plan.ReadOnlyRoot():
                self._attributes(sc.AT_FDCWD, sc.MOUNT_ATTR_RDONLY, 0, path="/")
            case plan.Sysctl():
                path = f"/proc/sys/{step.name.replace('.', '/')}"
                self.writer.call(
                    "write", self.writer.text(path), self.writer.text(step.value), note=f"write({path})"
                )
            case plan.Chown():
                self.writer.call(
                    "chown",
                    self.root,
                    self.writer.text(step.target),
                    step.uid,
                    step.gid,
                    step.mode,
                    note=f"chown({step.target})",
                )
            case _:
                assert_never(step)

    @property
    def root(self) -> int:
        """The register of the new root's descriptor."""
        if self._root is None:
            raise StepError("mount", 0, "cannot mount below a root that is not there: the first step makes /")
        return self._root

    # --- file systems ---------------------------------------------------------------------------
    def _overlay(self, step: plan.Overlay) -> int:
        """Never with fewer layers than asked for.

        Where the kernel has no "lowerdir+" the options go as one string, and one too long for it is an error
        (the kernel would silently cut it).
        """
        attributes = 0 if step.dev else sc.MOUNT_ATTR_NODEV
        if not mounts.takes_layers_one_by_one():
            return self._overlay_by_one_string(step, attributes)
        context, made = self._open("overlay"), self.writer.register()
        for lower in step.lowers:
            self._option(context, "lowerdir+", lower)
        if step.upper is not None and step.work is not None:
            self._option(context, "upperdir", step.upper)
            self._option(context, "workdir", step.work)
        for key, value in mounts.OVERLAY_OPTIONS:
            self._option(context, key, value)
        self._create(context, made, attributes)
        return made

    def _overlay_by_one_string(self, step: plan.Overlay, attributes: int) -> int:
        writer, made = self.writer, self.writer.register()
        options = mounts.overlay_options(step.lowers, step.upper, step.work)
        # Only this mount namespace sees it; a clone of it is taken, and the first one goes.
        over = writer.text(step.upper or step.lowers[0])
        kind, flags = writer.text("overlay"), sc.MS_NODEV if attributes else 0
        # Which path is wrong the kernel does not say.
        note = f"mount(overlay, {os.fsdecode(options)})"
        writer.call("mount", kind, over, kind, flags, writer.bytes(options + b"\0"), note=note)
        clone = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC
        writer.call("open_tree", sc.AT_FDCWD, over, clone, note="open_tree(overlay)", into=made)
        writer.call("umount2", over, sc.MNT_DETACH, note="umount2(overlay)")
        return made

    def _again(self, made: int) -> int:
        """An overlay that an earlier run had, with what the kernel remembers of its layers forgotten."""
        context = self.writer.register()
        flags = sc.FSPICK_CLOEXEC | sc.FSPICK_EMPTY_PATH
        self.writer.call("fspick", made, self._nothing, flags, note="fspick(overlay)", into=context)
        self.writer.call("fsconfig", context, sc.FSCONFIG_CMD_RECONFIGURE, note="fsconfig(reconfigure)")
        return made

    def _bind(self, step: plan.Bind) -> int:
        shared = step.propagation in _SHARED
        if shared:
            made = self._host_tree(step)
        elif step.subpath:
            made = self._part(step)
        else:
            made = self._tree(sc.AT_FDCWD, step.source, recursive=step.recursive)
        nodev = 0 if step.dev else sc.MOUNT_ATTR_NODEV
        read_only = sc.MOUNT_ATTR_RDONLY if step.read_only else 0
        if step.propagation not in _PROPAGATIONS:
            raise StepError("mount", 0, f"cannot bind {step.source}: no propagation {step.propagation!r}")
        propagation, of_one = _PROPAGATIONS[step.propagation], step.propagation in _OF_ONE
        self._attributes(made, nodev | (0 if step.top_only else read_only), 0 if of_one else propagation)
        if of_one or step.top_only:
            # Of it alone. What is mounted below is what it is in the launcher's namespace: a slave.
            self._attributes(made, read_only, propagation if of_one else 0, only=True)
        return made

    def _part(self, step: plan.Bind) -> int:
        """A part of what somebody else may write: found by descriptor, so that it cannot change meanwhile."""
        writer = self.writer
        source, part = writer.register(), writer.register()
        path = writer.text(step.source)
        writer.call(
            "openat2", sc.AT_FDCWD, path, self._directory, _HOW, note=f"openat2({step.source})", into=source
        )
        how = writer.bytes(
            bytes(sc.OpenHow(os.O_PATH | os.O_CLOEXEC, 0, sc.RESOLVE_BENEATH | sc.RESOLVE_NO_MAGICLINKS))
        )
        note = f"subpath {step.subpath} of the volume"
        writer.call("openat2", source, writer.text(step.subpath), how, _HOW, note=note, into=part)
        return self._tree(part, "", recursive=step.recursive)

    def _host_tree(self, step: plan.Bind) -> int:
        """A detached copy of a mount as the host has it: a peer of it, not a slave."""
        made = self.writer.register()
        pid, _, inode = step.namespace.partition(":")
        path, note = self.writer.text(step.source), f"open_tree({step.source} of the host)"
        recursive = int(step.recursive)
        self.writer.call("host_tree", path, recursive, int(pid or 0), int(inode or 0), note=note, into=made)
        return made

    def _mount(self, step: plan.Mount) -> None:
        # A devpts without its nodes would be of no use, and has no other nodes.
        flags = step.flags if step.fstype == "devpts" else step.flags | sc.MS_NODEV
        context, made = self._open(step.fstype), self.writer.register()
        for option in filter(None, step.data.split(",")):
            key, equals, value = option.partition("=")
            self._option(context, key, value if equals else None)
        for word in mounts.superblock_options(flags):
            self._option(context, word, None)
        self._create(context, made, mounts.attributes_of(flags))
        self.made[step] = made
        self._place(made, step.target, directory=True)
        if step.fstype == "tmpfs":
            self._new[step.target.rstrip("/")] = made

    def _open(self, fstype: str) -> int:
        context = self.writer.register()
        name = self.writer.text(fstype)
        self.writer.call("fsopen", name, sc.FSOPEN_CLOEXEC, note=f"fsopen({fstype})", into=context)
        self._option(context, "source", fstype)
        return context

    def _option(self, context: int, key: str, value: str | None) -> None:
        command, text = sc.FSCONFIG_SET_FLAG, 0
        if value is not None:
            command, text = sc.FSCONFIG_SET_STRING, self.writer.text(value)
        note = f"fsconfig({key})" if value is None else f"fsconfig({key}={value})"
        self.writer.call("fsconfig", context, command, self.writer.text(key), text, note=note)

    def _create(self, context: int, made: int, attributes: int) -> None:
        self.writer.call("fsconfig", context, sc.FSCONFIG_CMD_CREATE, note="fsconfig(create)")
        note = f"fsmount({attributes:#x})"
        self.writer.call("fsmount", context, sc.FSMOUNT_CLOEXEC, attributes, note=note, into=made)

    def _tree(self, directory: int, path: str, *, recursive: bool = False) -> int:
        """A detached copy of what is mounted there, as a register."""
        made = self.writer.register()
        flags = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC | (sc.AT_RECURSIVE if recursive else 0)
        self.writer.call(
            "open_tree",
            directory,
            self.writer.text(path),
            flags | (0 if path else sc.AT_EMPTY_PATH),
            note=f"open_tree({path}, {flags:#x})",
            into=made,
        )
        return made

    def _attributes(
        self, where: int, attributes: int, propagation: int, *, path: str = "", only: bool = False
    ) -> None:
        """Add attributes: to a mount and every mount below it, or (with a path, or only) to that one."""
        value = bytes(sc.MountAttr(attributes, 0, propagation, 0))
        self.writer.call(
            "mount_setattr",
            where,
            self.writer.text(path),
            0 if path else sc.AT_EMPTY_PATH | (0 if only else sc.AT_RECURSIVE),
            self.writer.bytes(value),
            len(value),
            note=f"mount_setattr({path}, {attributes:#x})",
        )

    # --- places ---------------------------------------------------------------------------------
    def _place(self, made: int, target: str, *, directory: bool = False) -> None:
        """Put a mount at a target inside the root, which is made if it is missing; at "/" it is the root."""
        writer = self.writer
        if target == "/" and self._root is None:
            root = self._launch.root
            self._move(made, sc.AT_FDCWD, root, f"move_mount(to {root})")
            self._root = made  # from here on the place has this on top
            return
        parent, _, name = target.rpartition("/")
        above = self._new.get(parent)
        if above is not None and name and target not in self._in_new:
            self._in_new.add(target)
            if directory:
                there = (errno.EEXIST,)
                writer.call(
                    "mkdirat", above, writer.text(name), 0o755, note=f"mkdirat({target})", tolerate=there
                )
            else:
                writer.call("make_new", above, writer.text(name), made, note=f"make({target})")
            self._move(made, above, name, f"move_mount(to {target})")
            return
        place = self._resolve(self.root, target, made=None if directory else made)
        self._new.clear()
        self._move(made, place, "", f"move_mount(to {target})")

    def _resolve(self, root: int, path: str, *, made: int | None) -> int:
        """The place of a path, made if it is missing: a directory, or what the mount `made` is."""
        writer = self.writer
        place, there = writer.register(), Jump()
        how = self._directory if made is None else self._any
        text, note = writer.text(path), f"openat2({path})"
        writer.call(
            "openat2", root, text, how, _HOW, note=note, into=place, tolerate=(errno.ENOENT,), done=there
        )
        if made is None:
            writer.call("make_directory", root, text, note=f"mkdir({path})", into=place)
        else:
            writer.call("make_like", root, text, made, note=f"make({path})", into=place)
        writer.here(there)
        return place

    def _move(self, made: int, directory: int, path: str, note: str) -> None:
        flags = sc.MOVE_MOUNT_F_EMPTY_PATH | (0 if path else sc.MOVE_MOUNT_T_EMPTY_PATH)
        self.writer.call(
            "move_mount", made, self._nothing, directory, self.writer.text(path), flags, note=note
        )

    def _symlink(self, step: plan.Symlink) -> None:
        writer = self.writer
        parent, _, name = step.target.rpartition("/")
        above = self._new.get(parent)
        if above is None:
            above = self._resolve(self.root, parent or "/", made=None)
            self._new.clear()
        self._in_new.add(step.target)
        done, again = Jump(), Jump()
        text, place, note = writer.text(step.text), writer.text(name), f"symlinkat({step.target})"
        writer.call(
            "symlinkat", text, above, place, note=note, tolerate=(errno.EEXIST,), otherwise=again, done=done
        )
        writer.here(again)
        writer.call("unlinkat", above, place, 0, note=f"unlinkat({step.target})")
        writer.call("symlinkat", text, above, place, note=note)
        writer.here(done)

    # --- the root as a whole --------------------------------------------------------------------
    def _pivot(self) -> None:
        writer = self.writer
        dot, slash = writer.text("."), writer.text("/")
        writer.call("fchdir", self.root, note="fchdir(root)")
        writer.call("pivot_root", dot, dot, note="pivot_root(., .)")
        # The old root is mounted over ours now. It is a slave since the beginning, so that its end
        # does not reach the host; mount(2) would find ours by this name, whose mounts are as they should be.
        writer.call("umount2", dot, sc.MNT_DETACH, note="umount2(.)")
        writer.call("chdir", slash, note="chdir(/)")
        self._root = writer.register()
        self._new.clear()
        writer.call("openat2", sc.AT_FDCWD, slash, self._directory, _HOW, note="openat2(/)", into=self._root)
        cwd = self._launch.process.cwd
        if cwd.strip("/"):
            there, text = Jump(), writer.text(cwd)
            missing = (errno.ENOENT,)
            writer.call(
                "openat2",
                self._root,
                text,
                self._directory,
                _HOW,
                note=_MAKE_CWD,
                tolerate=missing,
                done=there,
            )
            writer.call("make_directory", self._root, text, note=_MAKE_CWD)
            writer.here(there)

    def _read_only(self, path: str) -> None:
        writer = self.writer
        place, absent = writer.register(), Jump()
        writer.call(
            "openat2",
            self.root,
            writer.text(path),
            self._any,
            _HOW,
            note=f"openat2({path})",
            into=place,
            tolerate=_MISSING,
            otherwise=absent,
        )
        made = self._tree(place, "", recursive=True)
        self._attributes(made, sc.MOUNT_ATTR_RDONLY, 0)
        self._move(made, place, "", f"move_mount(to {path})")
        writer.here(absent)


def _without(paths: Iterable[str], done: tuple[str, ...]) -> list[str]:
    return [path for path in paths if path not in done]


_HOW = len(bytes(sc.OpenHow()))


def _how(flags: int) -> bytes:
    return bytes(sc.OpenHow(flags | os.O_CLOEXEC, 0, sc.RESOLVE_IN_ROOT))
