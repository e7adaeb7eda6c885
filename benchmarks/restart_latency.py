"""From SIGKILL of a service's main process to the first line of the next one, beside others in the same run.

The service is `sh -c 'echo > /pipe; exec sleep 1000'`; the figure is from just before the kill until the line
is read from the named pipe, so it holds the death, the decision, the launch in all namespaces, and the start
of the shell. Beside it: a C program that does only what the kernel needs for the same isolation (floor.c),
the same shell as a plain process, and supervisord, which isolates nothing. `reset_after: 0s` makes every
restart an immediate one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.ours import load_average, ours
from benchmarks.peers import floor, supervisord

ROUNDS = 100
SCRIPT = "echo > {pipe}; exec sleep 1000"


def read_line(fd: int) -> None:
    """Wait for one line."""
    while not os.read(fd, 64).endswith(b"\n"):
        pass


def killed(pid: int, fd: int) -> float:
    """Kill a service; seconds until the next one's first line."""
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    read_line(fd)
    return time.perf_counter() - began


def show(name: str, seconds: list[float]) -> float:
    """Print min, median and p99 in ms; returns the median."""
    ordered = sorted(seconds)
    median = statistics.median(ordered)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = f"min {ordered[0] * 1e3:6.2f}  median {median * 1e3:6.2f}  p99 {p99 * 1e3:6.2f} ms"
    print(f"{name:30} n={len(ordered)}  {figures}")
    return median


def main() -> None:
    """All of them, interleaved."""
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        pipes = {}
        for name in ("shipkeeper", "floor", "plain", "supervisord"):
            os.mkfifo(base / name)
            pipes[name] = os.open(base / name, os.O_RDWR)
        peers: dict[str, Callable[[], float]] = {}

        made = stack.enter_context(ours())
        (made.base / "compose.yaml").write_text(
            "services:\n  web:\n"
            f"    command: [sh, -c, '{SCRIPT.format(pipe='/pipe')}']\n"
            f"    volumes: ['{base}/shipkeeper:/pipe']\n"
            "    restart: always\n    network_mode: host\n    stop_signal: KILL\n"
            "    x-shipkeeper: {backoff: {reset_after: 0s}}\n"
        )
        made.run("up", "-d")
        read_line(pipes["shipkeeper"])

        def shipkeeper() -> float:
            pid = 0
            while not pid:
                (row,) = made.rows()
                pid = row["Pid"]
            return killed(pid, pipes["shipkeeper"])

        peers["shipkeeper"] = shipkeeper
        if why := floor.missing():
            print(f"floor: skipped: {why}")
        else:
            least = stack.enter_context(floor.running(f"{base}/floor", SCRIPT.format(pipe="/pipe")))
            read_line(pipes["floor"])
            peers["floor (C, isolated)"] = lambda: killed(least.pid(), pipes["floor"])

        def plain() -> float:
            began = time.perf_counter()
            process = subprocess.Popen(["/bin/sh", "-c", SCRIPT.format(pipe=base / "plain")])
            read_line(pipes["plain"])
            taken = time.perf_counter() - began
            process.kill()
            process.wait()
            return taken

        peers["plain sh, no death"] = plain
        if why := supervisord.missing():
            print(f"supervisord: skipped: {why}")
        else:
            command = f"/bin/sh -c '{SCRIPT.format(pipe=base / 'supervisord')}'"
            other = stack.enter_context(supervisord.running(1, command))
            read_line(pipes["supervisord"])

            def beside() -> float:
                (pid,) = supervisord.children(other.pid)
                return killed(pid, pipes["supervisord"])

            peers["supervisord, not isolated"] = beside
        times: dict[str, list[float]] = {name: [] for name in peers}
        for number in range(ROUNDS):
            for name, once in peers.items():
                if name.startswith("supervisord") and number >= ROUNDS // 10:
                    continue  # it takes a second each
                times[name].append(once())
        medians = {name: show(name, seconds) for name, seconds in times.items()}
        if "floor (C, isolated)" in medians:
            ratio = medians["shipkeeper"] / medians["floor (C, isolated)"]
            print(f"shipkeeper / floor {ratio:.2f}  load {load_average()}")


if __name__ == "__main__":
    main()
    sys.exit(0)
