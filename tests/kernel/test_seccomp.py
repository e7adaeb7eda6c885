"""The default filter: loaded and tried for real, and compared with others by asking an interpreter of BPF."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import bpf
import pytest

from supervisor.kernel import libseccomp, seccomp, seccomp_json
from supervisor.kernel.capabilities import NUMBERS
from supervisor.kernel.seccomp_default import RELEVANT_CAPABILITIES, default_profile

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: what is refused must be the filter's doing"),
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "aarch64"), reason="the default filter is for amd64 and arm64"
    ),
]

PODMAN = Path("/usr/share/containers/seccomp.json")
NO_CAPS: frozenset[str | int] = frozenset()
LIBC = ctypes.CDLL(None, use_errno=True)
FD, NULL, PID = -1, 0, 0x7FFFFFFE

Call = tuple[str, tuple[int | bytes, ...]]
"""A call by name with arguments; a name alone is not enough, since some are decided by an argument."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def number(name: str) -> int:
    """The number of a call on this machine."""
    found = libseccomp._number(name, libseccomp.native_arch())
    assert found is not None, name
    return found


def errnos(calls: list[Call], program: bytes | None) -> list[int]:
    """The errno of each call (0: success) in a child that has loaded the program."""
    known = [(number(name), args) for name, args in calls]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if program is not None:
                text = ctypes.create_string_buffer(program, len(program))
                record = _Program(len(program) // 8, ctypes.cast(text, ctypes.c_void_p))
                assert LIBC.prctl(38, 1, 0, 0, 0) == 0
                assert LIBC.prctl(22, 2, ctypes.byref(record)) == 0
            result = []
            for nr, args in known:
                ctypes.set_errno(0)
                back = LIBC.syscall(
                    ctypes.c_long(nr),
                    *(ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in args),
                )
                result.append(ctypes.get_errno() if back == -1 else 0)
            os.write(writer, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return [int(one) for one in json.loads(text)]


# Each does nothing, but by the kernel's own code.
ALLOWED: list[Call] = [
    ("getpid", ()),
    ("openat", (-100, b"/nonexistent", 0, 0)),
    ("openat2", (-100, b".", NULL, 0)),
    ("mknodat", (-100, b"/nonexistent/x", 0, 0)),
    ("fchmodat2", (-100, b"/nonexistent", 0, -1)),
    ("statmount", (NULL, NULL, 0, -1)),
    ("mseal", (1, 4096, 0)),
    ("getxattrat", (-100, b"/nonexistent", -1, b"user.x", NULL, 0)),
    ("ptrace", (16, PID, 0, 0)),
    ("process_vm_readv", (PID, NULL, 0, NULL, 0, 1)),
    ("pidfd_open", (-1, 0)),
    ("execve", (b"/nonexistent", NULL, NULL)),
    ("landlock_create_ruleset", (NULL, 0, 2)),
    ("seccomp", (-1, 0, NULL)),
    ("setuid", (0,)),
    ("personality", (0xFFFFFFFF,)),
    ("personality", (0,)),
    ("socket", (1, 1, 0)),
    ("socket", (-1, 1, 0)),
    ("memfd_create", (b"x", 1)),
    ("close_range", (2, 1, 0)),
    ("clock_adjtime", (0, NULL)),
    ("name_to_handle_at", (-100, b"/nonexistent", NULL, NULL, -1)),
    ("fanotify_mark", (FD, 0, 0, 0, 0)),
]
# Harmless without a filter, where each must fail otherwise than by EPERM: so it is the filter that refuses.
REFUSED: list[Call] = [
    ("mount", (NULL, b"/nonexistent", NULL, 0, NULL)),
    ("umount2", (b"/nonexistent", 0)),
    ("pivot_root", (b"/nonexistent", b"/nonexistent")),
    ("chroot", (b"/nonexistent",)),
    ("swapon", (b"/nonexistent", 0)),
    ("swapoff", (b"/nonexistent",)),
    ("acct", (b"/nonexistent",)),
    ("fsopen", (b"nonexistent", 0)),
    ("open_tree", (-100, b"/nonexistent", 0)),
    ("move_mount", (-100, b"/nonexistent", -100, b"/nonexistent", 0)),
    ("mount_setattr", (-100, b"/nonexistent", 0, NULL, 0)),
    ("unshare", (0,)),
    ("setns", (FD, 0)),
    ("sethostname", (NULL, 5)),
    ("setdomainname", (NULL, 5)),
    ("reboot", (0, 0, 0, NULL)),
    ("init_module", (NULL, 0, NULL)),
    ("delete_module", (NULL, 0)),
    ("finit_module", (FD, NULL, 0)),
    ("kexec_load", (0, 0, NULL, -1)),
    ("keyctl", (-1, 0, 0, 0, 0)),
    ("add_key", (NULL, NULL, NULL, 0, 0)),
    ("request_key", (NULL, NULL, NULL, 0)),
    ("userfaultfd", (-1,)),
    ("bpf", (-1, NULL, 0)),
    ("perf_event_open", (NULL, 0, 0, FD, 0)),
    ("open_by_handle_at", (FD, NULL, 0)),
    ("settimeofday", (NULL, NULL)),
    ("clock_settime", (0, NULL)),
    ("syslog", (-1, NULL, 0)),
    ("kcmp", (PID, PID, 0, 0, 0)),
    ("pidfd_getfd", (FD, 0, 0)),
    ("process_madvise", (FD, NULL, 0, 0, 0)),
    ("mbind", (0, 0, -1, NULL, 0, 0)),
    ("get_mempolicy", (NULL, NULL, 0, 0, -1)),
    ("quotactl", (-1, NULL, 0, NULL)),
    ("fanotify_init", (-1, 0)),
    ("personality", (0x0040000,)),
    ("socket", (40, -1, 0)),
    ("socket", (38, -1, 0)),
    ("move_pages", (PID, 0, NULL, NULL, NULL, 0)),
    ("lsm_list_modules", (NULL, NULL, -1)),
    ("clone", (0x10000000 | 0x200, 0, 0, 0, 0)),  # NEWUSER, and FS that may not go with it
    ("clone", (0x00020000 | 0x200, 0, 0, 0, 0)),  # NEWNS likewise
]


def test_what_a_program_needs_is_allowed() -> None:
    """Each call does under the filter what it does without, and is not refused by anyone."""
    seen = errnos(ALLOWED, seccomp.compile_default(NO_CAPS))
    assert dict(zip(ALLOWED, seen, strict=True)) == dict(zip(ALLOWED, errnos(ALLOWED, None), strict=True))
    assert errno.EPERM not in seen


def test_what_a_container_may_not_is_refused_with_eperm() -> None:
    """Each call fails with EPERM under the filter, and with something else without it."""
    assert errnos(REFUSED, seccomp.compile_default(NO_CAPS)) == [errno.EPERM] * len(REFUSED)
    for call, seen in zip(REFUSED, errnos(REFUSED, None), strict=True):
        assert seen != errno.EPERM, call


def test_io_uring_is_refused() -> None:
    """With EPERM; by itself, since a sysctl may refuse it in the same way."""
    assert errnos([("io_uring_setup", (0, NULL))], seccomp.compile_default(NO_CAPS)) == [errno.EPERM]


def test_programs_are_told_that_clone3_and_newer_calls_are_absent() -> None:
    """ENOSYS, on which C libraries fall back: to clone, and to what they did before open_tree_attr (467)."""
    program = seccomp.compile_default(NO_CAPS)
    assert errnos([("clone3", (NULL, 0))], program) == [errno.ENOSYS]
    decide = bpf.Filter(program).decide
    assert [bpf.errno_of(decide(native(), nr)) for nr in (467, 468, 471, 600)] == [errno.ENOSYS] * 4


@pytest.mark.parametrize(
    ("cap", "calls"),
    [
        ("CAP_SYS_CHROOT", [("chroot", (b"/nonexistent",))]),
        ("CAP_SYSLOG", [("syslog", (-1, NULL, 0))]),
        ("CAP_SYS_TIME", [("settimeofday", (NULL, NULL)), ("clock_settime", (0, NULL))]),
        ("CAP_BPF", [("bpf", (-1, NULL, 0))]),
        ("CAP_PERFMON", [("perf_event_open", (NULL, 0, 0, FD, 0))]),
        ("CAP_SYS_PTRACE", [("kcmp", (PID, PID, 0, 0, 0)), ("pidfd_getfd", (FD, 0, 0))]),
        ("CAP_SYS_BOOT", [("reboot", (0, 0, 0, NULL))]),
        ("CAP_SYS_MODULE", [("init_module", (NULL, 0, NULL)), ("delete_module", (NULL, 0))]),
        ("CAP_SYS_NICE", [("mbind", (0, 0, -1, NULL, 0, 0))]),
        ("CAP_SYS_PACCT", [("acct", (b"/nonexistent",))]),
        ("CAP_DAC_READ_SEARCH", [("open_by_handle_at", (FD, NULL, 0))]),
        (
            "CAP_SYS_ADMIN",
            [
                ("mount", (NULL, b"/nonexistent", NULL, 0, NULL)),
                ("unshare", (0,)),
                ("setns", (FD, 0)),
                ("clone3", (NULL, 0)),
                ("clone", (0x10000000 | 0x200, 0, 0, 0, 0)),
                ("lsm_list_modules", (NULL, NULL, -1)),
            ],
        ),
    ],
)
def test_a_capability_brings_its_calls_and_no_others(cap: str, calls: list[Call]) -> None:
    """With it a call does as without a filter; all that it does not bring stays refused."""
    names = {name for name, _ in calls}
    program = seccomp.compile_default(frozenset((NUMBERS[cap],)))
    assert errnos(calls, program) == errnos(calls, None)
    others = [
        call for call in REFUSED if call[0] in ("swapon", "keyctl", "userfaultfd") and call[0] not in names
    ]
    assert errnos(others, program) == [errno.EPERM] * len(others)


def native() -> int:
    """The audit architecture of this machine."""
    return bpf.X86_64 if platform.machine() == "x86_64" else bpf.AARCH64


def machines() -> Iterator[tuple[str, str, list[tuple[int, range]]]]:
    """Docker's name, libseccomp's name, and all numbers of each architecture that a filter knows there."""
    some = range(600)
    x32 = range(bpf.X32_BIT, bpf.X32_BIT + 600)
    yield "amd64", "x86_64", [(bpf.X86_64, some), (bpf.X86_64, x32), (bpf.I386, some)]
    yield "arm64", "aarch64", [(bpf.AARCH64, some), (bpf.ARM, some), (bpf.ARM, range(0xF0000, 0xF0008))]


def test_the_filter_of_arm64_allows_what_that_of_amd64_does() -> None:
    """On the calls that have one number on both (424 and up), for every capability."""
    for caps in ((), *((cap,) for cap in RELEVANT_CAPABILITIES)):
        one, two = (
            bpf.Filter(seccomp.compile_default(frozenset(caps), machine)) for machine in ("amd64", "arm64")
        )
        for nr in range(424, 480):
            assert one.decide(bpf.X86_64, nr) == two.decide(bpf.AARCH64, nr), nr


@pytest.mark.parametrize(
    ("machine", "arch", "calls"),
    [
        # asm/unistd_64.h, asm/unistd_32.h and asm-generic/unistd.h, by hand: independent of libseccomp.
        ("amd64", bpf.X86_64, {0: 0, 59: 0, 101: 0, 158: 0, 165: 1, 166: 1, 246: 1, 272: 1, 425: 1, 435: 38}),
        ("amd64", bpf.X86_64, {bpf.X32_BIT | 1: 0, bpf.X32_BIT | 520: 0, bpf.X32_BIT | 165: 1}),
        ("amd64", bpf.I386, {1: 0, 11: 0, 21: 1, 102: 0, 117: 0, 310: 1, 462: 0, 470: 38}),
        (
            "arm64",
            bpf.AARCH64,
            {63: 0, 221: 0, 40: 1, 97: 1, 104: 1, 117: 0, 167: 0, 435: 38, 466: 0, 467: 38},
        ),
        ("arm64", bpf.ARM, {3: 0, 11: 0, 21: 1, 337: 1, 0xF0002: 0, 0xF0005: 0, 435: 38, 467: 38}),
    ],
)
def test_numbers_from_the_kernels_headers_are_decided_rightly(
    machine: str, arch: int, calls: dict[int, int]
) -> None:
    """Each number is allowed (0) or fails with this errno."""
    filter_ = bpf.Filter(seccomp.compile_default(NO_CAPS, machine))
    assert {nr: bpf.errno_of(filter_.decide(arch, nr)) or 0 for nr in calls} == calls


def test_a_foreign_architecture_is_killed() -> None:
    """Calls in an ABI that the rules do not speak of end the process, as in Docker."""
    assert bpf.Filter(seccomp.compile_default(NO_CAPS, "amd64")).decide(bpf.AARCH64, 0) == bpf.KILL
    assert bpf.Filter(seccomp.compile_default(NO_CAPS, "arm64")).decide(bpf.X86_64, 0) == bpf.KILL


def test_arguments_are_looked_at_in_all_64_bits() -> None:
    """A high half that the kernel ignores does not smuggle a refused value past."""
    filter_ = bpf.Filter(seccomp.compile_default(NO_CAPS))
    socket, personality, clone = number("socket"), number("personality"), number("clone")

    def allowed(nr: int, arg: int) -> bool:
        return filter_.decide(native(), nr, (arg,)) == bpf.ALLOW

    assert [allowed(socket, family) for family in (0, 37, 38, 39, 40, 41)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert [allowed(personality, value) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)] == [True] * 5
    assert not any(allowed(personality, value) for value in (1, 0x40000, 1 << 32, 2**64 - 1))
    flags = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
    assert not any(allowed(clone, flag | 17) or allowed(clone, flag | 1 << 40) for flag in flags)
    assert allowed(clone, 17) and allowed(clone, 0x003D0F00)  # fork, and a thread as the C library makes one


# --- against others --------------------------------------------------------------------------------
ARGUMENTS = [
    *((value,) for value in (0, 8, 17, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0xFFFFFFFF, 1 << 32, 2**64 - 1)),
    *((1 << bit | 17,) for bit in range(7, 31)),
]

# Debian 12's containers-common is Docker's profile of 2022, as Podman changed it.
NEWER_IN_DOCKER = {
    *("cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "listmount"),
    *("listxattrat", "getxattrat", "setxattrat", "removexattrat", "map_shadow_stack", "mseal", "statmount"),
    *("uretprobe", "io_pgetevents", "vmsplice"),
}
PODMAN_ALLOWS_ALWAYS = {
    # Podman lets rootless containers run containers, and leaves the check to the kernel's capabilities.
    *(
        "mount",
        "umount",
        "umount2",
        "mount_setattr",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsconfig",
        "fsmount",
    ),
    *("fspick", "pivot_root", "setns", "unshare", "clone", "clone3", "reboot", "syslog", "keyctl"),
    # It asks no capability for a process's own memory policy, nor for a descriptor of one's own processes.
    *("get_mempolicy", "set_mempolicy", "mbind", "pidfd_getfd"),
    # AF_VSOCK and AF_ALG were shut by Docker later.
    "socket",
}
# What neither allows is ENOSYS with Podman where it does not list it, and EPERM with Docker.


@pytest.mark.skipif(not PODMAN.exists(), reason=f"no {PODMAN}: install golang-github-containers-common")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the differences are listed for amd64")
def test_differences_from_podmans_profile_are_the_listed_ones() -> None:
    """Over every known call and many arguments, with Docker's default capabilities."""
    caps: frozenset[str | int] = frozenset(("CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE", "CAP_MKNOD"))
    ours = bpf.Filter(seccomp.compile_default(caps))
    theirs = bpf.Filter(seccomp.compile_profile(str(PODMAN), caps))
    only_ours, only_theirs = set(), set()
    library = libseccomp._library()
    name_of = library.seccomp_syscall_resolve_num_arch
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_uint32, ctypes.c_int]
    newer = {nr: name for name, nr in {**libseccomp._NEWER, **libseccomp._NEWER_X86_64}.items()}
    for nr in range(467):
        raw = name_of(bpf.X86_64, nr)
        name = raw.decode() if raw else newer.get(nr)
        if name is None:
            continue
        for args in ARGUMENTS:
            we, they = (f.decide(bpf.X86_64, nr, args) == bpf.ALLOW for f in (ours, theirs))
            if we and not they:
                only_ours.add(name)
            elif they and not we:
                only_theirs.add(name)
    assert only_ours <= NEWER_IN_DOCKER
    assert only_theirs <= PODMAN_ALLOWS_ALWAYS


def test_the_same_rules_as_a_json_profile_decide_alike() -> None:
    """A profile in Docker's format, made of our table, has the same effect for every call."""
    for machine, arch, numbers in machines():
        profile = default_profile(frozenset(), machine)
        assert profile is not None
        text = json.dumps(as_docker_json(profile))
        parsed = seccomp_json.parse_profile(text, seccomp_json.Host(machine, arch, (6, 1), frozenset()))
        one = bpf.Filter(libseccomp.compile_rules(parsed))
        two = bpf.Filter(seccomp.compile_default(NO_CAPS, machine))
        for audit, span in numbers:
            for nr in span:
                for args in ((), (38,), (40,), (0x10000000,), (8,), (9,)):
                    assert one.decide(audit, nr, args) == two.decide(audit, nr, args), (
                        machine,
                        hex(audit),
                        nr,
                    )


def as_docker_json(profile: libseccomp.Profile) -> dict[str, object]:
    """A profile in the format of Docker's files."""

    def action(value: int) -> dict[str, object]:
        number = bpf.errno_of(value)
        return (
            {"action": "SCMP_ACT_ALLOW"}
            if number is None
            else {"action": "SCMP_ACT_ERRNO", "errnoRet": number}
        )

    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {
                "architecture": f"SCMP_ARCH_{profile.arches[0].upper()}",
                "subArchitectures": [f"SCMP_ARCH_{name.upper()}" for name in profile.arches[1:]],
            }
        ],
        "syscalls": [
            {
                "names": list(rule.names),
                **action(rule.action),
                "args": [
                    {
                        "index": arg.argument,
                        "op": f"SCMP_CMP_{arg.op.name}",
                        "value": arg.value,
                        "valueTwo": arg.value_two,
                    }
                    for arg in rule.args
                ],
            }
            for rule in profile.rules
        ],
    }


