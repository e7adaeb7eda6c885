"""Facts about the host, read from the kernel rather than believed of a version.

Nothing here changes the host: a system call is recognised by calling it with arguments that it must
refuse, and by the errno it refuses them with.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import re
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from supervisor.kernel.capabilities import NAMES


@dataclass(frozen=True, slots=True)
class Kernel:
    """`release` as uname says it ("6.1.0-18-amd64"); `version` is its major and minor number."""

    release: str
    version: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Distribution:
    """From os-release(5): `id` ("debian"), `version_id` ("12", may be empty), `name` for people."""

    id: str
    version_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Feature:
    """Something of the kernel that is there or is not; `why` says how it was refused."""

    present: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """What the supervisor uses of the kernel. The version that brought each stands beside it.

    overlay_lowerdir_append: fsconfig("lowerdir+"), without which many layers do not fit in one page.
    pidfd_info: PIDFD_GET_INFO. pidfd_exit_info: it tells the exit status of a process that another one
    reaped (by version: trying needs a process that dies).
    """

    clone3: Feature  # 5.3
    pidfd_open: Feature  # 5.3
    pidfd_send_signal: Feature  # 5.1
    pidfd_getfd: Feature  # 5.6
    openat2: Feature  # 5.6
    close_range: Feature  # 5.9
    mount_setattr: Feature  # 5.12
    open_tree: Feature  # 5.2
    fsopen: Feature  # 5.2
    overlay: Feature
    overlay_lowerdir_append: Feature  # 6.7
    pidfd_info: Feature  # 6.13
    pidfd_exit_info: Feature  # 6.15
    seccomp_filter: Feature  # 3.5, seccomp(2) 3.17


@functools.cache
def boot_id() -> str:
    """The random name of this boot: the same until the host starts again. Raises OSError without /proc."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: never set, never backwards, and it counts while the host sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@functools.cache
def kernel() -> Kernel:
    """The running kernel."""
    release = os.uname().release
    match = re.match(r"(\d+)\.(\d+)", release)
    return Kernel(release, (int(match[1]), int(match[2])) if match else (0, 0))


@functools.cache
def distribution() -> Distribution:
    """The distribution; "linux" with empty versions where no os-release names one."""
    try:
        fields = platform.freedesktop_os_release()
    except OSError:
        return Distribution("linux", "", "Linux")
    return Distribution(fields["ID"], fields.get("VERSION_ID", ""), fields["PRETTY_NAME"])


def has_systemd() -> bool:
    """systemd is the running init, by the test of sd_booted(3)."""
    return os.path.isdir("/run/systemd/system") and not os.path.islink("/run/systemd/system")


def capabilities(pid: int | Literal["self"] = "self") -> frozenset[str]:
    """The effective capabilities of a process, by name; one that is newer than our table is CAP_<number>."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(
                NAMES[number] if number < len(NAMES) else f"CAP_{number}"
                for number in range(bits.bit_length())
                if bits >> number & 1
            )
    raise OSError(errno.ENODATA, f"cannot read the capabilities of process {pid}: no CapEff in /proc")


def clock_synchronised() -> bool:
    """The kernel believes that its clock follows a reference (adjtimex(2); NTP daemons tell it so)."""
    # struct timex with modes 0 asks and changes nothing; it has 208 bytes.
    return int(_libc.adjtimex(ctypes.create_string_buffer(256))) not in (-1, _TIME_ERROR)


def features() -> Features:
    """Try everything once. Costs some microseconds; the answer does not change while a process lives."""
    return _features()


# Numbers that amd64 and arm64 share (scripts/syscall.tbl): calls since Linux 5.1 have one everywhere.
_NR: Mapping[str, int] = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "fsopen": 430,
    "fsconfig": 431,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}
_FSCONFIG_SET_STRING = 1
_FSOPEN_CLOEXEC = 1
_AT_FDCWD = -100
_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), 64 bytes in Linux 6.13
_PIDFD_INFO_PID = 1
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_EXIT_INFO_SINCE = (6, 15)
_TIME_ERROR = 5

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A raw system call: its result, or minus the errno."""
    ctypes.set_errno(0)
    result = int(
        _syscall(
            ctypes.c_long(number),
            *(ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments),
        )
    )
    return -ctypes.get_errno() if result < 0 else result


