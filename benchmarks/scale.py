"""Many services: how long until all run and until all are gone; memory and work of the supervisor meanwhile.

Time is from the command to its end, which is when every service runs (or is removed). Memory is the PSS of
all processes of the supervisor. Idle is CPU time and voluntary switches of all of them, over some seconds in
which nothing happens. Supervisord, with the same programs but nothing isolated, is measured beside.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.ours import Ours, load_average, ours, services, timed
from benchmarks.peers import supervisord

IDLE_S = 10.0
COUNTS = (100, 1000)


def pss_kb(pids: list[int]) -> int:
    """Proportional set size of processes, as the kernel counts it."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def work_of(pids: list[int]) -> tuple[float, int]:
    """(CPU seconds, voluntary context switches) until now, over all threads."""
    seconds, switches = 0.0, 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    switches += int(line.split()[1])
    return seconds, switches


def idle(pids: list[int]) -> tuple[float, int]:
    """CPU seconds and switches in IDLE_S seconds."""
    before = work_of(pids)
    time.sleep(IDLE_S)
    after = work_of(pids)
    return after[0] - before[0], after[1] - before[1]


def row(
    name: str, count: int, up_s: float, down_s: float, memory_kb: int, cpu_s: float, switches: int
) -> None:
    """One line of figures."""
    print(
        f"{name:14} n={count:<5} up {up_s:6.2f} s  down {down_s:6.2f} s  PSS {memory_kb / 1024:6.1f} MB"
        f"  idle {cpu_s * 1000:5.0f} ms CPU, {switches} switches in {IDLE_S:.0f} s  load {load_average()}",
        flush=True,
    )


def measure(made: Ours, count: int) -> int:
    """Our figures; returns the memory in KB."""
    (made.base / "compose.yaml").write_text(services(count))
    up_s = timed(lambda: made.run("up", "-d"))
    states = [entry["State"] for entry in made.rows()]
    assert states == ["running"] * count, "all of them run"
    pids = list(made.pids().values())
    assert len(pids) == 3, made.pids()
    time.sleep(2)  # what a start leaves to do is done
    cpu_s, switches = idle(pids)
    memory_kb = pss_kb(pids)
    down_s = timed(lambda: made.run("down"))
    row("shipkeeper", count, up_s, down_s, memory_kb, cpu_s, switches)
    return memory_kb


def main() -> None:
    """Each count with a supervisor of its own."""
    counts = [int(word) for word in sys.argv[1:]] or list(COUNTS)
    memory: dict[int, int] = {}
    for count in counts:
        with ours() as made:
            memory[count] = measure(made, count)
        why = supervisord.missing()
        if why:
            print(f"{'supervisord':14} skipped: {why}")
            continue
        with supervisord.running(count) as peer:
            cpu_s, switches = idle([peer.pid])
            memory_kb = pss_kb([peer.pid])
            row("supervisord", count, peer.up_s, peer.stop(), memory_kb, cpu_s, switches)
    if len(memory) > 1:
        low, high = min(memory), max(memory)
        print(f"each more service: {(memory[high] - memory[low]) / (high - low):.1f} KB")


if __name__ == "__main__":
    main()
