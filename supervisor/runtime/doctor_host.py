"""Checks of the process, the kernel, and what a launch asks of both."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import psutil

from supervisor.kernel import host
from supervisor.kernel.seccomp import SeccompError
from supervisor.kernel.trial import Attempt
from supervisor.runtime.doctor_types import Check, Examined
from supervisor.runtime.hostmounts import mount_of

_NEEDED_CAPABILITIES = {
    "CAP_SYS_ADMIN": "namespaces and mounts",
    "CAP_SETUID": "services that run as another user",
    "CAP_SETGID": "services that run as another group",
    "CAP_SETPCAP": "taking capabilities from services",
    "CAP_CHOWN": "owners of files in root file systems and volumes",
    "CAP_DAC_OVERRIDE": "files of other users in root file systems and volumes",
    "CAP_FOWNER": "modes of files in root file systems and volumes",
    "CAP_FSETID": "set-id bits of files in root file systems",
    "CAP_MKNOD": "hiding files in the host view",
    "CAP_KILL": "stopping services that run as another user",
    "CAP_NET_ADMIN": "networks, and network_mode: none",
}
_WANTED_CAPABILITIES = {
    "CAP_SYS_RESOURCE": "ulimits above this process's own, and an oom_score_adj below it",
    "CAP_SYS_PTRACE": "`exec`, `top` and figures of services that changed their user",
    "CAP_SETFCAP": "file capabilities in unpacked root file systems",
    "CAP_SYS_CHROOT": "joining the mount namespace of a service (`exec`)",
}
_DONT_CONTAIN = "run Shipkeeper on the host itself and as root, not inside a container"
_OLDEST = (5, 14)  # cgroup.kill; everything older that is needed came before it


def python(_: Examined) -> Iterator[Check]:
    """The interpreter that runs this; with one before 3.11 nothing of the package could."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "ok", f"{version} ({sys.executable})")


def root(_: Examined) -> Iterator[Check]:
    """The user."""
    if os.geteuid() == 0:
        yield Check("root", "ok", "running as root")
    else:
        yield Check("root", "fail", f"running as user {os.geteuid()}", "run it with sudo")


def capabilities(_: Examined) -> Iterator[Check]:
    """A line for each capability that is missing, or one for all."""
    have = host.capabilities()
    lacking = 0
    for cap, purpose in _NEEDED_CAPABILITIES.items():
        if cap not in have:
            lacking += 1
            yield Check(f"capability {cap}", "fail", f"missing; it is needed for {purpose}", _give(cap))
    for cap, purpose in _WANTED_CAPABILITIES.items():
        if cap not in have:
            lacking += 1
            yield Check(f"capability {cap}", "warn", f"missing; it is wanted for {purpose}", _give(cap))
    if lacking == 0:
        yield Check("capabilities", "ok", "all that are needed")


def _give(cap: str) -> str:
    return f"{_DONT_CONTAIN}; under systemd, {cap} must not be left out of CapabilityBoundingSet="


def kernel(_: Examined) -> Iterator[Check]:
    """The version, and the distribution beside it."""
    running, distribution = host.kernel(), host.distribution()
    detail = f"Linux {running.release} on {distribution.name}"
    if running.version >= _OLDEST:
        yield Check("kernel", "ok", detail)
    else:
        yield Check(
            "kernel",
            "fail",
            detail,
            f"use Linux {_OLDEST[0]}.{_OLDEST[1]} or newer, whose cgroups can be killed as a whole",
        )


def system_calls(_: Examined) -> Iterator[Check]:
    """Each call that has no substitute, tried."""
    features = host.features()
    calls = {
        "clone3": features.clone3,
        "pidfd_open": features.pidfd_open,
        "pidfd_send_signal": features.pidfd_send_signal,
        "openat2": features.openat2,
        "close_range": features.close_range,
        "mount_setattr": features.mount_setattr,
        "open_tree": features.open_tree,
    }
    missing = {name: feature for name, feature in calls.items() if not feature.present}
    for name, feature in missing.items():
        yield Check(
            f"system call {name}",
            "fail",
            feature.why,
            f"use a newer kernel, or if a filter refuses the call, {_DONT_CONTAIN}",
        )
    if not missing:
        yield Check("system calls", "ok", ", ".join(calls))


def overlay_layers(_: Examined) -> Iterator[Check]:
    """How layers are given to overlayfs."""
    feature = host.features().overlay_lowerdir_append
    if feature.present:
        yield Check("overlay layers", "ok", "any number, one by one (lowerdir+)")
    else:
        yield Check(
            "overlay layers",
            "warn",
            f"through mount(2), a page of paths at most ({feature.why})",
            "enough for services as they are; Linux 6.7 takes any number of layers",
        )


def exit_info(_: Examined) -> Iterator[Check]:
    """Can an exit status be had that nobody waited for."""
    feature = host.features().pidfd_exit_info
    if feature.present:
        yield Check("exit status of survivors", "ok", "known even if the launcher dies (PIDFD_GET_INFO)")
    else:
        yield Check(
            "exit status of survivors",
            "warn",
            f"a service that outlives its launcher is recorded with status 255 ({feature.why})",
            "nothing needs to be done; Linux 6.15 keeps the status",
        )


