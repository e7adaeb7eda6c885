"""Look-ups of names in a second: our resolver, dockerd's and dnsmasq, asked the same by the same client.

A service of a project asks 127.0.0.11: a name with one address, one with ten, and one that goes on to a
dnsmasq on the daemon's host; the client is a thread in that service's network namespace. dnsmasq alone
(apt-get install dnsmasq-base) is asked on its own host. The client is in Python and has its share of the
processors in all figures, but for the processor time of the server, which is less of a busy machine's. Needs
root and `ip`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dnslib
import psutil

from benchmarks.builders import busybox_root
from benchmarks.metered import pss_mb
from benchmarks.ours import load_average
from benchmarks.sides import IMAGE, sides
from benchmarks.spaces import HOST_ADDRESS, Space, space
from benchmarks.supervised import machine
from supervisor.kernel import syscalls as sc

WINDOW = 32
ONE_BY_ONE = 2_000
EMBEDDED = "127.0.0.11"
"""Where services ask, of both."""
REPLICAS = 10
_FAR = "far.example"
Took = tuple[float, list[float]]
"""Look-ups a second with some on the way, and the seconds of each of those one by one."""
_QUESTIONS = {"one address": "web", "ten addresses": "many", "forwarded": _FAR}


def compose_file() -> str:
    """A service that asks, one with a name of its own, and ten that share one."""
    common = f"image: {IMAGE}, command: [/bin/busybox, sleep, '1000000'], stop_signal: SIGKILL"
    many = [
        f"  m{number}: {{{common}, networks: {{default: {{aliases: [many]}}}}}}" for number in range(REPLICAS)
    ]
    asker = f"  asker: {{{common}, container_name: bench-asker, dns: [{HOST_ADDRESS}]}}"
    return "\n".join(["version: '3.9'", "services:", asker, f"  web: {{{common}}}", *many, ""])


def client(address: str, name: str, addresses: int, count: int) -> Took:
    """Ask that server, which has so many addresses of the name."""
    wire = bytes(dnslib.DNSRecord.question(name).pack())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((address, 53))
        sock.send(wire)
        answer = dnslib.DNSRecord.parse(sock.recv(65535))
        assert len(answer.rr) == addresses, f"{name} at {address}: {answer}"
        single = []
        for number in range(ONE_BY_ONE):
            began = time.perf_counter()
            sock.send(number.to_bytes(2, "big") + wire[2:])
            found = sock.recv(65535)
            single.append(time.perf_counter() - began)
            assert found[3] & 15 == 0, "it was found"
        began = time.perf_counter()
        for number in range(count + WINDOW):
            if number >= WINDOW:
                sock.recv(65535)
            if number < count:
                sock.send((number & 0xFFFF).to_bytes(2, "big") + wire[2:])
        return count / (time.perf_counter() - began), single


def inside(namespace: str, address: str, name: str, addresses: int, count: int) -> Took:
    """The client, in the network namespace of that file."""
    found: list[Took | OSError | AssertionError] = []

    def work() -> None:
        fd = os.open(namespace, os.O_RDONLY)
        try:
            sc.setns(fd, sc.CLONE_NEWNET)
            found.append(client(address, name, addresses, count))
        except (OSError, AssertionError) as error:  # told where it was asked for
            found.append(error)
        finally:
            os.close(fd)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError | AssertionError):
        raise found[0]
    return found[0]


def show(what: str, rounds: list[Took], used_s: float, count: int) -> None:
    """One line: the median of the rates, and of all single ones; the server's processor time for each."""
    ordered = sorted(seconds for _, single in rounds for seconds in single)
    p99 = ordered[int(len(ordered) * 0.99)]
    rate = statistics.median(rate for rate, _ in rounds)
    print(
        f"{what:34} {rate:9,.0f} a second   one by one: median {statistics.median(ordered) * 1e6:5.0f} us,"
        f" p99 {p99 * 1e6:6.0f} us   processor {used_s / count * 1e6:5.1f} us each",
        flush=True,
    )


@contextlib.contextmanager
def dnsmasq(host: Space) -> Iterator[int]:
    """One on that host, which knows all names; its pid."""
    records = [f"--host-record=many,10.0.1.{number}" for number in range(REPLICAS)]
    command = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file",
        "--user=root", "--bind-interfaces", f"--listen-address={HOST_ADDRESS}", "--except-interface=lo",
        "--host-record=web,10.0.0.2", f"--host-record={_FAR},192.0.2.1", *records,
    ]  # fmt: skip
    process = subprocess.Popen([*host.words(), *command], stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError):
                inside(f"/run/netns/{host.name}", HOST_ADDRESS, "web", 1, 0)
                break
            if process.poll() is not None:
                raise RuntimeError("dnsmasq ends at once")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """A line for each server and question."""
    parser = argparse.ArgumentParser(description="look-ups of names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20_000, help="look-ups of one kind in one round")
    parser.add_argument("--no-docker", action="store_true", help="ours and dnsmasq alone")
    options = parser.parse_args()
    machine()
    peer = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    if peer is None:
        raise SystemExit("cannot measure: no dnsmasq (apt-get install dnsmasq-base)")
    asked: dict[str, tuple[Callable[[], Took], Callable[[], float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-names-") as directory, contextlib.ExitStack() as stack:
        base = Path(directory)
        (place := base / "project").mkdir()
        (place / "docker-compose.yml").write_text(compose_file())
        found = stack.enter_context(sides(base, busybox_root(), docker=not options.no_docker))
        for side in found[:2]:
            stack.enter_context(dnsmasq(side.space))
            stack.enter_context(side.up(place))
            inner = f"/proc/{side.inspect('bench-asker')['State']['Pid']}/ns/net"
            for what in _QUESTIONS:
                key = f"{side.name.partition(',')[0]}, {what}"
                asked[key] = partial(_ask, inner, EMBEDDED, what, options.count), side.meter.cpu_s
        alone = stack.enter_context(space("alone"))
        server = psutil.Process(stack.enter_context(dnsmasq(alone)))
        for what in list(_QUESTIONS)[:2]:
            inner = f"/run/netns/{alone.name}"
            asked[f"dnsmasq, {what}"] = (
                partial(_ask, inner, HOST_ADDRESS, what, options.count),
                lambda: sum(server.cpu_times()[:2]),
            )
        took: dict[str, list[Took]] = {what: [] for what in asked}
        used = dict.fromkeys(asked, 0.0)
        for _ in range(options.rounds):
            for what, (ask, cpu_s) in asked.items():
                before = cpu_s()
                took[what].append(ask())
                used[what] += cpu_s() - before
        for what, rounds in took.items():
            show(what, rounds, used[what], options.rounds * (options.count + ONE_BY_ONE + 1))
        resolver = pss_mb(found[0].processes()).get("resolver.server", 0.0)
        print(f"memory of our resolver {resolver:.1f} MB PSS, load {load_average()}")


def _ask(namespace: str, address: str, what: str, count: int) -> Took:
    name = _QUESTIONS[what]
    return inside(namespace, address, name, REPLICAS if name == "many" else 1, count)


if __name__ == "__main__":
    main()
