"""System calls that Python 3.11 has no function for: numbers, prototypes, and one way to fail.

Every wrapper raises OSError on failure, with the call and its arguments as the text, so that a record of a
failed launch says what was asked of the kernel. Nothing is bound at call time: the functions are used in
a child whose root has changed, where nothing more can be imported.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, NoReturn

_libc = ctypes.CDLL(None, use_errno=True)
# A clone with the interpreter lock held: the child is then in the same state as its parent.
_locked = ctypes.PyDLL(None, use_errno=True)

# Calls from pidfd_send_signal on have one number on every architecture (scripts/syscall.tbl).
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_FSPICK = 433
_NR_CLONE3 = 435
_NR_CLOSE_RANGE = 436
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_NR_OLD = {
    "x86_64": {"pivot_root": 155, "capset": 126, "rt_sigaction": 13},
    "aarch64": {"pivot_root": 41, "capset": 91, "rt_sigaction": 134},
    "riscv64": {"pivot_root": 41, "capset": 91, "rt_sigaction": 134},
    "ppc64le": {"pivot_root": 203, "capset": 184, "rt_sigaction": 173},
    "s390x": {"pivot_root": 217, "capset": 185, "rt_sigaction": 174},
}.get(os.uname().machine, {"pivot_root": -1, "capset": -1, "rt_sigaction": -1})
_NR_PIVOT_ROOT = _NR_OLD["pivot_root"]
_NR_CAPSET = _NR_OLD["capset"]
_NR_RT_SIGACTION = _NR_OLD["rt_sigaction"]

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

# linux/sched.h
CLONE_NEWNS = 0x0002_0000
CLONE_PARENT = 0x0000_8000
CLONE_PIDFD = 0x0000_1000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
CLONE_INTO_CGROUP = 0x2_0000_0000

# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_SYNCHRONOUS, MS_REMOUNT, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME = 16, 32, 128, 1024, 2048
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 19, 1 << 20
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSPICK_CLOEXEC, FSPICK_EMPTY_PATH = 1, 8
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE, FSCONFIG_CMD_RECONFIGURE = 0, 1, 6, 7
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_NODIRATIME = 0x10, 0x20, 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x0020_0000

# linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


class OpenHow(ctypes.Structure):
    """struct open_how."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class MountAttr(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class CloneArgs(ctypes.Structure):
    """struct clone_args (CLONE_ARGS_SIZE_VER2)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


class _SockFprog(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _prototype(library: ctypes.CDLL, name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
    """The C function of that name. Each is a new object, so no other module's prototype is changed."""
    return ctypes.CFUNCTYPE(result, *arguments, use_errno=True)((name, library))


_long, _int, _uint, _ptr, _str = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_char_p,
)
# syscall(2) is variadic: every argument is declared as the register that it is, or half of it is garbage.
_fsconfig = _prototype(_libc, "syscall", _long, _long, _long, _str, _str, _long, result=_long)
_path_call = _prototype(_libc, "syscall", _long, _long, _str, _long, _ptr, _long, result=_long)
_path_call_how = _prototype(_libc, "syscall", _long, _long, _str, _ptr, _long, result=_long)
_move_mount = _prototype(_libc, "syscall", _long, _long, _str, _long, _str, _long, result=_long)
_fsopen = _prototype(_libc, "syscall", _long, _str, _long, result=_long)
_fspick = _prototype(_libc, "syscall", _long, _long, _str, _long, result=_long)
_three = _prototype(_libc, "syscall", _long, _long, _long, _long, result=_long)
_sigaction = _prototype(_libc, "syscall", _long, _long, _ptr, _ptr, _long, result=_long)
_two_pointers = _prototype(_libc, "syscall", _long, _ptr, _ptr, result=_long)
_pivot_root = _prototype(_libc, "syscall", _long, _str, _str, result=_long)
_clone3 = _locked["syscall"]
_clone3.argtypes = [_long, _ptr, _long]
_clone3.restype = _long
_mount = _prototype(_libc, "mount", _str, _str, _str, ctypes.c_ulong, _str)
_umount2 = _prototype(_libc, "umount2", _str, _int)
_unshare = _prototype(_libc, "unshare", _int)
_setns = _prototype(_libc, "setns", _int, _int)
_sethostname = _prototype(_libc, "sethostname", _str, ctypes.c_size_t)
_prctl = _prototype(_libc, "prctl", _int, *[ctypes.c_ulong] * 4)


def _six(library_name: str) -> Any:
    return _prototype(_libc, library_name, *[_long] * 6)


