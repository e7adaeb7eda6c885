"""The C library's allocator, told that this process lives long and is small. No effect where it is not glibc.

Source: mallopt(3), malloc_trim(3). Worker threads would otherwise keep an arena of megabytes each.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
_LIBC = ctypes.CDLL(None)


def use_one_arena() -> None:
    """All threads share one arena. Before threads are started."""
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what is free to the kernel; about a millisecond."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)
