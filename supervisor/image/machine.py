"""What this host is, in the words of images."""

from __future__ import annotations

import platform

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}


def host_platform() -> tuple[str, str]:
    """(operating system, architecture) in the words of images."""
    machine = platform.machine()
    return "linux", _MACHINES.get(machine, machine)