# --- JSON profiles, loaded --------------------------------------------------------------------------
def test_a_profile_with_arguments_is_obeyed(tmp_path: Path) -> None:
    """Conditions on different arguments must all hold; several on one are alternatives, as in Docker."""
    path = tmp_path / "profile.json"
    both = [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 3, "op": "SCMP_CMP_EQ"}]
    either = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}]
    path.write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": both},
                    {"names": ["dup"], "action": "SCMP_ACT_ERRNO", "args": either},
                    {"names": ["mseal"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78},
                    {"names": ["never_heard_of"], "action": "SCMP_ACT_ERRNO"},
                ],
            }
        )
    )
    calls: list[Call] = [
        ("socket", (2, 3, 0)),
        ("socket", (2, 1, 0)),
        ("dup", (1,)),
        ("dup", (5,)),
        ("dup", (999,)),
        ("mseal", (1, 0, 0)),
    ]
    program = seccomp.compile_profile(str(path), NO_CAPS)
    assert errnos(calls, program) == [77, 0, errno.EPERM, errno.EPERM, errno.EBADF, 78]
    # What is allowed by default is not taken away for being new.
    assert bpf.Filter(program).decide(native(), 470) == bpf.ALLOW


def test_an_unusable_profile_names_the_file(tmp_path: Path) -> None:
    """Absent, no UTF-8, or wrong inside: one line that says what was tried."""
    path = tmp_path / "bad.json"
    with pytest.raises(
        seccomp.SeccompError, match=r"^cannot read seccomp profile .*absent.json: No such file"
    ):
        seccomp.compile_profile(str(tmp_path / "absent.json"), NO_CAPS)
    for content in (b"\xff\xfe", b"{", b"[" * 100_000, b"{}"):
        path.write_bytes(content)
        with pytest.raises(seccomp.SeccompError, match=r"^cannot use seccomp profile .*bad.json: "):
            seccomp.compile_profile(str(path), NO_CAPS)


