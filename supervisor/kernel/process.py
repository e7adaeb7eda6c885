"""Processes by pidfd: start, look at, signal, reap, and what is left of one that was not ours."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
from typing import NamedTuple

from supervisor.kernel import syscalls as sc
from supervisor.kernel.hierarchies import read_text

# linux/pidfd.h: PIDFD_GET_INFO is _IOWR(0xFF, 11, struct pidfd_info), 64 bytes in its first version.
_GET_INFO = 0xC040_FF0B
_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=QQ11Ii")


class Status(NamedTuple):
    """How a process ended: code 0..255 (128+n for a death by signal n), and the signal or 0."""

    code: int
    signal: int


class Usage(NamedTuple):
    """What a process and its waited-for children used."""

    user_s: float
    system_s: float
    max_rss_bytes: int


def clone(flags: int, *, cgroup_fd: int = -1, sibling: bool = False) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child. See `syscalls.clone3` for what the child may do.

    cgroup_fd: a directory of cgroup v2 in which the child begins. sibling: a child of our own parent.
    Raises OSError.
    """
    pidfd = ctypes.c_int(-1)
    args = sc.CloneArgs(flags=flags | sc.CLONE_PIDFD, pidfd=ctypes.addressof(pidfd))
    if sibling:
        args.flags |= sc.CLONE_PARENT  # exit_signal is the caller's own then
    else:
        args.exit_signal = signal.SIGCHLD
    if cgroup_fd >= 0:
        args.flags |= sc.CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    pid = sc.clone3(args)
    return (pid, pidfd.value) if pid else (0, -1)


def status_of(raw: int) -> Status:
    """From a wait status."""
    if os.WIFSIGNALED(raw):
        number = os.WTERMSIG(raw)
        return Status(128 + number, number)
    return Status(os.WEXITSTATUS(raw), 0)


def has_ended(pidfd: int) -> bool:
    """Whether our child is dead; it stays a zombie, so its pid is still its own.

    One that cannot be waited for any more has ended, too: somebody has reaped it.
    """
    try:
        return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def reap(pid: int) -> tuple[Status, Usage] | None:
    """Reap our child, which has ended. None if it has not, or if nobody of that pid is our child."""
    try:
        done, raw, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if done == 0:
        return None
    return status_of(raw), Usage(usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)


def start_ticks(pid: int) -> int:
    """When a process started, in ticks since boot: with the boot id and the pid, its identity.

    Raises OSError if there is no such process.
    """
    return int(_stat(pid)[19])


def status_of_stranger(pid: int, pidfd: int, ticks: int) -> Status | None:
    """How a process ended that is not our child; None where nobody can know.

    From the kernel's memory of a reaped process (PIDFD_INFO_EXIT, Linux 6.15), or from the zombie while
    nobody has reaped it.
    """
    status = _remembered(pidfd)
    if status is None:
        try:
            fields = _stat(pid)
        except OSError:
            return _remembered(pidfd)  # reaped in between
        if fields[0] == "Z" and int(fields[19]) == ticks:
            return status_of(int(fields[49]))
        status = _remembered(pidfd)
    return status


def _remembered(pidfd: int) -> Status | None:
    buffer = bytearray(_INFO.size)
    _INFO.pack_into(buffer, 0, _INFO_EXIT, *[0] * 13)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, buffer)
    except OSError:
        return None  # an older kernel, or the process is not reaped yet
    mask, *_, raw = _INFO.unpack(buffer)
    return status_of(raw) if mask & _INFO_EXIT else None


def first_of_namespace(pids: list[int]) -> int:
    """Which of them is the first process of a pid namespace just below ours; 0 if none is."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in read_text(f"/proc/{pid}/status").splitlines():
                if line.startswith("NSpid:") and line.split()[2:] == ["1"]:
                    return pid
    return 0


def open_pidfd(pid: int, ticks: int) -> int:
    """A pidfd of the process that is identified so, the caller's; -1 if it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return -1
    with contextlib.suppress(OSError):
        if start_ticks(pid) == ticks:
            return pidfd
    os.close(pidfd)
    return -1


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field (the state) on."""
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def reap_stranger(known: set[int] | dict[int, object]) -> bool:
    """Reap one dead child whose pid is not in `known`: an orphan that came to us as its subreaper."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None or found.si_pid in known:
            return False
        os.waitpid(found.si_pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def own_command() -> list[str]:
    """The command line of this process as others see it. Raises OSError."""
    return read_text("/proc/self/cmdline").split("\0")[:-1]


def show_as(words: list[str]) -> None:
    """Have others see that command line; one longer than what there is they do not. Raises OSError."""
    place, size = int(_stat(os.getpid())[45]), len(os.fsencode("\0".join([*own_command(), ""])))  # arg_start
    text = os.fsencode("\0".join([*words, ""]))
    if len(text) <= size:
        ctypes.memmove(place, text.ljust(size, b"\0"), size)


def become_subreaper() -> None:
    """Orphans below us come to us. Raises OSError."""
    sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Make this process, and what it clones until that execs, non-dumpable: no ptrace, no /proc/PID/exe."""
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
