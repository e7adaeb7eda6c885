"""A resolver as the daemon has it, network namespaces that ask it, and servers beyond it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import dnslib

from supervisor.core.paths import Paths
from supervisor.daemon.names import Names
from supervisor.kernel import syscalls as sc
from supervisor.runtime.names import Member, Membership

PATIENCE_S = 20.0
_numbers = itertools.count()
T = TypeVar("T")


class Namespace:
    """A network namespace with its loopback device up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"

    def inside(self, work: Callable[[], T]) -> T:
        """Call in a thread that is in there."""
        found: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            fd = os.open(self.path, os.O_RDONLY)
            sc.setns(fd, sc.CLONE_NEWNET)
            os.close(fd)
            try:
                found.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    def run(self, *command: str, resolv_conf: str = "nameserver 127.0.0.11\n") -> str:
        """A program in there, with its own /etc/resolv.conf; what it printed."""
        directory = Path("/etc/netns") / self.name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "resolv.conf").write_text(resolv_conf)
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.stdout + done.stderr

    def udp(self, wire: bytes, timeout_s: float = PATIENCE_S) -> bytes:
        """Ask 127.0.0.11 once, and wait for the answer. Raises OSError."""

        def work() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(timeout_s)
                sock.connect(("127.0.0.11", 53))
                sock.send(wire)
                return sock.recv(65535)

        return self.inside(work)

    def tcp(self, *wires: bytes) -> list[bytes]:
        """Ask all on one connection, and wait for as many answers."""

        def work() -> list[bytes]:
            with (
                socket.create_connection(("127.0.0.11", 53), PATIENCE_S) as sock,
                sock.makefile("rb") as file,
            ):
                sock.sendall(b"".join(struct.pack("!H", len(wire)) + wire for wire in wires))
                sock.shutdown(socket.SHUT_WR)
                return [file.read(struct.unpack("!H", file.read(2))[0]) for _ in wires]

        return self.inside(work)

    def ask(self, name: str, kind: str = "A") -> dnslib.DNSRecord:
        """The answer to a question over UDP."""
        return dnslib.DNSRecord.parse(self.udp(dnslib.DNSRecord.question(name, kind).pack()))

    def addresses(self, name: str, kind: str = "A") -> list[str]:
        """What `ask` finds."""
        return [str(record.rdata) for record in self.ask(name, kind).rr]


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """One, and afterwards it is gone."""
    name = f"skn{os.getpid()}-{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
        with contextlib.suppress(FileNotFoundError):
            Path(f"/etc/netns/{name}/resolv.conf").unlink()
            Path(f"/etc/netns/{name}").rmdir()
        with contextlib.suppress(OSError):  # not ours alone, or not there
            Path("/etc/netns").rmdir()


class Resolving:
    """The daemon's part, in a loop of its own."""

    def __init__(self, directory: str, cgroup_base: str | None = None) -> None:
        self.paths = Paths(directory, directory)
        self.said: list[str] = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.names = Names(self.paths, self.said.append, lambda: cgroup_base, linger_s=0.0)
        self.do(self.names.adopt())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the loop, to its end."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def tell(self, *members: Member) -> None:
        """Have these in force."""
        assert self.do(self.names.tell(lambda: members)) == {}

    def counters(self) -> dict[str, int]:
        """The resolver's."""
        found = self.do(self.names.counters())
        assert found is not None
        return found

    @property
    def pid(self) -> int:
        """The resolver's."""
        link = self.names._link
        assert link is not None
        return link.pid

    def close(self, *, end: bool) -> None:
        """As the daemon does when it ends."""
        self.do(self.names.close(end=end))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextlib.contextmanager
def resolving() -> Iterator[Resolving]:
    """One; afterwards its resolver and its files are gone."""
    with tempfile.TemporaryDirectory(prefix="names-") as directory:
        made = Resolving(directory)
        try:
            yield made
        finally:
            made.close(end=True)
        assert os.listdir(directory) == [], "nothing is left in the run directory"


def member(
    where: Namespace,
    container: str,
    service: str,
    *addresses: str,
    network: str = "shop_default",
    aliases: tuple[str, ...] = (),
    internal: bool = False,
    serves_dns: bool = False,
) -> Member:
    """An instance in one network."""
    inside = Membership(network, addresses, aliases, internal)
    return Member(container, where.path, container, service, (inside,), serves_dns=serves_dns)


class Beyond:
    """A server of names on a loopback address of the host's, over UDP and TCP.

    answers: by name in lower case, what becomes of a question; None says nothing. A name that is not in
    there does not exist. seen: the questions, as they came.
    """

    def __init__(self) -> None:
        self.address = f"127.53.{os.getpid() % 250 + 1}.{next(_numbers) % 250 + 1}"
        self.answers: dict[str, Callable[[dnslib.DNSRecord, bool], dnslib.DNSRecord | None]] = {}
        self.seen: list[tuple[str, bool]] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket()
        for sock in (self._udp, self._tcp):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.address, 53))
        self._tcp.listen()
        self._threads = [threading.Thread(target=self._datagrams), threading.Thread(target=self._connections)]
        for thread in self._threads:
            thread.start()

    def _answer(self, wire: bytes, tcp: bool) -> bytes | None:
        query = dnslib.DNSRecord.parse(wire)
        name = str(query.q.qname).rstrip(".")
        self.seen.append((name, tcp))
        make = self.answers.get(name.lower())
        if make is None:
            made: dnslib.DNSRecord | None = query.reply()
            assert made is not None
            made.header.rcode = 3
        else:
            made = make(query, tcp)
        return None if made is None else made.pack()

    def _datagrams(self) -> None:
        while True:
            wire, address = self._udp.recvfrom(65535)
            if not wire:
                return
            if (answer := self._answer(wire, False)) is not None:
                self._udp.sendto(answer, address)

    def _connections(self) -> None:
        while True:
            try:
                sock, _ = self._tcp.accept()
            except OSError:
                return
            with sock, sock.makefile("rb") as file:
                size = file.read(2)
                if len(size) == 2 and (answer := self._answer(file.read(struct.unpack("!H", size)[0]), True)):
                    sock.sendall(struct.pack("!H", len(answer)) + answer)

    def close(self) -> None:
        """End both threads."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (self.address, 53))
        self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()


@contextlib.contextmanager
def beyond() -> Iterator[Beyond]:
    """One."""
    made = Beyond()
    try:
        yield made
    finally:
        made.close()


def of(*addresses: str) -> Callable[[dnslib.DNSRecord, bool], dnslib.DNSRecord]:
    """An answer with these IPv4 addresses."""

    def make(query: dnslib.DNSRecord, tcp: bool) -> dnslib.DNSRecord:
        reply = query.reply()
        for address in addresses:
            reply.add_answer(dnslib.RR(query.q.qname, dnslib.QTYPE.A, rdata=dnslib.A(address), ttl=77))
        return reply

    return make
