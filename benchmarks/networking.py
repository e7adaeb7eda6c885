"""Requests to a service in a network, beside the loopback itself and, where it is, dockerd.

Every server is busybox's httpd, and each request has a connection of its own. Measured in turn, so that a
busy moment hits all of them: by a published port of 127.0.0.1, by the service's address, and the same server
as a plain process of the host.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.builders import busybox_root, missing
from benchmarks.ours import load_average, ours
from benchmarks.peers.dockerd import CLIENT, engine
from benchmarks.supervised import machine, show

_BYTES = 64 * 1024 * 1024
_PATIENCE_S = 20.0
_IMAGE = "bench"


def _root(path: Path) -> None:
    """A root file system with a static busybox, whose httpd is the server, and two pages."""
    path.write_bytes(busybox_root())
    with tarfile.open(path, "a") as archive:
        for name, content in (("page", b"here"), ("big", bytes(_BYTES))):
            page = tarfile.TarInfo(name)
            page.size = len(content)
            archive.addfile(page, io.BytesIO(content))


def _request(where: str, port: int, path: str = "/page") -> float:
    """Seconds of one request with its connection, to the last byte of the answer."""
    began = time.monotonic()
    asked = http.client.HTTPConnection(where, port, timeout=_PATIENCE_S)
    asked.request("GET", path)
    answer = asked.getresponse()
    buffer = bytearray(1 << 20)
    while answer.readinto(buffer):
        pass
    asked.close()
    return time.monotonic() - began


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _await(where: str, port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            _request(where, port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _command(port: int) -> list[str]:
    return ["/bin/busybox", "httpd", "-f", "-p", str(port), "-h", "/"]


@contextlib.contextmanager
def _plain(base: Path) -> Iterator[tuple[str, int]]:
    """The floor: the same server, a process of this host on its loopback."""
    port = _free()
    place = base / "plain"
    place.mkdir()
    with tarfile.open(base / "root.tar") as archive:
        archive.extractall(place, filter="data")
    busybox = str(place / "bin/busybox")
    server = subprocess.Popen([busybox, "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", str(place)])
    try:
        _await("127.0.0.1", port)
        yield "127.0.0.1", port
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def _docker(base: Path) -> Iterator[dict[str, tuple[str, int]]]:
    """A dockerd of its own with a bridge of its own; nothing where there is none."""
    if why := missing("dockerd"):
        print(why)
        yield {}
        return
    bridge = f"bench{os.getpid() % 100000}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["ip", "link", "del", bridge], check=False)
        subprocess.run(["ip", "addr", "add", "10.197.254.1/24", "dev", bridge], check=True)
        try:
            daemon = stack.enter_context(engine(base, (f"--bridge={bridge}",)))
        except RuntimeError as error:
            print(error)
            yield {}
            return

        def docker(*words: str) -> str:
            command = [CLIENT, "-H", daemon, *words]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

        port = _free()
        docker("import", str(base / "root.tar"), _IMAGE)
        docker("run", "-d", "--name", "web", "-p", f"{port}:80", _IMAGE, *_command(80))
        address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
        _await("127.0.0.1", port)
        yield {"dockerd, published": ("127.0.0.1", port), "dockerd, its address": (address, 80)}
        docker("rm", "-f", "web")


def _measure(places: dict[str, tuple[str, int]], rounds: int, ask: Callable[[str, int], float]) -> None:
    took: dict[str, list[float]] = {name: [] for name in places}
    for number in range(rounds + 5):
        for name, place in places.items():
            spent = ask(*place)
            if number >= 5:  # the first ones warm up
                took[name].append(spent)
    for name, seconds in took.items():
        show(name, seconds)


def main() -> None:
    """Print latencies of requests, and rates of a large answer."""
    parser = argparse.ArgumentParser(description="requests through published ports")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--no-docker", action="store_true", help="Start no dockerd: it changes iptables.")
    given = parser.parse_args()
    machine()
    with tempfile.TemporaryDirectory(prefix="bench-net-") as directory, ours() as world:
        base = Path(directory)
        _root(base / "root.tar")
        world.run("import", str(base / "root.tar"), _IMAGE)
        port = _free()
        world.run("run", "-d", "--name", "web", "-p", f"{port}:80", _IMAGE, *_command(80))
        (view,) = json.loads(world.run("inspect", "web"))
        address = str(view["NetworkSettings"]["IPAddress"])
        _await("127.0.0.1", port)
        peer = contextlib.nullcontext({}) if given.no_docker else _docker(base)
        with _plain(base) as floor, peer as docker:
            places = {
                "loopback, no network of its own": floor,
                "shipkeeper, published": ("127.0.0.1", port),
                "shipkeeper, its address": (address, 80),
                **docker,
            }
            _measure(places, given.rounds, _request)
            print(f"{_BYTES >> 20} MiB in one answer:")
            for name, place in places.items():
                best = min(_request(*place, "/big") for _ in range(5))
                print(f"{name:44} {_BYTES / best / 1e6:8.0f} MB/s (best of 5)")
        print(f"load {load_average()}")
        world.run("rm", "--force", "web")
        world.run("network", "rm", "bridge")


if __name__ == "__main__":
    sys.exit(main())
