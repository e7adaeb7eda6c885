"""What health checks cost: processor time of supervisor processes with and without, and of one probe.

COUNT services (100), a probe every 10 s each, over WINDOW seconds (30): none, a TCP connection, a command.
Then the time from the start of a probe to its result, as `inspect` shows it.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time
import urllib.request
from datetime import datetime
from typing import Any

import msgspec
import psutil

from benchmarks.ours import Ours, load_average, ours
from supervisor.cli.client import Client
from supervisor.core.healthcheck import Healthcheck, Probe
from supervisor.core.model import Project, ServiceSpec

COUNT = int(os.environ.get("COUNT", "100"))
WINDOW_S = float(os.environ.get("WINDOW", "30"))
_KINDS = ("none", "tcp", "command")


def bring_up(made: Ours, check: Healthcheck | None, count: int) -> None:
    """So many services that do nothing; replaces those that are there."""
    services = tuple(
        ServiceSpec(f"s{number:03}", command=("sleep", "1000000"), stop_signal="SIGKILL", healthcheck=check)
        for number in range(count)
    )
    body = msgspec.json.encode(Project("many", "/", services=services))
    client = Client(f"{made.base}/run/shipkeeper.sock")
    for _ in client.stream("POST", "/projects/many/up", None, body):
        pass
    for _ in client.stream("POST", "/projects/many/wait"):
        pass


def supervisor_processes(made: Ours) -> list[psutil.Process]:
    """The daemon, the launcher with its nursery, and the log writer."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            daemon = process.environ().get("SHIPKEEPER_RUN_DIR") == f"{made.base}/run"
            helper = any(word.startswith(f"{made.base}/run") for word in words)
            if (daemon or helper) and any("supervisor." in word for word in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def cpu_s(processes: list[psutil.Process]) -> float:
    """With that of children that have ended: the helpers of probes."""
    times = [process.cpu_times() for process in processes]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def at_rest(made: Ours, kind: str, port: int, metrics: str) -> None:
    """One line of the table."""
    probe = {"tcp": Probe("tcp", port=port), "command": Probe("command", ("true",))}.get(kind)
    bring_up(made, None if probe is None else Healthcheck(probe, interval_s=10.0), COUNT)
    time.sleep(2)  # what came with the start
    processes = supervisor_processes(made)
    probes = probes_made(metrics)
    before, began = cpu_s(processes), time.monotonic()
    time.sleep(WINDOW_S)
    used = cpu_s(processes) - before
    share = 100 * used / (time.monotonic() - began)
    probes = probes_made(metrics) - probes
    each = f", {1e3 * used / probes:.1f} ms for each of {probes} probes" if probes else ""
    print(f"{kind:8} {COUNT} services: {share:.2f} % of a processor{each}, load {load_average()}", flush=True)


def probes_made(metrics: str) -> int:
    """By all services."""
    name = b"shipkeeper_service_health_checks_total{"
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as answer:
        rows = [row for row in answer.read().splitlines() if row.startswith(name)]
    return sum(int(float(row.rpartition(b" ")[2])) for row in rows)


def log_of(made: Ours) -> list[dict[str, Any]]:
    """The probes that `inspect` shows."""
    found: list[dict[str, Any]] = json.loads(made.run("inspect", "many-s000-1"))[0]["State"]["Health"]["Log"]
    return found


def probe_times(made: Ours, kind: str, port: int) -> None:
    """How long single probes take, one at a time."""
    probe = Probe("tcp", port=port) if kind == "tcp" else Probe("command", ("true",))
    bring_up(made, Healthcheck(probe, interval_s=0.2), 1)
    took: dict[str, float] = {}
    while len(took) < 40:
        for entry in log_of(made):
            end, start = datetime.fromisoformat(entry["End"]), datetime.fromisoformat(entry["Start"])
            took[entry["Start"]] = (end - start).total_seconds() * 1e3
    values = sorted(took.values())
    middle = statistics.median(values)
    print(f"{kind:8} probe: min {values[0]:.1f}, median {middle:.1f}, max {values[-1]:.1f} ms", flush=True)


def main() -> int:
    """See the module."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    with ours(metrics) as made, socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        port = server.getsockname()[1]
        for kind in _KINDS:
            at_rest(made, kind, port, metrics)
        made.run("-p", "many", "down", "-t", "0")
        for kind in ("tcp", "command"):
            probe_times(made, kind, port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
