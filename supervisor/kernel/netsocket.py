"""Sockets in the network of others: no process of ours goes there, and they work from here.

A network namespace is a thread's own: a short thread enters it, and ends in it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from supervisor.kernel import syscalls as sc

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """What `work` returns, which may enter network namespaces. Raises what it raises.

    Blocks for the life of a thread that does nothing else.
    """
    with ThreadPoolExecutor(1, "netsocket") as thread:
        return thread.submit(work).result()


def stream_socket_of(pidfd: int, family: int) -> socket.socket:
    """A non-blocking TCP socket in the network namespace of a process; the caller's. Raises OSError.

    Blocks, see `apart`.
    """

    def enter() -> socket.socket:
        sc.setns(pidfd, sc.CLONE_NEWNET)
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    return apart(enter)