CALLS: dict[str, tuple[Any, int | None]] = {
    "open_tree": (_six("syscall"), _NR_OPEN_TREE),
    "move_mount": (_six("syscall"), _NR_MOVE_MOUNT),
    "fsopen": (_six("syscall"), _NR_FSOPEN),
    "fsconfig": (_six("syscall"), _NR_FSCONFIG),
    "fsmount": (_six("syscall"), _NR_FSMOUNT),
    "fspick": (_six("syscall"), _NR_FSPICK),
    "openat2": (_six("syscall"), _NR_OPENAT2),
    "mount_setattr": (_six("syscall"), _NR_MOUNT_SETATTR),
    "pivot_root": (_six("syscall"), _NR_PIVOT_ROOT),
    "mount": (_six("mount"), None),
    "umount2": (_six("umount2"), None),
    "mkdirat": (_six("mkdirat"), None),
    "symlinkat": (_six("symlinkat"), None),
    "unlinkat": (_six("unlinkat"), None),
    "fchdir": (_six("fchdir"), None),
    "chdir": (_six("chdir"), None),
}
"""Calls as they are: a function of six numbers (an address is one, too) that returns -1 and sets `errno_now`,
and the number that has to be the first of them where it is syscall(2). What is passed too much is ignored."""

errno_now = ctypes.get_errno


def fail(call: str) -> NoReturn:
    """Raise the OSError of a call that has just failed."""
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")


def _path(path: str) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, f"cannot use the path {path!r}: it contains a NUL")
    return encoded


def mount(source: str, target: str, fstype: str | None, flags: int, data: bytes | None = None) -> None:
    """mount(2). Raises OSError. Mind that `data` is cut at one page: see `mounts.overlay`."""
    kind = None if fstype is None else fstype.encode()
    if _mount(_path(source), _path(target), kind, flags, data) < 0:
        fail(f"mount({source}, {target}, {fstype}, {flags:#x})")


def umount2(target: str, flags: int) -> None:
    """umount2(2). Raises OSError."""
    if _umount2(_path(target), flags) < 0:
        fail(f"umount2({target}, {flags})")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2). Raises OSError."""
    if _pivot_root(_NR_PIVOT_ROOT, _path(new_root), _path(put_old)) < 0:
        fail(f"pivot_root({new_root}, {put_old})")


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2): a descriptor of a (cloned) mount, owned by the caller. Raises OSError."""
    fd = _path_call(_NR_OPEN_TREE, dirfd, _path(path), flags | OPEN_TREE_CLOEXEC, None, 0)
    if fd < 0:
        fail(f"open_tree({path}, {flags:#x})")
    return int(fd)


def move_mount(from_fd: int, to_fd: int, to_path: str, flags: int) -> None:
    """move_mount(2) of the mount that `from_fd` is. Raises OSError."""
    if _move_mount(_NR_MOVE_MOUNT, from_fd, b"", to_fd, _path(to_path), flags | MOVE_MOUNT_F_EMPTY_PATH) < 0:
        fail(f"move_mount(to {to_path or to_fd})")


def mount_setattr(
    dirfd: int, path: str, flags: int, attr_set: int, *, attr_clr: int = 0, propagation: int = 0
) -> None:
    """mount_setattr(2). Raises OSError."""
    attr = MountAttr(attr_set, attr_clr, propagation, 0)
    if (
        _path_call(_NR_MOUNT_SETATTR, dirfd, _path(path), flags, ctypes.addressof(attr), ctypes.sizeof(attr))
        < 0
    ):
        fail(f"mount_setattr({path or dirfd}, {flags:#x}, {attr_set:#x})")


def fsopen(fstype: str) -> int:
    """fsopen(2): a new file system context, owned by the caller. Raises OSError."""
    fd = _fsopen(_NR_FSOPEN, fstype.encode(), FSOPEN_CLOEXEC)
    if fd < 0:
        fail(f"fsopen({fstype})")
    return int(fd)


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """fsconfig(2), FSCONFIG_SET_STRING. Raises OSError; `value` is at most 255 bytes."""
    if _fsconfig(_NR_FSCONFIG, fd, FSCONFIG_SET_STRING, key.encode(), _path(value), 0) < 0:
        _fail_fs(fd, f"fsconfig({key}={value})")


def fsconfig_flag(fd: int, key: str) -> None:
    """fsconfig(2), FSCONFIG_SET_FLAG. Raises OSError."""
    if _fsconfig(_NR_FSCONFIG, fd, FSCONFIG_SET_FLAG, key.encode(), None, 0) < 0:
        _fail_fs(fd, f"fsconfig({key})")


def fsconfig_create(fd: int) -> None:
    """fsconfig(2), FSCONFIG_CMD_CREATE. Raises OSError."""
    if _fsconfig(_NR_FSCONFIG, fd, FSCONFIG_CMD_CREATE, None, None, 0) < 0:
        _fail_fs(fd, "fsconfig(create)")


