"""Requests to a service in a network: by its published port, and from another service; beside dockerd.

Client and server are one program (requests.c) on every side. A new connection for each request, one at a
time, is latency; sixteen at a time, new or kept, are throughput. Asked from the daemon's host (by 127.0.0.1
and by the service's address), from another host beside it, and from another service of the same network. The
floor is the same server as a plain process, asked over the loopback and from the other host. Measured in
turn, so that a busy moment hits all of them. Needs root and a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.builders import busybox_root
from benchmarks.ours import load_average
from benchmarks.sides import IMAGE, Side, output, sides
from benchmarks.spaces import HOST_ADDRESS, space
from benchmarks.supervised import Supervised, machine

PORT, PUBLISHED = 8000, 18000
_LOADS = (("1 new", "1", "new"), ("16 new", "16", "new"), ("16 kept", "16", "keep"))
_FILE = f"""\
version: '3.9'
services:
  web:
    image: {IMAGE}
    command: [/requests, serve, '{PORT}']
    stop_signal: SIGKILL
    ports: ['{PUBLISHED}:{PORT}']
  client: {{image: {IMAGE}, command: [/bin/busybox, sleep, '1000000'], stop_signal: SIGKILL}}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """From a client to a server. ask: run the client with these words; what it printed."""

    name: str
    ask: Callable[..., str]
    to: tuple[str, int]
    rates: dict[str, list[list[float]]] = field(default_factory=dict)
    megabytes: list[float] = field(default_factory=list)


def root_with(program: Path) -> bytes:
    """A root with a busybox and the program."""
    made = io.BytesIO(busybox_root())
    with tarfile.open(fileobj=made, mode="a") as archive:
        archive.add(program, "requests")
    return made.getvalue()


def ways(side: Side, place: Path, program: Path) -> list[Way]:
    """Of one side whose project is up."""
    address = side.run(place, "exec", "-T", "web", "/bin/busybox", "hostname", "-i").split()[0]

    def here(*words: str) -> str:
        return output([*side.space.words(), str(program), *words])

    def far(*words: str) -> str:
        return output([*side.space.words_far(), str(program), *words])

    def sibling(*words: str) -> str:
        return side.run(place, "exec", "-T", "client", "/requests", *words)

    name = side.name.partition(",")[0]
    return [
        Way(f"{name}: published, 127.0.0.1", here, ("127.0.0.1", PUBLISHED)),
        Way(f"{name}: published, another host", far, (HOST_ADDRESS, PUBLISHED)),
        Way(f"{name}: its address, from the host", here, (address, PORT)),
        Way(f"{name}: from another service", sibling, (address, PORT)),
    ]


@contextlib.contextmanager
def floor(program: Path) -> Iterator[list[Way]]:
    """The server as a plain process of a host."""
    with space("floor") as host:
        server = subprocess.Popen([*host.words(), str(program), "serve", str(PORT)])
        try:
            yield [
                Way(
                    "no network: the loopback",
                    lambda *words: output([*host.words(), str(program), *words]),
                    ("127.0.0.1", PORT),
                ),
                Way(
                    "no network: another host",
                    lambda *words: output([*host.words_far(), str(program), *words]),
                    (HOST_ADDRESS, PORT),
                ),
            ]
        finally:
            server.kill()
            server.wait()


def measure(way: Way, seconds: float, megabytes: int) -> None:
    """One round."""
    address, port = way.to
    for name, connections, kind in _LOADS:
        said = way.ask("ask", address, str(port), str(seconds), connections, kind)
        way.rates.setdefault(name, []).append([float(word) for word in said.split()])
    way.megabytes.append(float(way.ask("fetch", address, str(port), str(megabytes))))


def show(way: Way) -> None:
    """One line: medians of the rounds. p10 is what a busy machine disturbs least."""
    parts = []
    for name, rounds in way.rates.items():
        rate, p10, median, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
        parts.append(f"{name} {rate:7,.0f}/s {p10:4.0f} {median:5.0f} {p99:6.0f} us")
    print(f"{way.name:40} {'  |  '.join(parts)}  |  {max(way.megabytes):6,.0f} MB/s", flush=True)


def main() -> None:
    """A line for each way: requests a second; p10, median and p99 of each load; the rate of large answers."""
    parser = argparse.ArgumentParser(description="requests through published ports and between services")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one load in one round")
    parser.add_argument("--megabytes", type=int, default=1000, help="of a large answer")
    parser.add_argument("--no-docker", action="store_true", help="ours alone")
    options = parser.parse_args()
    machine()
    with tempfile.TemporaryDirectory(prefix="bench-net-") as directory, contextlib.ExitStack() as stack:
        base = Path(directory)
        program = base / "requests"
        Supervised.build("requests", program, "-static")
        (place := base / "project").mkdir()
        (place / "docker-compose.yml").write_text(_FILE)
        found = stack.enter_context(sides(base, root_with(program), docker=not options.no_docker))
        measured = stack.enter_context(floor(program))
        for side in found[:2]:  # both kinds of Docker Compose bring up the same
            stack.enter_context(side.up(place))
            measured += ways(side, place, program)
        for way in measured:
            measure(way, 0.2, 10)  # the first ones warm up
            way.rates.clear()
            way.megabytes.clear()
        for _ in range(options.rounds):
            for way in measured:
                measure(way, options.seconds, options.megabytes)
        for way in measured:
            show(way)
        print(f"load {load_average()}")


if __name__ == "__main__":
    main()
