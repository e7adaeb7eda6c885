"""An interpreter of the classic BPF that seccomp takes: what a filter decides, asked without loading it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32_BIT = 0x40000000
ALLOW, KILL = 0x7FFF0000, 0x00000000


def errno_of(action: int) -> int | None:
    """The errno of a refused call, None for any other decision."""
    return action & 0xFFFF if action & 0x7FFF0000 == 0x00050000 else None


class Filter:
    """A compiled program."""

    def __init__(self, program: bytes) -> None:
        self.code = list(struct.iter_unpack("=HBBI", program))

    def decide(self, arch: int, number: int, args: Sequence[int] = ()) -> int:
        """The SECCOMP_RET_* value for one call of a process of this architecture."""
        data = struct.pack(
            "=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *[*(one & (1 << 64) - 1 for one in args), *[0] * 6][:6]
        )
        words = struct.unpack("=16I", data)
        accumulator = at = 0
        while True:
            code, jt, jf, k = self.code[at]
            at += 1
            match code:
                case 0x20:  # ld [k]
                    accumulator = words[k // 4]
                case 0x06:  # ret k
                    return int(k)
                case 0x54:  # and k
                    accumulator &= k
                case 0x05:  # ja k
                    at += k
                case 0x15:  # jeq
                    at += jt if accumulator == k else jf
                case 0x25:  # jgt
                    at += jt if accumulator > k else jf
                case 0x35:  # jge
                    at += jt if accumulator >= k else jf
                case 0x45:  # jset
                    at += jt if accumulator & k else jf
                case _:
                    raise AssertionError(f"instruction {code:#x} is not one that a filter has")
