"""Checks of cgroups: how they are set up, which limits work, can services be frozen and killed."""

from __future__ import annotations

import os
from collections.abc import Iterator

from supervisor.runtime.doctor_types import Check, Examined

_MOUNT_V2 = "mount -t cgroup2 none /sys/fs/cgroup, or start the host with a systemd of the last years"
# Which file shows that a limit can be set, by version, and what is lost without it.
_LIMITS = (
    ("memory", "memory.max", "memory.limit_in_bytes", "mem_limit"),
    ("cpu", "cpu.max", "cpu.cfs_quota_us", "cpus"),
    ("pids", "pids.max", "pids.max", "pids_limit"),
)


def setup(examined: Examined) -> Iterator[Check]:
    """The mode that was detected."""
    found = examined.cgroups
    if found is None:
        yield Check("cgroups", "fail", "no cgroup hierarchy is mounted", _MOUNT_V2)
        return
    names = ", ".join(found.controllers()) or "none"
    match found.mode:
        case "unified":
            yield Check("cgroups", "ok", f"v2; controllers: {names}")
        case "hybrid":
            yield Check("cgroups", "ok", f"hybrid; controllers: {names}")
        case "legacy":
            yield Check(
                "cgroups",
                "warn",
                f"v1; controllers: {names}; services are killed by their pid namespace only",
                f"mount the version 2 hierarchy beside it: {_MOUNT_V2}",
            )


def limits(examined: Examined) -> Iterator[Check]:
    """Memory, CPU and process limits, by looking into a cgroup that was made for it; and swap."""
    for controller, v2_file, v1_file, key in _LIMITS:
        mount = examined.mount_of(controller)
        name = f"limit {key}"
        if mount is None:
            yield Check(
                name,
                "fail",
                f"there is no {controller} controller: the limit would not hold",
                _controller_remedy(controller),
            )
            continue
        made = examined.trial_cgroup(mount)
        if isinstance(made, OSError):
            yield Check(
                name,
                "fail",
                f"no cgroup can be made in {mount}: {made.strerror}",
                "run it as root, with cgroups mounted writable",
            )
            continue
        v2 = mount == examined.unified
        parent = os.path.dirname(made)
        if v2 and controller not in _words(f"{parent}/cgroup.controllers"):
            yield Check(
                name,
                "fail",
                f"{controller} is not delegated to {parent}",
                "set Delegate=yes in shipkeeper-services.service",
            )
        elif not v2 and not os.path.exists(f"{made}/{v1_file}"):
            yield Check(
                name,
                "fail",
                f"{mount} has no {v1_file}",
                "use a distribution's kernel",
            )
        else:
            yield Check(name, "ok", f"{v2_file if v2 else v1_file} in {mount}")
    yield from _swap(examined)


def _swap(examined: Examined) -> Iterator[Check]:
    mount = examined.mount_of("memory")
    if mount is None:
        return
    made = examined.trial_cgroup(mount)
    if isinstance(made, OSError):
        return
    v2 = mount == examined.unified
    if v2 and "memory" not in _words(f"{os.path.dirname(made)}/cgroup.subtree_control"):
        # Its files appear when the launcher switches the controller on; until then ask the kernel.
        counted = "swapaccount=0" not in _words("/proc/cmdline")
    else:
        counted = os.path.exists(f"{made}/{'memory.swap.max' if v2 else 'memory.memsw.limit_in_bytes'}")
    if counted:
        yield Check("limit memswap_limit", "ok", "swap is accounted")
    else:
        yield Check(
            "limit memswap_limit",
            "warn",
            "swap is not accounted: the limit counts memory only",
            "start the kernel with swapaccount=1, or turn swap off",
        )


def control(examined: Examined) -> Iterator[Check]:
    """cgroup.kill and freezing."""
    unified = examined.unified
    if unified is None:
        freezer = examined.mount_of("freezer")
        if freezer is None:
            yield Check("pause", "warn", "no freezer: `pause` does not work", _controller_remedy("freezer"))
        else:
            yield Check("pause", "ok", f"the version 1 freezer in {freezer}")
        return
    made = examined.trial_cgroup(unified)
    if isinstance(made, OSError):
        yield Check(
            "cgroup control",
            "fail",
            f"no cgroup can be made in {unified}: {made.strerror}",
            "run it as root, with cgroups mounted writable",
        )
        return
    for name, file, since in (("stop", "cgroup.kill", "5.14"), ("pause", "cgroup.freeze", "5.2")):
        if os.path.exists(f"{made}/{file}"):
            yield Check(name, "ok", f"{file} in {unified}")
        else:
            yield Check(name, "fail", f"{unified} has no {file}", f"use Linux {since} or newer")


def _controller_remedy(controller: str) -> str:
    listed = _words("/proc/cmdline")
    disabled = [word for word in listed if word.startswith("cgroup_disable=") and controller in word]
    if disabled:
        return f"remove {disabled[0]} from the kernel's command line"
    if controller == "memory":
        return "start the kernel with cgroup_enable=memory (Raspberry Pi OS turns it off)"
    return f"use a kernel with the {controller} controller"


def _words(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []
