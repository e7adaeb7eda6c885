"""From SIGKILL of a service's main process to the first instruction of its next; beside it a floor in C.

The service is the probe in the default isolation (a view of the host's root, the host's network), killed
0.3 s after its start; the floor (floor.c) restarts the same probe with the same namespaces, mounts, masks,
bounding set and filter. Both in turn. A plain process, with no isolation, is started beside.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.supervised import Supervised, machine, show, supervised
from supervisor.kernel import hierarchies, seccomp
from supervisor.runtime.translate import DEFAULT_CAPABILITIES

PAUSE_S = 0.3


@contextlib.contextmanager
def floor(world: Supervised) -> Iterator[int]:
    """A parent that restarts an isolated probe; gives the pid of the first one."""
    work = world.base / "floor"
    for name in ("upper", "work", "root", "io"):
        (work / name).mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(world.io), str(work / "io")], check=True)
    world.build("floor", work / "floor")
    filter_path = work / "filter"
    filter_path.write_bytes(seccomp.compile_default(frozenset(DEFAULT_CAPABILITIES)))
    setup = hierarchies.detect()
    places = [place for place in (setup.unified, setup.v1.get("memory")) if place]
    groups = [Path(place, f"bench-floor-{os.getpid()}") for place in places]
    for group in groups:
        group.mkdir()
    command = [str(work / "floor"), str(work), ",".join(map(str, groups)), str(filter_path)]
    process = subprocess.Popen([*command, "/io/probe", "floor", "/io/up"])
    try:
        yield world.hear()[2]
    finally:
        process.kill()
        process.wait()
        subprocess.run(["umount", "-l", str(work / "io")], check=True)
        for group in groups:
            while any((group / "cgroup.procs").read_text().split()):
                for pid in (group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            group.rmdir()


def main() -> None:
    """Print minimum, median and p99 of each, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description="restart latency")
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    machine()
    print(f"processes move between cgroups at once: {hierarchies.moves_are_quick()}")
    with supervised() as world:
        world.compose(1)
        with world.daemon_running(), floor(world) as isolated:
            world.run("up", "-d")
            pids = {"0": world.hear()[2], "floor": isolated}
            took: dict[str, list[float]] = {"0": [], "floor": [], "plain": []}
            for _ in range(rounds):
                for name in ("0", "floor"):
                    time.sleep(PAUSE_S)
                    began = time.monotonic_ns()
                    os.kill(pids[name], signal.SIGKILL)
                    who, at, pids[name] = world.hear()
                    assert who == name, who
                    took[name].append((at - began) / 1e9)
                began = time.monotonic_ns()
                plain = subprocess.Popen([f"{world.io}/probe", "plain", f"{world.io}/up"])
                took["plain"].append((world.hear()[1] - began) / 1e9)
                plain.kill()
                plain.wait()
    ours = show("shipkeeper: death to first instruction", took["0"])
    least = show("floor in C, the same isolation", took["floor"])
    show("start of a plain process (Popen)", took["plain"])
    print(f"ratio of the medians {ours / least:.2f}")


if __name__ == "__main__":
    main()
