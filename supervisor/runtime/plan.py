"""The launch plan of a run: what Docker would set up, as the launcher's steps.

Pure: everything about the disk is in `PreparedInstance` (made by `runtime.rootfs.prepare_instance`),
everything about the machine in `HostFacts`. A plan is built once per service instance and only its run
is replaced for a restart (`next_run`), since it lies between a death and the next life.

Device nodes work only where they were put by a step with `dev`: the root, /dev, every volume and every
tmpfs are nodev, so CAP_MKNOD (which Docker grants) gives a service no way to a disk on any host,
whether a devices cgroup is there or not.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from supervisor.core import model
from supervisor.core.environment import DEFAULT_PATH
from supervisor.core.paths import InstancePaths, Paths
from supervisor.launcher import plan
from supervisor.runtime.translate import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    OPEN_FILES,
    PlanError,
    capability_numbers,
    cgroup_limits,
    rlimits,
    sysctl_steps,
    tmpfs_mount,
)

# moby daemon/pkg/oci/defaults.go
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DEV_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_DEV_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
)
_STRICT = MS_NOSUID | MS_NODEV | MS_NOEXEC


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a plan has to know of the machine.

    hostname: of the host; a service in the host's network has it too, as in Docker.
    cgroup_v2: the host's only cgroup hierarchy is v2, so a service can be shown its own.
    capabilities: numbers of those that the launcher has.
    dev_directories: which of the directories pts, shm and mqueue the host's /dev has.
    open_files: the most descriptors that a process may be allowed here.
    mount_namespace: `PID:INODE` of a process in the host's, and of that namespace.
    """

    hostname: str
    cgroup_v2: bool
    capabilities: frozenset[int]
    dev_directories: frozenset[str] = frozenset(("pts", "shm", "mqueue"))
    open_files: int = OPEN_FILES[1]
    mount_namespace: str = ""


