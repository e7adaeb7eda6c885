"""Log throughput: one writer of 100-byte lines through the log writer, beside other installed loggers.

    python benchmarks/log_throughput.py [--megabytes 400] [--rounds 3]

Every peer gets the same bytes through a pipe, stamps them (but `cat`, the floor) and rotates at 10 MiB; the
clock runs from the writer's start until everything is on disk and the lines are counted afterwards. Also
printed: what the two candidate formats cost to encode, which is why CRI was chosen.
"""

from __future__ import annotations

import argparse
import json
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from os import close, cpu_count, pipe
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from supervisor.launcher import logformat
from supervisor.launcher.loglink import LogLink

LINE = b"x" * 99 + b"\n"
MAX_SIZE = 10 * 1024 * 1024
WRITER = (
    "import os, sys\n"
    "b = (b'x' * 99 + b'\\n') * int(sys.argv[2])\n"
    "for _ in range(int(sys.argv[1])): os.write(1, b)\n"
)


def writer(lines_per_write: int, writes: int, out: int) -> subprocess.Popen[bytes]:
    """A process that writes to the descriptor `out`, which is closed here."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(writes), str(lines_per_write)], stdout=out)
    close(out)
    return process


def shipkeeper(directory: Path, lines_per_write: int, writes: int) -> float:
    """Seconds through our log writer."""
    drained: list[int] = []
    problems: list[str] = []
    link = LogLink(str(directory), sys.executable, problems.append, lambda _, run: drained.append(run))
    link.start()
    try:
        # Warm: the log writer has started and written a line.
        r, w = pipe()
        link.attach("warm", 1, "stdout", r, str(directory / "warm" / "output.log"), MAX_SIZE, 2)
        with open(w, "wb") as file:
            file.write(b"x\n")
        wait(link, drained, 1)
        r, w = pipe()
        link.attach("bench", 2, "stdout", r, str(directory / "bench" / "output.log"), MAX_SIZE, 100_000)
        started = time.perf_counter()
        process = writer(lines_per_write, writes, w)
        wait(link, drained, 2)
        took = time.perf_counter() - started
        process.wait()
    finally:
        link.quit()
        while link.child_pid is not None:
            select.select([link], [], [])
            link.on_ready()
        link.close()
    if problems:
        raise RuntimeError(problems[0])
    return took


def wait(link: LogLink, drained: list[int], run: int) -> None:
    """Until that run's output is in its files."""
    while run not in drained:
        select.select([link], [], [])
        link.on_ready()


def command(argv: list[str]) -> Callable[[Path, int, int], float]:
    """A peer that reads standard input; `{}` in its arguments is the directory."""

    def measure(directory: Path, lines_per_write: int, writes: int) -> float:
        target = directory / "bench"
        target.mkdir()
        r, w = pipe()
        with open(r, "rb") as source:
            logger = subprocess.Popen(
                [arg.replace("{}", str(target)) for arg in argv], stdin=source, stdout=subprocess.DEVNULL
            )
        started = time.perf_counter()
        process = writer(lines_per_write, writes, w)
        process.wait()
        logger.wait()
        return time.perf_counter() - started

    return measure


PEERS: dict[str, Callable[[Path, int, int], float]] = {
    "cat (floor: no stamps, no rotation)": command(["sh", "-c", "cat > {}/output.log"]),
    "shipkeeper": shipkeeper,
    "s6-log": command(["s6-log", "-b", "T", f"s{MAX_SIZE}", "n1000", "{}"]),
    "multilog": command(["multilog", "t", f"s{MAX_SIZE}", "n1000", "{}"]),
    "svlogd": command(["svlogd", "-tt", "{}"]),
}
PROGRAMS = {"s6-log": "s6-log", "multilog": "multilog", "svlogd": "svlogd"}


def stored(directory: Path) -> int:
    """Lines on disk."""
    return sum(path.read_bytes().count(b"\n") for path in (directory / "bench").iterdir())


def formats() -> None:
    """Encoding alone, in MB/s of 100-byte lines: CRI, and json-file in two ways."""
    data = LINE * 2600
    stamp = logformat.stamp(time.time_ns()).decode()

    def json_lines() -> bytes:
        return b"".join(
            json.dumps({"log": line.decode() + "\n", "stream": "stdout", "time": stamp}).encode() + b"\n"
            for line in data.split(b"\n")[:-1]
        )

    tail = f'\\n","stream":"stdout","time":"{stamp}"}}\n{{"log":"'

    def json_batch() -> bytes:
        return json.dumps(data.decode()).replace("\\n", tail).encode()

    candidates: dict[str, Callable[[], object]] = {
        "CRI": lambda: logformat.encode(data, "stdout", time.time_ns()),
        "json-file, line by line": json_lines,
        "json-file, a batch at once": json_batch,
    }
    for name, encode in candidates.items():
        rounds, started = 0, time.perf_counter()
        while time.perf_counter() - started < 0.5:
            encode()
            rounds += 1
        print(f"  encode {name:<28} {rounds * len(data) / (time.perf_counter() - started) / 1e6:8.0f} MB/s")


def main() -> int:
    """Print a table; exit status 1 if our own log lost a line."""
    parser = argparse.ArgumentParser(description="log throughput of Shipkeeper and its peers")
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    lost_own = False
    print(f"{args.megabytes} MB of 100-byte lines, median of {args.rounds}, {cpu_count()} CPUs")
    for label, lines_per_write, share in (("65 kB a write", 655, 1), ("one line a write", 1, 10)):
        writes = args.megabytes * 1_000_000 // share // (len(LINE) * lines_per_write)
        lines = writes * lines_per_write
        print(f"{label}:")
        floor = None
        for name, measure in PEERS.items():
            if name in PROGRAMS and shutil.which(PROGRAMS[name]) is None:
                print(f"  {name:<36} not installed")
                continue
            speeds, lost = [], 0
            for _ in range(args.rounds):
                with tempfile.TemporaryDirectory() as scratch:
                    took = measure(Path(scratch), lines_per_write, writes)
                    speeds.append(lines * len(LINE) / took / 1e6)
                    lost += lines - stored(Path(scratch))
            speed = statistics.median(speeds)
            floor = floor or speed
            lost_own = lost_own or (name == "shipkeeper" and lost != 0)
            print(f"  {name:<36} {speed:8.0f} MB/s   {speed / floor:5.2f} x floor   {lost} lines lost")
    formats()
    return 1 if lost_own else 0


if __name__ == "__main__":
    sys.exit(main())
