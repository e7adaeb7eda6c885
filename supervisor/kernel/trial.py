"""Try for real what a launch does, in a process of its own: `trial(...)` runs this file as a program.

Each step runs in a child of that process with a mount namespace of its own, so that nothing is left
behind but what it made in the directory it was given. The file imports the standard library only and runs
isolated (-I): it says what the host can do, not what this installation can.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

_TIMEOUT_S = 20.0

_NAMESPACES = {
    "mount": 0x00020000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "net": 0x40000000,
}
_CLONE_PIDFD, _CLONE_INTO_CGROUP = 0x1000, 0x2_0000_0000
_NR_CLONE3 = 435
_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND = 1, 2, 4, 8, 4096
_MS_PRIVATE_REC = 0x44000
_MNT_DETACH = 2
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that was tried. `failure` names the call and the error; empty if it worked."""

    name: str
    failure: str = ""


def trial(directory: str, cgroup: str | None, program: bytes | None) -> tuple[Attempt, ...]:
    """Try namespaces, one clone3 as a launch does it, the mounts of a root, pivot_root, and a filter.

    directory: an empty one on the file system of the state; the caller removes what is made in it.
    cgroup: a version 2 cgroup for the child of clone3, or None. program: a seccomp program, or None.
    Raises OSError or subprocess.SubprocessError if nothing could be tried at all.
    """
    request = {
        "directory": directory,
        "cgroup": cgroup,
        "program": None if program is None else program.hex(),
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", __file__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise OSError(errno.EIO, f"cannot run the trial of the kernel: {last}")
    return tuple(Attempt(name, failure) for name, failure in json.loads(done.stdout))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _do(what: str, result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def _mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    result = _libc.mount(_text(source), _text(target), _text(fstype), ctypes.c_ulong(flags), _text(data))
    _do(f"mount({fstype or 'bind'})", int(result))


def _unshare(name: str) -> None:
    _do(f"unshare({name})", int(_libc.unshare(_NAMESPACES[name])))


def _private_mounts() -> None:
    """A mount namespace from which nothing reaches the host's."""
    _unshare("mount")
    _mount(None, "/", None, _MS_PRIVATE_REC)


def _in_child(step: Callable[[], None]) -> str:
    """Run a step in a fork: its failure, or nothing."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            step()
        except OSError as problem:
            text = problem.strerror or str(problem)
            if problem.filename is not None:
                text = f"{os.fsdecode(problem.filename)}: {text}"
        except BaseException as problem:  # noqa: BLE001 - the child must not go on as a second parent
            text = repr(problem)
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    return text or ("" if status == 0 else f"ended by signal {status & 0x7F}")


def _launch(cgroup: str | None) -> None:
    """One clone3 with all namespaces, a pidfd and the cgroup."""
    flags = _CLONE_PIDFD
    for flag in _NAMESPACES.values():
        flags |= flag
    into = -1
    if cgroup is not None:
        into = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flags |= _CLONE_INTO_CGROUP
    pidfd = ctypes.c_int(-1)
    arguments = struct.pack("=11Q", flags, ctypes.addressof(pidfd), 0, 0, 17, 0, 0, 0, 0, 0, max(into, 0))
    record = ctypes.create_string_buffer(arguments, len(arguments))
    pid = int(_libc.syscall(ctypes.c_long(_NR_CLONE3), record, ctypes.c_size_t(len(arguments))))
    if pid == 0:
        os._exit(0)
    _do("clone3", pid)
    os.waitpid(pid, 0)


def _overlay(base: str) -> None:
    """An overlay with its writable layer in the directory; a copy up, a whiteout and an opaque directory."""
    _private_mounts()
    _mount_overlay(base)
    with open(f"{base}/root/kept", "a") as file:
        file.write("x")
    os.unlink(f"{base}/root/gone")
    os.unlink(f"{base}/root/directory/inside")
    os.rmdir(f"{base}/root/directory")
    os.mkdir(f"{base}/root/directory")


def _mount_overlay(base: str) -> None:
    # Relative names: a comma or a colon in the directory's own name would end an option.
    os.chdir(base)
    _mount("overlay", "root", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")


def _pivot(base: str) -> None:
    """Make the overlay the root, as a launch does."""
    _private_mounts()
    _mount_overlay(base)
    os.chdir(f"{base}/root")
    number = _NR_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"pivot_root(): its number is not known on {os.uname().machine}")
    _do("pivot_root()", int(_libc.syscall(ctypes.c_long(number), b".", b".")))
    _do("umount2(MNT_DETACH)", int(_libc.umount2(b".", _MNT_DETACH)))
    os.chdir("/")
    os.stat("/kept")


def _proc(base: str) -> None:
    """A proc of a new pid namespace, which a container around us may not allow."""
    _private_mounts()
    _unshare("pid")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _mount("proc", f"{base}/root", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
            code = 0
        except OSError as problem:
            code = problem.errno or 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, f"mount(proc): {os.strerror(code)}")


def _other(base: str, fstype: str, data: str | None) -> None:
    _private_mounts()
    if fstype == "sysfs":
        _unshare("net")  # its owner must be the network namespace's
    if fstype == "mqueue":
        _unshare("ipc")
    read_only = _MS_RDONLY if fstype == "sysfs" else 0
    _mount(fstype, f"{base}/root", fstype, _MS_NOSUID | _MS_NOEXEC | read_only, data)


def _device(base: str) -> None:
    """/dev/null bound into the root and written to: a file system mounted nodev over it would refuse."""
    _private_mounts()
    with open(f"{base}/null", "w"):
        pass
    _mount("/dev/null", f"{base}/null", None, _MS_BIND)
    with open(f"{base}/null", "w") as file:
        file.write("x")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _filter(program: bytes) -> None:
    text = ctypes.create_string_buffer(program, len(program))
    record = _Program(len(program) // 8, ctypes.cast(text, ctypes.c_void_p))
    unused = ctypes.c_ulong(0)
    _do(
        "prctl(PR_SET_NO_NEW_PRIVS)",
        int(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), unused, unused, unused)),
    )
    _do(
        "prctl(PR_SET_SECCOMP)",
        int(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(record), unused, unused)),
    )
    if _libc.unshare(0) == 0 or ctypes.get_errno() != errno.EPERM:
        raise OSError(errno.EIO, "a filter was loaded and does not filter")


def _main() -> None:
    request = json.load(sys.stdin)
    base, cgroup, program = request["directory"], request["cgroup"], request["program"]
    for name in ("lower", "upper", "work", "root", "lower/directory"):
        os.mkdir(f"{base}/{name}")
    for name in ("kept", "gone", "directory/inside"):
        with open(f"{base}/lower/{name}", "w"):
            pass
    steps: list[tuple[str, Callable[[], None]]] = [
        *((f"namespace {name}", lambda name=name: _unshare(name)) for name in _NAMESPACES),
        ("clone3", lambda: _launch(cgroup)),
        ("mount overlay", lambda: _overlay(base)),
        ("mount proc", lambda: _proc(base)),
        ("mount sysfs", lambda: _other(base, "sysfs", None)),
        ("mount tmpfs", lambda: _other(base, "tmpfs", "mode=0755,size=64k")),
        ("mount devpts", lambda: _other(base, "devpts", "newinstance,ptmxmode=0666,mode=0620")),
        ("mount mqueue", lambda: _other(base, "mqueue", None)),
        ("bind devices", lambda: _device(base)),
        ("pivot_root", lambda: _pivot(base)),
    ]
    if program is not None:
        steps.append(("seccomp filter", lambda: _filter(bytes.fromhex(program))))
    print(json.dumps([(name, _in_child(step)) for name, step in steps]))  # noqa: T201 - its answer


if __name__ == "__main__":
    _main()