@dataclass(frozen=True, slots=True)
class Submount:
    """Another file system below / that belongs to the host view.

    With `lowers` it becomes an overlay with `upper` and `work` (an absolute host path each); without, a
    read-only bind of the host's mount, because its file system cannot be a layer. `hidden` are the
    masked paths inside such a bind.
    """

    target: str
    lowers: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreparedInstance:
    """What lies ready on the disk for one instance.

    lowers: layers of the root, topmost first. host_view: /run is a fresh tmpfs.
    sources: host directory behind each volume, by target. tmpfs_modes: mode of the directory that a tmpfs
    hides, by target (absent: there is none). granted: a directory with the file of each grant, by number.
    images: what a mount of an image shows, by target: directories to stack, topmost first, or one file.
    """

    instance_id: str
    container_name: str
    hostname: str
    files: InstancePaths
    lowers: tuple[str, ...]
    host_view: bool
    submounts: tuple[Submount, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    tmpfs_modes: Mapping[str, int] = field(default_factory=dict)
    granted: str = ""
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def service_hostname(spec: model.ServiceSpec, instance_id: str, host: HostFacts) -> str:
    """Docker's rule: its own, else the host's in the host's network, else the first 12 of its id."""
    if spec.hostname:
        return spec.hostname
    return host.hostname if spec.network_mode == "host" else instance_id[:12]


def launch_plan(
    spec: model.ServiceSpec,
    prepared: PreparedInstance,
    run: int,
    paths: Paths,
    *,
    host: HostFacts,
    cgroup_base: str,
    seccomp_path: str | None,
    net: str | None = None,
    meta: str = "",
) -> plan.LaunchPlan:
    """The plan of a run.

    net: as in `LaunchPlan`; None where the service's network_mode is that already.
    seccomp_path: the compiled profile that `spec.security.seccomp` names (None: unconfined).
    Raises PlanError for a service that can never be launched as written.
    """
    files = prepared.files
    return plan.LaunchPlan(
        instance=prepared.instance_id,
        run=run,
        cgroup=run_cgroup(cgroup_base, prepared.instance_id, run),
        limits=cgroup_limits(spec.limits),
        hostname=prepared.hostname,
        net=net or spec.network_mode,
        root=paths.root_mountpoint,
        steps=_steps(spec, prepared, host, paths),
        process=_main_process(spec, prepared, host, seccomp_path),
        log=plan.LogPlan(files.log, spec.logging.max_size_bytes, spec.logging.max_files),
        meta=meta,
        notify=notify_path(spec, prepared.instance_id, paths),
    )


def notify_path(spec: model.ServiceSpec, instance_id: str, paths: Paths) -> str:
    """`LaunchPlan.notify` of an instance."""
    if spec.ready is None:
        return ""
    return f"{paths.notify(instance_id)}/{plan.NOTIFY_PIPE if spec.ready.fd else plan.NOTIFY_SOCKET}"


def run_cgroup(cgroup_base: str, instance_id: str, run: int) -> str:
    """Path of a run's cgroup below the mount point."""
    return f"{cgroup_base}/{instance_id}/{run}"


def next_run(previous: plan.LaunchPlan, run: int, meta: str) -> plan.LaunchPlan:
    """The same plan for another run of the same instance."""
    base = previous.cgroup.rpartition("/")[0]
    return previous._replace(run=run, cgroup=f"{base}/{run}", meta=meta)


def exec_process(
    spec: model.ServiceSpec,
    hostname: str,
    argv: Sequence[str],
    *,
    host: HostFacts,
    seccomp_path: str | None,
    env: Iterable[tuple[str, str]] = (),
    user: str | None = None,
    cwd: str | None = None,
    tty: bool = False,
    stdin_open: bool = False,
    privileged: bool = False,
) -> plan.Process:
    """One more process in a running service, by the service's own rules unless `privileged` lifts them."""
    if not argv:
        raise PlanError("cannot exec: no command specified")
    powerful = privileged or spec.privileged
    return plan.Process(
        argv=list(argv),
        env=_environment([*spec.environment, *_notify_variables(spec)], hostname, tty=tty, extra=env),
        cwd=_absolute(cwd or spec.working_dir or "/", "working directory"),
        user=spec.user or "" if user is None else user,
        groups=list(spec.group_add),
        caps=capability_numbers(
            spec.cap_add, spec.cap_drop, privileged=powerful, available=host.capabilities
        ),
        no_new_privs=spec.security.no_new_privileges and not powerful,
        seccomp=None if powerful or spec.security.seccomp == "unconfined" else seccomp_path,
        rlimits=rlimits(spec.ulimits, host.open_files),
        oom_score_adj=spec.oom_score_adj,
        tty=tty,
        stdin_open=stdin_open,
    )


def _notify_variables(spec: model.ServiceSpec) -> list[tuple[str, str]]:
    """Those of sd_notify(3)."""
    if spec.ready is None or spec.ready.fd:
        return []
    found = [("NOTIFY_SOCKET", f"{plan.NOTIFY_PLACE}/{plan.NOTIFY_SOCKET}")]
    if spec.ready.watchdog_s is not None:
        found.append(("WATCHDOG_USEC", str(round(spec.ready.watchdog_s * 1e6))))
    return found


def _main_process(
    spec: model.ServiceSpec, prepared: PreparedInstance, host: HostFacts, seccomp_path: str | None
) -> plan.Process:
    argv = spec.argv()
    if not argv or not argv[0]:
        raise PlanError(
            f"cannot start service {spec.name}: no command specified; write command: or entrypoint:"
        )
    if seccomp_path is None and not spec.privileged and spec.security.seccomp != "unconfined":
        raise PlanError(f"cannot start service {spec.name}: its seccomp profile was not compiled")
    process = exec_process(
        spec,
        prepared.hostname,
        argv,
        host=host,
        seccomp_path=seccomp_path,
        tty=spec.tty,
        stdin_open=spec.stdin_open,
    )
    return process._replace(init=spec.init, notify_fd=spec.ready.fd if spec.ready is not None else 0)


def _environment(
    environment: Iterable[tuple[str, str]], hostname: str, *, tty: bool, extra: Iterable[tuple[str, str]] = ()
) -> list[list[str]]:
    """Built from nothing; later entries replace earlier ones. HOME is set by the child."""
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if tty:
        merged["TERM"] = "xterm"
    merged.update(environment)
    merged.update(extra)
    for name, value in merged.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise PlanError(
                f"cannot set environment variable {name!r}: a name has no '=', and neither has a NUL"
            )
    return [[name, value] for name, value in merged.items()]


def _steps(
    spec: model.ServiceSpec, prepared: PreparedInstance, host: HostFacts, paths: Paths
) -> list[plan.Step]:
    mounts = sorted(spec.mounts, key=lambda mount: _depth(_target(mount.target)))
    taken = {_target(mount.target) for mount in mounts}
    granted = [_target(grant.target) for grant in spec.grants]
    if len({*taken, *granted}) != len(mounts) + len(granted):
        raise PlanError(f"cannot mount in service {spec.name}: duplicate mount point; write each target once")
    steps: list[plan.Step] = [
        plan.Overlay("/", list(prepared.lowers), prepared.files.upper, prepared.files.work),
    ]
    steps += [_submount_step(submount) for submount in prepared.submounts]
    steps += _system_mounts(spec, prepared, host, taken)
    steps += _etc_files(prepared, taken)
    steps += [_mount_step(mount, prepared, host, privileged=spec.privileged) for mount in mounts]
    steps += _device_steps(spec)
    if spec.ready is not None:
        steps.append(plan.Bind(paths.notify(prepared.instance_id), plan.NOTIFY_PLACE, read_only=True))
    steps += [
        plan.Bind(f"{prepared.granted}/{number}", target, read_only=True)
        for number, target in enumerate(granted)
    ]
    steps.append(plan.Pivot())
    steps += sysctl_steps(spec.sysctls, spec.network_mode, privileged=spec.privileged)
    if spec.resolver.domainname:
        steps.append(plan.Sysctl("kernel.domainname", spec.resolver.domainname))  # moby, oci_linux.go
    if not spec.privileged:
        steps.append(plan.ReadOnly(list(READ_ONLY_PATHS)))
        steps.append(plan.Mask(list(MASKED_PATHS)))
    hidden = [path for submount in prepared.submounts for path in submount.hidden]
    if hidden:
        steps.append(plan.Mask(hidden))
    if spec.read_only:
        steps.append(plan.ReadOnlyRoot())
    return steps


def _submount_step(submount: Submount) -> plan.Step:
    if submount.lowers:
        return plan.Overlay(submount.target, list(submount.lowers), submount.upper, submount.work)
    return plan.Bind(submount.target, submount.target, read_only=True)


def _system_mounts(
    spec: model.ServiceSpec, prepared: PreparedInstance, host: HostFacts, taken: set[str]
) -> list[plan.Step]:
    """/proc, /dev, /sys and /run; one that the service mounts itself is left to it (moby)."""
    steps: list[plan.Step] = [plan.Mount("proc", "/proc", _STRICT)]
    if "/dev" not in taken:
        steps += _dev(host, taken, spec.shm_size_bytes, privileged=spec.privileged)
    if "/sys" not in taken:
        read_only = 0 if spec.privileged else MS_RDONLY
        steps.append(plan.Mount("sysfs", "/sys", _STRICT | read_only))
        # Elsewhere a fresh sysfs already shows an empty /sys/fs/cgroup.
        if host.cgroup_v2 and "/sys/fs/cgroup" not in taken:
            steps.append(plan.Mount("cgroup2", "/sys/fs/cgroup", _STRICT | read_only))
    if prepared.host_view and "/run" not in taken:
        steps.append(plan.Mount("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755"))
    return steps


def _dev(
    host: HostFacts, taken: set[str], shm_size_bytes: int | None, *, privileged: bool
) -> list[plan.Step]:
    steps: list[plan.Step] = []
    shm = f"mode=1777,size={shm_size_bytes or 64 << 20}"
    inner: dict[str, plan.Step] = {
        "pts": plan.Mount(
            "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"
        ),
        "shm": plan.Mount("tmpfs", "/dev/shm", _STRICT, shm),  # noqa: S108 - a mount point
        "mqueue": plan.Mount("mqueue", "/dev/mqueue", _STRICT),
    }
    if privileged:
        # The host's devices. Read-only keeps the host's directory from being changed, and no device from
        # being used; so what the host has no directory for cannot be mounted there.
        steps.append(plan.Bind("/dev", "/dev", read_only=True, dev=True))
        inner = {name: step for name, step in inner.items() if name in host.dev_directories}
    else:
        steps.append(plan.Mount("tmpfs", "/dev", _STRICT, "mode=755,size=65536k"))
        steps += [plan.Bind(f"/dev/{name}", f"/dev/{name}", dev=True) for name in _DEV_NODES]
        steps += [plan.Symlink(text, target) for text, target in _DEV_LINKS]
    return steps + [step for name, step in inner.items() if f"/dev/{name}" not in taken]


def _etc_files(prepared: PreparedInstance, taken: set[str]) -> list[plan.Step]:
    etc = prepared.files.etc
    return [
        plan.Bind(f"{etc}/{name}", f"/etc/{name}")
        for name in ("hostname", "hosts", "resolv.conf")
        if f"/etc/{name}" not in taken and "/etc" not in taken
    ]


def _mount_step(
    mount: model.Mount, prepared: PreparedInstance, host: HostFacts, *, privileged: bool
) -> plan.Step:
    target = _target(mount.target)
    match mount.type:
        case "tmpfs":
            return tmpfs_mount(mount, target, prepared.tmpfs_modes.get(mount.target))
        case "bind":
            if not mount.source:
                raise PlanError(f"cannot mount at {target}: a bind mount needs a source")
            if mount.recursive == "readonly" and not mount.read_only:
                raise PlanError(
                    f"cannot mount {mount.source} at {target}: recursive: readonly needs read_only: true"
                )
            return plan.Bind(
                mount.source,
                target,
                read_only=mount.read_only,
                recursive=mount.recursive != "disabled",
                dev=privileged,
                propagation=mount.propagation,
                top_only=mount.recursive == "writable",
                namespace=_namespace(mount, host),
            )
        case "volume":
            return plan.Bind(
                prepared.sources[mount.target],
                target,
                read_only=mount.read_only,
                recursive=True,
                subpath=_subpath(mount, target),
            )
        case "image":
            shown = prepared.images[mount.target]
            if len(shown) == 1:
                return plan.Bind(shown[0], target, read_only=True)
            return plan.Overlay(target, list(shown), None, None)


def _namespace(mount: model.Mount, host: HostFacts) -> str:
    return host.mount_namespace if mount.propagation in ("shared", "rshared") else ""


def _subpath(mount: model.Mount, target: str) -> str:
    """The normal form of a volume's subpath. Links in it are the launcher's to follow, or not to."""
    if not mount.subpath:
        return ""
    clean = posixpath.normpath(mount.subpath)
    if clean.startswith(("/", "../")) or clean == ".." or "\0" in clean:
        raise PlanError(
            f"cannot mount {mount.source} at {target}: subpath {mount.subpath!r} leads out of the volume;"
            " write a relative path"
        )
    return "" if clean == "." else clean


def _device_steps(spec: model.ServiceSpec) -> list[plan.Step]:
    steps: list[plan.Step] = []
    for device in spec.devices:
        if not {"r", "w"} <= set(device.permissions) <= {"r", "w", "m"}:
            # Who holds the node of a device by a bind mount may do what its mode says, no less.
            raise PlanError(
                f'cannot allow device {device.source} with "{device.permissions}": only rw and rwm can be'
                " kept; restrict it by the mode of the node on the host"
            )
        steps.append(plan.Bind(device.source, _target(device.target), recursive=True, dev=True))
    return steps


def _target(path: str) -> str:
    """The normal form of a mount point. Raises PlanError for one that would undo the isolation."""
    clean = _absolute(path, "mount point")
    if clean == "/":
        raise PlanError(
            "cannot mount at /: invalid mount: the destination can't be '/'; use x-shipkeeper.rootfs"
        )
    if clean == "/proc" or clean.startswith("/proc/"):
        raise PlanError(f"cannot mount at {clean}: it cannot be mounted because it is inside /proc")
    return clean


def _absolute(path: str, what: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise PlanError(f"cannot use {path!r} as {what}: it needs to be an absolute path")
    return "/" + posixpath.normpath(path).strip("/")


def _depth(path: str) -> int:
    return path.count("/")
