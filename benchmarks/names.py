"""Look-ups of names in a second: our resolver beside dnsmasq, asked the same by the same client.

Ours is asked in a network namespace, as services ask it; dnsmasq (apt-get install dnsmasq-base) on the
host's loopback. `forwarded` goes on to the same dnsmasq without a cache. Needs root and `ip`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator

import dnslib

from benchmarks.supervised import machine
from supervisor.core.paths import Paths
from supervisor.daemon.names import Names
from supervisor.kernel import syscalls as sc
from supervisor.resolver.upstream import OWN_ADDRESS
from supervisor.runtime import names as runtime_names
from supervisor.runtime.names import Member, Membership, Resolver

COUNT = 20_000
WINDOW = 32
ONE_BY_ONE = 2_000
SPACE = f"bench-names-{os.getpid()}"
ORIGIN, FORWARDER = "127.53.0.2", "127.53.0.3"


def client(address: str, name: str) -> tuple[float, list[float]]:
    """Look-ups a second with some on the way, and the seconds of each of those one by one."""
    wire = bytes(dnslib.DNSRecord.question(name).pack())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((address, 53))
        single = []
        for number in range(ONE_BY_ONE):
            began = time.perf_counter()
            sock.send(number.to_bytes(2, "big") + wire[2:])
            answer = sock.recv(65535)
            single.append(time.perf_counter() - began)
            assert answer[3] & 15 == 0, "it was found"
        began = time.perf_counter()
        for number in range(COUNT + WINDOW):
            if number >= WINDOW:
                sock.recv(65535)
            if number < COUNT:
                sock.send((number & 0xFFFF).to_bytes(2, "big") + wire[2:])
        return COUNT / (time.perf_counter() - began), single


def show(what: str, figures: tuple[float, list[float]]) -> None:
    """One line."""
    rate, single = figures
    ordered = sorted(single)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(
        f"{what:34} {rate:9,.0f} a second   one by one: median {statistics.median(ordered) * 1e6:5.0f} us,"
        f" p99 {p99 * 1e6:5.0f} us",
        flush=True,
    )


def in_space(address: str, name: str) -> tuple[float, list[float]]:
    """The client, in the network namespace."""
    found: list[tuple[float, list[float]]] = []

    def work() -> None:
        fd = os.open(f"/run/netns/{SPACE}", os.O_RDONLY)
        sc.setns(fd, sc.CLONE_NEWNET)
        os.close(fd)
        found.append(client(address, name))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def memory_mb(pid: int) -> float:
    """PSS."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


@contextlib.contextmanager
def dnsmasq(address: str, *options: str) -> Iterator[int]:
    """One on that address."""
    command = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file",
        "--user=root", "--bind-interfaces", f"--listen-address={address}", "--except-interface=lo0",
        "--dns-forward-max=1000", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.05)
            while True:
                with contextlib.suppress(OSError):
                    sock.sendto(bytes(dnslib.DNSRecord.question("web").pack()), (address, 53))
                    sock.recv(512)
                    break
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def ours(forwarding: bool) -> None:
    """Ours, with as many names as a project has."""
    runtime_names.check_servers = lambda *_: None  # the peer is on the loopback
    netns = f"/run/netns/{SPACE}"
    upstream = Resolver(servers=(ORIGIN,))
    asker = Member("web1", netns, "p-web-1", "web", (Membership("p", ("10.0.0.2",)),), resolver=upstream)
    replicas = tuple(f"10.0.1.{number}" for number in range(10))
    many = Member("many", "/run/netns/none", "p-many-1", "many", (Membership("p", replicas),))
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        names = Names(Paths(directory, directory), print, lambda: None)
        began = time.perf_counter()
        await names.tell(lambda: [asker, many])
        print(f"{'ours, from nothing to answering':34} {(time.perf_counter() - began) * 1e3:9.0f} ms")
        link = names._link
        assert link is not None
        show("ours, one address", await asyncio.to_thread(in_space, OWN_ADDRESS, "web"))
        show("ours, ten addresses", await asyncio.to_thread(in_space, OWN_ADDRESS, "many"))
        if forwarding:
            show("ours, forwarded", await asyncio.to_thread(in_space, OWN_ADDRESS, "far.example"))
        print(f"{'ours, memory':34} {memory_mb(link.pid):9.1f} MB PSS")
        await names.close(end=True)


def main() -> None:
    """Both, in turn."""
    machine()
    peer = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    subprocess.run(["ip", "netns", "add", SPACE], check=True)
    try:
        subprocess.run(["ip", "-n", SPACE, "link", "set", "lo", "up"], check=True)
        if peer is None:
            print("no dnsmasq: apt-get install dnsmasq-base")
            asyncio.run(ours(False))
            return
        records = [f"--host-record=many,10.0.1.{number}" for number in range(10)]
        with (
            dnsmasq(
                ORIGIN, "--host-record=web,10.0.0.2", "--host-record=far.example,192.0.2.1", *records
            ) as pid,
            dnsmasq(FORWARDER, "--cache-size=0", f"--server={ORIGIN}"),
        ):
            asyncio.run(ours(True))
            show("dnsmasq, one address", client(ORIGIN, "web"))
            show("dnsmasq, ten addresses", client(ORIGIN, "many"))
            show("dnsmasq, forwarded", client(FORWARDER, "far.example"))
            print(f"{'dnsmasq, memory':34} {memory_mb(pid):9.1f} MB PSS")
    finally:
        subprocess.run(["ip", "netns", "delete", SPACE], check=True)


if __name__ == "__main__":
    main()
