"""bpf(2): maps, programs of sockets' addresses, and their places on a cgroup of v2. Numbers of linux/bpf.h.

What is attached to a cgroup stays when this process ends, and is found again by the program's name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator

_NR_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}.get(
    os.uname().machine, -1
)
_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _ATTACH, _DETACH = 0, 2, 3, 5, 8, 9
_FD_BY_ID, _INFO_BY_FD, _QUERY = 13, 15, 16
_HASH, _SOCK_ADDR = 1, 18
_ALLOW_MULTI, _REPLACE = 2, 4
INET6_CONNECT = 11
"""BPF_CGROUP_INET6_CONNECT: before connect(2) of a socket of AF_INET6."""

_MOST_PROGRAMS = 64
_INFO_BYTES, _INFO_NAME = 256, 64
_LOG_BYTES = 16384

_syscall = ctypes.CFUNCTYPE(
    ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_long, use_errno=True
)(("syscall", ctypes.CDLL(None, use_errno=True)))

Instruction = tuple[int, int, int, int, int]
"""code, destination register, source register, offset, constant."""


def _bpf(command: int, what: str, attributes: bytes) -> tuple[int, bytes]:
    """The result, and the attributes as the kernel left them. Raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result = _syscall(_NR_BPF, command, buffer, len(buffer))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf({what}): {os.strerror(number)}")
    return result, buffer.raw


def create_hash(key_bytes: int, value_bytes: int, most: int) -> int:
    """A descriptor of a new map, the caller's. Raises OSError."""
    return _bpf(_MAP_CREATE, "map", struct.pack("=5I", _HASH, key_bytes, value_bytes, most, 0))[0]


def put(map_fd: int, key: bytes, value: bytes) -> None:
    """Add to a map, or replace there. Raises OSError."""
    one, other = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
    places = ctypes.addressof(one), ctypes.addressof(other)
    _bpf(_MAP_UPDATE, "map entry", struct.pack("=IIQQQ", map_fd, 0, *places, 0))


def drop(map_fd: int, key: bytes) -> None:
    """Remove from a map; what is not there is no error. Raises OSError."""
    one = ctypes.create_string_buffer(key)
    try:
        _bpf(_MAP_DELETE, "map entry", struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(one), 0, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def load(name: str, code: Iterable[Instruction]) -> int:
    """A descriptor of a program for `INET6_CONNECT`, the caller's. name: 15 characters at most.

    Raises OSError, with the last line of the verifier where it refuses.
    """
    packed = [struct.pack("=BBhI", op, src << 4 | dst, off, imm) for op, dst, src, off, imm in code]
    program = ctypes.create_string_buffer(b"".join(packed))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        _SOCK_ADDR, len(packed), ctypes.addressof(program), ctypes.addressof(licence),
        1, _LOG_BYTES, ctypes.addressof(log), 0, 0, name.encode(), 0, INET6_CONNECT,
    )  # fmt: skip
    try:
        return _bpf(_PROG_LOAD, f"program {name}", attributes)[0]
    except OSError as error:
        said = log.value.decode(errors="replace").strip().splitlines()
        raise OSError(error.errno, ": ".join((error.strerror or "", *said[-1:]))) from error


def attach(cgroup: str, program: int, instead_of: int = -1) -> None:
    """Put a program on a cgroup, beside those of others, or in the place of one of ours. Raises OSError."""
    flags = _ALLOW_MULTI if instead_of < 0 else _ALLOW_MULTI | _REPLACE
    with _directory(cgroup) as where:
        attributes = struct.pack("=5I", where, program, INET6_CONNECT, flags, max(instead_of, 0))
        _bpf(_ATTACH, f"attach to {cgroup}", attributes)


def detach(cgroup: str, program: int) -> None:
    """Take a program away from a cgroup. Raises OSError."""
    with _directory(cgroup) as where:
        _bpf(_DETACH, f"detach from {cgroup}", struct.pack("=3I", where, program, INET6_CONNECT))


def attached(cgroup: str, name: str) -> int:
    """A descriptor of the program of that name on a cgroup, the caller's; -1: none is. Raises OSError."""
    for program in _programs(cgroup):
        if _name(program) == name:
            return program
        os.close(program)
    return -1


def attached_names(cgroup: str) -> list[str]:
    """Names of all programs on a cgroup. Raises OSError."""
    found = []
    for program in _programs(cgroup):
        found.append(_name(program))
        os.close(program)
    return found


def _programs(cgroup: str) -> Iterator[int]:
    """Descriptors, each the caller's."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    with _directory(cgroup) as where:
        attributes = struct.pack("=4IQI", where, INET6_CONNECT, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS)
        _, answer = _bpf(_QUERY, f"what is on {cgroup}", attributes)
    for number in ids[: struct.unpack_from("=I", answer, 24)[0]]:
        try:
            yield _bpf(_FD_BY_ID, f"program {number}", struct.pack("=3I", number, 0, 0))[0]
        except OSError as error:
            if error.errno != errno.ENOENT:  # it has just gone
                raise


def _name(program: int) -> str:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_INFO_BY_FD, "a program", struct.pack("=IIQ", program, _INFO_BYTES, ctypes.addressof(info)))
    return info.raw[_INFO_NAME : _INFO_NAME + 16].partition(b"\0")[0].decode(errors="replace")


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