# --- files -----------------------------------------------------------------------------------------
def test_install_stores_a_program_once(tmp_path: Path) -> None:
    """One file per program, readable by its owner only; the same again changes nothing; damage is mended."""
    directory = str(tmp_path / "run" / "seccomp")
    program = seccomp.compile_default(NO_CAPS)
    path = seccomp.install(directory, program)
    before = os.stat(path)
    assert Path(path).read_bytes() == program
    assert stat.S_IMODE(before.st_mode) == 0o600
    assert seccomp.install(directory, program) == path
    assert os.stat(path).st_ino == before.st_ino
    Path(path).write_bytes(b"torn")
    assert Path(seccomp.install(directory, program)).read_bytes() == program
    assert seccomp.install(directory, seccomp.compile_default(frozenset(("CAP_BPF",)))) != path
    assert sorted(os.listdir(directory)) == sorted(
        name for name in os.listdir(directory) if name.endswith(".bpf")
    )


def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, in_child: Callable[[Callable[[], object]], object]
) -> None:
    """A write that fails is an error, and the directory is as before."""

    def limited() -> object:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            seccomp.install(str(tmp_path), seccomp.compile_default(NO_CAPS))
        except OSError as problem:
            return problem.errno
        return 0

    assert in_child(limited) == errno.EFBIG
    assert os.listdir(tmp_path) == []


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], object]:
    """Run something in a fork and give back what it returned."""

    def run(what: Callable[[], object]) -> object:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, json.dumps(what()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        return json.loads(text)

    return run


def test_a_capability_that_is_none_is_refused() -> None:
    """By name and by number, before anything is compiled."""
    for cap in ("CHOWN", "CAP_NONE", 64, -1):
        with pytest.raises(seccomp.SeccompError, match="capability"):
            seccomp.compile_default(frozenset((cap,)))


def test_another_machine_is_told_what_to_do() -> None:
    """There is no default for it; the error says so instead of compiling something."""
    with pytest.raises(seccomp.SeccompError, match=r"riscv64.*FILE\.json"):
        seccomp.compile_default(NO_CAPS, "riscv64")
