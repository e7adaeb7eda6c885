"""A socket in the network of another process: no process of ours goes there, and it works from here."""

from __future__ import annotations

import socket
import threading

from supervisor.kernel import syscalls as sc


def stream_socket_of(pidfd: int, family: int) -> socket.socket:
    """A non-blocking TCP socket in the network namespace of a process; the caller's. Raises OSError.

    Blocks for the life of a short thread: only that thread enters the namespace, and ends in it.
    """
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            sc.setns(pidfd, sc.CLONE_NEWNET)
            made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter, name="netsocket")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
