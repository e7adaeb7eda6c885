"""A whole project: `up -d`, `up -d` with nothing to do, `down`; ours beside dockerd with Docker Compose.

N services of one image with one small program, in the project's default network: a bridge, a link and a name
for each. The sides are asked in turn. After `up` it is looked at: all run, and the first finds the last by
its name; after `down` nothing is left. Processor time is of the daemon, its helpers, the command, and the
first instructions of what is supervised; memory of the daemon and its helpers. Each round is told as it
comes, with processor time in parentheses. Needs root.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.builders import busybox_root
from benchmarks.metered import pss_mb
from benchmarks.ours import load_average
from benchmarks.sides import IMAGE, Side, sides
from benchmarks.supervised import machine

_SETTLE_S = 3.0
_STEPS = ("up", "up again", "down")
Took = dict[str, list[tuple[float, float]]]
"""For each step, and each round: seconds by the clock, and of a processor."""


def compose_file(count: int) -> str:
    """So many services that do nothing, and that a stop ends at once."""
    rows = [
        f"  s{number}: {{image: {IMAGE}, command: [/bin/busybox, sleep, '1000000'], stop_signal: SIGKILL}}"
        for number in range(count)
    ]
    # docker-compose 1.29 wants the version, which is obsolete.
    return "\n".join(["version: '3.9'", "services:", *rows, ""])


def timed(side: Side, place: Path, *arguments: str) -> tuple[float, float]:
    """Seconds by the clock and of a processor, of one command."""
    before, began = side.meter.cpu_s(), time.monotonic()
    side.run(place, *arguments)
    took = time.monotonic() - began
    return took, side.meter.cpu_s() - before


def timed_down(side: Side, place: Path) -> tuple[float, float]:
    """As `timed`. One that fails is asked again, and that counts: dockerd may say that a network of which all
    containers are gone is in use.
    """
    before, began = side.meter.cpu_s(), time.monotonic()
    try:
        side.run(place, "down")
    except RuntimeError as error:
        print(f"{side.name}: down failed, and is asked again: {str(error).splitlines()[-1]}", flush=True)
        side.run(place, "down")
    took = time.monotonic() - began
    return took, side.meter.cpu_s() - before


def measure(side: Side, place: Path, count: int, took: Took) -> None:
    """Once up and down. Raises RuntimeError where it did not come to what was asked for."""
    took["up"].append(timed(side, place, "up", "-d"))
    check(side, count)
    side.run(place, "exec", "-T", "s0", "/bin/busybox", "nslookup", f"s{count - 1}")
    took["up again"].append(timed(side, place, "up", "-d"))
    check(side, count)
    if len(took["up"]) == 1:
        time.sleep(_SETTLE_S)
        parts = pss_mb(side.processes())
        shown = ", ".join(f"{name} {mb:.1f}" for name, mb in sorted(parts.items()))
        print(f"{side.name:24} {count:4} memory {sum(parts.values()):7.1f} MB PSS ({shown})", flush=True)
    took["down"].append(timed_down(side, place))
    if left := side.left():
        raise RuntimeError(f"{side.name}: left after `down`: {left}")
    shown = ", ".join(f"{step} {took[step][-1][0]:.2f} s ({took[step][-1][1]:.2f})" for step in _STEPS)
    print(f"{side.name:24} {count:4} {shown}, load {load_average()}", flush=True)


def check(side: Side, count: int) -> None:
    """Raises RuntimeError."""
    if (found := side.running()) != count:
        raise RuntimeError(f"{side.name}: {found} of {count} services run after `up`")


def show(name: str, count: int, step: str, rounds: list[tuple[float, float]]) -> None:
    """One line of the table."""
    clock, cpu = ([each[at] for each in rounds] for at in (0, 1))
    print(
        f"{name:24} {count:4} {step:9} n={len(rounds)}  median {statistics.median(clock):7.3f} s"
        f"  least {min(clock):7.3f} s  processor {statistics.median(cpu):7.3f} s",
        flush=True,
    )


def main() -> None:
    """A line for each side, size and command: medians, and the least by the clock."""
    parser = argparse.ArgumentParser(description="up and down of projects")
    parser.add_argument("--sizes", type=int, nargs="*", default=[5, 20, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-docker", action="store_true", help="ours alone")
    options = parser.parse_args()
    machine()
    with tempfile.TemporaryDirectory(prefix="bench-projects-") as directory:
        base = Path(directory)
        (place := base / "project").mkdir()
        with sides(base, busybox_root(), docker=not options.no_docker) as found:
            for count in options.sizes:
                (place / "docker-compose.yml").write_text(compose_file(count))
                took: dict[str, Took] = {side.name: {step: [] for step in _STEPS} for side in found}
                for _ in range(options.rounds):
                    for side in found:
                        measure(side, place, count, took[side.name])
                for step in _STEPS:
                    for side in found:
                        show(side.name, count, step, took[side.name][step])
                print(f"load {load_average()}", flush=True)


if __name__ == "__main__":
    main()