def fsconfig_reconfigure(fd: int) -> None:
    """fsconfig(2), FSCONFIG_CMD_RECONFIGURE. Raises OSError."""
    if _fsconfig(_NR_FSCONFIG, fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0) < 0:
        _fail_fs(fd, "fsconfig(reconfigure)")


def fspick(mount_fd: int) -> int:
    """fspick(2) of the mount that a descriptor is of; the context is the caller's. Raises OSError."""
    fd = _fspick(_NR_FSPICK, mount_fd, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    if fd < 0:
        fail(f"fspick({mount_fd})")
    return int(fd)


def _fail_fs(fd: int, call: str) -> NoReturn:
    """As `fail`, with what the file system itself says: one message per read, until ENODATA."""
    number = ctypes.get_errno()
    said = []
    try:
        while message := os.read(fd, 1024):
            said.append(message.decode(errors="replace").rstrip())
    except OSError:
        pass
    raise OSError(number, f"{call}: {os.strerror(number)}" + (f" ({'; '.join(said)})" if said else ""))


def fsmount(fd: int, attributes: int) -> int:
    """fsmount(2): a descriptor of the detached mount, owned by the caller. Raises OSError."""
    mount_fd = _three(_NR_FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes)
    if mount_fd < 0:
        fail(f"fsmount({attributes:#x})")
    return int(mount_fd)


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2), close-on-exec; the caller owns the descriptor. Raises OSError."""
    how = OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    fd = _path_call_how(_NR_OPENAT2, dirfd, _path(path), ctypes.addressof(how), ctypes.sizeof(how))
    if fd < 0:
        fail(f"openat2({path})")
    return int(fd)


def clone3(args: CloneArgs) -> int:
    """clone3(2): the pid of the child, or 0 in the child, which goes on from here. Raises OSError.

    No fork handler runs, neither Python's nor the C library's: for a process with one thread, and the child
    must end in exec or os._exit.
    """
    pid = int(_clone3(_NR_CLONE3, ctypes.addressof(args), ctypes.sizeof(args)))
    if pid < 0:
        fail(f"clone3({args.flags:#x})")
    return pid


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    if _unshare(flags) < 0:
        fail(f"unshare({flags:#x})")


def setns(fd: int, flags: int) -> None:
    """setns(2); with a pidfd (Linux 5.8) joins all namespaces of `flags` at once. Raises OSError."""
    if _setns(fd, flags) < 0:
        fail(f"setns({flags:#x})")


def sethostname(name: str) -> None:
    """sethostname(2). Raises OSError."""
    encoded = name.encode()
    if _sethostname(encoded, len(encoded)) < 0:
        fail(f"sethostname({name})")


def prctl(option: int, argument: int = 0, third: int = 0) -> int:
    """prctl(2). Raises OSError."""
    result = int(_prctl(option, argument, third, 0, 0))
    if result < 0:
        fail(f"prctl({option}, {argument})")
    return result


def close_range(first: int, last: int) -> None:
    """close_range(2): close every descriptor in first..last. Raises OSError."""
    if first <= last and _three(_NR_CLOSE_RANGE, first, last, 0) < 0:
        fail(f"close_range({first}, {last})")


def close_all_but(kept: list[int]) -> None:
    """Close every descriptor from 3 on that is not in `kept`. Raises OSError."""
    first = 3
    for fd in sorted(set(kept)):
        close_range(first, fd - 1)
        first = max(first, fd + 1)
    close_range(first, 0xFFFF_FFFF)


def default_signal(number: int) -> None:
    """Give a signal its default action; also 32 and 33, which the C library keeps from us. Raises OSError."""
    nothing = ctypes.create_string_buffer(64)
    if _sigaction(_NR_RT_SIGACTION, number, ctypes.addressof(nothing), None, 8) < 0:
        fail(f"rt_sigaction({number})")


def capset(permitted: int, effective: int, inheritable: int) -> None:
    """capset(2) of this process, as bit masks (_LINUX_CAPABILITY_VERSION_3). Raises OSError."""
    low = 0xFFFF_FFFF
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
    data = (ctypes.c_uint32 * 6)(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    if _two_pointers(_NR_CAPSET, ctypes.addressof(header), ctypes.addressof(data)) < 0:
        fail(f"capset({permitted:#x}, {effective:#x}, {inheritable:#x})")


def load_seccomp(program: bytes) -> None:
    """Load a BPF program, an array of struct sock_filter (8 bytes each). Raises OSError."""
    if not program or len(program) % 8 or len(program) // 8 > 0xFFFF:
        raise OSError(errno.EINVAL, f"cannot load a seccomp program of {len(program)} bytes")
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(header))
