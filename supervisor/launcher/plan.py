"""What the launcher is asked to do for one run, as data.

A plan is made outside (`runtime.plan`), travels as JSON, and is executed by `launcher.child` as one
loop over `steps`. Every value is plain (str, int, bool, None, list), every class a NamedTuple, so that
the codec is `[tag, *fields]` and the launcher needs nothing but the standard library.

Paths named `target` are inside the new root and are resolved there with openat2(RESOLVE_IN_ROOT);
paths named `source`, `lower`, `upper` and `work` are the host's.
"""

from __future__ import annotations

from typing import NamedTuple

NOTIFY_PLACE = "/run/notify"
"""Where the directory of `LaunchPlan.notify` is inside a service."""
NOTIFY_SOCKET = "socket"
NOTIFY_PIPE = "pipe"


class Overlay(NamedTuple):
    """Mount an overlay at `target` ("/" is the new root itself). `lowers` is topmost first.

    With `upper` None the overlay is read-only. Mounted nosuid only if asked, nodev unless `dev`.
    """

    target: str
    lowers: list[str]
    upper: str | None
    work: str | None
    dev: bool = False


class Bind(NamedTuple):
    """Bind `source` at `target`, creating the mount point (a file or a directory, as the source is).

    `dev` leaves device nodes usable: only for the nodes of /dev themselves and for privileged services.
    `subpath` is a part of the source, where a link that leads out of it is an error. `top_only`: `read_only`
    is for the mount itself, and what is mounted below it stays as it is. `propagation`: as in mount(8);
    `shared` and `rshared` take the source from `namespace`, the mount namespace of a process that is in the
    host's: its pid, a colon, and the namespace's inode. It has to be on a shared mount there.
    """

    source: str
    target: str
    read_only: bool = False
    recursive: bool = False
    dev: bool = False
    propagation: str | None = None
    subpath: str = ""
    top_only: bool = False
    namespace: str = ""


class Mount(NamedTuple):
    """Mount a new file system: proc, sysfs, tmpfs, devpts, mqueue, cgroup2.

    `flags` are MS_* bits, `data` the options.
    """

    fstype: str
    target: str
    flags: int = 0
    data: str = ""


class Symlink(NamedTuple):
    """Make `target` a symbolic link to `text`."""

    text: str
    target: str


class Pivot(NamedTuple):
    """Make the new root the root, detach the old one, chdir to /. Later steps see only the new root."""


class ReadOnly(NamedTuple):
    """Remount each path that exists read-only, by a bind on itself."""

    paths: list[str]


class Mask(NamedTuple):
    """Hide each path that exists: /dev/null over a file, an empty read-only tmpfs over a directory."""

    paths: list[str]


class ReadOnlyRoot(NamedTuple):
    """Remount / itself read-only; mounts below it keep their own flags."""


class Sysctl(NamedTuple):
    """Write `value` to /proc/sys/<name with dots as slashes>, before /proc/sys becomes read-only."""

    name: str
    value: str


class Chown(NamedTuple):
    """Give a path inside the new root an owner and a mode (volumes, tmpfs, work directories)."""

    target: str
    uid: int
    gid: int
    mode: int


Step = Overlay | Bind | Mount | Symlink | Pivot | ReadOnly | Mask | ReadOnlyRoot | Sysctl | Chown


class Limits(NamedTuple):
    """cgroup limits of one run; None leaves the kernel's default.

    blkio_devices: [kind, path of the device, value], as `kernel.limitfiles` has them.
    """

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int = 100_000
    cpu_shares: int | None = None
    pids: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    cpuset: str | None = None
    blkio_weight: int | None = None
    blkio_devices: list[list[str | int]] = []  # noqa: RUF012 - a NamedTuple's default is never mutated


class Process(NamedTuple):
    """The main process (or one run by `exec`), after the root is in place.

    user: "" | name | uid | name:group | uid:gid, resolved inside the new root's /etc/passwd and group.
    caps: numbers of the capabilities of the bounding, permitted and effective sets (a user other than
        root keeps the bounding set only, as in Docker).
    seccomp: path of a compiled BPF program on the host (read before the root changes), or None.
    rlimits: [resource number, soft, hard]; -1 is unlimited.
    init: stay as pid 1, reap, forward signals, and run argv as the child.
    notify_fd: the number of one more descriptor, which is the writing end of NOTIFY_PIPE; 0: none.
    """

    argv: list[str]
    env: list[list[str]]
    cwd: str = "/"
    user: str = ""
    groups: list[str] = []  # noqa: RUF012 - a NamedTuple's default is never mutated
    umask: int = 0o022
    caps: list[int] = []  # noqa: RUF012
    no_new_privs: bool = True
    seccomp: str | None = None
    rlimits: list[list[int]] = []  # noqa: RUF012
    oom_score_adj: int | None = None
    init: bool = False
    tty: bool = False
    stdin_open: bool = False
    notify_fd: int = 0


class LogPlan(NamedTuple):
    """Where the output of a run goes: the CRI log file of its instance, and its bounds."""

    path: str
    max_size_bytes: int
    max_files: int


class LaunchPlan(NamedTuple):
    """One run of one instance.

    instance, run: identity. `run` is the generation: it only grows, and names the cgroup.
    cgroup: path of the run's cgroup below the hierarchy's mount point, e.g. "shipkeeper/<instance>/<run>".
    net: "host" shares the host's network, "none" is a fresh namespace with loopback up; an absolute path
        is the file of a network namespace that is there, which the run joins.
    root: an existing empty directory on the host over which the new root is mounted (in the child's own
        mount namespace, so all runs may use the same one).
    meta: opaque text that the launcher gives back with the run and its exit record.
    notify: path of NOTIFY_SOCKET or NOTIFY_PIPE in a directory of the instance's own, which the launcher
        makes and listens at; "" where the run is not asked to say anything. `steps` mount the directory.
    """

    instance: str
    run: int
    cgroup: str
    limits: Limits
    hostname: str | None
    net: str
    root: str
    steps: list[Step]
    process: Process
    log: LogPlan
    meta: str = ""
    notify: str = ""
