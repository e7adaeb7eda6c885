"""libseccomp: a list of rules becomes a BPF program.

libseccomp does the work (arguments of 64 bits, several architectures, the tree of jumps). Two things are
put before its program, as runc does (libcontainer/seccomp/patchbpf), because it can do neither:

- calls that this version of the library has no name for yet are matched by their number;
- calls newer than the newest one that the rules name fail with ENOSYS instead of the default action, so
  that a C library newer than the rules falls back to what it did before.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

ALLOW = 0x7FFF0000
KILL_THREAD = 0x00000000
KILL_PROCESS = 0x80000000
TRAP = 0x00030000
LOG = 0x7FFC0000


class SeccompError(Exception):
    """A filter that cannot be made; the text says why and what to do."""


class Op(enum.IntEnum):
    """enum scmp_compare. MASKED_EQ: argument & value == value_two."""

    NE = 1
    LT = 2
    LE = 3
    EQ = 4
    GE = 5
    GT = 6
    MASKED_EQ = 7


class Arg(NamedTuple):
    """A condition on the argument of that number (0 to 5), unsigned, 64 bits."""

    argument: int
    op: Op
    value: int
    value_two: int = 0


class Rule(NamedTuple):
    """What happens to these calls when all conditions hold. `action` is a SECCOMP_RET_* value."""

    names: tuple[str, ...]
    action: int
    args: tuple[Arg, ...] = ()


class Profile(NamedTuple):
    """Rules for the architectures named as libseccomp names them ("x86_64", "x86", "x32", "aarch64")."""

    default: int
    arches: tuple[str, ...]
    rules: tuple[Rule, ...]


def errno_action(number: int) -> int:
    """The call fails with this errno. Raises SeccompError for one that is no errno."""
    if not 0 <= number <= _MAX_ERRNO:
        raise SeccompError(f"cannot return errno {number} from a system call: use 0 to {_MAX_ERRNO}")
    return 0x00050000 | number


def trace_action(number: int) -> int:
    """A tracer is told this number; without a tracer the call fails with ENOSYS."""
    if not 0 <= number <= 0xFFFF:
        raise SeccompError(f"cannot tell a tracer {number}: use 0 to 65535")
    return 0x7FF00000 | number


def native_arch() -> str:
    """libseccomp's name of this machine's architecture ("x86_64", "aarch64" ...). Raises SeccompError."""
    token = _library().seccomp_arch_native()
    for name in _KNOWN_ARCHES:
        if _arch_token(name) == token:
            return name
    return f"{token:#x}"


def compile_rules(profile: Profile) -> bytes:
    """The program, as an array of struct sock_filter in the byte order of this host.

    Names that no version knows are left out, as in Docker. Raises SeccompError.
    """
    library = _library()
    context = library.seccomp_init(profile.default)
    if not context:
        raise SeccompError(f"cannot begin a seccomp filter: default action {profile.default:#x} is refused")
    try:
        _set_arches(library, context, profile.arches)
        # NNP is the launcher's to set, and it needs no library for that.
        _check(library.seccomp_attr_set(context, _CTL_NNP, 0), "leave no_new_privs alone")
        if len(profile.rules) > _TREE_FROM:
            # A tree instead of a chain, for those who are not served by the kernel's own cache of allowed
            # calls (Linux 5.11). Libraries before 2.5 do not have it.
            library.seccomp_attr_set(context, _CTL_OPTIMIZE, 2)
        for rule in profile.rules:
            for name in rule.names:
                _add(library, context, profile, rule, name)
        return _prologue(profile) + _export(library, context)
    finally:
        library.seccomp_release(context)


_MAX_ERRNO = 4095
_CTL_NNP, _CTL_OPTIMIZE = 3, 8
_TREE_FROM = 8
_UNKNOWN = -1  # __NR_SCMP_ERROR
_X32_BIT = 0x40000000
_AUDIT_ARCH_X86_64 = 0xC000003E
_KNOWN_ARCHES = (
    "x86_64",
    "x86",
    "x32",
    "aarch64",
    "arm",
    "riscv64",
    "ppc64le",
    "ppc64",
    "s390x",
    "s390",
    "mips64",
    "mipsel64",
    "loongarch64",
)

# Numbers of calls that libseccomp learned after 2.5.4 (scripts/syscall.tbl and
# arch/x86/entry/syscalls/syscall_64.tbl of Linux 6.13). Since Linux 5.1 a new call has one number on
# every architecture, but for those whose numbers have an offset (MIPS, Alpha).
_NEWER = {
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
}
_NEWER_X86_64 = {"uretprobe": 335}
_COMMON_NUMBERS = frozenset(("x86_64", "x86", "x32", "aarch64", "arm", "riscv64"))
_ARM_PRIVATE = 0x0F0000  # breakpoint, cacheflush, set_tls: far above the others, and no measure of age


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


_loaded: ctypes.CDLL | None = None


def _library() -> ctypes.CDLL:
    """libseccomp with its prototypes, loaded at the first use: without filters nobody needs it."""
    global _loaded  # noqa: PLW0603 - one library per process
    if _loaded is None:
        try:
            library = ctypes.CDLL("libseccomp.so.2")
        except OSError as problem:
            raise SeccompError(
                f"cannot load libseccomp.so.2: {problem}; install the package libseccomp2 "
                "(libseccomp on Fedora), or set security_opt: [seccomp=unconfined]"
            ) from problem
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = [ctypes.c_uint32]
        library.seccomp_release.argtypes = [ctypes.c_void_p]
        library.seccomp_release.restype = None
        library.seccomp_arch_native.restype = ctypes.c_uint32
        library.seccomp_arch_native.argtypes = []
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
        for name in ("seccomp_arch_add", "seccomp_arch_remove"):
            getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Compare),
        ]
        library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        _loaded = library
    return _loaded


def _arch_token(name: str) -> int:
    """0 for a name that this libseccomp does not know."""
    return int(_library().seccomp_arch_resolve_name(os.fsencode(name)))


def _set_arches(library: ctypes.CDLL, context: int, arches: tuple[str, ...]) -> None:
    """Exactly these; a filter begins with the native one, which is left out for another host's program."""
    native = library.seccomp_arch_native()
    tokens = []
    for name in arches:
        token = _arch_token(name)
        if token == 0:
            raise SeccompError(f"cannot filter calls of architecture {name}: libseccomp does not know it")
        tokens.append(token)
        if token != native:
            status = library.seccomp_arch_add(context, token)
            if status != -errno.EEXIST:
                _check(status, f"add architecture {name}")
    if native not in tokens:
        _check(library.seccomp_arch_remove(context, native), "leave out the native architecture")


