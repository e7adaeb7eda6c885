"""What a first process is told, and how that travels to a child that is there already."""

from __future__ import annotations

import marshal
import zlib
from typing import Any, NamedTuple

from supervisor.launcher import plan
from supervisor.launcher.ahead import Ahead


class Order(NamedTuple):
    """In plain values. The seccomp program is not in it: it is the same for most, and comes beside it.

    rows, data, results: the program that makes the root. ahead: it is to be given what the spare has made.
    parks: when the root is in place, wait for a byte on the channel, and for the descriptors of its cgroups.
    """

    process: plan.Process
    hostname: str | None
    net: str
    rows: bytes
    data: bytes
    results: list[int]
    ahead: bool
    parks: bool


class Packed(NamedTuple):
    """An order for a spare that has made `ahead`, in some hundred bytes, and what the launcher must know."""

    ahead: Ahead
    data: bytes
    seccomp: str | None
    tty: bool
    stdin_open: bool


def pack(order: Order, ahead: Ahead) -> Packed:
    """To be kept for later."""
    spec = order.process
    return Packed(ahead, zlib.compress(to_bytes(order), 1), spec.seccomp, spec.tty, spec.stdin_open)


def unpack(packed: Packed) -> bytes:
    """As `to_bytes` gave it."""
    return zlib.decompress(packed.data)


def to_bytes(order: Order) -> bytes:
    """For `from_bytes`, in a process of the same interpreter."""
    plain: Any = (tuple(order.process), *order[1:])
    return marshal.dumps(plain)


def from_bytes(data: bytes) -> Order:
    """The order. Its bytes come from the launcher."""
    spec, *rest = marshal.loads(data)  # noqa: S302 - see above
    return Order(plan.Process(*spec), *rest)
