"""A supervisor of its own for a benchmark, and who of its services is up. Needs root and a C compiler."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.ours import COMMAND, answering, environment

HERE = Path(__file__).resolve().parent
PATIENCE_S = 120.0


class Supervised:
    """In a directory that goes at the end. `io` is bound at /io of every service."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.io = base / "io"
        self.io.mkdir()
        self.build("probe", self.io / "probe", "-static")
        self.environment = environment(base)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self.socket.settimeout(PATIENCE_S)
        self.socket.bind(f"{self.io}/up")

    @staticmethod
    def build(name: str, target: Path, *flags: str) -> None:
        """Compile a program of this directory."""
        subprocess.run(["cc", "-O2", *flags, "-o", str(target), str(HERE / f"{name}.c")], check=True)

    def hear(self) -> tuple[str, int, int]:
        """The next that is up: its id, the time of its first instruction, its pid."""
        text, ancillary, _, _ = self.socket.recvmsg(256, 64)
        name, at = text.decode().split()
        return name, int(at), struct.unpack("3i", ancillary[0][2][:12])[0]

    def compose(self, count: int) -> None:
        """A file of so many services, restarted at once whenever they die."""
        rows = [
            f"  s{number}: {{command: [/io/probe, '{number}', /io/up], volumes: ['{self.io}:/io'],"
            " restart: always, network_mode: host, x-shipkeeper: {backoff: {reset_after: 0s}}}"
            for number in range(count)
        ]
        (self.base / "compose.yaml").write_text("\n".join(["services:", *rows, ""]))

    def command(self, *arguments: str) -> list[str]:
        """The command line of ours."""
        return [*COMMAND, *arguments]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """One command, to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.base,
            check=check,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def processes(self) -> list[psutil.Process]:
        """Daemon, launcher, log writer, spare: all that are ours, no service."""
        mine = f"{self.base}/run"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if any(word.startswith(mine) for word in words) or process.pid == self.daemon.pid:
                    found.append(process)
        return found

    @contextlib.contextmanager
    def daemon_running(self) -> Iterator[None]:
        """From its being ready until everything is gone."""
        with answering(self.base, self.environment) as self.daemon:
            try:
                yield
            finally:
                self.run("down", check=False)


@contextlib.contextmanager
def supervised() -> Iterator[Supervised]:
    """One, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="bench-") as base:
        yield Supervised(Path(base))


def show(name: str, seconds: list[float]) -> float:
    """Print min, median and p99 in ms; returns the median in s."""
    ordered = sorted(seconds)
    median = statistics.median(ordered)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = f"min {ordered[0] * 1e3:8.2f}  median {median * 1e3:8.2f}  p99 {p99 * 1e3:8.2f} ms"
    print(f"{name:44} n={len(ordered):<4} {figures}", flush=True)
    return median


def machine() -> None:
    """What the figures are of."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{os.cpu_count()} CPUs, Linux {os.uname().release}, load {load}, {time.strftime('%Y-%m-%d %H:%M')}"
    )
