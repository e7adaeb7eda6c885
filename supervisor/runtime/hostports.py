"""The ports of the host that services are published at, held by a socket each that never listens.

So nobody else takes them, a process that tries is told "address already in use", and the kernel gives none of
them to a connection that goes out. What arrives goes by the rules (`core.netrules`) and never comes here.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import replace
from ipaddress import ip_address

from supervisor.core.endpoints import Binding
from supervisor.core.portplan import PortError, families

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_TRIES = 32
_NONE_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class HostPorts:
    """Those of one daemon. Belongs to one thread."""

    def __init__(self) -> None:
        self._held: dict[Binding, list[socket.socket]] = {}

    def take(self, wanted: Binding) -> Binding:
        """Hold a port; 0 is any. Raises PortError that names the process that has it."""
        if wanted in self._held:
            return wanted
        if wanted.protocol not in _KINDS:  # sctp: nothing here can be asked whether it is free
            if not wanted.host_port:
                raise PortError(f"cannot choose a free port for {wanted.protocol}: name one")
            self._held[wanted] = []
            return wanted
        last: OSError | None = None
        for _ in range(1 if wanted.host_port else _TRIES):
            try:
                sockets, port = self._bind(wanted)
            except OSError as error:
                last = error
                continue
            taken = replace(wanted, host_port=port)
            self._held[taken] = sockets
            return taken
        assert last is not None
        if last.errno == errno.EADDRNOTAVAIL:
            raise PortError(f"this host has no address {wanted.host_ip}")
        raise PortError(_who(wanted) or _unseen(wanted, last))

    def _bind(self, wanted: Binding) -> tuple[list[socket.socket], int]:
        with contextlib.ExitStack() as stack:
            sockets: list[socket.socket] = []
            port = wanted.host_port
            for version in families(wanted.host_ip):
                family = socket.AF_INET if version == 4 else socket.AF_INET6
                try:
                    made = stack.enter_context(socket.socket(family, _KINDS[wanted.protocol]))
                    if version == 6:
                        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    made.bind((wanted.host_ip, port))
                except OSError as error:
                    if version == 6 and not wanted.host_ip and error.errno in _NONE_HERE:
                        continue  # a host without IPv6
                    raise
                port = made.getsockname()[1]
                sockets.append(made)
            stack.pop_all()
            return sockets, port

    def give_back(self, binding: Binding) -> None:
        """Hold it no longer. Idempotent."""
        for each in self._held.pop(binding, ()):
            each.close()

    def close(self) -> None:
        """Hold none."""
        for binding in list(self._held):
            self.give_back(binding)


def _unseen(wanted: Binding, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"{error.strerror}: {wanted}"
    return (
        f"somebody has {wanted} who does not listen, as another supervisor does with the ports of its"
        " services"
    )


def _who(wanted: Binding) -> str:
    """The process that has a port, in words; "" if it cannot be seen."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections(wanted.protocol):
            if not each.laddr or each.laddr.port != wanted.host_port or each.pid is None:
                continue
            if wanted.protocol == "tcp" and each.status != psutil.CONN_LISTEN and each.raddr:
                continue
            there = each.laddr.ip.partition("%")[0]
            if wanted.host_ip and not ip_address(there).is_unspecified and there != wanted.host_ip:
                continue
            name = psutil.Process(each.pid).name()
            return f"process {each.pid} ({name}) has {wanted}"
    return ""
