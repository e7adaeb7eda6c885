"""What health checks cost: processor time at rest with and without, and how long one takes; dockerd's, too.

So many services (100) of a project, a probe every 10 s each, over some seconds (30): none, a TCP connection
(ours alone has it), a command. Processor time is of the daemon, its helpers and the probes; of the services
nothing is in it, for they only wait. Then single probes of one service, from start to end, as `inspect` shows
them. Needs root and a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.networking import root_with
from benchmarks.ours import load_average
from benchmarks.sides import IMAGE, Side, sides
from benchmarks.supervised import Supervised, machine

INTERVAL_S = 10.0
_PORT = 8000
_SETTLE_S = 3.0
_SINGLE = 40
_KINDS = {
    "none": "",
    "TCP": f"healthcheck: {{interval: %gs}}, x-shipkeeper: {{probe: {{tcp: '{_PORT}'}}}}",
    "command": "healthcheck: {test: [CMD, /bin/busybox, 'true'], interval: %gs}",
}


def compose_file(count: int, kind: str, interval_s: float) -> str:
    """So many services that wait for connections, with that probe."""
    check = _KINDS[kind] and ", " + _KINDS[kind] % interval_s
    common = f"image: {IMAGE}, command: [/requests, serve, '{_PORT}'], stop_signal: SIGKILL{check}"
    rows = [f"  s{number}: {{{common}, container_name: bench-s{number}}}" for number in range(count)]
    return "\n".join(["version: '3.9'", "services:", *rows, ""])


def log_of(side: Side, name: str) -> dict[str, float]:
    """The probes that `inspect` shows, by their start: seconds of each. Raises RuntimeError if one failed."""
    health = side.inspect(name)["State"].get("Health") or {"Log": []}
    took = {}
    for entry in health["Log"] or ():
        if entry["ExitCode"]:
            raise RuntimeError(f"{side.name}: {name}: a probe failed: {entry}")
        end, start = datetime.fromisoformat(entry["End"]), datetime.fromisoformat(entry["Start"])
        took[entry["Start"]] = (end - start).total_seconds()
    return took


def at_rest(side: Side, place: Path, kind: str, count: int, window_s: float) -> None:
    """One line of the table. Raises RuntimeError where a service is not healthy in the end."""
    (place / "docker-compose.yml").write_text(compose_file(count, kind, INTERVAL_S))
    with side.up(place):
        time.sleep(INTERVAL_S + _SETTLE_S)  # what came with the start, and the first probe of each
        before, began = side.meter.cpu_s(), time.monotonic()
        time.sleep(window_s)
        used_s, took_s = side.meter.cpu_s() - before, time.monotonic() - began
        if side.running() != count:
            raise RuntimeError(f"{side.name}: {side.running()} of {count} services run")
        for number in range(count if kind != "none" else 0):
            if not log_of(side, f"bench-s{number}"):
                raise RuntimeError(f"{side.name}: s{number} was never probed")
    each = f", {1e3 * used_s * INTERVAL_S / took_s / count:6.2f} ms a probe" if kind != "none" else ""
    print(
        f"{side.name.partition(',')[0]:12} {kind:8} {count} services: {100 * used_s / took_s:6.2f} %"
        f" of a processor{each}, load {load_average()}",
        flush=True,
    )


def single(side: Side, place: Path, kind: str) -> None:
    """How long single probes take, one at a time."""
    (place / "docker-compose.yml").write_text(compose_file(1, kind, 0.2))
    took: dict[str, float] = {}
    with side.up(place):
        while len(took) < _SINGLE:
            time.sleep(0.6)
            took |= log_of(side, "bench-s0")
    values = sorted(took.values())
    print(
        f"{side.name.partition(',')[0]:12} {kind:8} one probe: min {values[0] * 1e3:.1f},"
        f" median {statistics.median(values) * 1e3:.1f}, max {values[-1] * 1e3:.1f} ms, n={len(values)}",
        flush=True,
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="health checks")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--window", type=float, default=30.0)
    parser.add_argument("--no-docker", action="store_true", help="ours alone")
    options = parser.parse_args()
    machine()
    with tempfile.TemporaryDirectory(prefix="bench-health-") as directory, contextlib.ExitStack() as stack:
        base = Path(directory)
        Supervised.build("requests", base / "requests", "-static")
        (place := base / "project").mkdir()
        root = root_with(base / "requests")
        found = stack.enter_context(sides(base, root, docker=not options.no_docker))[:2]
        asked = [(side, kind) for kind in _KINDS for side in found if kind != "TCP" or side is found[0]]
        for side, kind in asked:
            at_rest(side, place, kind, options.count, options.window)
        for side, kind in asked:
            if kind != "none":
                single(side, place, kind)


if __name__ == "__main__":
    main()
