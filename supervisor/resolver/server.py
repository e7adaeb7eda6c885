"""The resolver: what services ask at 127.0.0.11.

    python -m supervisor.resolver.server --run-dir DIR [--cgroup-base PATH] [--resolv-conf FILE]

It reads what services send, so it has no privileges: the daemon opens the sockets inside the network
namespaces and hands them over. It outlives the daemon; the daemon keeps copies of the sockets, so
whichever of the two ends, no question is lost. One thread, one epoll, the standard library and dnslib.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from typing import Any

from supervisor.kernel import hierarchies, privileges, process
from supervisor.kernel import syscalls as sc
from supervisor.resolver import answer, protocol
from supervisor.resolver.control import Control, Packet
from supervisor.resolver.forward import Forwarder
from supervisor.resolver.listeners import Listener, Reply
from supervisor.resolver.loop import Loop
from supervisor.resolver.table import Directory, Table
from supervisor.resolver.upstream import Upstreams

_NOBODY = 65534
_LAST_WORDS_S = 5.0


class Resolver:
    """Listeners, directory and forwarder, and what the daemon says of them."""

    def __init__(self, loop: Loop, resolv_conf: str) -> None:
        self._loop = loop
        self._directory = Directory(Table())
        self._listeners: dict[str, Listener] = {}
        self._new: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._forwarder = Forwarder(loop, Upstreams(resolv_conf))
        self._queries = self._answered = self._malformed = 0

    # --- queries --------------------------------------------------------------------------------
    def heard(self, instance: str, wire: bytes, origin: object, reply: Reply, tcp: bool) -> bool:
        """One message of an endpoint. Whether it is answered, now or later."""
        self._queries += 1
        query = answer.read(wire)
        if not isinstance(query, answer.Query):
            self._malformed += 1
            if query is not None:
                reply(answer.failure(wire, query))
            return query is not None
        endpoint = self._directory.endpoints.get(instance)
        if endpoint is None:  # just gone
            return False
        found = answer.answer(self._directory, instance, query, tcp=tcp)
        if found is None and endpoint.isolated:
            # At once, and for good: after SERVFAIL a C library asks again until its time is up.
            found = answer.refusal(query, answer.Code.NO_NAME)
        if found is None:
            return self._forwarder.ask(instance, endpoint.upstream, origin, query, reply, tcp=tcp)
        self._answered += 1
        reply(found)
        return True

    # --- the daemon -----------------------------------------------------------------------------
    def asked(self, words: dict[str, Any], fds: list[int]) -> list[Packet]:
        """A request of the daemon's; see `protocol`."""
        try:
            match words.get("do"):
                case "hello":
                    return [
                        ({"is": "hello", "version": protocol.VERSION, "serial": self._directory.serial}, [])
                    ]
                case "counters":
                    return [({"is": "counters", **self.counters()}, [])]
                case "sockets":
                    self._take(words["of"], fds)
                    fds = []
                case "table":
                    return [(self._read(fds), [])]
                case "give":
                    return self._give()
                case "quit":
                    self._quit()
                    return [({"is": "quit"}, [])]
        finally:
            protocol.close(fds)
        return []

    def counters(self) -> dict[str, int]:
        """Since the start of this process."""
        return {
            "queries": self._queries,
            "answered": self._answered,
            "malformed": self._malformed,
            "forwarded": self._forwarder.forwarded,
            "failed": self._forwarder.failed,
            "limited": self._forwarder.limited,
            "outstanding": len(self._forwarder),
            "endpoints": len(self._listeners),
            "serial": self._directory.serial,
        }

    def _take(self, names: list[str], fds: list[int]) -> None:
        """Not heard until the table comes that has them: what waits in them must not be answered without."""
        for number, name in enumerate(names):
            udp, tcp = (socket.socket(fileno=fd) for fd in fds[2 * number : 2 * number + 2])
            for sock in self._new.pop(name, ()):
                sock.close()
            self._new[name] = udp, tcp

    def _read(self, fds: list[int]) -> dict[str, Any]:
        try:
            with open(fds[0], "rb", closefd=False) as file:
                self._directory = Directory(Table.decode(file.read()))
        except (ValueError, OSError, IndexError) as error:  # the one of before goes on
            return {"is": "table", "serial": self._directory.serial, "problem": str(error)}
        for name in self._listeners.keys() - (self._directory.endpoints.keys() - self._new.keys()):
            self._forget(name)
        for name, (udp, tcp) in self._new.items():
            if name in self._directory.endpoints:
                self._listeners[name] = Listener(self._loop, name, udp, tcp, self.heard)
            else:
                udp.close()
                tcp.close()
        self._new.clear()
        gc.collect()
        return {"is": "table", "serial": self._directory.serial}

    def _forget(self, name: str) -> None:
        if (known := self._listeners.pop(name, None)) is not None:
            self._forwarder.drop(name)
            known.close()

    def _give(self) -> list[Packet]:
        names = list(self._listeners)
        packets: list[Packet] = []
        for at in range(0, len(names), protocol.PER_PACKET):
            some = names[at : at + protocol.PER_PACKET]
            pairs = [self._listeners[name] for name in some]
            fds = [sock.fileno() for one in pairs for sock in (one.udp, one.tcp)]
            packets.append(({"is": "sockets", "of": some, "more": True}, fds))
        return [*packets, ({"is": "sockets", "of": [], "more": False}, [])]

    def _quit(self) -> None:
        """Accept nothing new, answer who has asked or is connected, end."""
        for one in self._listeners.values():
            one.stop()
        self._loop.later(_LAST_WORDS_S, self._end)
        self._end_when_done()

    def _end_when_done(self) -> None:
        if len(self._forwarder) or any(one.busy for one in self._listeners.values()):
            self._loop.later(0.1, self._end_when_done)
        else:
            self._end()

    def _end(self) -> None:
        self._loop.ended = True


def harden(cgroup_base: str | None) -> None:
    """Be nobody, for good, with all descriptors that there may be, and hard to kill. Raises OSError."""
    process.hide_memory()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if cgroup_base is not None:
        hierarchies.enter_leaf(hierarchies.detect(), cgroup_base, "resolver")
    with contextlib.suppress(OSError):  # needs CAP_SYS_RESOURCE
        hierarchies.write_text("/proc/self/oom_score_adj", "-900")
    privileges.bound([], privileges.last_capability())
    privileges.become(_NOBODY, _NOBODY, [], [])
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)


def _report(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever reads it may have ended
        os.write(2, f"resolver: {text}\n".encode())


def main(arguments: list[str]) -> int:
    """Serve until told to end. Says "ready" on standard output, or why not, and closes it."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    run_dir = options.get("--run-dir", "")
    try:
        if not run_dir:
            raise OSError("give --run-dir DIR")
        path = f"{run_dir}/names.sock"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Under a name of its own first: whoever finds names.sock is answered.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.new")
        old = os.umask(0o177)
        sock.bind(f"{path}.new")
        os.umask(old)
        sock.listen(8)
        os.rename(f"{path}.new", path)
        harden(options.get("--cgroup-base"))
    except OSError as error:
        os.write(1, f"cannot start the resolver: {error.strerror or error}".encode())
        return 1
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    loop = Loop(_report)
    resolver = Resolver(loop, options.get("--resolv-conf", "/etc/resolv.conf"))
    Control(loop, sock, resolver.asked)
    os.write(1, b"ready")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)
    gc.collect()
    gc.freeze()
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
