"""Seccomp filters as files: compiled here, outside, once; the launcher only reads and loads them.

    path = install(paths.seccomp, compile_default(caps))

A file is named by the digest of what is in it, so that equal filters are one file, a file never changes,
and several supervisors may share a directory. Files are not removed: there are a few of some kilobytes, in
a directory that a reboot empties.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets

from supervisor.kernel import seccomp_json
from supervisor.kernel.capabilities import NAMES, NUMBERS
from supervisor.kernel.host import kernel
from supervisor.kernel.libseccomp import SeccompError, compile_rules, native_arch
from supervisor.kernel.seccomp_default import RELEVANT_CAPABILITIES, default_profile

__all__ = ["SeccompError", "compile_default", "compile_profile", "install"]

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_INSTRUCTION_BYTES = 8
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_MAX_PROFILE_BYTES = 4 * 1024 * 1024


def compile_default(caps: frozenset[str | int], machine: str | None = None) -> bytes:
    """The program of Docker's default profile for a service whose bounding set is `caps`.

    caps: names (CAP_CHOWN) or numbers. machine: "amd64" or "arm64", this host's unless given; a program
    runs only on the machine that it was made for. Raises SeccompError.
    """
    names = _names(caps)
    return _compile_default(names & RELEVANT_CAPABILITIES, machine or _machine())


def compile_profile(path: str, caps: frozenset[str | int]) -> bytes:
    """The program of a JSON profile in Docker's format for a service whose bounding set is `caps`.

    Raises SeccompError; its text begins with what was tried and names the file.
    """
    names = _names(caps)
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_PROFILE_BYTES + 1)
    except OSError as problem:
        raise SeccompError(f"cannot read seccomp profile {path}: {problem.strerror}") from problem
    try:
        if len(data) > _MAX_PROFILE_BYTES:
            raise SeccompError("it is larger than 4 MiB")
        arch = native_arch()
        host = seccomp_json.Host(_MACHINES.get(arch, arch), arch, kernel().version, names)
        return _checked(compile_rules(seccomp_json.parse_profile(data.decode(), host)))
    except (SeccompError, UnicodeDecodeError) as problem:
        raise SeccompError(f"cannot use seccomp profile {path}: {problem}") from problem


def install(directory: str, program: bytes) -> str:
    """Store a program in `directory` (made if missing, mode 0700) and return its path, `<digest>.bpf`.

    The file appears whole or not at all; one that is there already is left alone. Raises OSError.
    """
    digest = hashlib.sha256(program).hexdigest()
    path = f"{directory}/{digest}.bpf"
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if _content(path) == program:
        return path
    temporary = f"{directory}/.{digest}.{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(program)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


@functools.cache
def _compile_default(caps: frozenset[str], machine: str) -> bytes:
    profile = default_profile(caps, machine)
    if profile is None:
        raise SeccompError(
            f"cannot make the default seccomp filter for {machine}: it is known for amd64 and arm64; "
            "name a profile with security_opt: [seccomp=FILE.json]"
        )
    return _checked(compile_rules(profile))


def _machine() -> str:
    arch = native_arch()
    return _MACHINES.get(arch, arch)


def _names(caps: frozenset[str | int]) -> frozenset[str]:
    """Names of capabilities given by name or number. Raises SeccompError for one that is none."""
    names = set()
    for cap in caps:
        if isinstance(cap, str) and cap in NUMBERS:
            names.add(cap)
        elif isinstance(cap, int) and 0 <= cap < len(NAMES):
            names.add(NAMES[cap])
        else:
            raise SeccompError(
                f"cannot compile a seccomp filter for capability {cap!r}: there is none of this name"
            )
    return frozenset(names)


def _checked(program: bytes) -> bytes:
    count, rest = divmod(len(program), _INSTRUCTION_BYTES)
    if rest or not 0 < count <= _MAX_INSTRUCTIONS:
        raise SeccompError(
            f"its program has {count} instructions and the kernel takes {_MAX_INSTRUCTIONS}; use fewer rules"
        )
    return program


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
