"""What a supervisor may have left on this host, looked for without any code of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_PATIENCE_S = 20.0
_CGROUPS = Path("/sys/fs/cgroup")


def tag_of(base: Path) -> str:
    """What names of links, tables and cgroups of the supervisor of `base/state` have in them."""
    return hashlib.sha256(f"{base}/state".encode()).hexdigest()[:8]


def of_instances(base: Path) -> list[str]:
    """What belongs to instances, when none is there: the supervisor itself may run."""
    tag = tag_of(base)
    found = [f"link {name}" for name in os.listdir("/sys/class/net") if name.startswith(f"sk{tag[:4]}v")]
    for kind, place in (
        ("network namespace", base / "run" / "netns"),
        ("directory", base / "state/instances"),
    ):
        found += [f"{kind} {path}" for path in place.iterdir()] if place.is_dir() else []
    found += [f"cgroup {path}" for path in cgroups(base) if len(path.name) == 64]
    return sorted(found)


def of_supervisor(base: Path) -> list[str]:
    """Everything, when the supervisor has ended and no service was up."""
    tag = tag_of(base)
    found = of_instances(base)
    found += [f"link {name}" for name in os.listdir("/sys/class/net") if name.startswith(f"sk{tag[:4]}")]
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    found += [line for line in listed.splitlines() if tag in line]
    found += [f"cgroup {path}" for path in cgroups(base)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if f"{base}/" in line]
    names = ("names.sock", "names.json", "launcher.sock", "log.sock", "shipkeeper.sock", "networks-active")
    found += [f"file {name}" for name in names if (base / "run" / name).exists()]
    return sorted({*found, *(f"process {process.pid}: {process.cmdline()}" for process in processes(base))})


def cgroups(base: Path) -> list[Path]:
    """Of the supervisor, those inside first."""
    tops = [place for name in ("", "*/") for place in _CGROUPS.glob(f"{name}shipkeeper-{tag_of(base)}*")]
    found = [Path(directory) for top in tops for directory, _, _ in os.walk(top)]
    return sorted(found, key=lambda path: -len(path.parts))


def members(cgroup: Path) -> list[int]:
    """Processes that live in a cgroup."""
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split() if pid != "0"]
    return []


def wipe(base: Path) -> None:
    """Take out of the kernel, and below the run directory, what no boot of a host leaves there."""
    tag = tag_of(base)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in [target for target in mounts[::-1] if target.startswith(f"{base}/")]:
        subprocess.run(["umount", "-l", target], check=True)
    shutil.rmtree(base / "run")
    for link in os.listdir("/sys/class/net"):
        if link.startswith(f"sk{tag[:4]}"):
            subprocess.run(
                ["ip", "link", "del", link], check=False, capture_output=True
            )  # gone with its peer
    subprocess.run(["nft", "delete", "table", "inet", f"shipkeeper_{tag}"], check=False, capture_output=True)
    for path in cgroups(base):
        path.rmdir()


def none_left(look: Callable[[], list[str]]) -> None:
    """The kernel lets go of a cgroup a little later, and the launcher waits for that: look until it is so."""
    deadline = time.monotonic() + _PATIENCE_S
    while left := look():
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)  # between two looks


def processes(base: Path) -> list[psutil.Process]:
    """Of the supervisor: launcher, log writer, nursery, spare, resolver; by their command lines."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(word.startswith("supervisor.") for word in words) and any(
                word.startswith(f"{base}/") for word in words
            ):
                found.append(process)
    return found
