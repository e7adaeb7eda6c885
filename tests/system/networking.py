"""Services in networks for tests: an echo server, other hosts as network namespaces, and what may be left."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from supervising import Supervisor, supervising

from supervisor.cli.client import Client
from supervisor.core.model import Project, ServiceSpec
from supervisor.core.network import Attachment, Network, Port
from supervisor.core.paths import Paths

ECHO = textwrap.dedent(
    """
    import socket, threading
    def tcp(family, any_):
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
        s.bind((any_, 80)); s.listen()
        while True:
            c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
    def udp(family, any_):
        s = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
        s.bind((any_, 80))
        while True:
            _, peer = s.recvfrom(100); s.sendto(peer[0].encode(), peer)
    work = [(f, *a) for f in (tcp, udp) for a in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))]
    threads = [threading.Thread(target=w[0], args=w[1:]) for w in work]
    [t.start() for t in threads]; print("ready", flush=True); [t.join() for t in threads]
    """
)
ASK = textwrap.dedent(
    """
    import socket, sys
    host, port, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(float(sys.argv[4]))
    try:
        s.connect((host, port))
        if kind == "udp": s.send(b"x")
        print(s.recv(100).decode(), end="")
    except TimeoutError: print("timeout", end="")
    except OSError as error: print(error.strerror, end="")
    """
)
PYTHON = "/usr/bin/python3"
BOTH = Network("default", "net_default", ipv6=True)


def echo(name: str = "web", **fields: Any) -> ServiceSpec:
    """A service that tells everybody who calls port 80 by which address it came."""
    fields.setdefault("networks", (Attachment(BOTH.name),))
    return ServiceSpec(name, command=(PYTHON, "-c", ECHO), network_mode="bridge", stop_grace_s=0.1, **fields)


def ask(where: str, port: int, kind: str = "tcp", *, netns: str = "", patience_s: float = 3.0) -> str:
    """What an echo server says: our address as it sees it; or what went wrong."""
    command = [PYTHON, "-c", ASK, where, str(port), kind, str(patience_s)]
    if netns:
        command = ["ip", "netns", "exec", netns, *command]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


LOOK_UP = (
    "import dnslib, sys; asked = dnslib.DNSRecord.question(sys.argv[1]).send('127.0.0.11', 53, timeout=10)\n"
    "for record in dnslib.DNSRecord.parse(asked).rr: print(record.rdata)"
)
FETCH = (
    "import sys, urllib.request\n"
    "try: urllib.request.urlopen(sys.argv[1], timeout=30).read()\n"
    "except OSError as error: sys.exit(str(error))"
)


def look_up(netns: str, name: str) -> set[str]:
    """What the resolver of a network namespace answers. netns: its file."""
    command = ["nsenter", f"--net={netns}", sys.executable, "-c", LOOK_UP, name]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def fetched(where: str, port: int) -> bool:
    """Whether there is an HTTP server."""
    command = [PYTHON, "-c", FETCH, f"http://{where}:{port}/"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


class Networked:
    """A supervisor whose projects are given as values."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.tag = Paths(f"{supervisor.base}/state", "").tag
        self.client = Client(f"{supervisor.base}/run/shipkeeper.sock")

    def up(self, *services: ServiceSpec, networks: tuple[Network, ...] = (BOTH,)) -> list[dict[str, Any]]:
        """Bring up the project `net`; the lines of the answer."""
        project = Project(
            "net", "/", services=tuple(sorted(services, key=lambda s: s.name)), networks=networks
        )
        body = msgspec.json.encode(project)
        lines = list(self.client.stream("POST", "/projects/net/up", None, body))
        began = {line["service"] for line in lines if line.get("outcome") == "running"}
        for service in services:
            if service.name in began and service.command and service.command[-1] == ECHO:
                self.ready(service.name)
        return lines

    def ready(self, service: str) -> None:
        """Wait until its echo server has said that it listens."""
        for record in self.client.stream("GET", f"/containers/{service}/logs", {"follow": 1}):
            if record.get("text") == "ready":
                return

    def down(self) -> list[str]:
        """Take the project down; what went."""
        return [line.get("name", line) for line in self.client.stream("POST", "/projects/net/down", {"t": 0})]

    def inspect(self, service: str) -> dict[str, Any]:
        """Docker's document of a container."""
        view: dict[str, Any] = self.client.call("GET", f"/containers/{service}/json")
        return view

    def address(self, service: str, network: str = BOTH.name, *, v6: bool = False) -> str:
        """Its address in a network."""
        place = self.inspect(service)["NetworkSettings"]["Networks"][network]
        return str(place["GlobalIPv6Address" if v6 else "IPAddress"])

    def inside(self, service: str, where: str, port: int, kind: str = "tcp", patience_s: float = 3.0) -> str:
        """As `ask`, from within a service."""
        return self.supervisor.ok("exec", service, PYTHON, "-c", ASK, where, str(port), kind, str(patience_s))

    def table(self) -> str:
        """Our rules in the kernel, "" without."""
        words = ["nft", "list", "table", "inet", f"shipkeeper_{self.tag}"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    def links(self) -> list[str]:
        """Our links on the host."""
        return sorted(name for name in os.listdir("/sys/class/net") if name.startswith(f"sk{self.tag[:4]}"))

    def namespaces(self) -> list[str]:
        """Files of network namespaces."""
        place = Path(self.supervisor.base / "run" / "netns")
        return sorted(os.listdir(place)) if place.is_dir() else []


@contextlib.contextmanager
def networked() -> Iterator[Networked]:
    """A supervisor for networks; afterwards nothing of it is in the kernel."""
    with supervising() as supervisor:
        yield Networked(supervisor)
        supervisor.kill()
        supervisor.start()


@contextlib.contextmanager
def another_host(name: str) -> Iterator[dict[str, str]]:
    """A host beside this one: its namespace, and both ends' addresses."""
    own = f"skt-{name}-{os.getpid()}"
    link = f"skt{os.getpid() % 100000}{name[:3]}"
    run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
    run("ip", "netns", "add", own)
    try:
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", own)
        number = 1 + (os.getpid() + sum(name.encode())) % 250
        here, there = f"198.18.{number}.1", f"198.18.{number}.2"
        here6, there6 = f"fdbb:{number:x}::1", f"fdbb:{number:x}::2"
        for address in (f"{here}/24", f"{here6}/64"):
            run("ip", "addr", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
        run("ip", "link", "set", link, "up")
        for address in (f"{there}/24", f"{there6}/64"):
            run(
                "ip", "-n", own, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else [])
            )
        for device in ("lo", "eth0"):
            run("ip", "-n", own, "link", "set", device, "up")
        run("ip", "-n", own, "route", "add", "default", "via", here)
        run("ip", "-n", own, "-6", "route", "add", "default", "via", here6)
        yield {"netns": own, "here": here, "there": there, "here6": here6, "there6": there6}
    finally:
        run("ip", "netns", "del", own)
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)


def published(port: int, target: int = 80, **fields: Any) -> Port:
    """One port of the host."""
    return Port(target, published=(port, port), **fields)


def free_port() -> int:
    """A port of the host that nobody has, tcp and udp."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