def _add(library: ctypes.CDLL, context: int, profile: Profile, rule: Rule, name: str) -> None:
    if rule.action == profile.default:
        return  # refused by libseccomp, and says nothing
    number = library.seccomp_syscall_resolve_name(os.fsencode(name))
    if number == _UNKNOWN:
        if rule.args and (name in _NEWER or name in _NEWER_X86_64):
            raise SeccompError(
                f"cannot filter {name} by its arguments: this libseccomp does not know the call; "
                "install a newer libseccomp2, or leave args out of the rule"
            )
        return  # `_prologue` has it, or nobody
    conditions = [_Compare(arg.argument, int(arg.op), arg.value, arg.value_two) for arg in rule.args]
    indexes = [arg.argument for arg in rule.args]
    # Several conditions on one argument are alternatives in Docker (runc: matchCall), where those on
    # different arguments must all hold.
    groups = [conditions] if len(set(indexes)) == len(indexes) else [[one] for one in conditions]
    for group in groups:
        array = (_Compare * len(group))(*group)
        status = library.seccomp_rule_add_array(context, rule.action, number, len(group), array)
        if status != -errno.EEXIST:
            _check(status, f"add a rule for {name}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, fd), "export the program")
        os.lseek(fd, 0, os.SEEK_SET)
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read()
    finally:
        os.close(fd)


def _check(status: int, what: str) -> None:
    if status < 0:
        raise SeccompError(f"cannot {what}: libseccomp says {os.strerror(-status)}")


# --- what stands before libseccomp's program -------------------------------------------------------
_LD_NR, _LD_ARCH = (0x20, 0, 0, 0), (0x20, 0, 0, 4)
_RET_ENOSYS = (0x06, 0, 0, 0x00050000 | errno.ENOSYS)
_JEQ, _JGT, _JGE, _JSET, _JA, _RET = 0x15, 0x25, 0x35, 0x45, 0x05, 0x06
_Code = list[tuple[int, int, int, int]]


def _prologue(profile: Profile) -> bytes:
    """One section per architecture; what no section decides goes on to the program behind."""
    x32 = _section(profile, "x32") if "x32" in profile.arches else []
    sections = []
    for arch in profile.arches:
        if arch == "x32" or arch not in _COMMON_NUMBERS:
            continue
        body = _section(profile, arch)
        token = _arch_token(arch)
        if token == _AUDIT_ARCH_X86_64:
            # x32 is the same architecture to the kernel, with a bit set in the number.
            long = [*x32, (_JA, 0, 0, len(body))] if x32 else [(_JA, 0, 0, len(body))]
            body = [(_JSET, 0, len(long), _X32_BIT), *long, *body]
        sections.append((token, [_LD_NR, *body]))
    code: _Code = []
    for token, body in reversed(sections):
        # A body that decides nothing jumps over the sections after it.
        body = [*body, (_JA, 0, 0, len(code))]
        code = [_LD_ARCH, (_JEQ, 1, 0, token), (_JA, 0, 0, len(body)), *body, *code]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _section(profile: Profile, arch: str) -> _Code:
    """Newer calls by number, and ENOSYS for those beyond the last one named. The number is loaded."""
    bit = _X32_BIT if arch == "x32" else 0
    extra: dict[int, int] = {}
    last = -1
    for name, rule in _named(profile):
        number = _number(name, arch)
        if number is None:
            continue
        if not (arch == "arm" and number >= _ARM_PRIVATE):
            last = max(last, number)
        if _library().seccomp_syscall_resolve_name(os.fsencode(name)) == _UNKNOWN:
            extra.setdefault(number, rule.action)  # as with libseccomp, the first rule of a call wins
    if last < 0:
        return []
    permissive = profile.default & 0xFFFF0000 in (ALLOW, LOG, 0x7FF00000)
    decisions: _Code = []
    for number, action in sorted(extra.items()):
        if action != profile.default:
            decisions += [(_JEQ, 0, 1, number), (_RET, 0, 0, action)]
    if not permissive:
        decisions += [(_JGT, 0, 1, last), _RET_ENOSYS]
        if arch == "arm":
            decisions[-2:] = [(_JGE, 2, 0, _ARM_PRIVATE), *decisions[-2:]]
    if not decisions:
        return []
    # Old calls, which are nearly all, pass by with one comparison.
    first = min(extra, default=last + 1)
    return [(_JGE, 0, len(decisions), first | bit), *decisions]


def _named(profile: Profile) -> Iterator[tuple[str, Rule]]:
    return ((name, rule) for rule in profile.rules for name in rule.names)


def _number(name: str, arch: str) -> int | None:
    """The number of a call on an architecture, x32's with its bit; None where it has none."""
    number = int(_library().seccomp_syscall_resolve_name_arch(_arch_token(arch), os.fsencode(name)))
    if number == _UNKNOWN:
        table = {**_NEWER, **_NEWER_X86_64} if arch in ("x86_64", "x32") else _NEWER
        if name not in table:
            return None
        return table[name] | (_X32_BIT if arch == "x32" else 0)
    return number if number >= 0 else None
