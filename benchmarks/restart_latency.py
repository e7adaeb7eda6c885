"""From SIGKILL of a service's main process to the first instruction of its next; beside it a floor in C.

The service is the probe in the default isolation (a view of the host's root, the host's network), killed
0.3 s after its start; the floor (floor.c) restarts the same probe with the same namespaces, mounts, masks,
bounding set and filter. Both in turn. A plain process, with no isolation, is started beside. Then the peers,
one after the other, each killed when its service was up for so long that it does not delay the next start.
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

from benchmarks.peers import Peer, there
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


def restarts_of(peer: Peer, world: Supervised, rounds: int) -> list[float]:
    """Of the one service of a peer."""
    took = []
    base = world.base / peer.NAME
    base.mkdir()
    with peer.running(base, world.io, [peer.NAME]):
        pid = world.hear()[2]
        for _ in range(rounds):
            time.sleep(peer.SETTLE_S)
            began = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            _, at, pid = world.hear()
            took.append((at - began) / 1e9)
    return took


def main() -> None:
    """Print minimum, median and p99 of each, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description="restart latency")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--peer-rounds", type=int, default=8, help="0 leaves them out")
    options = parser.parse_args()
    machine()
    print(f"processes move between cgroups at once: {hierarchies.moves_are_quick()}")
    with supervised() as world:
        world.compose(1)
        with world.daemon_running(), floor(world) as isolated:
            world.run("up", "-d")
            pids = {"0": world.hear()[2], "floor": isolated}
            took: dict[str, list[float]] = {"0": [], "floor": [], "plain": []}
            for _ in range(options.rounds):
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
        peers = {
            peer.NAME: restarts_of(peer, world, options.peer_rounds)
            for peer in (there() if options.peer_rounds else ())
        }
    ours = show("shipkeeper: death to first instruction", took["0"])
    least = show("floor in C, the same isolation", took["floor"])
    show("start of a plain process (Popen)", took["plain"])
    print(f"ratio of the medians {ours / least:.2f}")
    for name, seconds in peers.items():
        show(name, seconds)


if __name__ == "__main__":
    main()
