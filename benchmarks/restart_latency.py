"""From SIGKILL of a service's main process to the first line of the next one, beside a plain process's start.

The service is `sh -c 'echo > /pipe; exec sleep 1000'`; the figure is from just before the kill until the
line is read from the named pipe, so it holds the death, the decision, the launch in all namespaces, and the
start of the shell. The floor in the same run is the same shell started as a plain process.
`reset_after: 0s` makes every restart an immediate one.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 100
SCRIPT = "echo > {pipe}; exec sleep 1000"


def read_line(fd: int) -> None:
    """Wait for one line."""
    while not os.read(fd, 64).endswith(b"\n"):
        pass


def show(name: str, seconds: list[float]) -> float:
    """Print min, median and p99 in ms; returns the median."""
    ordered = sorted(seconds)
    median = statistics.median(ordered)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = f"min {ordered[0] * 1e3:.2f}  median {median * 1e3:.2f}  p99 {p99 * 1e3:.2f} ms"
    print(f"{name:32} n={len(ordered)}  {figures}")
    return median


def main() -> None:
    """Measure both, interleaved."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        base = Path(directory)
        pipe = base / "pipe"
        os.mkfifo(pipe)
        environment = {
            **os.environ,
            "SHIPKEEPER_STATE_DIR": f"{base}/state",
            "SHIPKEEPER_RUN_DIR": f"{base}/run",
            "SHIPKEEPER_METRICS_ADDRESS": "",
        }
        (base / "compose.yaml").write_text(
            "services:\n  web:\n"
            f"    command: [sh, -c, '{SCRIPT.format(pipe='/pipe')}']\n"
            f"    volumes: ['{pipe}:/pipe']\n"
            "    restart: always\n    network_mode: host\n    stop_signal: KILL\n"
            "    x-shipkeeper: {backoff: {reset_after: 0s}}\n"
        )
        command = [sys.executable, "-m", "supervisor.cli.main"]

        def run(*arguments: str) -> str:
            return subprocess.run(
                [*command, *arguments],
                env=environment,
                cwd=base,
                check=True,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ).stdout

        daemon = subprocess.Popen([*command, "daemon"], env=environment, cwd=base)
        try:
            while subprocess.run(
                [*command, "ps"], env=environment, capture_output=True, check=False
            ).returncode:
                pass
            fd = os.open(pipe, os.O_RDWR)
            run("up", "-d")
            read_line(fd)
            ours, floor = [], []
            for _ in range(ROUNDS):
                pid = 0
                while not pid:
                    pid = json.loads(run("ps", "-a", "--format", "json"))["Pid"]
                began = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                read_line(fd)
                ours.append(time.perf_counter() - began)
                began = time.perf_counter()
                plain = subprocess.Popen(["/bin/sh", "-c", SCRIPT.format(pipe=pipe)])
                read_line(fd)
                floor.append(time.perf_counter() - began)
                plain.kill()
                plain.wait()
            mine = show("shipkeeper: kill to first line", ours)
            least = show("floor: plain sh to first line", floor)
            print(f"{'ratio of the medians':32} {mine / least:.1f}")
            run("down")
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    main()