def isolation(examined: Examined) -> Iterator[Check]:
    """Namespaces, clone3, mounts, devices and pivot_root, tried."""
    worked = []
    if isinstance(examined.attempts, OSError):
        yield Check(
            "isolation",
            "fail",
            f"nothing could be tried: {examined.attempts}",
            "mend the state directory, which see",
        )
        return
    for attempt in examined.attempts:
        if attempt.name == "seccomp filter":
            continue
        if not attempt.failure:
            worked.append(attempt.name)
        else:
            yield Check(
                attempt.name,
                "fail",
                attempt.failure,
                _remedy(attempt, examined),
            )
    if worked:
        yield Check("isolation", "ok", f"tried and worked: {', '.join(worked)}")


def _remedy(attempt: Attempt, examined: Examined) -> str:
    if "No space left" in attempt.failure:
        return "raise the limits below /proc/sys/user (max_mnt_namespaces ...) and fs.mount-max"
    if "Operation not permitted" in attempt.failure:
        return _DONT_CONTAIN
    match attempt.name:
        case "mount overlay" | "pivot_root":
            state = os.path.realpath(examined.paths.state_dir)
            below = mount_of(state, examined.mounts)
            kind = "its file system" if below is None else f"{below.fstype} (mounted at {below.target})"
            return (
                f"state_dir {state} lies on {kind}; if `modprobe overlay` does not help, set state_dir to a "
                "directory on ext4, xfs or btrfs"
            )
        case "bind devices":
            return "mount /dev without nodev"
        case _:
            return "use a kernel with all namespaces and file systems, as a distribution's is"


def seccomp(examined: Examined) -> Iterator[Check]:
    """The kernel's part, the library, and a filter that was loaded."""
    feature = host.features().seccomp_filter
    if not feature.present:
        yield Check("seccomp", "fail", feature.why, "use a kernel with CONFIG_SECCOMP_FILTER")
        return
    if isinstance(examined.filter, SeccompError):
        what, _, remedy = str(examined.filter).partition("; ")
        yield Check("seccomp", "fail", what, remedy or "set security_opt: [seccomp=unconfined]")
        return
    if isinstance(examined.attempts, OSError):
        return  # `isolation` has said so
    for attempt in examined.attempts:
        if attempt.name == "seccomp filter":
            if attempt.failure:
                yield Check("seccomp", "fail", attempt.failure, _DONT_CONTAIN)
            else:
                yield Check(
                    "seccomp",
                    "ok",
                    "the default filter loads and works",
                )


_FEW_FILES, _ENOUGH_FILES = 4096, 65536


def open_files(examined: Examined) -> Iterator[Check]:
    """The launcher's limit, since it holds some descriptors for each service; if none runs, this shell's."""
    launcher = listener(examined.paths.launcher_socket)
    try:
        hard = resource.prlimit(launcher or 0, resource.RLIMIT_NOFILE)[1]
    except OSError:  # it has just ended, or is another user's
        launcher, hard = None, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    whose = "of the launcher" if launcher else "of this shell; no launcher runs"
    remedy = "raise it: LimitNOFILE= in the unit, or `ulimit -Hn 524288` in the shell that starts it"
    if hard == resource.RLIM_INFINITY or hard >= _ENOUGH_FILES:
        shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        yield Check("open files", "ok", f"hard limit {shown} ({whose})")
    else:
        detail = f"hard limit {hard} ({whose})"
        yield Check("open files", "warn" if hard >= _FEW_FILES else "fail", detail, remedy)


def listener(path: str) -> int | None:
    """Who holds a unix socket of that path open, as far as it may be seen."""
    try:
        return next((found.pid for found in psutil.net_connections("unix") if str(found.laddr) == path), None)
    except OSError:
        return None


def clock(_: Examined) -> Iterator[Check]:
    """Decisions need no right time; logs and `ps` do."""
    host.boottime_ns()
    if host.clock_synchronised():
        yield Check("clock", "ok", f"synchronised; boot {host.boot_id()}")
    else:
        yield Check(
            "clock",
            "warn",
            "not synchronised: times in logs may be wrong; restarts go by another clock",
            "enable systemd-timesyncd, chrony or another NTP client",
        )


_UNITS = {"shipkeeper.service": "enabled", "shipkeeper-services.service": ""}


def systemd(_: Examined) -> Iterator[Check]:
    """The units, where systemd runs."""
    if not host.has_systemd():
        yield Check(
            "systemd",
            "warn",
            "not running: nothing here starts Shipkeeper with the host",
            "let this host's init start `shipkeeper daemon`, and again when it ends",
        )
        return
    wrong = []
    for unit, wanted_state in _UNITS.items():
        shown = subprocess.run(
            ["systemctl", "show", unit, "--property=LoadState,UnitFileState,Delegate"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        fields = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        if fields.get("LoadState") != "loaded":
            wrong.append(
                Check(
                    f"systemd {unit}",
                    "warn",
                    f"{fields.get('LoadState') or 'not known'}",
                    "run `make install`",
                )
            )
        elif fields.get("Delegate") != "yes":
            wrong.append(
                Check(
                    f"systemd {unit}",
                    "fail",
                    "systemd may take the services' cgroups away",
                    f"set Delegate=yes in {unit}, then `systemctl daemon-reload`",
                )
            )
        elif wanted_state and fields.get("UnitFileState") != wanted_state:
            wrong.append(
                Check(
                    f"systemd {unit}",
                    "warn",
                    f"{fields.get('UnitFileState') or 'not enabled'}: services do not come up with the host",
                    f"run `systemctl enable --now {unit}`",
                )
            )
    yield from wrong
    if not wrong:
        yield Check("systemd", "ok", f"{' and '.join(_UNITS)} are installed and delegated")