def _refused(name: str, *arguments: int | bytes | None, expected: tuple[int, ...]) -> Feature:
    """A call is there if it refuses nonsense with one of the errnos that only its own code gives."""
    result = _call(_NR[name], *arguments)
    if result >= 0 or -result in expected:
        return Feature(present=True)
    return Feature(present=False, why=f"{name}(): {os.strerror(-result)}")


@functools.cache
def _features() -> Features:
    overlay, append = _overlay()
    info = _pidfd_info()
    ended = Feature(
        present=False, why=info.why or f"Linux {_EXIT_INFO_SINCE[0]}.{_EXIT_INFO_SINCE[1]} brought it"
    )
    return Features(
        clone3=_refused("clone3", None, 0, expected=(errno.EINVAL,)),
        pidfd_open=_refused("pidfd_open", -1, 0, expected=(errno.EINVAL,)),
        pidfd_send_signal=_refused("pidfd_send_signal", -1, 0, None, 0, expected=(errno.EBADF,)),
        pidfd_getfd=_refused("pidfd_getfd", -1, -1, 0, expected=(errno.EBADF,)),
        openat2=_refused("openat2", _AT_FDCWD, b".", None, 0, expected=(errno.EINVAL,)),
        close_range=_refused("close_range", 2, 1, 0, expected=(errno.EINVAL,)),
        mount_setattr=_refused("mount_setattr", -1, b"", 0, None, 0, expected=(errno.EINVAL,)),
        open_tree=_refused("open_tree", -1, b"", -1, expected=(errno.EINVAL,)),
        fsopen=_refused("fsopen", None, -1, expected=(errno.EINVAL, errno.EFAULT)),
        overlay=overlay,
        overlay_lowerdir_append=append,
        pidfd_info=info,
        pidfd_exit_info=Feature(present=True)
        if info.present and kernel().version >= _EXIT_INFO_SINCE
        else ended,
        seccomp_filter=_seccomp(),
    )


def _overlay() -> tuple[Feature, Feature]:
    """overlayfs, and whether it takes its layers one by one. Opens a context and mounts nothing."""
    fd = _call(_NR["fsopen"], b"overlay", _FSOPEN_CLOEXEC)
    if fd < 0:
        listed = any(
            line.split()[-1:] == ["overlay"] for line in _read(Path("/proc/filesystems")).splitlines()
        )
        why = f"fsopen(overlay): {os.strerror(-fd)}"
        return Feature(present=listed, why="" if listed else why), Feature(present=False, why=why)
    try:
        # Before Linux 6.5 overlayfs was mounted by the old interface even so: any option is taken here,
        # put into a page with the others, and refused only when mounting.
        legacy = _call(_NR["fsconfig"], fd, _FSCONFIG_SET_STRING, b"no_such_option", b"x", 0) >= 0
        result = _call(_NR["fsconfig"], fd, _FSCONFIG_SET_STRING, b"lowerdir+", b"/", 0)
    finally:
        os.close(fd)
    if legacy:
        return Feature(present=True), Feature(present=False, why="fsconfig(): takes any option unseen")
    why = "" if result >= 0 else f"fsconfig(lowerdir+): {os.strerror(-result)}"
    return Feature(present=True), Feature(present=result >= 0, why=why)


def _pidfd_info() -> Feature:
    fd = _call(_NR["pidfd_open"], os.getpid(), 0)
    if fd < 0:
        return Feature(present=False, why=f"pidfd_open(): {os.strerror(-fd)}")
    try:
        record = ctypes.create_string_buffer(struct.pack("=QQ12I", _PIDFD_INFO_PID, 0, *[0] * 12), 64)
        ctypes.set_errno(0)
        if _libc.ioctl(fd, ctypes.c_ulong(_PIDFD_GET_INFO), record) < 0:
            return Feature(present=False, why=f"ioctl(PIDFD_GET_INFO): {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)
    return Feature(present=True)


def _seccomp() -> Feature:
    """The mode is there if it complains of the program (EFAULT); a kernel without it says EINVAL."""
    ctypes.set_errno(0)
    unused = ctypes.c_ulong(0)
    _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), None, unused, unused)
    number = ctypes.get_errno()
    present = number in (errno.EFAULT, errno.EACCES)
    return Feature(present=present, why="" if present else f"prctl(PR_SET_SECCOMP): {os.strerror(number)}")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
